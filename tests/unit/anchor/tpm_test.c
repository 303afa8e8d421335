/* Against a real TPM: swtpm. What the index says is looked at with tpm2-tools besides. */
#include "tests/unit/anchor/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct crypto crypto;
static struct chip chip;
static struct run run;
static uint8_t first_request[ANCHOR_EXCHANGE_MAX];
static const uint8_t record_hash[SHA256_SIZE] = "a record";

/* TPM2_NV_UndefineSpace of RIG_NV_INDEX and TPM2_EvictControl of the key, by an owner with an empty password. */
static const uint8_t undefine[] = {0x80, 0x02, 0, 0, 0, 31, 0,    0, 0x01, 0x22, 0x40, 0, 0, 1, 0x01, 0x80,
                                   0x01, 0x23, 0, 0, 0, 9,  0x40, 0, 0,    9,    0,    0, 0, 0, 0};
static const uint8_t evict[] = {0x80, 0x02, 0, 0, 0,    35, 0, 0, 0x01, 0x20, 0x40, 0, 0, 1,    0x81, 0x40, 0x56, 0x4d,
                                0,    0,    0, 9, 0x40, 0,  0, 9, 0,    0,    0,    0, 0, 0x81, 0x40, 0x56, 0x4d};

static struct err define(struct chip *on, struct span owner_auth, const struct lie *lie, struct anchor **out)
{
    struct writer w = writer_of(first_request, sizeof first_request);
    TRY(anchor_define(&crypto, ANCHOR_TPM, RIG_NV_INDEX, owner_auth, &w, out));
    struct err err = operate(on, *out, &w, lie, &run);
    if (err.code) anchor_close(out);
    return err;
}

static struct anchor *defined(void)
{
    struct anchor *anchor = NULL;
    assert_ok(define(&chip, span_empty(), &honest, &anchor));
    return anchor;
}

static struct anchor *opened(const struct anchor_config *config)
{
    struct anchor *anchor;
    assert_ok(anchor_open(&crypto, config, &anchor));
    return anchor;
}

static struct err read_with(struct chip *on, struct anchor *anchor, const struct lie *lie)
{
    struct writer w = writer_of(first_request, sizeof first_request);
    TRY(anchor_read(anchor, &w));
    return operate(on, anchor, &w, lie, &run);
}

static struct err move_with(struct anchor *anchor, const uint8_t from[ANCHOR_VALUE_SIZE], const struct lie *lie)
{
    struct writer w = writer_of(first_request, sizeof first_request);
    TRY(anchor_move(anchor, from, record_hash, &w));
    return operate(&chip, anchor, &w, lie, &run);
}

static int set_up(void **state)
{
    (void)state;
    chip_make(&chip);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    chip_remove(&chip);
    return 0;
}

static struct anchor_config config_of(struct anchor **anchor)
{
    struct anchor_config config = *anchor_config(*anchor);
    anchor_close(anchor);
    return config;
}

static void hex_of(const uint8_t *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++)
        (void)sprintf(out + 2 * i, "%02x", bytes[i]);
}

