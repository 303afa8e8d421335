/* Call records as abi/call.h draws them, and output records parsed strictly. */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
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
    machine_wipe(&machine);
    int result = 0;
    for (size_t i = 0; i < MACHINE_MEMORY_SIZE; i++)
        if (memory[i]) result = -1;
    free(memory);
    return result;
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

static const uint8_t reply[12] = {0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2};
static const uint8_t stored[8 + 3] = {7, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c'};
static const uint8_t instance[24] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 9};

static struct err ask(struct effects *out_effects)
{
    return machine_command(&machine, 1, span_of(reply, sizeof reply), out_effects);
}

static void a_command_record(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    assert_ok(machine_command(&machine, 3, span_of("abc", 3), &effects));
    struct reader r = reader_of(span_of(asked, asked_size));
    uint32_t number = 0;
    uint32_t size = 0;
    uint64_t time = 0;
    uint8_t locality = 0;
    struct span command;
    assert_ok(read_u32(&r, &number));
    assert_ok(read_u32(&r, &size));
    assert_ok(read_u64(&r, &time));
    assert_ok(read_u8(&r, &locality));
    assert_ok(read_span(&r, 3, &command));
    assert_ok(reader_end(&r));
    assert_int_equal(number, CALL_TPM_COMMAND);
    assert_int_equal(size, 4);
    assert_true(time > UINT64_C(1600000000000000000));
    assert_int_equal(locality, 3);
    assert_memory_equal(command.data, "abc", 3);
}

static void a_create_record(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    assert_ok(machine_create(&machine, &effects));
    assert_int_equal(asked_size, CALL_RECORD_HEADER_SIZE + CALL_START_FIXED_SIZE);
    assert_int_equal(asked[0], CALL_START);
    assert_int_equal(asked[16], START_CREATE);
    const uint8_t none[INSTANCE_ID_SIZE] = {0};
    assert_memory_equal(asked + 20, none, sizeof none);
}

static void an_open_record_carries_id_and_state(void **state)
{
    (void)state;
    struct effects effects = {0};
    const struct instance_id id = {.bytes = "0123456789abcde"};
    begin_answer(0);
    assert_ok(machine_open(&machine, &id, span_of("state", 5), &effects));
    assert_int_equal(asked_size, CALL_RECORD_HEADER_SIZE + CALL_START_FIXED_SIZE + 5);
    assert_int_equal(asked[16], START_OPEN);
    assert_memory_equal(asked + 20, id.bytes, sizeof id.bytes);
    assert_memory_equal(asked + asked_size - 5, "state", 5);
}

static void host_entropy_differs_each_time(void **state)
{
    (void)state;
    struct effects effects = {0};
    uint8_t first[HOST_ENTROPY_SIZE];
    const size_t offset = CALL_RECORD_HEADER_SIZE + 4 + INSTANCE_ID_SIZE + 16;
    begin_answer(0);
    assert_ok(machine_create(&machine, &effects));
    memcpy(first, asked + offset, sizeof first);
    assert_ok(machine_create(&machine, &effects));
    assert_memory_not_equal(first, asked + offset, sizeof first);
}

static void what_is_too_large_is_not_sent(void **state)
{
    (void)state;
    struct effects effects = {0};
    const struct instance_id id = {0};
    asked_size = 0;
    assert_err(machine_command(&machine, 0, span_of(answer, TPM_BUFFER_MAX + 1), &effects), TOO_LARGE);
    assert_err(machine_open(&machine, &id, span_of(answer, STATE_MAX + 1), &effects), TOO_LARGE);
    assert_int_equal(asked_size, 0);
}

