/* Call records as abi/call.h draws them, and output records parsed strictly. */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "abi/peer.h"
#include "base/bytes.h"
#include "link/k2.h"
#include "link/record.h"
#include "untrusted/instance/machine.h"

static uint8_t *memory;
static struct machine machine;

/* What the enclave was asked, and what it answers. */
static uint8_t asked[MACHINE_INPUT_SIZE];
static size_t asked_size;
static uint8_t answer[MACHINE_OUTPUT_SIZE];
static size_t answer_size;
static struct err door_result;

static struct err call(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    assert_ptr_equal(ctx, &machine);
    assert_int_equal((uintptr_t)input.data % CALL_ALIGNMENT, 0);
    assert_int_equal((uintptr_t)output % CALL_ALIGNMENT, 0);
    assert_int_equal(capacity % CALL_ALIGNMENT, 0);
    assert_true(capacity >= CALL_OUTPUT_MAX);
    memcpy(asked, input.data, input.size);
    asked_size = input.size;
    TRY(door_result);
    memcpy(output, answer, answer_size);
    *out_size = answer_size;
    return OK;
}

static int set_up(void **state)
{
    (void)state;
    const struct machine_door door = {.ctx = &machine, .call = call};
    memory = aligned_alloc(CALL_ALIGNMENT, MACHINE_MEMORY_SIZE);
    if (!memory) return -1;
    memset(memory, 0, MACHINE_MEMORY_SIZE);
    machine_init(&machine, &door, memory);
    door_result = OK;
    answer_size = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(memory);
    return 0;
}

static void put_u32(size_t offset, uint32_t value)
{
    struct writer w = writer_of(answer + offset, 4);
    assert_ok(write_u32(&w, value));
}

static void begin_answer(uint32_t code)
{
    memset(answer, 0, sizeof answer);
    put_u32(0, code);
    answer_size = CALL_RESULT_HEADER_SIZE;
}

static void add_effect(uint32_t kind, const void *payload, size_t size)
{
    put_u32(answer_size, kind);
    put_u32(answer_size + 4, (uint32_t)size);
    if (size) memcpy(answer + answer_size + 8, payload, size);
    answer_size += 8 + (size + 7) / 8 * 8;
    put_u32(4, (uint32_t)(answer_size - CALL_RESULT_HEADER_SIZE));
}