static void define_read_move_and_open_agree_with_tpm2_tools(void **state)
{
    (void)state;
    char output[2048], name[2 * ANCHOR_NAME_SIZE + 1], value[2 * ANCHOR_VALUE_SIZE + 1], command[256];
    char auth[2 * ANCHOR_AUTH_SIZE + 1];
    uint8_t next[ANCHOR_VALUE_SIZE], start[ANCHOR_VALUE_SIZE], bytes[ANCHOR_CONFIG_SIZE];
    struct anchor_config config;
    struct anchor *anchor = defined();
    memcpy(start, run.there.value, sizeof start);
    assert_ok(anchor_next(&crypto, start, record_hash, next));
    assert_ok(move_with(anchor, start, &honest));
    assert_int_equal(run.count, 2);
    assert_memory_equal(run.there.value, next, sizeof next);
    assert_ok(read_with(&chip, anchor, &honest));
    assert_int_equal(run.count, 1);
    assert_memory_equal(run.there.value, next, sizeof next);

    struct writer w = writer_of(bytes, sizeof bytes);
    struct reader r = reader_of(span_of(bytes, sizeof bytes));
    assert_ok(anchor_config_write(anchor_config(anchor), &w));
    anchor_close(&anchor);
    assert_ok(anchor_config_parse(&r, &config));
    anchor = opened(&config);
    assert_ok(read_with(&chip, anchor, &honest));
    assert_memory_equal(run.there.value, next, sizeof next);
    anchor_close(&anchor);

    assert_int_equal(chip_tool(&chip, "tpm2_nvreadpublic 0x01800123", output, sizeof output), 0);
    hex_of(config.index_name, sizeof config.index_name, name);
    assert_non_null(strstr(output, name));
    assert_non_null(strstr(output, "value: 0x22040044")); /* WRITTEN, NO_DA, AUTHREAD, TPM_NT_EXTEND, AUTHWRITE */
    assert_non_null(strstr(output, "size: 32"));
    hex_of(config.auth, sizeof config.auth, auth);
    hex_of(next, sizeof next, value);
    (void)snprintf(command, sizeof command,
                   "tpm2_nvread -C 0x01800123 -P hex:%s 0x01800123 | od -An -v -tx1 | tr -d ' \\n'", auth);
    assert_int_equal(chip_tool(&chip, command, output, sizeof output), 0);
    assert_string_equal(output, value);
    assert_int_equal(chip_tool(&chip, "tpm2_readpublic -c 0x8140564d", output, sizeof output), 0);
    hex_of(config.key_name, sizeof config.key_name, name);
    assert_non_null(strstr(output, name));
    assert_non_null(strstr(output, "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"));
}

static bool contains(const uint8_t *bytes, size_t size, const uint8_t *part, size_t part_size)
{
    return memmem(bytes, size, part, part_size) != NULL;
}

static void the_auth_value_never_crosses_the_wire_in_the_clear(void **state)
{
    (void)state;
    struct anchor *anchor = defined();
    const struct anchor_config *config = anchor_config(anchor);
    for (size_t i = 0; i < run.count; i++) {
        const struct exchange *e = &run.exchanges[i];
        assert_false(contains(e->request, e->request_size, config->auth, 8));
        assert_false(contains(e->answer, e->answer_size, config->auth, 8));
    }
    anchor_close(&anchor);
}

static int handles(const char *kind)
{
    char command[64], output[16];
    (void)snprintf(command, sizeof command, "tpm2_getcap handles-%s | wc -l", kind);
    assert_int_equal(chip_tool(&chip, command, output, sizeof output), 0);
    return atoi(output);
}

static void one_session_is_left_in_the_tpm_and_no_key(void **state)
{
    (void)state;
    struct anchor *anchor = defined();
    assert_int_equal(handles("loaded-session"), 1);
    assert_int_equal(handles("transient"), 0);
    anchor_close(&anchor);
}

static void an_owner_with_a_password_gives_it_once(void **state)
{
    (void)state;
    /* A TPM takes zeros off the end; an HMAC does so too with keys of up to a block, but not with this one. */
    static const char password[] = "an owner's password of 39 bytes and a 0";
    char output[256], command[128] = "tpm2_changeauth -c owner hex:";
    struct anchor *anchor = NULL;
    hex_of((const uint8_t *)password, sizeof password, command + strlen(command));
    assert_int_equal(chip_tool(&chip, command, output, sizeof output), 0);
    assert_err(define(&chip, span_empty(), &honest, &anchor), ANCHOR_REFUSED);
    assert_err(define(&chip, span_of("other", 5), &honest, &anchor), ANCHOR_REFUSED);
    assert_ok(define(&chip, span_of(password, sizeof password), &honest, &anchor));
    struct anchor_config config = config_of(&anchor);
    anchor = opened(&config);
    assert_ok(read_with(&chip, anchor, &honest));
    anchor_close(&anchor);
}

static void an_index_that_is_there_is_left_alone(void **state)
{
    (void)state;
    struct anchor *anchor = defined(), *other = NULL;
    struct anchor_config config = config_of(&anchor);
    uint8_t value[ANCHOR_VALUE_SIZE];
    memcpy(value, run.there.value, sizeof value);
    assert_err(define(&chip, span_empty(), &honest, &other), ANCHOR_REFUSED);
    chip_flush(&chip);
    anchor = opened(&config);
    assert_ok(read_with(&chip, anchor, &honest));
    assert_memory_equal(run.there.value, value, sizeof value);
    anchor_close(&anchor);
}