static void all_effects(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    add_effect(EFFECT_INSTANCE, instance, sizeof instance);
    add_effect(EFFECT_STORE, stored, sizeof stored);
    add_effect(EFFECT_REPLY, reply, sizeof reply);
    assert_ok(ask(&effects));
    assert_true(effects.has_instance);
    assert_memory_equal(effects.instance.bytes, instance, INSTANCE_ID_SIZE);
    assert_int_equal(effects.version, 9);
    assert_true(effects.has_store);
    assert_int_equal(effects.store_number, 7);
    assert_int_equal(effects.store.size, 3);
    assert_memory_equal(effects.store.data, "abc", 3);
    assert_int_equal(effects.reply.size, sizeof reply);
    assert_memory_equal(effects.reply.data, reply, sizeof reply);
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
    add_effect(EFFECT_REPLY, reply, sizeof reply);
    assert_err(ask(&effects), TRAILING);
}

static void an_effect_twice_is_refused(void **state)
{
    (void)state;
    const struct {
        uint32_t kind;
        const void *payload;
        size_t size;
    } rows[] = {{EFFECT_INSTANCE, instance, sizeof instance},
                {EFFECT_STORE, stored, sizeof stored},
                {EFFECT_REPLY, reply, sizeof reply}};
    for (size_t i = 0; i < 3; i++) {
        struct effects effects = {0};
        begin_answer(0);
        add_effect(rows[i].kind, rows[i].payload, rows[i].size);
        add_effect(rows[i].kind, rows[i].payload, rows[i].size);
        assert_err(ask(&effects), BAD_VALUE);
    }
}

static void malformed_effects_are_refused(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    add_effect(4, reply, sizeof reply);
    assert_err(ask(&effects), BAD_VALUE);
    begin_answer(0);
    add_effect(EFFECT_INSTANCE, instance, sizeof instance - 1);
    assert_err(ask(&effects), TRUNCATED);
    begin_answer(0);
    add_effect(EFFECT_INSTANCE, asked, sizeof instance + 1);
    assert_err(ask(&effects), TRAILING);
    begin_answer(0);
    add_effect(EFFECT_STORE, stored, 8);
    assert_err(ask(&effects), BAD_VALUE);
    begin_answer(0);
    add_effect(EFFECT_REPLY, reply, 0);
    assert_err(ask(&effects), BAD_VALUE);
    begin_answer(0);
    add_effect(EFFECT_REPLY, memory, TPM_BUFFER_MAX + 1);
    assert_err(ask(&effects), TOO_LARGE);
}

static void padding_must_be_zero(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    add_effect(EFFECT_REPLY, reply, sizeof reply);
    answer[answer_size - 1] = 1;
    assert_err(ask(&effects), BAD_VALUE);
}

static void every_cut_of_a_record_is_refused(void **state)
{
    (void)state;
    begin_answer(0);
    add_effect(EFFECT_INSTANCE, instance, sizeof instance);
    add_effect(EFFECT_REPLY, reply, sizeof reply);
    const size_t whole = answer_size;
    for (answer_size = 0; answer_size < whole; answer_size++) {
        struct effects effects = {0};
        assert_int_not_equal(ask(&effects).code, ERR_NONE);
        assert_int_equal(effects.reply.size, 0);
    }
}

static void bytes_behind_the_record_are_refused(void **state)
{
    (void)state;
    struct effects effects = {0};
    begin_answer(0);
    add_effect(EFFECT_REPLY, reply, sizeof reply);
    answer_size += 8;
    assert_err(ask(&effects), TRAILING);
}

#define MACHINE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_command_record),
        MACHINE_TEST(a_create_record),
        MACHINE_TEST(an_open_record_carries_id_and_state),
        MACHINE_TEST(host_entropy_differs_each_time),
        MACHINE_TEST(what_is_too_large_is_not_sent),
        MACHINE_TEST(all_effects),
        MACHINE_TEST(errors_of_door_and_handler_come_back),
        MACHINE_TEST(effects_beside_an_error_are_refused),
        MACHINE_TEST(an_effect_twice_is_refused),
        MACHINE_TEST(malformed_effects_are_refused),
        MACHINE_TEST(padding_must_be_zero),
        MACHINE_TEST(every_cut_of_a_record_is_refused),
        MACHINE_TEST(bytes_behind_the_record_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
