#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_tis.h>

#include "tests/fakes/instance_client.h"
#include "tests/fakes/runtime.h"
#include "trusted/tpm/tpm.h"

/* TPM Main 1.2, Part 2, 17 (ordinals) and 16 (codes) */
#define TPM_TAG_RQU_COMMAND      0xc1u
#define TPM_ORD_OIAP             0x0au
#define TPM_ORD_EXTEND           0x14u
#define TPM_ORD_PCR_READ         0x15u
#define TPM_ORD_GET_RANDOM       0x46u
#define TPM_ORD_PHYSICAL_ENABLE  0x6fu
#define TPM_ORD_SAVE_STATE       0x98u
#define TPM_ORD_STARTUP          0x99u
#define TPM_ORD_NV_DEFINE        0xccu
#define TPM_ORD_NV_WRITE         0xcdu
#define TPM_ORD_NV_READ          0xcfu
#define TSC_ORD_PHYSICALPRESENCE 0x4000000au

#define ST_CLEAR                 1u
#define ST_STATE                 2u
#define PP_CMD_ENABLE            0x20u
#define PP_PRESENT               0x08u
#define NV_PPWRITE               0x1u
#define PCR                      10u
#define NV_INDEX                 0x1100u
#define HEADER_SIZE              16u /* of a state */

static struct tpm tpm;
static uint8_t response_buffer[4096];

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    tpm_choose_family(TPM_FAMILY_12);
    assert_ok(tpm_power_on_new(&tpm));
    return 0;
}

static int finish(void **state)
{
    (void)state;
    if (tpm.on) assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    tpm_choose_family(TPM_FAMILY_20);
    return 0;
}

/* --- commands --- */

static struct writer begin_command(struct tpm_message *m, uint32_t ordinal)
{
    struct writer w = writer_of(m->bytes, sizeof m->bytes);
    assert_ok(write_be16(&w, TPM_TAG_RQU_COMMAND));
    assert_ok(write_be32(&w, 0));
    assert_ok(write_be32(&w, ordinal));
    return w;
}

static void end_command(struct tpm_message *m, const struct writer *w)
{
    m->size = w->size;
    m->bytes[4] = (uint8_t)(w->size >> 8);
    m->bytes[5] = (uint8_t)w->size;
}

static void command_u16(struct tpm_message *m, uint32_t ordinal, uint16_t value)
{
    struct writer w = begin_command(m, ordinal);
    assert_ok(write_be16(&w, value));
    end_command(m, &w);
}

static void command_u32(struct tpm_message *m, uint32_t ordinal, uint32_t value)
{
    struct writer w = begin_command(m, ordinal);
    assert_ok(write_be32(&w, value));
    end_command(m, &w);
}

static void command(struct tpm_message *m, uint32_t ordinal)
{
    struct writer w = begin_command(m, ordinal);
    end_command(m, &w);
}

static void extend(struct tpm_message *m)
{
    struct writer w = begin_command(m, TPM_ORD_EXTEND);
    assert_ok(write_be32(&w, PCR));
    assert_ok(write_bytes(&w, "twenty bytes of hash", 20));
    end_command(m, &w);
}

/* No PCRs, all localities. */
static void write_pcr_info(struct writer *w)
{
    static const uint8_t digest[20];
    assert_ok(write_be16(w, 3));
    assert_ok(write_bytes(w, digest, 3));
    assert_ok(write_u8(w, 0x1f));
    assert_ok(write_bytes(w, digest, sizeof digest));
}

static void nv_define(struct tpm_message *m, uint32_t index, uint32_t size)
{
    static const uint8_t auth[20];
    struct writer w = begin_command(m, TPM_ORD_NV_DEFINE);
    assert_ok(write_be16(&w, 0x18)); /* TPM_TAG_NV_DATA_PUBLIC */
    assert_ok(write_be32(&w, index));
    write_pcr_info(&w);
    write_pcr_info(&w);
    assert_ok(write_be16(&w, 0x17)); /* TPM_TAG_NV_ATTRIBUTES */
    assert_ok(write_be32(&w, NV_PPWRITE));
    assert_ok(write_bytes(&w, auth, 3));
    assert_ok(write_be32(&w, size));
    assert_ok(write_bytes(&w, auth, sizeof auth));
    end_command(m, &w);
}

