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

#include "abi/instance.h"
#include "base/memory.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/panic.h"
#include "trusted/tpm/fast_path.h"

#define RESPONSE_HEADER_SIZE 10u /* tag, size, code (Part 1, 18.2) */
#define STIR_SIZE            48u /* libtpms' DRBG_SEED: AES-256 key and block */

#define TPM_CC_SHUTDOWN      0x145u
#define TPM_SU_CLEAR         0u
#define TPM_SU_STATE         1u

/* libtpms internals, proved against the very archive by the tests of this room. */
uint32_t CryptRandomStir(uint16_t size, uint8_t *data); /* a TPM_RC */
extern int g_inFailureMode;
_Noreturn void __real__plat__Fail(void);
_Noreturn void __wrap__plat__Fail(void);

static struct tpm *powered;  /* the TPM that libtpms' globals are; NULL while they are none */
static bool command_running; /* libtpms has a frame to jump back to */
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

static bool is_permanent(const char *name)
{
    return strcmp(name, TPM_PERMANENT_ALL_NAME) == 0;
}

static TPM_RESULT load(unsigned char **data, uint32_t *length, uint32_t tpm_number, const char *name)
{
    (void)tpm_number;
    if (!is_permanent(name)) return TPM_RETRY; /* "there is none": only permanent state is ever kept */
    if (!powered->permanent) return powered->manufacture ? TPM_RETRY : TPM_FAIL;
    unsigned char *copy = malloc(powered->permanent_size);
    if (!copy) return TPM_FAIL;
    memcpy(copy, powered->permanent, powered->permanent_size);
    *data = copy; /* libtpms frees it */
    *length = (uint32_t)powered->permanent_size;
    return TPM_SUCCESS;
}

void tpm_forget(struct tpm *tpm)
{
    wipe(tpm->permanent, tpm->permanent_size);
    free(tpm->permanent);
    tpm->permanent = NULL;
    tpm->permanent_size = 0;
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

/* libtpms' memory has changed already and cannot go back: a failure here is the TPM's failure mode. */
static TPM_RESULT store(const unsigned char *data, uint32_t length, uint32_t tpm_number, const char *name)
{
    (void)tpm_number;
    if (!is_permanent(name)) return TPM_FAIL;
    if (set_permanent(powered, span_of(data, length)).code) return TPM_FAIL;
    powered->commit_pending = true;
    return TPM_SUCCESS;
}

static TPM_RESULT delete_name(uint32_t tpm_number, const char *name, TPM_BOOL must_exist)
{
    (void)tpm_number;
    (void)name;
    return must_exist ? TPM_FAIL : TPM_SUCCESS;
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

/* The state brings its generator's state along, and the same state may have been loaded before. */
static struct err stir(void)
{
    struct fresh_bytes fresh DEFER(wipe_fresh_bytes);
    entropy_fill(fresh.bytes, sizeof fresh.bytes);
    RAND_add(fresh.bytes, sizeof fresh.bytes, sizeof fresh.bytes);
    entropy_fill(fresh.bytes, sizeof fresh.bytes);
    ENSURE(CryptRandomStir(sizeof fresh.bytes, fresh.bytes) == 0, TPM);
    return OK;
}

static void libtpms_off(struct tpm *tpm)
{
    TPMLIB_Terminate();
    fast_path_forget();
    tpm->on = false;
    powered = NULL;
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
    ENSURE(TPMLIB_ChooseTPMVersion(TPMLIB_TPM_VERSION_2) == TPM_SUCCESS, TPM);
    ENSURE(TPMLIB_SetBufferSize(TPM_BUFFER_MAX, NULL, NULL) == TPM_BUFFER_MAX, TPM);
    powered = tpm;
    tpm->on = true;
    tpm->orderly = true;
    struct err err = OK;
    if (TPMLIB_MainInit() != TPM_SUCCESS) err = FAIL(STATE_REJECTED);
    if (!err.code) err = stir();
    if (err.code) libtpms_off(tpm);
    return err;
}

struct err tpm_power_on_new(struct tpm *tpm)
{
    *tpm = (struct tpm){.manufacture = true};
    struct err err = libtpms_on(tpm);
    tpm->manufacture = false;
    if (err.code) {
        tpm_forget(tpm);
        tpm->commit_pending = false;
        return FAIL(TPM);
    }
    return OK;
}

struct err tpm_power_on(struct tpm *tpm, struct span permanent)
{
    *tpm = (struct tpm){0};
    TRY(set_permanent(tpm, permanent));
    struct err err = libtpms_on(tpm);
    if (err.code) {
        tpm_forget(tpm);
        tpm->commit_pending = false;
    }
    return err;
}

struct err tpm_power_on_imported(struct tpm *tpm, struct span permanent)
{
    TRY(tpm_power_on(tpm, permanent));
    if (!tpm_in_failure_mode(tpm)) {
        tpm->commit_pending = true;
        return OK;
    }
    libtpms_off(tpm);
    tpm_forget(tpm);
    tpm->commit_pending = false;
    return FAIL(STATE_REJECTED);
}

struct err tpm_reset(struct tpm *tpm)
{
    if (tpm->on) libtpms_off(tpm);
    return libtpms_on(tpm);
}

/* Whether this was a TPM2_Shutdown that succeeded. */
static bool is_shutdown(struct span command, struct span response)
{
    struct reader request = reader_of(command);
    struct reader answer = reader_of(response);
    struct span skipped;
    uint32_t number = 0, code = 0;
    bool parsed = !read_span(&request, 6, &skipped).code && !read_be32(&request, &number).code &&
                  !read_span(&answer, 6, &skipped).code && !read_be32(&answer, &code).code;
    return parsed && number == TPM_CC_SHUTDOWN && code == 0;
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
    if (!err.code) err = write_span(response, answer);
    tpm->orderly = is_shutdown(command, answer);
    wipe_buffers(command.size, err.code ? sizeof buffers.response : answer.size);
    return err;
}

/* True if the TPM took it. */
static bool shut_down(struct tpm *tpm, uint16_t type)
{
    uint8_t command[12];
    uint8_t response[TPM_BUFFER_MAX];
    struct writer w = writer_of(command, sizeof command);
    struct writer answer = writer_of(response, sizeof response);
    bool written = !write_be16(&w, 0x8001).code && !write_be32(&w, sizeof command).code &&
                   !write_be32(&w, TPM_CC_SHUTDOWN).code && !write_be16(&w, type).code;
    return written && !tpm_command(tpm, 0, writer_span(&w), &answer).code && tpm->orderly;
}

struct err tpm_power_off(struct tpm *tpm)
{
    ENSURE(tpm->on, TPM_OFF);
    /* A TPM that was never started, or is in failure mode, refuses both, and has nothing to save. */
    if (!tpm->orderly && !shut_down(tpm, TPM_SU_STATE)) (void)shut_down(tpm, TPM_SU_CLEAR);
    libtpms_off(tpm);
    return OK;
}

bool tpm_in_failure_mode(const struct tpm *tpm)
{
    return tpm->on && g_inFailureMode;
}

bool tpm_take_commit(struct tpm *tpm, struct span *out_permanent)
{
    if (!tpm->commit_pending) return false;
    tpm->commit_pending = false;
    *out_permanent = span_of(tpm->permanent, tpm->permanent_size);
    return true;
}
