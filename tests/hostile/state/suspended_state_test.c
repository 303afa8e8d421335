/*
 * The host hands an enclave that is to resume another volatile state than the one that was suspended, or none (S7). At
 * the end of each test the enclave still takes the right one and goes on.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/instance_client.h"
#include "tests/fakes/runtime.h"
#include "trusted/state/blob.h"

#define PCR 10

static struct client c, other;
static struct stored_state offered; /* a copy of the right one, to be changed */
static size_t state_size;           /* of the state in it; the volatile one is behind */

static size_t first_blob_size(const struct stored_state *stored)
{
    struct reader r = reader_of(span_of(stored->blob + BLOB_OFFSET_SIZE, sizeof(uint32_t)));
    uint32_t size = 0;
    assert_ok(read_u32(&r, &size));
    return blob_size(BLOB_STATE, size);
}

static void suspend(struct client *client)
{
    assert_int_equal(client_stop(client, INSTANCE_STOP_SUSPEND), ERR_NONE);
    client_carry(client);
    client_anchor(client);
    assert_int_equal(client->result.receipt.size, PEER_RECEIPT_SIZE);
}

static void serve(struct client *client)
{
    struct tpm_message m;
    client_serve(client);
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(tpm_response_code(client_command(client, &m)), 0);
}

static void extend(struct client *client)
{
    struct tpm_message m;
    tpm_pcr_extend(&m, PCR);
    assert_int_equal(tpm_response_code(client_command(client, &m)), 0);
}

static void wait_for_the_state(void)
{
    client_restart(&c);
    client_provision(&c);
    offered = c.stored;
    state_size = first_blob_size(&offered);
    assert_in_range(offered.size, state_size + 1000, STATE_MAX);
}

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&c);
    serve(&c);
    extend(&c);
    suspend(&c);
    wait_for_the_state();
    return 0;
}

static int finish(void **state)
{
    (void)state;
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    assert_true(c.manager.ready);
    client_link(&c);
    extend(&c); /* without a startup */
    client_close(&c);
    return 0;
}

static uint16_t offer(void)
{
    uint16_t code = client_load(&c, &offered);
    assert_int_not_equal(code, ERR_NONE);
    assert_int_equal(c.result.peer_count, 0);
    assert_null(c.result.store.data);
    return code;
}

static void take_volatile_of(const struct stored_state *stored)
{
    size_t from = first_blob_size(stored);
    offered.size = state_size + stored->size - from;
    memcpy(offered.blob + state_size, stored->blob + from, stored->size - from);
}

static void the_suspended_state_is_taken(void **state)
{
    (void)state; /* finish does it */
}

static void a_missing_volatile_state_is_refused(void **state)
{
    (void)state;
    offered.size = state_size;
    assert_int_equal(offer(), ERR_STATE_MISSING);
    offered.size = 0;
    assert_int_equal(offer(), ERR_STATE_MISSING);
}

static void each_changed_byte_is_detected(void **state)
{
    (void)state;
    for (size_t at = state_size; at < offered.size; at++) {
        offered.blob[at] ^= (uint8_t)(1 << at % 8);
        assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
        offered.blob[at] ^= (uint8_t)(1 << at % 8);
    }
}

static void cuts_and_added_bytes_are_detected(void **state)
{
    (void)state;
    size_t whole = offered.size;
    for (offered.size = state_size + 1; offered.size < whole; offered.size += 7)
        assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
    offered.size = whole + 1;
    assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
}

static void the_volatile_state_alone_is_refused(void **state)
{
    (void)state;
    offered.size -= state_size;
    memmove(offered.blob, offered.blob + state_size, offered.size);
    assert_int_equal(offer(), ERR_STATE_FORMAT);
}

static void the_two_in_the_wrong_order_are_refused(void **state)
{
    (void)state;
    size_t volatile_size = c.stored.size - state_size;
    memcpy(offered.blob, c.stored.blob + state_size, volatile_size);
    memcpy(offered.blob + volatile_size, c.stored.blob, state_size);
    assert_int_equal(offer(), ERR_STATE_FORMAT);
}

