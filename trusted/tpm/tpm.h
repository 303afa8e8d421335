/*
 * One TPM: libtpms and its globals, caged. There is one per enclave because libtpms has one per process. It is a TPM 2.0
 * unless tpm_choose_family said otherwise; what is said of TPM2 commands and of floors below is true of a TPM 2.0, and
 * tpm12.c says what stands in their place for a TPM 1.2.
 *
 * Guarantees: the locality of a command is the argument's, never the command's; a TPM is manufactured only when the
 * caller says so, and never because a state did not load; every state that libtpms wants kept is handed out exactly
 * once, by tpm_take_commit. Not guaranteed: that the caller made it durable before it lets the response out.
 */
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/span.h"
#include "trusted/tpm/floors.h"

#define TPM_LOCALITY_MAX 4u

struct tpm {
    bool on;
    bool manufacture;    /* only tpm_power_on_new sets it */
    bool commit_pending; /* permanent holds a state that was not taken yet */
    uint8_t locality;
    uint8_t *permanent; /* libtpms' whole permanent state, owned; wiped when replaced */
    size_t permanent_size;
    uint8_t *suspended; /* what tpm_suspend handed out, owned */
    size_t suspended_size;
    uint64_t stored_clock;    /* ms; Clock in permanent */
    struct tpm_floors floors; /* when it was powered off or suspended */
    bool failed;              /* a TPM 1.2 is in failure mode */
    bool orderly;             /* the last command was a successful TPM2_Shutdown, or nothing ran since power-on */
};

/* Stable: the manager tells it (abi/peer.h). */
enum tpm_family { TPM_FAMILY_20 = 0, TPM_FAMILY_12 = 1 };

/* From now on, for every TPM that is powered on; none is now. A state of another family is rejected. */
void tpm_choose_family(enum tpm_family family);

/* Makes a new TPM with seeds of its own and powers it on. A commit is pending afterwards. ERR_TPM. */
struct err tpm_power_on_new(struct tpm *tpm);

/*
 * Powers a TPM on from its permanent state, as a start of the instance does: under LOCKOUT_HEALS_START_ONLY (lockout.h)
 * it heals, and a commit may be pending afterwards. ERR_STATE_REJECTED if libtpms does not take it: nothing is made
 * instead. ERR_TPM.
 */
struct err tpm_power_on(struct tpm *tpm, struct span permanent);

/*
 * Powers on from a state of another libtpms. A commit of that state is pending afterwards. As tpm_power_on; a TPM that
 * would be in failure mode is rejected too.
 */
struct err tpm_power_on_imported(struct tpm *tpm, struct span permanent);

/*
 * The same over a state that is not the newest one: raised to the floors of the newest (floors.h), without anything
 * that was only true of its own time. The next startup can only be a TPM Reset, so resetCount is one higher than it
 * ever was; sessions, and saved contexts of any time, are refused. A commit is pending afterwards.
 * ERR_STATE_REJECTED, ERR_TPM.
 */
struct err tpm_power_on_reverted(struct tpm *tpm, struct span permanent, const struct tpm_floors *floors);

/* The floors of the TPM's newest state, to be kept beside it: those that it ended with if it is off again. */
void tpm_read_floors(const struct tpm *tpm, struct tpm_floors *out);

/*
 * Takes everything that a power-off would lose, sessions, loaded objects and PCRs. A commit is pending afterwards: the
 * volatile state goes with that permanent state and no other. It holds secrets and is authenticated by nothing, which is
 * the caller's. It stays valid until the next call. ERR_TPM_OFF; ERR_TPM_FAILED, if it is in failure mode; ERR_TOO_LARGE,
 * if both states together have more than limit bytes; ERR_TPM, ERR_NO_MEMORY.
 */
struct err tpm_capture(struct tpm *tpm, size_t limit, struct span *out_volatile);

/* The same, and powers off. With an error the TPM stays on. */
struct err tpm_suspend(struct tpm *tpm, size_t limit, struct span *out_volatile);