static void another_index_is_refused(void **state)
{
    (void)state;
    char output[256];
    struct anchor *anchor = defined();
    struct anchor_config config = config_of(&anchor);
    const char *const others[] = {
        "true",
        "tpm2_nvdefine -C o -s 32 -a 'authread|authwrite|no_da|nt=extend' 0x01800123",
        "tpm2_nvdefine -C o -s 32 -a 'ownerread|authread|authwrite|no_da|nt=extend' 0x01800123",
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        chip_command(&chip, undefine, sizeof undefine, 0);
        assert_int_equal(chip_tool(&chip, others[i], output, sizeof output), 0);
        anchor = opened(&config);
        assert_err(read_with(&chip, anchor, &honest), ANCHOR_IDENTITY);
        anchor_close(&anchor);
        chip_flush(&chip);
        if (i == 0) assert_int_equal(chip_tool(&chip, others[1], output, sizeof output), 0);
    }
    chip_command(&chip, undefine, sizeof undefine, 0);
    anchor = defined(); /* its Name is the same; its authValue is not */
    assert_memory_equal(anchor_config(anchor)->index_name, config.index_name, ANCHOR_NAME_SIZE);
    anchor_close(&anchor);
    chip_flush(&chip);
    anchor = opened(&config);
    assert_err(read_with(&chip, anchor, &honest), ANCHOR_IDENTITY);
    anchor_close(&anchor);
}

static void another_tpm_is_refused(void **state)
{
    (void)state;
    char output[256], command[512], auth[2 * ANCHOR_AUTH_SIZE + 1];
    struct chip other;
    struct anchor *anchor = defined();
    struct anchor_config config = config_of(&anchor);
    chip_make(&other);
    anchor = opened(&config);
    assert_err(read_with(&other, anchor, &honest), ANCHOR_IDENTITY);
    anchor_close(&anchor);
    assert_ok(define(&other, span_empty(), &honest, &anchor));
    anchor_close(&anchor);
    chip_flush(&other);
    anchor = opened(&config);
    assert_err(read_with(&other, anchor, &honest), ANCHOR_IDENTITY);
    anchor_close(&anchor);
    /* Nor does it help to know the authValue. */
    hex_of(config.auth, sizeof config.auth, auth);
    chip_command(&other, undefine, sizeof undefine, 0);
    (void)snprintf(command, sizeof command,
                   "tpm2_nvdefine -C o -s 32 -a 'authread|authwrite|no_da|nt=extend' -p hex:%s 0x01800123 && "
                   "echo | TPM2TOOLS_TCTI=swtpm:path=%s/tpm tpm2_nvextend -C 0x01800123 -P hex:%s -i - 0x01800123",
                   auth, other.directory, auth);
    assert_int_equal(chip_tool(&other, command, output, sizeof output), 0);
    anchor = opened(&config);
    assert_err(read_with(&other, anchor, &honest), ANCHOR_IDENTITY);
    anchor_close(&anchor);
    chip_remove(&other);
}

/* A key whose private part somebody else may know: it could be opened to learn the authValue. */
static void a_key_of_another_template_is_refused(void **state)
{
    (void)state;
    char output[512];
    struct anchor *anchor = NULL;
    assert_int_equal(chip_tool(&chip,
                               "tpm2_createprimary -C o -G ecc -Q -c /dev/null -a 'restricted|decrypt|userwithauth|"
                               "sensitivedataorigin|fixedparent|fixedtpm'",
                               output, sizeof output),
                     0);
    assert_int_equal(chip_tool(&chip, "tpm2_evictcontrol -Q -C o -c 0x80000000 0x8140564d", output, sizeof output), 0);
    assert_err(define(&chip, span_empty(), &honest, &anchor), ANCHOR_IDENTITY);
}

static void a_replayed_answer_is_refused(void **state)
{
    (void)state;
    struct anchor *anchor = defined();
    struct exchange old = run.exchanges[run.count - 1];
    struct anchor_state there;
    struct writer w = writer_of(first_request, sizeof first_request);
    assert_ok(anchor_read(anchor, &w));
    assert_err(anchor_answer(anchor, span_of(old.answer, old.answer_size), &w, &there), ANCHOR_ANSWER);
    assert_false(there.done);
    assert_err(anchor_read(anchor, &w), CALL_STATE);
    anchor_close(&anchor);
}