static const uint8_t record[12] = {RECORD_DATA, 1, 2, 3};
static const uint8_t peer[3] = {PEER_PROOF, 1, 2};
static const uint8_t stored[8 + 3] = {7, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c'};
static const uint8_t receipt[PEER_RECEIPT_SIZE] = "receipt";
static const uint8_t health[4] = {INSTANCE_TPM_FAILURE_MODE};

static struct err ask(struct effects *out_effects)
{
    return machine_record(&machine, span_of(record, sizeof record), out_effects);
}

static void a_call_record(void **state)
{
    (void)state;
    const struct {
        uint32_t number;
        struct err (*call)(struct machine *machine, struct span body, struct effects *out_effects);
    } rows[] = {{INSTANCE_PEER, machine_peer}, {INSTANCE_LOAD, machine_load}, {INSTANCE_RECORD, machine_record}};
    for (size_t i = 0; i < 3; i++) {
        struct effects effects = {0};
        uint32_t number = 0;
        uint32_t size = 0;
        uint64_t time = 0;
        struct span body;
        begin_answer(0);
        assert_ok(rows[i].call(&machine, span_of("abc", 3), &effects));
        struct reader r = reader_of(span_of(asked, asked_size));
        assert_ok(read_u32(&r, &number));
        assert_ok(read_u32(&r, &size));
        assert_ok(read_u64(&r, &time));
        assert_ok(read_span(&r, 3, &body));
        assert_ok(reader_end(&r));
        assert_int_equal(number, rows[i].number);
        assert_int_equal(size, 3);
        assert_true(time > UINT64_C(1600000000000000000));
        assert_memory_equal(body.data, "abc", 3);
    }
}

static void calls_without_a_body(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    assert_ok(machine_resume(&machine, &effects));
    assert_int_equal(asked_size, CALL_RECORD_HEADER_SIZE);
    assert_int_equal(asked[0], INSTANCE_RESUME);
}

static void a_stop_says_which_one(void **state)
{
    (void)state;
    struct effects effects = {0};
    static const uint8_t off[8] = {1};
    static const uint8_t suspend[8] = {2};
    begin_answer(0);
    assert_ok(machine_stop(&machine, INSTANCE_STOP_OFF, &effects));
    assert_int_equal(asked_size, CALL_RECORD_HEADER_SIZE + 8);
    assert_int_equal(asked[0], INSTANCE_STOP);
    assert_memory_equal(asked + CALL_RECORD_HEADER_SIZE, off, 8);
    assert_ok(machine_stop(&machine, INSTANCE_STOP_SUSPEND, &effects));
    assert_memory_equal(asked + CALL_RECORD_HEADER_SIZE, suspend, 8);
}

static void a_start_record_carries_the_id(void **state)
{
    (void)state;
    const struct instance_id id = {.bytes = "0123456789abcde"};
    begin_answer(0);
    assert_ok(machine_start(&machine, &id));
    assert_int_equal(asked_size, CALL_RECORD_HEADER_SIZE + INSTANCE_START_SIZE);
    assert_int_equal(asked[0], INSTANCE_START);
    assert_memory_equal(asked + asked_size - INSTANCE_ID_SIZE, id.bytes, sizeof id.bytes);
}

static void host_entropy_differs_each_time(void **state)
{
    (void)state;
    const struct instance_id id = {0};
    uint8_t first[HOST_ENTROPY_SIZE];
    const size_t offset = CALL_RECORD_HEADER_SIZE + CAPABILITY_HINTS_SIZE;
    begin_answer(0);
    assert_ok(machine_start(&machine, &id));
    memcpy(first, asked + offset, sizeof first);
    assert_ok(machine_start(&machine, &id));
    assert_memory_not_equal(first, asked + offset, sizeof first);
}

static void what_is_too_large_is_not_sent(void **state)
{
    (void)state;
    struct effects effects = {0};
    asked_size = 0;
    assert_err(machine_load(&machine, span_of(answer, CALL_BODY_MAX + 1), &effects), TOO_LARGE);
    assert_int_equal(asked_size, 0);
}

static void all_effects(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    for (size_t i = 0; i < EFFECT_PEERS_MAX; i++)
        add_effect(INSTANCE_EFFECT_PEER, peer, sizeof peer);
    add_effect(INSTANCE_EFFECT_STORE, stored, sizeof stored);
    add_effect(INSTANCE_EFFECT_RECORD, record, sizeof record);
    add_effect(INSTANCE_EFFECT_RECEIPT, receipt, sizeof receipt);
    add_effect(INSTANCE_EFFECT_HEALTH, health, sizeof health);
    assert_ok(ask(&effects));
    assert_int_equal(effects.peer_count, EFFECT_PEERS_MAX);
    assert_memory_equal(effects.peers[2].data, peer, sizeof peer);
    assert_int_equal(effects.version, 7);
    assert_int_equal(effects.store.size, 3);
    assert_memory_equal(effects.store.data, "abc", 3);
    assert_int_equal(effects.record.size, sizeof record);
    assert_memory_equal(effects.record.data, record, sizeof record);
    assert_memory_equal(effects.receipt.data, receipt, sizeof receipt);
    assert_int_equal(effects.health, INSTANCE_TPM_FAILURE_MODE);
}

static void errors_of_door_and_handler_come_back(void **state)
{
    (void)state;
    struct effects effects = {0};
    door_result = FAIL(SGX_FAULT);
    assert_err(ask(&effects), SGX_FAULT);
    door_result = OK;
    begin_answer(ERR_STATE_ALTERED);
    assert_err(ask(&effects), STATE_ALTERED);
}

static void effects_beside_an_error_are_refused(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(ERR_TPM);
    add_effect(INSTANCE_EFFECT_RECORD, record, sizeof record);
    assert_err(ask(&effects), TRAILING);
}

static void an_effect_too_often_is_refused(void **state)
{
    (void)state;
    const struct {
        uint32_t kind;
        const void *payload;
        size_t size;
        size_t allowed;
    } rows[] = {{INSTANCE_EFFECT_PEER, peer, sizeof peer, EFFECT_PEERS_MAX},
                {INSTANCE_EFFECT_STORE, stored, sizeof stored, 1},
                {INSTANCE_EFFECT_RECORD, record, sizeof record, 1},
                {INSTANCE_EFFECT_RECEIPT, receipt, sizeof receipt, 1},
                {INSTANCE_EFFECT_HEALTH, health, sizeof health, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct effects effects = {0};
        begin_answer(0);
        for (size_t n = 0; n < rows[i].allowed; n++)
            add_effect(rows[i].kind, rows[i].payload, rows[i].size);
        assert_ok(ask(&effects));
        add_effect(rows[i].kind, rows[i].payload, rows[i].size);
        assert_err(ask(&effects), BAD_VALUE);
    }
}

static void malformed_effects_are_refused(void **state)
{
    (void)state;
    static const uint8_t bytes[RECORD_MAX];
    const struct {
        uint32_t kind;
        size_t size;
        enum err_code code;
    } rows[] = {
        {0, 12, ERR_BAD_VALUE},
        {6, 12, ERR_BAD_VALUE},
        {INSTANCE_EFFECT_PEER, 0, ERR_BAD_VALUE},
        {INSTANCE_EFFECT_PEER, PEER_MESSAGE_MAX + 1, ERR_TOO_LARGE},
        {INSTANCE_EFFECT_RECORD, 0, ERR_BAD_VALUE},
        {INSTANCE_EFFECT_RECORD, RECORD_OVERHEAD + K2_MESSAGE_MAX + 1, ERR_TOO_LARGE},
        {INSTANCE_EFFECT_STORE, 7, ERR_TRUNCATED},
        {INSTANCE_EFFECT_STORE, 12, ERR_BAD_VALUE}, /* version 0 */
        {INSTANCE_EFFECT_RECEIPT, PEER_RECEIPT_SIZE - 1, ERR_BAD_VALUE},
        {INSTANCE_EFFECT_RECEIPT, PEER_RECEIPT_SIZE + 1, ERR_BAD_VALUE},
        {INSTANCE_EFFECT_HEALTH, 3, ERR_TRUNCATED},
        {INSTANCE_EFFECT_HEALTH, 4, ERR_BAD_VALUE}, /* no health */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct effects effects = {0};
        begin_answer(0);
        add_effect(rows[i].kind, bytes, rows[i].size);
        struct err result = ask(&effects);
        if (result.code != rows[i].code) fail_msg("row %zu: %d", i, result.code);
    }
    struct effects effects = {0};
    begin_answer(0);
    add_effect(INSTANCE_EFFECT_STORE, stored, 8);
    assert_err(ask(&effects), BAD_VALUE);
}

static void padding_must_be_zero(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    add_effect(INSTANCE_EFFECT_RECORD, record, sizeof record);
    answer[answer_size - 1] = 1;
    assert_err(ask(&effects), BAD_VALUE);
}

static void every_cut_of_a_record_is_refused(void **state)
{
    (void)state;
    begin_answer(0);
    add_effect(INSTANCE_EFFECT_PEER, peer, sizeof peer);
    add_effect(INSTANCE_EFFECT_RECORD, record, sizeof record);
    const size_t whole = answer_size;
    for (answer_size = 0; answer_size < whole; answer_size++) {
        struct effects effects = {0};
        assert_int_not_equal(ask(&effects).code, ERR_NONE);
        assert_int_equal(effects.record.size, 0);
    }
}

static void bytes_behind_the_record_are_refused(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    add_effect(INSTANCE_EFFECT_RECORD, record, sizeof record);
    answer_size += 8;
    assert_err(ask(&effects), TRAILING);
}

#define MACHINE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_call_record),
        MACHINE_TEST(calls_without_a_body),
        MACHINE_TEST(a_stop_says_which_one),
        MACHINE_TEST(a_start_record_carries_the_id),
        MACHINE_TEST(host_entropy_differs_each_time),
        MACHINE_TEST(what_is_too_large_is_not_sent),
        MACHINE_TEST(all_effects),
        MACHINE_TEST(errors_of_door_and_handler_come_back),
        MACHINE_TEST(effects_beside_an_error_are_refused),
        MACHINE_TEST(an_effect_too_often_is_refused),
        MACHINE_TEST(malformed_effects_are_refused),
        MACHINE_TEST(padding_must_be_zero),
        MACHINE_TEST(every_cut_of_a_record_is_refused),
        MACHINE_TEST(bytes_behind_the_record_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