/*
 * Goes on where tpm_suspend stopped: no startup is needed, or possible. Two resumes from one state draw nothing alike;
 * a TPM2_Commit from before has to be repeated. ERR_STATE_REJECTED if libtpms does not take them or the two do not
 * belong together, ERR_NO_MEMORY, ERR_TPM: the TPM stays off, and tpm_power_on over the permanent state alone, which
 * forgets PCRs, is the caller's decision.
 */
struct err tpm_resume(struct tpm *tpm, struct span permanent, struct span volatile_state);

/*
 * Goes on from a suspended state that is not the newest one. PCRs, loaded objects, keys and NV are those of that time;
 * what may not go back is raised to the floors of the newest (floors.h), and resetCount is one higher than it ever was, as
 * behind a TPM Reset. Sessions, saved contexts of any time, tickets that expire and a command audit that was begun are
 * at an end. A commit is pending afterwards. The errors of tpm_resume; ERR_TPM_FAMILY: a TPM 1.2 does not, and is as it was.
 */
struct err tpm_go_back(struct tpm *tpm, struct span permanent, struct span volatile_state,
                       const struct tpm_floors *floors);

/*
 * Runs one command (TPM 2.0 Library, Part 1, 18) at locality 0 to 4 and writes the response. A refusal by the TPM is a
 * response. ERR_TPM_OFF, ERR_TPM.
 */
struct err tpm_command(struct tpm *tpm, uint8_t locality, struct span command, struct writer *response);

/* tpmEstablishment, which a dynamic launch (_TPM_Hash_Start) sets. ERR_TPM_OFF, ERR_TPM. */
struct err tpm_established(const struct tpm *tpm, bool *out_established);
/* ERR_BAD_VALUE: not at this locality (3 and 4 only). ERR_TPM_OFF, ERR_TPM. */
struct err tpm_reset_established(struct tpm *tpm, uint8_t locality);

/*
 * A measurement that the machine's chipset makes (Part 1, 34.2): of the H-CRTM before TPM2_Startup, else of a dynamic
 * launch. ERR_TPM_OFF; ERR_TPM_FAILED: a TPM 1.2 has taken it for a failure, and is in failure mode.
 */
struct err tpm_hash_start(struct tpm *tpm);
struct err tpm_hash_data(struct tpm *tpm, struct span data);
struct err tpm_hash_end(struct tpm *tpm);

/* Bytes that a command or a response may have; a TPM tells its clients (TPM_PT_MAX_COMMAND_SIZE). */
struct tpm_buffer_size {
    uint32_t size;
    uint32_t min;
    uint32_t max;
};
/* What is wanted is brought between the smallest and the largest, and holds from then on; 0 only asks. ERR_TPM. */
struct err tpm_set_buffer_size(uint32_t wanted, struct tpm_buffer_size *out);

/* libtpms' description of itself (TPMLIB_GetInfo), JSON and a NUL. ERR_NO_MEMORY, ERR_NO_SPACE, ERR_TPM. */
struct err tpm_write_info(uint32_t flags, struct writer *out);

/* _TPM_Init over the newest permanent state, as a reset of the machine does. ERR_TPM, ERR_STATE_REJECTED. */
struct err tpm_reset(struct tpm *tpm);

/* TPM2_Shutdown(STATE), or CLEAR if that fails, unless the client did it; then power off. */
struct err tpm_power_off(struct tpm *tpm);
/* Power off as a failing supply does: what is stored stays what it was. ERR_TPM_OFF. */
struct err tpm_cut_off(struct tpm *tpm);

/*
 * True if libtpms is in failure mode (Part 1, 12.3): it answers TPM_RC_FAILURE to almost everything until it is reset.
 * TPM_RC_FAILURE alone does not tell: single commands answer it too.
 */
bool tpm_in_failure_mode(const struct tpm *tpm);

/* Wipes what is kept of a TPM that is off, or will never be used again. */
void tpm_forget(struct tpm *tpm);

/* True, and the state, if there is one to be stored; it stays valid until the next call. */
bool tpm_take_commit(struct tpm *tpm, struct span *out_permanent);
/* The newest permanent state, of a TPM that is or was on. It stays valid until the next call. */
struct span tpm_permanent(const struct tpm *tpm);
/* That state is to be stored once more, though nothing changed. */
void tpm_commit_again(struct tpm *tpm);
