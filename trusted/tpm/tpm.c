/*
 * libtpms calls back without a context and keeps its TPM in globals; both end in this file. One TPM may be on at a
 * time, and a second one that is powered on beside it is a broken invariant of ours.
 *
 * Guarantees: a rejected state manufactures nothing, because the load callback never answers that there is none; the
 * generators of libtpms and libcrypto get fresh bytes after each load and before any command, so that no two lives of
 * one state draw alike; the buffers of a command are wiped before it returns.
 */
#include "trusted/tpm/tpm.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_nvfilename.h>
#include <libtpms/tpm_tis.h>

#include "abi/instance.h"
#include "base/memory.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/panic.h"
#include "trusted/tpm/family.h"
#include "trusted/tpm/fast_path.h"
#include "trusted/tpm/libtpms.h"

#define RESPONSE_HEADER_SIZE 10u /* tag, size, code (Part 1, 18.2) */
#define STIR_SIZE            48u /* libtpms' DRBG_SEED: AES-256 key and block */
#define DIGEST_SIZE          32u /* SHA-256 */
#define CHECKSUM_SIZE        20u /* of libtpms' volatile state */

_Noreturn void __real__plat__Fail(void);
_Noreturn void __wrap__plat__Fail(void);

static const struct family *family = &tpm_family_20;

static struct tpm *powered;                   /* the TPM that libtpms' globals are; NULL while they are none */
static bool command_running;                  /* libtpms has a frame to jump back to */
static struct span to_resume;                 /* libtpms' volatile state, until it has loaded it */
static uint32_t buffer_size = TPM_BUFFER_MAX; /* which libtpms gets at each power-on */
static struct {
    uint8_t command[TPM_BUFFER_MAX]; /* libtpms decrypts parameters in place */
    uint8_t response[TPM_BUFFER_MAX];
} buffers;

/*
 * A failed assertion of libtpms jumps back to where it began to run the command. Outside of a command there is no such
 * place, only the frame of one that has returned.
 */
void __wrap__plat__Fail(void)
{
    if (command_running) __real__plat__Fail();
    panic(PANIC_ABORT);
}

void tpm_choose_family(enum tpm_family chosen)
{
    static const struct family *const families[] = {
        [TPM_FAMILY_20] = &tpm_family_20,
        [TPM_FAMILY_12] = &tpm_family_12,
    };
    if (powered) panic(PANIC_INVARIANT);
    family = families[chosen];
}

static bool is_permanent(const char *name)
{
    return strcmp(name, TPM_PERMANENT_ALL_NAME) == 0;
}

static bool is_volatile(const char *name)
{
    return strcmp(name, TPM_VOLATILESTATE_NAME) == 0;
}

/* A copy that libtpms frees. */
static TPM_RESULT hand_out(struct span state, unsigned char **data, uint32_t *length)
{
    unsigned char *copy = malloc(state.size);
    if (!copy) return TPM_FAIL;
    memcpy(copy, state.data, state.size);
    *data = copy;
    *length = (uint32_t)state.size;
    return TPM_SUCCESS;
}

/* TPM_RETRY is "there is none". */
static TPM_RESULT load(unsigned char **data, uint32_t *length, uint32_t tpm_number, const char *name)
{
    (void)tpm_number;
    struct span part;
    if (is_volatile(name) && to_resume.size > 0) {
        TPM_RESULT result = hand_out(to_resume, data, length);
        if (result == TPM_SUCCESS) to_resume = span_empty();
        return result;
    }
    if (!powered->permanent) return !is_permanent(name) || powered->manufacture ? TPM_RETRY : TPM_FAIL;
    if (family->find(span_of(powered->permanent, powered->permanent_size), name, &part))
        return hand_out(part, data, length);
    return is_permanent(name) ? TPM_FAIL : TPM_RETRY;
}

static void forget_volatile(struct tpm *tpm)
{
    wipe(tpm->suspended, tpm->suspended_size);
    free(tpm->suspended);
    tpm->suspended = NULL;
    tpm->suspended_size = 0;
}

void tpm_forget(struct tpm *tpm)
{
    wipe(tpm->permanent, tpm->permanent_size);
    free(tpm->permanent);
    tpm->permanent = NULL;
    tpm->permanent_size = 0;
    forget_volatile(tpm);
}

static struct err set_permanent(struct tpm *tpm, struct span permanent)
{
    ENSURE(permanent.size > 0, STATE_REJECTED);
    uint8_t *copy = malloc(permanent.size);
    ENSURE(copy, NO_MEMORY);
    memcpy(copy, permanent.data, permanent.size);
    tpm_forget(tpm);
    tpm->permanent = copy;
    tpm->permanent_size = permanent.size;
    return OK;
}