static void nv_write(struct tpm_message *m, const char text[16])
{
    struct writer w = begin_command(m, TPM_ORD_NV_WRITE);
    assert_ok(write_be32(&w, NV_INDEX));
    assert_ok(write_be32(&w, 0));
    assert_ok(write_be32(&w, 16));
    assert_ok(write_bytes(&w, text, 16));
    end_command(m, &w);
}

static void nv_read(struct tpm_message *m)
{
    struct writer w = begin_command(m, TPM_ORD_NV_READ);
    assert_ok(write_be32(&w, NV_INDEX));
    assert_ok(write_be32(&w, 0));
    assert_ok(write_be32(&w, 16));
    end_command(m, &w);
}

static struct span run(const struct tpm_message *m)
{
    struct writer w = writer_of(response_buffer, sizeof response_buffer);
    assert_ok(tpm_command(&tpm, 0, tpm_message_span(m), &w));
    return writer_span(&w);
}

static uint32_t code_of(const struct tpm_message *m)
{
    return tpm_response_code(run(m));
}

static void startup(uint16_t type)
{
    struct tpm_message m;
    command_u16(&m, TPM_ORD_STARTUP, type);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
}

static void run_extend(void)
{
    struct tpm_message m;
    extend(&m);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
}

static bool pcr_is_zero(void)
{
    static const uint8_t zeros[20];
    struct tpm_message m;
    command_u32(&m, TPM_ORD_PCR_READ, PCR);
    struct span response = run(&m);
    assert_int_equal(response.size, 30);
    assert_int_equal(tpm_response_code(response), TPM_SUCCESS);
    return memcmp(response.data + 10, zeros, sizeof zeros) == 0;
}

static void be_present(void)
{
    struct tpm_message m;
    command_u16(&m, TSC_ORD_PHYSICALPRESENCE, PP_CMD_ENABLE);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    command_u16(&m, TSC_ORD_PHYSICALPRESENCE, PP_PRESENT);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
}

/* --- states --- */

struct copy {
    uint8_t *bytes;
    size_t size;
};

static void free_copy(struct copy *copy)
{
    free(copy->bytes);
}

static struct span span_of_copy(const struct copy *copy)
{
    return span_of(copy->bytes, copy->size);
}

static struct copy take_state(void)
{
    struct span taken;
    assert_true(tpm_take_commit(&tpm, &taken));
    struct copy copy = {malloc(taken.size), taken.size};
    assert_non_null(copy.bytes);
    memcpy(copy.bytes, taken.data, taken.size);
    return copy;
}

/* Power off, and on from that state. */
static void power_on_from(const struct copy *state)
{
    if (tpm.on) assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    assert_ok(tpm_power_on(&tpm, span_of_copy(state)));
}

static uint32_t saved_size(const struct copy *state)
{
    uint32_t size;
    memcpy(&size, state->bytes + HEADER_SIZE - sizeof size, sizeof size);
    return size;
}

static void save_pcr(void)
{
    struct tpm_message m;
    startup(ST_CLEAR);
    run_extend();
    command(&m, TPM_ORD_SAVE_STATE);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
}

static struct copy state_with_saved_pcr(void)
{
    save_pcr();
    return take_state();
}

/* --- power, commands, commits --- */

static void a_new_tpm_has_a_state_to_be_stored_once(void **state)
{
    (void)state;
    struct copy copy DEFER(free_copy) = take_state();
    struct span taken;
    assert_memory_equal(copy.bytes, "vtpm 1.2", 8);
    assert_int_equal(saved_size(&copy), 0);
    assert_false(tpm_take_commit(&tpm, &taken));
}

static void it_answers_as_a_tpm_12(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(code_of(&m), TPM_BAD_ORDINAL);
    command_u32(&m, TPM_ORD_GET_RANDOM, 8);
    assert_int_equal(code_of(&m), TPM_INVALID_POSTINIT);
    startup(ST_CLEAR);
    struct span response = run(&m);
    assert_int_equal(response.size, 22);
    assert_int_equal(response.data[1], 0xc4);
    assert_false(tpm_in_failure_mode(&tpm));
}