/* The same command for the same value, asked twice in two sessions. */
static void an_answer_of_another_session_is_refused(void **state)
{
    (void)state;
    struct anchor *anchor = defined();
    struct anchor_config config = config_of(&anchor);
    struct exchange old;
    struct anchor_state there;
    struct writer w;
    anchor = opened(&config);
    assert_ok(read_with(&chip, anchor, &honest));
    old = run.exchanges[run.count - 1];
    anchor_close(&anchor);
    anchor = opened(&config);
    assert_ok(read_with(&chip, anchor, &honest));
    w = writer_of(first_request, sizeof first_request);
    assert_ok(anchor_read(anchor, &w));
    assert_err(anchor_answer(anchor, span_of(old.answer, old.answer_size), &w, &there), ANCHOR_ANSWER);
    anchor_close(&anchor);
}

static void a_reset_of_the_tpm_moves_the_value_once(void **state)
{
    (void)state;
    uint8_t value[ANCHOR_VALUE_SIZE], next[ANCHOR_VALUE_SIZE];
    struct anchor *anchor = defined();
    memcpy(value, run.there.value, sizeof value);
    const struct lie lies[] = {
        {.at = 0, .flipped = NOWHERE, .cut_to = NOWHERE, .reset_before = true},
        {.at = 0, .flipped = NOWHERE, .cut_to = NOWHERE, .reset_after = true},
        {.at = 0, .flipped = NOWHERE, .cut_to = NOWHERE, .refuse = true},
        {.at = 1, .flipped = NOWHERE, .cut_to = NOWHERE, .reset_before = true},
        {.at = 1, .flipped = NOWHERE, .cut_to = NOWHERE, .reset_after = true},
        {.at = 1, .flipped = NOWHERE, .cut_to = NOWHERE, .refuse = true},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        assert_ok(anchor_next(&crypto, value, record_hash, next));
        assert_ok(move_with(anchor, value, &lies[i]));
        assert_memory_equal(run.there.value, next, sizeof next);
        assert_ok(read_with(&chip, anchor, &lies[3 * (i % 2)]));
        assert_memory_equal(run.there.value, next, sizeof next);
        memcpy(value, next, sizeof value);
    }
    assert_int_equal(handles("loaded-session"), 1); /* the one that was given up after a lie is not left */
    anchor_close(&anchor);
}

/* Twice in one operation is no accident. */
static void an_index_that_goes_under_a_live_session_is_missed(void **state)
{
    (void)state;
    struct anchor *anchor = defined();
    chip_command(&chip, undefine, sizeof undefine, 0);
    assert_err(move_with(anchor, run.there.value, &honest), ANCHOR_IDENTITY);
    anchor_close(&anchor);
}

/* Somebody else has moved it on: the move is not made after a lost session, and what is there is told. */
static void a_move_from_elsewhere_tells_what_is_there(void **state)
{
    (void)state;
    static const uint8_t elsewhere[ANCHOR_VALUE_SIZE] = "elsewhere";
    uint8_t value[ANCHOR_VALUE_SIZE];
    struct anchor *anchor = defined();
    struct anchor_config config = config_of(&anchor);
    memcpy(value, run.there.value, sizeof value);
    anchor = opened(&config);
    assert_ok(move_with(anchor, elsewhere, &honest));
    assert_memory_equal(run.there.value, value, sizeof value);
    anchor_close(&anchor);
}

enum operation { DEFINE, OPEN_AND_READ, OPEN_AND_MOVE, OPERATIONS };

static struct err run_operation(enum operation operation, const struct anchor_config *config, const uint8_t *from,
                                const struct lie *lie, struct anchor **out)
{
    if (operation == DEFINE) return define(&chip, span_empty(), lie, out);
    *out = opened(config);
    struct err err = operation == OPEN_AND_READ ? read_with(&chip, *out, lie) : move_with(*out, from, lie);
    if (err.code) anchor_close(out);
    return err;
}

/* The chip as every run of the operation finds it. */
static void clear(enum operation operation, bool leave_key)
{
    struct exchange unused;
    chip_flush(&chip);
    if (operation != DEFINE) return;
    carry(&chip, span_of(undefine, sizeof undefine), &unused);
    if (!leave_key) carry(&chip, span_of(evict, sizeof evict), &unused);
}

static void assert_is_there(const struct anchor_config *config, const uint8_t value[ANCHOR_VALUE_SIZE])
{
    struct anchor *anchor = opened(config);
    chip_flush(&chip);
    assert_ok(read_with(&chip, anchor, &honest));
    assert_memory_equal(run.there.value, value, ANCHOR_VALUE_SIZE);
    anchor_close(&anchor);
}

