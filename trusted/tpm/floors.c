/*
 * libtpms keeps NV indices in two lists of bytes in NV: what the orderly ones had when they were stored last, and all
 * others, behind whose end stands the highest value of a deleted counter. Not guaranteed: that a raised counter is the
 * floor of its own past; all are raised to that of the highest, because one number is kept and not one for each index.
 */
#include "trusted/tpm/floors.h"

#include <string.h>

#include "trusted/runtime/panic.h"
#include "trusted/tpm/libtpms.h"

#define NV_INDEX_HANDLES 0x01u
#define NV_COUNTER       1u
#define NV_WRITTEN       (1u << 29)
#define NV_ORDERLY       (1u << 26)

static uint32_t u32_at(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static uint64_t highest_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint32_t u32_highest_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool is_written_counter(uint32_t attributes)
{
    return (attributes >> 4 & 0xf) == NV_COUNTER && attributes & NV_WRITTEN;
}

/* Raises the big-endian counter, and says what it is then. */
static uint64_t raise_counter(uint8_t counter[8], uint64_t floor)
{
    uint64_t value = 0;
    for (size_t i = 0; i < 8; i++)
        value = value << 8 | counter[i];
    if (value >= floor) return value;
    for (size_t i = 0; i < 8; i++)
        counter[i] = (uint8_t)(floor >> (56 - 8 * i));
    return floor;
}

/* An entry's size; 0 at the end of a list. An entry that its list does not hold is libtpms' broken invariant. */
static uint32_t entry_size(const uint8_t *list, size_t size, size_t offset, size_t least)
{
    if (size - offset < least) return 0;
    uint32_t entry = u32_at(list + offset);
    if (entry && (entry < least || entry > size - offset)) panic(PANIC_INVARIANT);
    return entry;
}

/* Raises all counters of the list of orderly indices; returns the highest. */
static uint64_t raise_orderly(uint8_t *list, size_t size, uint64_t floor)
{
    uint64_t highest = 0;
    for (size_t at = 0, entry; (entry = entry_size(list, size, at, LIBTPMS_RAM_DATA)); at += entry) {
        if (!is_written_counter(u32_at(list + at + LIBTPMS_RAM_ATTRIBUTES))) continue;
        if (entry < LIBTPMS_RAM_DATA + 8) panic(PANIC_INVARIANT);
        highest = highest_of(highest, raise_counter(list + at + LIBTPMS_RAM_DATA, floor));
    }
    /* libtpms stores an orderly counter only when it passes a multiple of 256. */
    return highest ? highest | LIBTPMS_ORDERLY_COUNT : 0;
}

/* Raises the counter that the entry of the list in NV is, if it is one; returns it, or 0. */
static uint64_t raise_entry(uint8_t *entry, uint32_t size, uint64_t floor)
{
    if (u32_at(entry + LIBTPMS_ENTRY_HANDLE) >> 24 != NV_INDEX_HANDLES) return 0;
    if (size < LIBTPMS_NV_DATA) panic(PANIC_INVARIANT);
    uint32_t attributes = u32_at(entry + LIBTPMS_NV_ATTRIBUTES);
    if (!is_written_counter(attributes) || attributes & NV_ORDERLY) return 0;
    if (size < LIBTPMS_NV_DATA + 8) panic(PANIC_INVARIANT);
    return raise_counter(entry + LIBTPMS_NV_DATA, floor);
}

/* Raises all counters, and what the next new one begins behind; returns the highest. */
static uint64_t raise_counters(uint64_t floor)
{
    uint64_t highest = raise_orderly(s_NV + LIBTPMS_NV_RAM, LIBTPMS_NV_LIST - LIBTPMS_NV_RAM, floor);
    uint64_t deleted;
    size_t at = LIBTPMS_NV_LIST;
    for (size_t entry; (entry = entry_size(s_NV, sizeof s_NV, at, LIBTPMS_ENTRY_HANDLE + 8)); at += entry)
        highest = highest_of(highest, raise_entry(s_NV + at, (uint32_t)entry, floor));
    if (at > sizeof s_NV - LIBTPMS_LIST_END_MAX_COUNTER - sizeof deleted) panic(PANIC_INVARIANT);
    memcpy(&deleted, s_NV + at + LIBTPMS_LIST_END_MAX_COUNTER, sizeof deleted);
    deleted = highest_of(deleted, floor);
    memcpy(s_NV + at + LIBTPMS_LIST_END_MAX_COUNTER, &deleted, sizeof deleted);
    return highest_of(highest, deleted);
}

uint64_t floors_clock_reserve(void)
{
    return gp.orderlyState < LIBTPMS_SU_DA_USED ? 0 : CLOCK_RESERVE;
}

/* A life that used a guarded authValue and ends without TPM2_Shutdown is a failed try, which the startup behind it counts. */
static uint32_t failed_tries(void)
{
    const bool pending = gp.orderlyState == LIBTPMS_SU_DA_USED && gp.failedTries < gp.maxTries;
    return gp.failedTries + pending;
}

void floors_read(struct tpm_floors *out)
{
    *out = (struct tpm_floors){
        .total_reset_count = gp.totalResetCount,
        .clock = go.clock + floors_clock_reserve(),
        .audit_count = gp.auditCounter,
        .nv_count = raise_counters(0),
        .reset_count = gp.resetCount,
        .failed_tries = failed_tries(),
        .time_epoch = gp.timeEpoch,
        .lockout_auth_locked = !gp.lockOutAuthEnabled,
    };
}

static void raise_all(const struct tpm_floors *floors)
{
    gp.totalResetCount = highest_of(gp.totalResetCount, floors->total_reset_count);
    gp.auditCounter = highest_of(gp.auditCounter, floors->audit_count);
    gp.resetCount = u32_highest_of(gp.resetCount, floors->reset_count);
    gp.failedTries = u32_highest_of(gp.failedTries, floors->failed_tries);
    gp.timeEpoch = u32_highest_of(gp.timeEpoch, floors->time_epoch);
    if (floors->lockout_auth_locked) gp.lockOutAuthEnabled = 0;
    go.clock = highest_of(go.clock, floors->clock);
    go.clockSafe = 0; /* it may have been higher after the commit that the floors are of */
    (void)raise_counters(floors->nv_count);
    /* Orderly as it was, but with nothing that TPM2_Startup(STATE), or one that only restarts, could go on with. */
    if (gp.orderlyState < LIBTPMS_SU_DA_USED) gp.orderlyState = 0;
}

void floors_raise(const struct tpm_floors *floors)
{
    if (g_initialized) panic(PANIC_INVARIANT);
    raise_all(floors);
}

/* All time since it was suspended, before anything is compared: none of it is left to heal what is raised now. */
static void let_time_pass(void)
{
    const uint64_t now = _plat__TimerRead();
    if (now < g_time) return;
    go.clock += now - g_time;
    g_time = now;
}

void floors_raise_resumed(const struct tpm_floors *floors)
{
    let_time_pass();
    raise_all(floors);
    (void)raise_orderly(s_indexOrderlyRam, sizeof s_indexOrderlyRam, floors->nv_count);
    s_maxCounter = highest_of(s_maxCounter, floors->nv_count);
    go.selfHealTimer = go.lockoutTimer = g_time;
    gp.totalResetCount++;
    gp.resetCount++;
    gp.timeEpoch++;
}

struct err tpm_floors_encode(const struct tpm_floors *floors, struct writer *out)
{
    TRY(write_u64(out, floors->total_reset_count));
    TRY(write_u64(out, floors->clock));
    TRY(write_u64(out, floors->audit_count));
    TRY(write_u64(out, floors->nv_count));
    TRY(write_u32(out, floors->reset_count));
    TRY(write_u32(out, floors->failed_tries));
    TRY(write_u32(out, floors->time_epoch));
    return write_u8(out, floors->lockout_auth_locked);
}

struct err tpm_floors_decode(struct reader *in, struct tpm_floors *out)
{
    struct tpm_floors floors;
    uint8_t locked = 0;
    TRY(read_u64(in, &floors.total_reset_count));
    TRY(read_u64(in, &floors.clock));
    TRY(read_u64(in, &floors.audit_count));
    TRY(read_u64(in, &floors.nv_count));
    TRY(read_u32(in, &floors.reset_count));
    TRY(read_u32(in, &floors.failed_tries));
    TRY(read_u32(in, &floors.time_epoch));
    TRY(read_u8(in, &locked));
    ENSURE(locked <= 1, BAD_VALUE);
    floors.lockout_auth_locked = locked;
    *out = floors;
    return OK;
}
