/*
 * TPM 2.0: libtpms' one permanent state is the state. What a power-off, a reset or an older state may not take back
 * (floors.h) lies in globals that libtpms stores in parts, or only when a command changes them.
 */
#include <stddef.h>
#include <string.h>

#include <libtpms/tpm_nvfilename.h>

#include "abi/instance.h"
#include "base/memory.h"
#include "trusted/runtime/entropy.h"
#include "trusted/tpm/family.h"
#include "trusted/tpm/libtpms.h"
#include "trusted/tpm/lockout.h"

#define TPM_CC_SHUTDOWN 0x145u
#define TPM_SU_CLEAR    0u
#define TPM_SU_STATE    1u

#define STIR_SIZE       48u /* libtpms' DRBG_SEED: AES-256 key and block */

struct fresh_bytes {
    uint8_t bytes[STIR_SIZE];
};

static void wipe_fresh_bytes(struct fresh_bytes *fresh)
{
    wipe(fresh, sizeof *fresh);
}

static bool is_permanent(const char *name)
{
    return strcmp(name, TPM_PERMANENT_ALL_NAME) == 0;
}

/* Its state is libtpms' one part. */
static bool find_20(struct span state, const char *name, struct span *out_part)
{
    *out_part = state;
    return is_permanent(name);
}

/* What Clock was when s_NV was last written, which is what is in the state that is loaded from it or stored. */
static uint64_t clock_in_nv(void)
{
    uint64_t clock;
    memcpy(&clock, s_NV + LIBTPMS_NV_GO + offsetof(struct libtpms_orderly, clock), sizeof clock);
    return clock;
}

static struct err put_20(struct tpm *tpm, const char *name, struct span part)
{
    ENSURE(is_permanent(name) && part.size > 0, TPM);
    TRY(tpm_keep_state(tpm, part));
    tpm->stored_clock = clock_in_nv();
    return OK;
}

/* The state brings its generator's state along, and the same state may have been loaded before. */
static struct err begun_20(struct tpm *tpm)
{
    struct fresh_bytes fresh DEFER(wipe_fresh_bytes);
    entropy_fill(fresh.bytes, sizeof fresh.bytes);
    ENSURE(CryptRandomStir(sizeof fresh.bytes, fresh.bytes) == 0, TPM);
    tpm->stored_clock = clock_in_nv();
    return OK;
}

/* The memory that libtpms stores in parts, or only when a command changes it. */
static struct err save_20(struct tpm *tpm)
{
    (void)tpm;
    ENSURE(NvWrite(LIBTPMS_NV_GP, sizeof gp, &gp) && NvWrite(LIBTPMS_NV_GO, sizeof go, &go) && NvCommit(), TPM);
    return OK;
}

/* From here on in the TPM that is on and was not started yet; stored with the next commit, which TPM2_Startup is. */
static struct err set_clock(uint64_t clock)
{
    go.clock = clock;
    ENSURE(NvWrite(LIBTPMS_NV_GO, sizeof go, &go), TPM);
    return OK;
}

static struct err opened_20(struct tpm *tpm)
{
    TRY(set_clock(go.clock + floors_clock_reserve()));
    return lockout_start() ? save_20(tpm) : OK;
}

static struct err reverted_20(struct tpm *tpm, const struct tpm_floors *floors)
{
    floors_raise(floors);
    return save_20(tpm);
}

/* A TPM2B of that many bytes. */
static struct err draw(uint8_t *sized, size_t capacity)
{
    const uint16_t size = (uint16_t)(capacity - sizeof size);
    memcpy(sized, &size, sizeof size);
    ENSURE(CryptRandomGenerate(size, sized + sizeof size) == size, TPM);
    return OK;
}

/* TPM2_Commit's secrets are computed from these, so two lives of one state would give out the same ones. */
static struct err renew_commits(void)
{
    memset(gr.commitArray, 0, sizeof gr.commitArray);
    return draw(gr.commitNonce, sizeof gr.commitNonce);
}

static struct err resumed_20(struct tpm *tpm)
{
    TRY(renew_commits());
    tpm->orderly = gp.orderlyState < LIBTPMS_SU_DA_USED;
    return OK;
}

/*
 * Sessions that go on in two lives would use their nonces twice. Their contexts are numbered from the beginning again, and
 * encrypted with what comes of the number and the proof. The seed of that hierarchy stays: its keys are loaded.
 */
static struct err end_sessions(void)
{
    ENSURE(SessionStartup(LIBTPMS_SU_RESET), TPM);
    g_exclusiveAuditSession = LIBTPMS_RH_UNASSIGNED;
    return draw(gr.nullProof, sizeof gr.nullProof);
}

static struct err went_back_20(struct tpm *tpm, const struct tpm_floors *floors)
{
    floors_raise_resumed(floors);
    TRY(end_sessions());
    ENSURE(CommandAuditStartup(LIBTPMS_SU_RESET), TPM);
    TRY(resumed_20(tpm));
    return save_20(tpm);
}

/* TPM2_Shutdown is what stores the Clock, and a machine's reset does without. */
static uint64_t before_reset_20(void)
{
    return go.clock;
}

static struct err after_reset_20(uint64_t clock)
{
    return set_clock(clock > go.clock ? clock : go.clock);
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

/* A command that says a Clock beyond the reserve is answered after a commit of it. */
static struct err keep_clock(struct tpm *tpm)
{
    if (g_inFailureMode || go.clock <= tpm->stored_clock + floors_clock_reserve()) return OK;
    return save_20(tpm);
}

static struct err answered_20(struct tpm *tpm, struct span command, struct span response)
{
    tpm->orderly = is_shutdown(command, response);
    return keep_clock(tpm);
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

/* A TPM that was never started, or is in failure mode, refuses both, and has nothing to save. */
static void shut_down_20(struct tpm *tpm)
{
    if (!tpm->orderly && !shut_down(tpm, TPM_SU_STATE)) (void)shut_down(tpm, TPM_SU_CLEAR);
}

static bool failed_20(const struct tpm *tpm)
{
    (void)tpm;
    return g_inFailureMode;
}

const struct family tpm_family_20 = {
    .version = TPMLIB_TPM_VERSION_2,
    .find = find_20,
    .put = put_20,
    .begun = begun_20,
    .opened = opened_20,
    .reverted = reverted_20,
    .resumed = resumed_20,
    .went_back = went_back_20,
    .before_reset = before_reset_20,
    .after_reset = after_reset_20,
    .shut_down = shut_down_20,
    .save = save_20,
    .answered = answered_20,
    .read_floors = floors_read,
    .failed = failed_20,
};