struct err tpm_keep_state(struct tpm *tpm, struct span state)
{
    TRY(set_permanent(tpm, state));
    tpm->commit_pending = true;
    return OK;
}

/* libtpms' memory has changed already and cannot go back: a failure here is the TPM's failure mode. */
static TPM_RESULT store(const unsigned char *data, uint32_t length, uint32_t tpm_number, const char *name)
{
    (void)tpm_number;
    return length > 0 && !family->put(powered, name, span_of(data, length)).code ? TPM_SUCCESS : TPM_FAIL;
}

static TPM_RESULT delete_name(uint32_t tpm_number, const char *name, TPM_BOOL must_exist)
{
    (void)tpm_number;
    struct span part;
    if (!powered->permanent || !family->find(span_of(powered->permanent, powered->permanent_size), name, &part))
        return must_exist ? TPM_FAIL : TPM_SUCCESS;
    return family->put(powered, name, span_empty()).code ? TPM_FAIL : TPM_SUCCESS;
}

static TPM_RESULT init(void)
{
    return TPM_SUCCESS;
}

static TPM_RESULT get_locality(TPM_MODIFIER_INDICATOR *locality, uint32_t tpm_number)
{
    (void)tpm_number;
    *locality = powered->locality;
    return TPM_SUCCESS;
}

static TPM_RESULT get_physical_presence(TPM_BOOL *present, uint32_t tpm_number)
{
    (void)tpm_number;
    *present = 0;
    return TPM_SUCCESS;
}

struct fresh_bytes {
    uint8_t bytes[STIR_SIZE];
};

static void wipe_fresh_bytes(struct fresh_bytes *fresh)
{
    wipe(fresh, sizeof *fresh);
}

static void stir_libcrypto(void)
{
    struct fresh_bytes fresh DEFER(wipe_fresh_bytes);
    entropy_fill(fresh.bytes, sizeof fresh.bytes);
    RAND_add(fresh.bytes, sizeof fresh.bytes, sizeof fresh.bytes);
}

static void libtpms_off(struct tpm *tpm)
{
    TPMLIB_Terminate();
    fast_path_forget();
    tpm->on = false;
    powered = NULL;
}

/* Until it was told, libtpms takes itself for a TPM 1.2. */
static struct err choose_family(void)
{
    ENSURE(powered || TPMLIB_ChooseTPMVersion(family->version) == TPM_SUCCESS, TPM);
    return OK;
}

/* libtpms on, over tpm->permanent if there is one. */
static struct err libtpms_on(struct tpm *tpm)
{
    struct libtpms_callbacks callbacks = {
        .sizeOfStruct = sizeof callbacks,
        .tpm_nvram_init = init,
        .tpm_nvram_loaddata = load,
        .tpm_nvram_storedata = store,
        .tpm_nvram_deletename = delete_name,
        .tpm_io_init = init,
        .tpm_io_getlocality = get_locality,
        .tpm_io_getphysicalpresence = get_physical_presence,
    };
    if (powered) panic(PANIC_INVARIANT);
    ENSURE(TPMLIB_RegisterCallbacks(&callbacks) == TPM_SUCCESS, TPM);
    TRY(choose_family());
    ENSURE(TPMLIB_SetBufferSize(buffer_size, NULL, NULL) == buffer_size, TPM);
    powered = tpm;
    tpm->on = true;
    tpm->orderly = true;
    struct err err = OK;
    if (TPMLIB_MainInit() != TPM_SUCCESS) err = FAIL(STATE_REJECTED);
    stir_libcrypto();
    if (!err.code) err = family->begun(tpm);
    if (err.code) libtpms_off(tpm);
    return err;
}

/* A power-on that failed leaves nothing behind. */
static void fall_back_off(struct tpm *tpm)
{
    if (tpm->on) libtpms_off(tpm);
    tpm_forget(tpm);
    tpm->commit_pending = false;
}

struct err tpm_power_on_new(struct tpm *tpm)
{
    *tpm = (struct tpm){.manufacture = true};
    struct err err = libtpms_on(tpm);
    tpm->manufacture = false;
    if (!err.code) return OK;
    fall_back_off(tpm);
    return FAIL(TPM);
}

struct err tpm_power_on(struct tpm *tpm, struct span permanent)
{
    *tpm = (struct tpm){0};
    TRY(set_permanent(tpm, permanent));
    struct err err = libtpms_on(tpm);
    if (!err.code) err = family->opened(tpm);
    if (err.code) fall_back_off(tpm);
    return err;
}

struct err tpm_power_on_imported(struct tpm *tpm, struct span permanent)
{
    TRY(tpm_power_on(tpm, permanent));
    if (!tpm_in_failure_mode(tpm)) {
        tpm->commit_pending = true;
        return OK;
    }
    fall_back_off(tpm);
    return FAIL(STATE_REJECTED);
}