/* One operation with one lie. What was accepted in spite of it has to be true. */
static void lie_once(enum operation operation, bool leave_key, const struct anchor_config *config,
                     uint8_t value[ANCHOR_VALUE_SIZE], const struct lie *lie)
{
    struct anchor *anchor = NULL;
    clear(operation, leave_key);
    struct err err = run_operation(operation, config, value, lie, &anchor);
    bool authenticated = is_authenticated(&run.exchanges[lie->at]);
    size_t count = run.count;
    if (authenticated || lie->cut_to != NOWHERE) {
        assert_int_not_equal(err.code, ERR_NONE);
        assert_int_equal(count, lie->at + 1); /* at once */
        assert_true(err.code == ERR_ANCHOR_ANSWER || !authenticated);
    }
    if (err.code == ERR_NONE) {
        struct anchor_config its_own = config_of(&anchor);
        uint8_t told[ANCHOR_VALUE_SIZE];
        memcpy(told, run.there.value, sizeof told);
        assert_is_there(&its_own, told);
    }
    if (operation != DEFINE) { /* the refused move may have been made */
        anchor = opened(config);
        chip_flush(&chip);
        assert_ok(read_with(&chip, anchor, &honest));
        memcpy(value, run.there.value, ANCHOR_VALUE_SIZE);
        anchor_close(&anchor);
    }
}

static void no_answer_that_was_altered_is_believed(void **state)
{
    (void)state;
    bool all = getenv("CHECK_LONG") && strcmp(getenv("CHECK_LONG"), "1") == 0;
    for (enum operation operation = DEFINE; operation < OPERATIONS; operation++) {
        uint8_t value[ANCHOR_VALUE_SIZE];
        struct anchor *anchor = defined();
        struct anchor_config config = config_of(&anchor);
        memcpy(value, run.there.value, sizeof value);
        clear(operation, false);
        assert_ok(run_operation(operation, &config, value, &honest, &anchor));
        anchor_close(&anchor);
        static struct run honest_run;
        honest_run = run;
        memcpy(value, run.there.value, sizeof value);
        for (size_t at = 0; at < honest_run.count; at++) {
            struct exchange *exchange = &honest_run.exchanges[at];
            /* The first four of a definition look for the key and make it; afterwards it is left where it is. */
            bool leave_key = operation == DEFINE && at >= 4;
            size_t step = is_authenticated(exchange) || all ? 1 : 7;
            for (size_t i = 0; i < exchange->answer_size; i += step) {
                struct lie lie = {.at = leave_key ? at - 4 : at, .flipped = i, .cut_to = NOWHERE};
                lie_once(operation, leave_key, &config, value, &lie);
                lie.flipped = NOWHERE;
                lie.cut_to = i;
                lie_once(operation, leave_key, &config, value, &lie);
            }
        }
        chip_flush(&chip);
        chip_command(&chip, undefine, sizeof undefine, 0);
    }
}

static void what_is_no_index_and_no_password_is_refused(void **state)
{
    (void)state;
    static const uint8_t long_one[ANCHOR_OWNER_AUTH_MAX + 1];
    struct anchor *anchor = NULL;
    struct writer w = writer_of(first_request, sizeof first_request);
    assert_err(anchor_define(&crypto, ANCHOR_TPM, 0x81000001, span_empty(), &w, &anchor), BAD_VALUE);
    assert_err(anchor_define(&crypto, ANCHOR_TPM, RIG_NV_INDEX, span_of(long_one, sizeof long_one), &w, &anchor),
               BAD_VALUE);
    assert_int_equal(w.size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(define_read_move_and_open_agree_with_tpm2_tools, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_auth_value_never_crosses_the_wire_in_the_clear, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_session_is_left_in_the_tpm_and_no_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_owner_with_a_password_gives_it_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_index_that_is_there_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_index_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_tpm_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_key_of_another_template_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_replayed_answer_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_of_another_session_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reset_of_the_tpm_moves_the_value_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_index_that_goes_under_a_live_session_is_missed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_move_from_elsewhere_tells_what_is_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_answer_that_was_altered_is_believed, set_up, tear_down),
        cmocka_unit_test(what_is_no_index_and_no_password_is_refused),
    };
    if (crypto_init(&crypto).code) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