static void a_command_that_changes_nothing_commits_nothing(void **state)
{
    (void)state;
    struct span taken;
    assert_true(tpm_take_commit(&tpm, &taken));
    startup(ST_CLEAR);
    run_extend();
    assert_false(pcr_is_zero());
    assert_false(tpm_take_commit(&tpm, &taken));
}

static void what_it_keeps_survives_and_pcrs_do_not(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(ST_CLEAR);
    run_extend();
    be_present();
    nv_define(&m, NV_INDEX, 16);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    nv_write(&m, "sixteen bytes...");
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    struct copy copy DEFER(free_copy) = take_state();
    power_on_from(&copy);
    startup(ST_CLEAR);
    assert_true(pcr_is_zero());
    nv_read(&m);
    struct span response = run(&m);
    assert_int_equal(response.size, 30);
    assert_memory_equal(response.data + 14, "sixteen bytes...", 16);
}

static void a_reset_is_over_the_newest_state(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(ST_CLEAR);
    run_extend();
    be_present();
    nv_define(&m, NV_INDEX, 16);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    assert_ok(tpm_reset(&tpm));
    startup(ST_CLEAR);
    assert_true(pcr_is_zero());
    be_present();
    nv_write(&m, "it is still here");
    assert_int_equal(code_of(&m), TPM_SUCCESS);
}

/* A failed command reads the permanent state back (TPM_PermanentAll_NVStore): it has to be the newest. */
static void a_failed_command_goes_back_to_the_newest_state(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(ST_CLEAR);
    be_present();
    nv_define(&m, NV_INDEX, 16);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    uint32_t code = TPM_SUCCESS;
    for (uint32_t index = NV_INDEX + 1; code == TPM_SUCCESS; index++) {
        nv_define(&m, index, 900);
        code = code_of(&m);
    }
    assert_int_equal(code, TPM_NOSPACE);
    nv_write(&m, "written behind a");
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    assert_false(tpm_in_failure_mode(&tpm));
}

static void locality_is_the_arguments(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(ST_CLEAR);
    struct writer w = begin_command(&m, TPM_ORD_EXTEND); /* locality 2 and above (PC Client 1.2) */
    assert_ok(write_be32(&w, 20));
    assert_ok(write_bytes(&w, "twenty bytes of hash", 20));
    end_command(&m, &w);
    assert_int_equal(code_of(&m), TPM_BAD_LOCALITY);
    w = writer_of(response_buffer, sizeof response_buffer);
    assert_ok(tpm_command(&tpm, 2, tpm_message_span(&m), &w));
    assert_int_equal(tpm_response_code(writer_span(&w)), TPM_SUCCESS);
}

static void two_lives_of_one_state_draw_differently(void **state)
{
    (void)state;
    struct tpm_message m;
    uint8_t first[46];
    struct copy copy DEFER(free_copy) = take_state();
    for (int life = 0; life < 2; life++) {
        power_on_from(&copy);
        startup(ST_CLEAR);
        command_u32(&m, TPM_ORD_GET_RANDOM, 32);
        struct span response = run(&m);
        assert_int_equal(response.size, sizeof first);
        if (life == 0) memcpy(first, response.data, sizeof first);
        if (life == 1) assert_memory_not_equal(first, response.data, sizeof first);
    }
}

/* --- TPM_SaveState --- */

static void what_savestate_kept_is_in_the_state(void **state)
{
    (void)state;
    struct copy copy DEFER(free_copy) = state_with_saved_pcr();
    assert_true(saved_size(&copy) > 0);
    power_on_from(&copy);
    startup(ST_STATE);
    struct copy used DEFER(free_copy) = take_state(); /* it can be used once */
    assert_int_equal(saved_size(&used), 0);
    assert_false(pcr_is_zero());
    power_on_from(&used);
    struct tpm_message m;
    command_u16(&m, TPM_ORD_STARTUP, ST_STATE);
    assert_int_equal(code_of(&m), TPM_FAILEDSELFTEST);
}

