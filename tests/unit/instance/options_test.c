#include "tests/fakes/assertions.h"

#include <string.h>

#include "untrusted/instance/options.h"

#define UUID "0f0e0d0c-0b0a-4908-8706-050403020100"

static struct err parse(const char *const *words, enum command_action *out_action, struct options *out_options)
{
    static char storage[16][128];
    char *argv[17] = {"vtpm-instance"};
    int argc = 1;
    for (; words[argc - 1]; argc++) {
        strcpy(storage[argc], words[argc - 1]);
        argv[argc] = storage[argc];
    }
    return options_parse(argc, argv, out_action, out_options);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct options good(const char *const *words)
{
    struct options options;
    enum command_action action = COMMAND_HELP;
    assert_ok(parse(words, &action, &options));
    assert_int_equal(action, COMMAND_RUN);
    return options;
}

static void bad(const char *const *words)
{
    struct options options;
    enum command_action action = COMMAND_HELP;
    assert_err(parse(words, &action, &options), USAGE);
}

static void the_least_that_is_needed(void **state)
{
    (void)state;
    struct options options = good(WORDS("--daemon", "/d", "--id", UUID, "--swtpm", "tcp:2321"));
    assert_false(options.separate_front);
    assert_string_equal(options.daemon, "/d");
    assert_int_equal(options.commit_timeout, 20);
    assert_false(options.ordinary_memory);
    assert_int_equal(options.device, DEVICE_AUTO);
    assert_false(options.rebuilt);
    assert_null(options.user);
}

static void an_address_makes_two_endpoints_of_one_channel(void **state)
{
    (void)state;
    struct options options =
        good(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=unix:/run/t", "--mssim=tcp:2321", "--swtpm=tcp:[::1]:5000"));
    const struct protocol *expected[] = {&protocol_stream,         &protocol_control, &protocol_mssim_command,
                                         &protocol_mssim_platform, &protocol_stream,  &protocol_control};
    assert_int_equal(options.endpoints.count, 6);
    for (unsigned i = 0; i < 6; i++) {
        assert_ptr_equal(options.endpoints.places[i].protocol, expected[i]);
        assert_int_equal(options.endpoints.places[i].channel, i / 2);
    }
    assert_string_equal(options.endpoints.places[1].address.socket.local.sun_path, "/run/t.ctrl");
}

/* The family may be said before and behind the addresses. */
static void a_tpm_12_has_protocols_of_its_own(void **state)
{
    (void)state;
    struct options options = good(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=unix:/run/t", "--tpm=1.2"));
    assert_ptr_equal(options.endpoints.places[0].protocol, &protocol_stream_12);
    assert_ptr_equal(options.endpoints.places[1].protocol, &protocol_control_12);
    options = good(WORDS("--daemon=/d", "--id=" UUID, "--tpm=2.0", "--swtpm=unix:/run/t"));
    assert_ptr_equal(options.endpoints.places[0].protocol, &protocol_stream);
    bad(WORDS("--daemon=/d", "--id=" UUID, "--tpm=1.2", "--mssim=tcp:2321"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--tpm=1.3", "--swtpm=unix:/run/t"));
}

static void a_separate_front_end_has_one_socket(void **state)
{
    (void)state;
    struct options options = good(WORDS("--daemon=/d", "--id=" UUID, "--front=unix:/run/front.sock"));
    assert_true(options.separate_front);
    assert_int_equal(options.endpoints.count, 0);
    assert_string_equal(options.front.socket.local.sun_path, "/run/front.sock");
}

static void an_id_is_a_uuid(void **state)
{
    (void)state;
    char text[ID_TEXT_SIZE];
    struct options options = good(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1"));
    id_format(&options.id, text);
    assert_string_equal(text, UUID);
    options = good(WORDS("--daemon=/d", "--id=0F0E0D0C-0B0A-4908-8706-050403020100", "--swtpm=tcp:1"));
    id_format(&options.id, text);
    assert_string_equal(text, UUID);
}

static void what_is_no_uuid_is_refused(void **state)
{
    (void)state;
    const char *ids[] = {"",
                         "0",
                         UUID "0",
                         "0f0e0d0c0b0a49088706050403020100",
                         "0f0e0d0c-0b0a-4908-8706-05040302010g",
                         "0f0e0d0c-0b0a-4908-8706-05040302010",
                         "0f0e0d0c00b0a-4908-8706-050403020100",
                         "../../../../../../../../etc/passwd00"};
    struct instance_id id;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        assert_err(id_parse(ids[i], &id), BAD_VALUE);
    bad(WORDS("--daemon=/d", "--id=x", "--swtpm=tcp:1"));
}

static void what_is_missing_is_said(void **state)
{
    (void)state;
    bad(WORDS("--id=" UUID, "--swtpm=tcp:1"));
    bad(WORDS("--daemon=/d", "--swtpm=tcp:1"));
    bad(WORDS("--daemon=/d", "--id=" UUID));
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--front=unix:/f"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--front=tcp:1"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--front=unix:/f", "--front=unix:/g"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--mssim=unix:/x"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:65535"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "more"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--unknown"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm"));
}

static void the_device_is_named(void **state)
{
    (void)state;
    struct options options = good(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--device=sgx"));
    assert_int_equal(options.device, DEVICE_SGX);
    options = good(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--device=software"));
    assert_int_equal(options.device, DEVICE_SOFTWARE);
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--device=hardware"));
}

static void a_commit_timeout_is_1_to_3600_seconds(void **state)
{
    (void)state;
    struct options options = good(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--commit-timeout=3600"));
    assert_int_equal(options.commit_timeout, 3600);
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--commit-timeout=0"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--commit-timeout=3601"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--commit-timeout=1s"));
    bad(WORDS("--daemon=/d", "--id=" UUID, "--swtpm=tcp:1", "--commit-timeout=-1"));
}

static void too_many_addresses_are_refused(void **state)
{
    (void)state;
    static char storage[20][16];
    char *argv[20] = {"vtpm-instance", "--daemon=/d", ("--id=" UUID)};
    struct options options;
    enum command_action action = COMMAND_RUN;
    for (size_t i = 3; i < 20; i++) {
        strcpy(storage[i], "--swtpm=tcp:1");
        argv[i] = storage[i];
    }
    assert_ok(options_parse(19, argv, &action, &options));
    assert_err(options_parse(20, argv, &action, &options), USAGE);
}

static void help_and_version_need_nothing_else(void **state)
{
    (void)state;
    struct options options;
    enum command_action action = COMMAND_RUN;
    assert_ok(parse(WORDS("--help"), &action, &options));
    assert_int_equal(action, COMMAND_HELP);
    assert_ok(parse(WORDS("--version"), &action, &options));
    assert_int_equal(action, COMMAND_VERSION);
}

static void descriptors_may_be_served(void **state)
{
    (void)state;
    struct options options = good(WORDS("--daemon", "/d", "--id", UUID, "--swtpm-fd", "control:3", "--swtpm-fd",
                                        "data:none", "--off", "--terminate", "--startup", "state"));
    assert_int_equal(options.endpoints.count, 2);
    assert_ptr_equal(options.endpoints.places[0].protocol, &protocol_control);
    assert_true(options.endpoints.places[0].inherited && !options.endpoints.places[0].connected);
    assert_int_equal(options.endpoints.places[0].fd, 3);
    assert_int_equal(options.endpoints.places[1].fd, -1);
    assert_true(options.manners.off && options.manners.terminates && options.manners.starts_up);
    assert_true(options.manners.from_saved);
    options = good(WORDS("--daemon", "/d", "--id", UUID, "--swtpm-fd", "data-client:5"));
    assert_true(options.endpoints.places[0].connected);
    static const char *const wrong[] = {"data:2", "data:x", "data:", "control:none", "mssim:3", "data-client:1024"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        bad(WORDS("--daemon", "/d", "--id", UUID, "--swtpm-fd", wrong[i]));
    bad(WORDS("--daemon", "/d", "--id", UUID, "--swtpm-fd", "data:3", "--startup", "deactivated"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_device_is_named),
        cmocka_unit_test(descriptors_may_be_served),
        cmocka_unit_test(the_least_that_is_needed),
        cmocka_unit_test(an_address_makes_two_endpoints_of_one_channel),
        cmocka_unit_test(a_separate_front_end_has_one_socket),
        cmocka_unit_test(an_id_is_a_uuid),
        cmocka_unit_test(what_is_no_uuid_is_refused),
        cmocka_unit_test(what_is_missing_is_said),
        cmocka_unit_test(a_tpm_12_has_protocols_of_its_own),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(a_commit_timeout_is_1_to_3600_seconds),
        cmocka_unit_test(too_many_addresses_are_refused),
        cmocka_unit_test(help_and_version_need_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
