/* The command lines of swtpm and swtpm_setup. */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "untrusted/swtpm/options.h"
#include "untrusted/swtpm/setup_options.h"

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct explanation why;

/* The parsers take the words apart, so they have to be the test's own. */
static int copy(const char *program, const char *const *words, char *out_argv[32])
{
    static char storage[32][256];
    int argc = 1;
    out_argv[0] = strcpy(storage[0], program);
    for (; words[argc - 1]; argc++)
        out_argv[argc] = strcpy(storage[argc], words[argc - 1]);
    out_argv[argc] = NULL;
    why = (struct explanation){0};
    return argc;
}

static struct swtpm_options good(const char *const *words)
{
    struct swtpm_options options = {0};
    char *argv[32];
    const int argc = copy("swtpm", words, argv);
    struct err err = swtpm_options_parse(argc, argv, &options, &why);
    if (err.code) print_message("%s\n", why.text);
    assert_ok(err);
    return options;
}

static void bad(const char *word, const char *const *words)
{
    struct swtpm_options options;
    char *argv[32];
    const int argc = copy("swtpm", words, argv);
    assert_err(swtpm_options_parse(argc, argv, &options, &why), USAGE);
    if (!strstr(why.text, word)) print_message("\"%s\" is not in \"%s\"\n", word, why.text);
    assert_non_null(strstr(why.text, word));
}

#define STATE   "--tpmstate", "dir=/state"
#define CONTROL "--ctrl", "type=unixio,path=/ctrl"

static void libvirts_line_is_taken(void **state)
{
    (void)state;
    struct swtpm_options options =
        good(WORDS("socket", "--ctrl", "type=unixio,path=/run/s.sock,mode=0600", "--tpmstate", "dir=/var/s,mode=0600",
                   "--log", "file=/var/l.log", "--terminate", "--tpm2", "--key", "pwdfd=27,mode=aes-256-cbc",
                   "--migration-key", "pwdfd=28,mode=aes-256-cbc", "--migration", "release-lock-outgoing"));
    assert_int_equal(options.interface, SWTPM_SOCKET);
    assert_string_equal(options.control.path, "/run/s.sock");
    assert_int_equal(options.control.mode, 0600);
    assert_false(options.data.given);
    assert_string_equal(options.directory, "/var/s");
    assert_int_equal(options.state_mode, 0600);
    assert_true(options.terminate && options.tpm2 && !options.not_need_init);
    assert_false(options.incoming);
    assert_int_equal(options.key_count, 2);
    assert_int_equal(options.keys[1].password_fd, 28);
}

static void setups_line_is_taken(void **state)
{
    (void)state;
    struct swtpm_options options = good(WORDS("socket", "--flags", "not-need-init,startup-clear", "--tpmstate",
                                              "backend-uri=dir:///s", "--pid", "file=/p", "--tpm2", "--log", "fd=1",
                                              "--server", "type=tcp,fd=7", "--ctrl", "type=unixio,clientfd=5"));
    assert_string_equal(options.directory, "/s");
    assert_true(options.not_need_init && options.startup_clear);
    assert_int_equal(options.data.fd, 7);
    assert_int_equal(options.control.client_fd, 5);
    assert_int_equal(options.control.fd, -1);
    assert_int_equal(options.log_fd, 1);
}

static void a_tpm_may_be_incoming(void **state)
{
    (void)state;
    assert_true(
        good(WORDS("socket", "--tpm2", STATE, CONTROL, "--migration", "release-lock-outgoing,incoming")).incoming);
    assert_false(good(WORDS("chardev", "--tpm2", STATE, "--fd", "3", "--migration", "release-lock-outgoing")).incoming);
}

static void what_is_left_out_has_swtpms_default(void **state)
{
    (void)state;
    struct swtpm_options options = good(WORDS("socket", "--tpm2", STATE, CONTROL));
    assert_int_equal(options.control.mode, 0770);
    assert_int_equal(options.state_mode, 0640);
    assert_int_equal(options.data_fd, -1);
    assert_int_equal(options.pid_fd, -1);
    assert_int_equal(options.log_fd, -1);
    assert_false(options.daemon || options.terminate || options.not_need_init);
}

static void a_port_disconnects_and_a_server_is_tcp(void **state)
{
    (void)state;
    struct swtpm_options options = good(WORDS("socket", "--tpm2", STATE, "-p", "2321"));
    assert_int_equal(options.data.port, 2321);
    assert_string_equal(options.data.type, "tcp");
    assert_true(options.data.disconnect);
    options = good(WORDS("socket", "--tpm2", STATE, "--server", "port=1,bindaddr=::1,ifname=lo"));
    assert_string_equal(options.data.type, "tcp");
    assert_string_equal(options.data.address, "::1");
    assert_false(options.data.disconnect);
    options = good(WORDS("socket", "--tpm2", STATE, "--server", "path=/d"));
    assert_string_equal(options.data.type, "unixio");
}