static void a_later_command_makes_it_void_for_good(void **state)
{
    (void)state;
    struct tpm_message m;
    save_pcr();
    command_u32(&m, TPM_ORD_GET_RANDOM, 8);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    struct copy copy DEFER(free_copy) = take_state();
    assert_int_equal(saved_size(&copy), 0);
    power_on_from(&copy);
    command_u16(&m, TPM_ORD_STARTUP, ST_STATE);
    assert_int_equal(code_of(&m), TPM_FAILEDSELFTEST);
    assert_true(tpm_in_failure_mode(&tpm));
    assert_ok(tpm_reset(&tpm));
    assert_false(tpm_in_failure_mode(&tpm));
    startup(ST_CLEAR);
}

static void a_power_off_leaves_it_as_it_was(void **state)
{
    (void)state;
    struct span taken;
    save_pcr();
    assert_true(tpm_take_commit(&tpm, &taken));
    assert_ok(tpm_power_off(&tpm));
    assert_false(tpm_take_commit(&tpm, &taken));
    assert_ok(tpm_reset(&tpm));
    startup(ST_STATE);
    assert_false(pcr_is_zero());
}

static void an_older_state_that_is_put_back_has_nothing_saved(void **state)
{
    (void)state;
    struct copy copy DEFER(free_copy) = state_with_saved_pcr();
    assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    assert_ok(tpm_power_on_reverted(&tpm, span_of_copy(&copy), &(struct tpm_floors){0}));
    struct copy reverted DEFER(free_copy) = take_state();
    assert_int_equal(saved_size(&reverted), 0);
    startup(ST_CLEAR);
    assert_true(pcr_is_zero());
}

/* --- states that are none --- */

static void assert_rejected(struct span state)
{
    struct span taken;
    if (tpm.on) assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    assert_err(tpm_power_on(&tpm, state), STATE_REJECTED);
    assert_false(tpm.on);
    assert_false(tpm_take_commit(&tpm, &taken));
}

static void a_rejected_state_makes_no_new_tpm(void **state)
{
    (void)state;
    struct copy copy DEFER(free_copy) = state_with_saved_pcr();
    const size_t offsets[] = {0, 7, 8, 12, 15, HEADER_SIZE, HEADER_SIZE + 40};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        copy.bytes[offsets[i]] ^= 1;
        assert_rejected(span_of_copy(&copy));
        copy.bytes[offsets[i]] ^= 1;
    }
    for (size_t size = 0; size <= HEADER_SIZE; size++)
        assert_rejected(span_of(copy.bytes, size));
    assert_rejected(span_of(copy.bytes, copy.size - 1));
    copy.bytes = realloc(copy.bytes, copy.size + 1);
    assert_non_null(copy.bytes);
    copy.bytes[copy.size] = 0;
    assert_rejected(span_of(copy.bytes, copy.size + 1));
    assert_ok(tpm_power_on(&tpm, span_of_copy(&copy)));
}

static void no_part_is_looked_for_in_a_state_without_a_permanent_one(void **state)
{
    (void)state;
    const uint8_t empty[HEADER_SIZE] = "vtpm 1.2";
    assert_rejected(span_of(empty, sizeof empty));
}

static void a_state_of_the_other_family_is_rejected(void **state)
{
    (void)state;
    struct copy of_12 DEFER(free_copy) = take_state();
    assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    tpm_choose_family(TPM_FAMILY_20);
    assert_rejected(span_of_copy(&of_12));
    assert_ok(tpm_power_on_new(&tpm));
    struct copy of_20 DEFER(free_copy) = take_state();
    assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    tpm_choose_family(TPM_FAMILY_12);
    assert_rejected(span_of_copy(&of_20));
    assert_ok(tpm_power_on(&tpm, span_of_copy(&of_12)));
}

/* --- suspend --- */

static void a_suspended_tpm_goes_on_with_all_it_had(void **state)
{
    (void)state;
    struct tpm_message m;
    struct span suspended;
    startup(ST_CLEAR);
    run_extend();
    command(&m, TPM_ORD_OIAP);
    assert_int_equal(code_of(&m), TPM_SUCCESS);
    assert_ok(tpm_suspend(&tpm, STATE_MAX, &suspended));
    struct copy volatile_state DEFER(free_copy) = {malloc(suspended.size), suspended.size};
    memcpy(volatile_state.bytes, suspended.data, suspended.size);
    struct copy permanent DEFER(free_copy) = take_state();
    tpm_forget(&tpm);
    assert_ok(tpm_resume(&tpm, span_of_copy(&permanent), span_of_copy(&volatile_state)));
    assert_false(pcr_is_zero());
    command_u16(&m, TPM_ORD_STARTUP, ST_CLEAR);
    assert_int_equal(code_of(&m), TPM_INVALID_POSTINIT);
}