struct err tpm_power_on_reverted(struct tpm *tpm, struct span permanent, const struct tpm_floors *floors)
{
    *tpm = (struct tpm){0};
    TRY(set_permanent(tpm, permanent));
    struct err err = libtpms_on(tpm);
    if (!err.code) err = family->reverted(tpm, floors);
    if (err.code) fall_back_off(tpm);
    return err;
}

void tpm_read_floors(const struct tpm *tpm, struct tpm_floors *out)
{
    if (tpm->on)
        family->read_floors(out);
    else
        *out = tpm->floors;
}

static bool digest(struct span bytes, uint8_t out[DIGEST_SIZE])
{
    return CryptHashBlock(LIBTPMS_SHA256, (uint32_t)bytes.size, bytes.data, DIGEST_SIZE, out) == DIGEST_SIZE;
}

/* libtpms' volatile state with the digest of the permanent state before it, into tpm->suspended. */
static struct err keep_volatile(struct tpm *tpm)
{
    unsigned char *state = NULL;
    uint32_t size = 0;
    forget_volatile(tpm);
    ENSURE(TPMLIB_GetState(TPMLIB_STATE_VOLATILE, &state, &size) == TPM_SUCCESS, TPM);
    tpm->suspended = malloc(DIGEST_SIZE + size);
    if (tpm->suspended) {
        tpm->suspended_size = DIGEST_SIZE + size;
        memcpy(tpm->suspended + DIGEST_SIZE, state, size);
    }
    wipe(state, size);
    free(state);
    ENSURE(tpm->suspended, NO_MEMORY);
    ENSURE(digest(span_of(tpm->permanent, tpm->permanent_size), tpm->suspended), TPM);
    return OK;
}

struct err tpm_capture(struct tpm *tpm, size_t limit, struct span *out_volatile)
{
    ENSURE(tpm->on, TPM_OFF);
    ENSURE(!family->failed(tpm), TPM_FAILED);
    TRY(family->save(tpm));
    TRY(keep_volatile(tpm));
    if (tpm->permanent_size + tpm->suspended_size > limit) {
        forget_volatile(tpm);
        return FAIL(TOO_LARGE);
    }
    *out_volatile = span_of(tpm->suspended, tpm->suspended_size);
    return OK;
}

struct err tpm_suspend(struct tpm *tpm, size_t limit, struct span *out_volatile)
{
    TRY(tpm_capture(tpm, limit, out_volatile));
    return tpm_cut_off(tpm);
}

/* What libtpms does of it; with an error the TPM may be on. */
static struct err resume(struct tpm *tpm, struct span permanent, struct span volatile_state)
{
    uint8_t made_over[DIGEST_SIZE];
    *tpm = (struct tpm){0};
    /* Shorter ones, and ones that it did not get, libtpms would go on without. */
    ENSURE(volatile_state.size >= DIGEST_SIZE + CHECKSUM_SIZE && digest(permanent, made_over), STATE_REJECTED);
    ENSURE(ct_equal(made_over, volatile_state.data, DIGEST_SIZE), STATE_REJECTED);
    TRY(set_permanent(tpm, permanent));
    to_resume = span_of(volatile_state.data + DIGEST_SIZE, volatile_state.size - DIGEST_SIZE);
    struct err err = libtpms_on(tpm);
    if (!err.code && to_resume.size > 0) err = FAIL(NO_MEMORY);
    to_resume = span_empty();
    return err;
}

struct err tpm_resume(struct tpm *tpm, struct span permanent, struct span volatile_state)
{
    struct err err = resume(tpm, permanent, volatile_state);
    if (!err.code) err = family->resumed(tpm);
    if (err.code) fall_back_off(tpm);
    return err;
}

struct err tpm_go_back(struct tpm *tpm, struct span permanent, struct span volatile_state,
                       const struct tpm_floors *floors)
{
    ENSURE(family->went_back, TPM_FAMILY);
    struct err err = resume(tpm, permanent, volatile_state);
    if (!err.code) err = family->went_back(tpm, floors);
    if (err.code) fall_back_off(tpm);
    return err;
}

struct err tpm_reset(struct tpm *tpm)
{
    uint64_t kept = 0;
    if (tpm->on) {
        kept = family->before_reset();
        libtpms_off(tpm);
    }
    TRY(libtpms_on(tpm));
    return family->after_reset(kept);
}