static void the_volatile_state_of_another_instance_is_refused(void **state)
{
    (void)state;
    client_open(&other);
    serve(&other);
    suspend(&other);
    take_volatile_of(&other.stored);
    assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
    client_close(&other);
}

/* Resumes, and suspends again: out_before is what was recorded before, and c waits for what is recorded now. */
static void go_on(struct stored_state *out_before)
{
    *out_before = c.stored;
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    client_link(&c);
    extend(&c);
    suspend(&c);
    wait_for_the_state();
}

static void an_older_volatile_state_is_refused(void **state)
{
    (void)state;
    static struct stored_state before;
    go_on(&before);
    take_volatile_of(&before);
    assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
    offered = before;
    assert_int_equal(offer(), ERR_STATE_OLD);
}

/* The seal, and not the manager's word alone, says to which state it belongs. */
static void a_manager_cannot_name_what_is_of_another_version(void **state)
{
    (void)state;
    static struct stored_state before;
    uint8_t right[SHA256_SIZE];
    go_on(&before);
    memcpy(right, c.manager.resumes, sizeof right);
    take_volatile_of(&before);
    struct span older = span_of(offered.blob + state_size, offered.size - state_size);
    assert_ok(hash_sha256(fake_crypto(), &older, 1, c.manager.recorded.suspended));
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
    memcpy(c.manager.recorded.suspended, right, sizeof right);
    client_restart(&c);
    client_provision(&c);
}

/* S7: one suspended state, two lives. The host has all the bytes; the manager names them once. */
static void without_the_managers_word_nothing_is_resumed(void **state)
{
    (void)state;
    struct tpm_message m;
    struct fake_state recorded = c.manager.recorded;
    memcpy(recorded.suspended, c.manager.resumes, sizeof recorded.suspended);
    client_restart(&c);
    client_provision(&c); /* the next start, after one that was admitted to resume */
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    assert_true(c.manager.ready);
    client_link(&c);
    tpm_pcr_read(&m, PCR);
    assert_int_not_equal(tpm_response_code(client_command(&c, &m)), 0); /* it was not started, and goes on nowhere */
    c.manager.recorded = recorded;
    client_restart(&c);
    client_provision(&c);
}

/* And if the manager did name them twice, no secret would be drawn twice. */
static void two_resumes_of_one_state_draw_differently(void **state)
{
    (void)state;
    uint8_t drawn[2][32];
    struct fake_state recorded = c.manager.recorded;
    struct stored_state *right = &offered;
    memcpy(recorded.suspended, c.manager.resumes, sizeof recorded.suspended);
    for (int life = 0; life < 2; life++) {
        struct tpm_message m;
        assert_int_equal(client_load(&c, right), ERR_NONE);
        client_carry(&c);
        client_link(&c);
        tpm_get_random(&m, sizeof drawn[life]);
        struct span parameters = tpm_response_parameters(client_command(&c, &m), 0);
        memcpy(drawn[life], tpm_take_2b(&parameters).data, sizeof drawn[life]);
        c.manager.recorded = recorded;
        c.stored = *right;
        client_restart(&c);
        client_provision(&c);
    }
    assert_memory_not_equal(drawn[0], drawn[1], sizeof drawn[0]);
}

int main(void)
{
#define SUSPENDED_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        SUSPENDED_TEST(the_suspended_state_is_taken),
        SUSPENDED_TEST(a_missing_volatile_state_is_refused),
        SUSPENDED_TEST(each_changed_byte_is_detected),
        SUSPENDED_TEST(cuts_and_added_bytes_are_detected),
        SUSPENDED_TEST(the_volatile_state_alone_is_refused),
        SUSPENDED_TEST(the_two_in_the_wrong_order_are_refused),
        SUSPENDED_TEST(the_volatile_state_of_another_instance_is_refused),
        SUSPENDED_TEST(an_older_volatile_state_is_refused),
        SUSPENDED_TEST(a_manager_cannot_name_what_is_of_another_version),
        SUSPENDED_TEST(without_the_managers_word_nothing_is_resumed),
        SUSPENDED_TEST(two_resumes_of_one_state_draw_differently),
    };
    return cmocka_run_group_tests_name("suspended state", tests, NULL, NULL);
}