static void a_resume_takes_only_what_belongs_together(void **state)
{
    (void)state;
    struct span suspended;
    struct copy older DEFER(free_copy) = take_state();
    startup(ST_CLEAR);
    be_present(); /* which changes a permanent flag */
    assert_ok(tpm_suspend(&tpm, STATE_MAX, &suspended));
    struct copy volatile_state DEFER(free_copy) = {malloc(suspended.size), suspended.size};
    memcpy(volatile_state.bytes, suspended.data, suspended.size);
    struct copy permanent DEFER(free_copy) = take_state();
    tpm_forget(&tpm);
    assert_err(tpm_resume(&tpm, span_of_copy(&older), span_of_copy(&volatile_state)), STATE_REJECTED);
    volatile_state.bytes[volatile_state.size / 2] ^= 1;
    assert_err(tpm_resume(&tpm, span_of_copy(&permanent), span_of_copy(&volatile_state)), STATE_REJECTED);
    assert_false(tpm.on);
    volatile_state.bytes[volatile_state.size / 2] ^= 1;
    assert_ok(tpm_resume(&tpm, span_of_copy(&permanent), span_of_copy(&volatile_state)));
    const struct tpm_floors none = {0};
    assert_err(tpm_go_back(&tpm, span_of_copy(&permanent), span_of_copy(&volatile_state), &none), TPM_FAMILY);
}

static void failure_mode_is_not_suspended(void **state)
{
    (void)state;
    struct tpm_message m;
    struct span suspended;
    command_u16(&m, TPM_ORD_STARTUP, ST_STATE); /* of a TPM that has nothing saved */
    assert_int_equal(code_of(&m), TPM_FAILEDSELFTEST);
    assert_err(tpm_suspend(&tpm, STATE_MAX, &suspended), TPM_FAILED);
    assert_true(tpm.on);
}

/* --- tpmEstablished, which is a permanent flag here --- */

static void a_reset_of_establishment_is_committed(void **state)
{
    (void)state;
    bool established = false;
    struct span taken;
    startup(ST_CLEAR);
    assert_int_equal(TPM_IO_Hash_Start(), TPM_SUCCESS);
    assert_true(tpm_take_commit(&tpm, &taken));
    assert_ok(tpm_established(&tpm, &established));
    assert_true(established);
    assert_err(tpm_reset_established(&tpm, 2), BAD_VALUE);
    assert_false(tpm_take_commit(&tpm, &taken));
    assert_ok(tpm_reset_established(&tpm, 3));
    assert_true(tpm_take_commit(&tpm, &taken));
    assert_ok(tpm_established(&tpm, &established));
    assert_false(established);
}

/* --- the whole enclave --- */

static struct client c;

static int begin_instance(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&c);
    c.manager.family = PEER_FAMILY_12;
    return 0;
}

static int finish_instance(void **state)
{
    (void)state;
    client_close(&c);
    return 0;
}

static uint32_t ask(const struct tpm_message *m)
{
    struct span response = client_command(&c, m);
    assert_int_equal(c.code, ERR_NONE);
    return tpm_response_code(response);
}

static void serve(uint16_t type)
{
    struct tpm_message m;
    client_serve(&c);
    command_u16(&m, TPM_ORD_STARTUP, type);
    assert_int_equal(ask(&m), TPM_SUCCESS);
}

static void an_instance_is_of_the_family_that_it_was_provisioned_as(void **state)
{
    (void)state;
    static const uint8_t no_floors[PEER_FLOORS_SIZE];
    struct tpm_message m;
    serve(ST_CLEAR);
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(ask(&m), TPM_BAD_ORDINAL);
    assert_memory_equal(c.manager.recorded.floors, no_floors, sizeof no_floors);
}