/* Runs the command that lies in buffers; its response lies there afterwards, until wipe_buffers. */
static struct err run(struct tpm *tpm, uint8_t locality, uint32_t size, struct span *out_response)
{
    unsigned char *response = buffers.response;
    uint32_t response_size = 0, capacity = sizeof buffers.response;
    tpm->locality = locality;
    command_running = true;
    TPM_RESULT result = TPMLIB_Process(&response, &response_size, &capacity, buffers.command, size);
    command_running = false;
    /* libtpms would take a larger buffer from the heap, but asks for one of this size only. */
    if (response != buffers.response) panic(PANIC_INVARIANT);
    ENSURE(result == TPM_SUCCESS && response_size >= RESPONSE_HEADER_SIZE && response_size <= capacity, TPM);
    *out_response = span_of(response, response_size);
    return OK;
}

static void wipe_buffers(size_t command_size, size_t response_size)
{
    wipe(buffers.command, command_size);
    wipe(buffers.response, response_size);
}

struct err tpm_command(struct tpm *tpm, uint8_t locality, struct span command, struct writer *response)
{
    ENSURE(tpm->on, TPM_OFF);
    ENSURE(locality <= TPM_LOCALITY_MAX, BAD_VALUE);
    ENSURE(command.size <= sizeof buffers.command, TOO_LARGE);
    if (command.size) memcpy(buffers.command, command.data, command.size);
    struct span answer = span_empty();
    struct err err = run(tpm, locality, (uint32_t)command.size, &answer);
    if (!err.code) err = family->answered(tpm, command, answer);
    if (!err.code) err = write_span(response, answer);
    wipe_buffers(command.size, err.code ? sizeof buffers.response : answer.size);
    return err;
}

struct err tpm_established(const struct tpm *tpm, bool *out_established)
{
    TPM_BOOL established = false;
    ENSURE(tpm->on, TPM_OFF);
    ENSURE(TPM_IO_TpmEstablished_Get(&established) == TPM_SUCCESS, TPM);
    *out_established = established;
    return OK;
}

struct err tpm_reset_established(struct tpm *tpm, uint8_t locality)
{
    ENSURE(tpm->on, TPM_OFF);
    tpm->locality = locality;
    TPM_RESULT result = TPM_IO_TpmEstablished_Reset();
    ENSURE(result != TPM_BAD_LOCALITY, BAD_VALUE);
    ENSURE(result == TPM_SUCCESS, TPM);
    return OK;
}

struct err tpm_power_off(struct tpm *tpm)
{
    ENSURE(tpm->on, TPM_OFF);
    family->shut_down(tpm);
    return tpm_cut_off(tpm);
}

struct err tpm_cut_off(struct tpm *tpm)
{
    ENSURE(tpm->on, TPM_OFF);
    family->read_floors(&tpm->floors);
    libtpms_off(tpm);
    return OK;
}

/* A TPM 1.2 that is given what belongs to no launch is in failure mode from then on. */
static struct err hashed(struct tpm *tpm, TPM_RESULT result)
{
    if (result == TPM_SUCCESS) return OK;
    tpm->failed = true;
    return FAIL(TPM_FAILED);
}

struct err tpm_hash_start(struct tpm *tpm)
{
    ENSURE(tpm->on, TPM_OFF);
    return hashed(tpm, TPM_IO_Hash_Start());
}

struct err tpm_hash_data(struct tpm *tpm, struct span data)
{
    ENSURE(tpm->on, TPM_OFF);
    return hashed(tpm, TPM_IO_Hash_Data(data.data, (uint32_t)data.size));
}

struct err tpm_hash_end(struct tpm *tpm)
{
    ENSURE(tpm->on, TPM_OFF);
    return hashed(tpm, TPM_IO_Hash_End());
}

struct err tpm_set_buffer_size(uint32_t wanted, struct tpm_buffer_size *out)
{
    TRY(choose_family());
    out->size = TPMLIB_SetBufferSize(wanted, &out->min, &out->max);
    ENSURE(out->size <= TPM_BUFFER_MAX, TPM);
    buffer_size = out->size;
    return OK;
}

struct err tpm_write_info(uint32_t flags, struct writer *out)
{
    TRY(choose_family());
    char *info = TPMLIB_GetInfo(flags);
    ENSURE(info, NO_MEMORY);
    struct err written = write_bytes(out, info, strlen(info) + 1);
    free(info);
    return written;
}

bool tpm_in_failure_mode(const struct tpm *tpm)
{
    return tpm->on && family->failed(tpm);
}

bool tpm_take_commit(struct tpm *tpm, struct span *out_permanent)
{
    if (!tpm->commit_pending) return false;
    tpm->commit_pending = false;
    *out_permanent = span_of(tpm->permanent, tpm->permanent_size);
    return true;
}

struct span tpm_permanent(const struct tpm *tpm)
{
    return span_of(tpm->permanent, tpm->permanent_size);
}

void tpm_commit_again(struct tpm *tpm)
{
    tpm->commit_pending = true;
}
