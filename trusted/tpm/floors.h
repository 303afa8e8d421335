/*
 * What a TPM may never say twice: the counters below which no older state may bring it.
 *
 * An older state that is put back on purpose (a revert, a restored backup) is raised to the floors that the newest one
 * had. They are read from the newest state at each commit and kept beside its record; they are not a maximum over
 * time, because TPM2_Clear rightly sets some of them to 0.
 */
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"

struct tpm_floors {
    uint64_t total_reset_count; /* part of every saved context's integrity */
    uint64_t clock;             /* ms; it may have been said up to here before the next commit */
    uint64_t audit_count;
    uint64_t nv_count; /* the highest that any NV counter has been */
    uint32_t reset_count;
    uint32_t failed_tries;    /* with the one that an end without TPM2_Shutdown would be */
    uint32_t time_epoch;      /* part of every ticket that expires */
    bool lockout_auth_locked; /* lockoutAuth was given wrongly and has not healed */
};

#define TPM_FLOORS_SIZE (4 * 8 + 3 * 4 + 1)

/*
 * How far Clock may run ahead of what is stored, ms. The commit that a command makes past it comes before the command's
 * answer, so a life that ended without TPM2_Shutdown said no Clock as high as the stored one and this.
 */
#define CLOCK_RESERVE   (UINT64_C(1) << 20)

/* CLOCK_RESERVE, or 0 after a TPM2_Shutdown, behind which no reserve is added. Of libtpms, which is on. */
uint64_t floors_clock_reserve(void);

/* Of libtpms, which is on (tpm_read_floors). */
void floors_read(struct tpm_floors *out);

/*
 * Each of them at least as high as given, in libtpms, which is on and was not started yet. Its next startup can only be
 * a TPM Reset. Nothing is stored: that is the caller's (tpm_power_on_reverted).
 */
void floors_raise(const struct tpm_floors *floors);

/*
 * The same of a TPM that goes on without a startup: what a TPM Reset counts is counted here, one higher than it was in
 * either time.
 */
void floors_raise_resumed(const struct tpm_floors *floors);

/* ERR_NO_SPACE */
struct err tpm_floors_encode(const struct tpm_floors *floors, struct writer *out);
/* ERR_TRUNCATED, ERR_BAD_VALUE */
struct err tpm_floors_decode(struct reader *in, struct tpm_floors *out);