static void what_savestate_kept_is_durable_before_it_is_told(void **state)
{
    (void)state;
    struct tpm_message m;
    serve(ST_CLEAR);
    extend(&m);
    assert_int_equal(ask(&m), TPM_SUCCESS);
    command(&m, TPM_ORD_SAVE_STATE);
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_null(c.result.record.data);
    assert_non_null(c.result.store.data);
    client_carry(&c);
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), TPM_SUCCESS);
    client_restart(&c);
    serve(ST_STATE);
}

static void a_12_instance_refuses_the_state_of_a_20_one(void **state)
{
    (void)state;
    c.manager.family = PEER_FAMILY_20;
    client_serve(&c);
    client_restart(&c);
    c.manager.family = PEER_FAMILY_12;
    client_provision(&c);
    assert_int_equal(client_load(&c, &c.stored), ERR_STATE_REJECTED);
    assert_null(c.result.store.data);
    assert_int_equal(client_load(&c, &c.stored), ERR_ENCLAVE_DEAD);
}

static void and_a_20_instance_that_of_a_12_one(void **state)
{
    (void)state;
    client_serve(&c);
    client_restart(&c);
    c.manager.family = PEER_FAMILY_20;
    client_provision(&c);
    assert_int_equal(client_load(&c, &c.stored), ERR_STATE_REJECTED);
    assert_null(c.result.store.data);
    assert_int_equal(client_load(&c, &c.stored), ERR_ENCLAVE_DEAD);
}

/* In this very process, where the dynamic launch can be had that no verb of K2 begins. The last of the tests: a process has
 * one enclave life. */
static void a_reset_of_establishment_waits_for_its_commit(void **state)
{
    (void)state;
    enclave_process_end(&c.enclave);
    c.enclave = ENCLAVE_HERE;
    serve(ST_CLEAR);
    assert_int_equal(TPM_IO_Hash_Start(), TPM_SUCCESS);
    assert_int_equal(client_call(&c, INSTANCE_RECORD, client_seal(&c, K2_RESET_ESTABLISHED, 3, span_empty())),
                     ERR_NONE);
    assert_null(c.result.record.data);
    assert_non_null(c.result.store.data);
    client_carry(&c);
    client_anchor(&c);
    (void)client_response(&c);
    assert_int_equal(c.code, ERR_NONE);
    enclave_process_start(&c.enclave); /* to be ended */
}

#define TPM_TEST(function)      cmocka_unit_test_setup_teardown(function, begin, finish)
#define INSTANCE_TEST(function) cmocka_unit_test_setup_teardown(function, begin_instance, finish_instance)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TPM_TEST(a_new_tpm_has_a_state_to_be_stored_once),
        TPM_TEST(it_answers_as_a_tpm_12),
        TPM_TEST(a_command_that_changes_nothing_commits_nothing),
        TPM_TEST(what_it_keeps_survives_and_pcrs_do_not),
        TPM_TEST(a_reset_is_over_the_newest_state),
        TPM_TEST(a_failed_command_goes_back_to_the_newest_state),
        TPM_TEST(locality_is_the_arguments),
        TPM_TEST(two_lives_of_one_state_draw_differently),
        TPM_TEST(what_savestate_kept_is_in_the_state),
        TPM_TEST(a_later_command_makes_it_void_for_good),
        TPM_TEST(a_power_off_leaves_it_as_it_was),
        TPM_TEST(an_older_state_that_is_put_back_has_nothing_saved),
        TPM_TEST(a_rejected_state_makes_no_new_tpm),
        TPM_TEST(no_part_is_looked_for_in_a_state_without_a_permanent_one),
        TPM_TEST(a_state_of_the_other_family_is_rejected),
        TPM_TEST(a_suspended_tpm_goes_on_with_all_it_had),
        TPM_TEST(a_resume_takes_only_what_belongs_together),
        TPM_TEST(failure_mode_is_not_suspended),
        TPM_TEST(a_reset_of_establishment_is_committed),
        INSTANCE_TEST(an_instance_is_of_the_family_that_it_was_provisioned_as),
        INSTANCE_TEST(what_savestate_kept_is_durable_before_it_is_told),
        INSTANCE_TEST(a_12_instance_refuses_the_state_of_a_20_one),
        INSTANCE_TEST(and_a_20_instance_that_of_a_12_one),
        INSTANCE_TEST(a_reset_of_establishment_waits_for_its_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