static void a_startup_needs_no_init(void **state)
{
    (void)state;
    assert_true(good(WORDS("socket", "--tpm2", STATE, CONTROL, "--flags", "startup-state")).not_need_init);
    assert_true(good(WORDS("socket", "--tpm2", STATE, CONTROL, "--flags", "startup-none")).not_need_init);
    bad("one startup", WORDS("socket", "--tpm2", STATE, CONTROL, "--flags", "startup-none,startup-clear"));
    bad("use startup-clear", WORDS("socket", "--tpm2", STATE, CONTROL, "--flags", "startup-deactivated"));
}

static void a_flag_may_have_a_value(void **state)
{
    (void)state;
    assert_false(good(WORDS("socket", "--tpm2", STATE, CONTROL, "--flags", "not-need-init=false")).not_need_init);
    assert_true(good(WORDS("socket", "--tpm2", STATE, CONTROL, "--key", "file=/k,remove=true")).keys[0].remove);
    bad("remove wants", WORDS("socket", "--tpm2", STATE, CONTROL, "--key", "file=/k,remove=yes"));
}

static void a_channel_has_one_place(void **state)
{
    (void)state;
    bad("one of path", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio"));
    bad("one of path", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio,path=/c,fd=3"));
    bad("one of port", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=tcp,path=/c"));
    bad("no clientfd", WORDS("socket", "--tpm2", STATE, "--server", "type=unixio,clientfd=3"));
    bad("unixio or tcp", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=cuse,path=/c"));
    bad("type=unixio or", WORDS("socket", "--tpm2", STATE, "--ctrl", "path=/c"));
    bad("two places", WORDS("socket", "--tpm2", STATE, "--server", "port=1", "--fd", "3"));
    bad("--ctrl has no disconnect", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio,path=/c,disconnect"));
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    bad("Unsupported TPM interface", WORDS("cuse"));
    bad("add --tpm2", WORDS("chardev", STATE, "--fd", "3"));
    bad("nobody could reach", WORDS("socket", "--tpm2", STATE));
    bad("use dir=DIRECTORY", WORDS("socket", "--tpm2", CONTROL, "--tpmstate", "backend-uri=file:///x"));
    bad("either of them", WORDS("socket", "--tpm2", CONTROL, "--tpmstate", "backend-uri=dir:///x,dir=/y"));
    bad("leave --flags out",
        WORDS("socket", "--tpm2", STATE, CONTROL, "--migration", "incoming", "--flags", "startup-clear"));
    bad("does not move", WORDS("chardev", "--tpm2", STATE, "--fd", "3", "--migration", "incoming"));
    bad("--tpmstate backup", WORDS("socket", "--tpm2", STATE, CONTROL, "--tpmstate", "backup"));
    bad("--profile", WORDS("socket", "--tpm2", STATE, CONTROL, "--profile", "name=null"));
    bad("--pcap", WORDS("socket", "--tpm2", STATE, CONTROL, "--pcap", "file=/x"));
    bad("no option of this interface", WORDS("socket", "--tpm2", STATE, CONTROL, "--vtpm-proxy"));
    bad("which device", WORDS("chardev", "--tpm2", STATE));
    bad("there is no such option", WORDS("socket", "--tpm2", STATE, CONTROL, "--nonsense"));
    bad("its value is missing", WORDS("socket", "--tpm2", STATE, CONTROL, "--pid"));
    bad("no option", WORDS("socket", "--tpm2", STATE, CONTROL, "word"));
    bad("--ctrl has no nonsense", WORDS("socket", "--tpm2", STATE, "--ctrl", "nonsense=1"));
}

static void numbers_are_checked(void **state)
{
    (void)state;
    bad("an octal number", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio,path=/c,mode=0888"));
    bad("an octal number", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio,path=/c,mode=77777"));
    bad("a port", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=tcp,port=0"));
    bad("a port", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=tcp,port=65536"));
    bad("a file descriptor", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio,fd=-1"));
    bad("above 2", WORDS("socket", "--tpm2", STATE, "--fd", "2"));
    bad("1 to 65535", WORDS("socket", "--tpm2", STATE, "--port", "111111111111111111111111111111111111111"));
    bad("a value", WORDS("socket", "--tpm2", STATE, "--ctrl", "type=unixio,path="));
    bad("too often",
        WORDS("socket", "--key", "fd=1", "--key", "fd=1", "--key", "fd=1", "--key", "fd=1", "--key", "fd=1"));
    bad("one of file", WORDS("socket", "--key", "mode=aes-cbc"));
}

static void the_state_may_come_from_the_environment(void **state)
{
    (void)state;
    bad("state directory is missing", WORDS("socket", "--tpm2", CONTROL));
    assert_int_equal(setenv("TPM_PATH", "/from/environment", 1), 0);
    assert_string_equal(good(WORDS("socket", "--tpm2", CONTROL)).directory, "/from/environment");
    assert_int_equal(unsetenv("TPM_PATH"), 0);
    assert_true(good(WORDS("socket", "--print-capabilities")).print_capabilities);
    assert_true(good(WORDS("--version")).version);
    assert_true(good(WORDS("chardev", "-h")).help);
}

/* --- swtpm_setup --- */

static struct setup_options setup_good(const char *const *words)
{
    struct setup_options options = {0};
    char *argv[32];
    const int argc = copy("swtpm_setup", words, argv);
    assert_ok(setup_options_parse(argc, argv, &options, &why));
    return options;
}

static void setup_bad(const char *word, const char *const *words)
{
    struct setup_options options;
    char *argv[32];
    const int argc = copy("swtpm_setup", words, argv);
    assert_err(setup_options_parse(argc, argv, &options, &why), USAGE);
    assert_non_null(strstr(why.text, word));
}

static void a_certificate_implies_its_key(void **state)
{
    (void)state;
    struct setup_options options = setup_good(WORDS("--tpm2", "--tpmstate", "dir:///s", "--create-platform-cert"));
    assert_true(options.create_ek && options.create_ek_certificate);
    assert_string_equal(options.directory, "/s");
    assert_int_equal(options.rsa_bits, 2048);
    assert_int_equal(setup_good(WORDS("--tpm2", "--tpm-state", "/s", "--rsa-keysize", "3072")).rsa_bits, 3072);
}

static void without_tpm2_it_is_a_tpm_12(void **state)
{
    (void)state;
    assert_false(good(WORDS("socket", STATE, CONTROL)).tpm2);
    struct setup_options options =
        setup_good(WORDS("--tpm-state", "/s", "--take-ownership", "--ownerpass", "one", "--srk-well-known"));
    assert_true(!options.tpm2 && options.create_ek && options.srk_well_known && !options.owner_well_known);
    assert_string_equal(options.owner_password, "one");
}

static void files_may_be_asked_for_with_or_without_how(void **state)
{
    (void)state;
    assert_string_equal(setup_good(WORDS("--create-config-files")).config_files, "");
    assert_string_equal(setup_good(WORDS("--create-config-files", "root")).config_files, "root");
    assert_string_equal(setup_good(WORDS("--create-config-files=overwrite,root")).config_files, "overwrite,root");
    assert_null(setup_good(WORDS("--print-capabilities")).config_files);
}

static void setup_refuses_what_cannot_be(void **state)
{
    (void)state;
    setup_bad("--create-spk requires", WORDS("--tpm-state", "/s", "--create-spk"));
    setup_bad("--pcr-banks requires", WORDS("--tpm-state", "/s", "--pcr-banks", "sha256"));
    setup_bad("--reconfigure requires", WORDS("--tpm-state", "/s", "--reconfigure"));
    setup_bad("--tpm-state must", WORDS("--tpm2"));
    setup_bad("single file", WORDS("--tpm2", "--tpm-state", "file:///s"));
    setup_bad("Taking ownership", WORDS("--tpm2", "--tpm-state", "/s", "--take-ownership"));
    setup_bad("Reconfiguration is not", WORDS("--tpm2", "--tpm-state", "/s", "--reconfigure", "--createek"));
    setup_bad("2048 or 3072", WORDS("--tpm2", "--tpm-state", "/s", "--rsa-keysize", "1024"));
    setup_bad("no such option", WORDS("--profile", "null"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(libvirts_line_is_taken),
        cmocka_unit_test(setups_line_is_taken),
        cmocka_unit_test(a_tpm_may_be_incoming),
        cmocka_unit_test(what_is_left_out_has_swtpms_default),
        cmocka_unit_test(a_port_disconnects_and_a_server_is_tcp),
        cmocka_unit_test(a_startup_needs_no_init),
        cmocka_unit_test(a_flag_may_have_a_value),
        cmocka_unit_test(a_channel_has_one_place),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(numbers_are_checked),
        cmocka_unit_test(the_state_may_come_from_the_environment),
        cmocka_unit_test(a_certificate_implies_its_key),
        cmocka_unit_test(without_tpm2_it_is_a_tpm_12),
        cmocka_unit_test(files_may_be_asked_for_with_or_without_how),
        cmocka_unit_test(setup_refuses_what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
