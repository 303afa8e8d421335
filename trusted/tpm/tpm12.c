/*
 * TPM 1.2 (TPM Main Specification 1.2). Its state has two parts, which libtpms stores and loads by name: the permanent
 * one, and what TPM_SaveState keeps for TPM_Startup(ST_STATE). Both are sealed as one, so neither is ever older than
 * the other:
 *
 *   u8[8] "vtpm 1.2", u32 size of the permanent part, u32 size of the saved one (0: there is none), the two parts
 *
 * Guarantees: what TPM_SaveState stored, and that a later command made it void, is committed before the answer, as all
 * else. Not guaranteed: what the floors of a TPM 2.0 are for (floors.h). Ticks begin at 0 with each start by the
 * specification, and libtpms keeps the count of wrong passwords in memory only, so that each reset forgives them; the
 * monotonic counters lie in the permanent part and would go back with an older one, which is why the manager lets
 * nobody put one back. A recovered one (docs/ledger.md) loses what TPM_SaveState kept.
 */
#include <stdlib.h>
#include <string.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_nvfilename.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "trusted/tpm/family.h"

static const uint8_t magic[8] = {'v', 't', 'p', 'm', ' ', '1', '.', '2'};

/* The names of the parts in their order. */
static const char *const names[] = {TPM_PERMANENT_ALL_NAME, TPM_SAVESTATE_NAME};
#define PART_COUNT  (sizeof names / sizeof names[0])
#define HEADER_SIZE (sizeof magic + PART_COUNT * sizeof(uint32_t))

struct parts {
    struct span part[PART_COUNT];
};

static struct err parse(struct span state, struct parts *out)
{
    struct reader r = reader_of(state);
    uint8_t begins[sizeof magic];
    uint32_t sizes[PART_COUNT];
    TRY(read_bytes(&r, begins, sizeof begins));
    ENSURE(memcmp(begins, magic, sizeof magic) == 0, BAD_VALUE);
    for (size_t i = 0; i < PART_COUNT; i++)
        TRY(read_u32(&r, &sizes[i]));
    for (size_t i = 0; i < PART_COUNT; i++)
        TRY(read_span(&r, sizes[i], &out->part[i]));
    return reader_end(&r);
}

static size_t index_of(const char *name)
{
    size_t i = 0;
    while (i < PART_COUNT && strcmp(names[i], name) != 0)
        i++;
    return i;
}

static bool find(struct span state, const char *name, struct span *out_part)
{
    struct parts parts;
    const size_t index = index_of(name);
    if (index == PART_COUNT || parse(state, &parts).code) return false;
    *out_part = parts.part[index];
    return out_part->size > 0;
}

static struct err write_parts(const struct parts *parts, struct writer *w)
{
    TRY(write_bytes(w, magic, sizeof magic));
    for (size_t i = 0; i < PART_COUNT; i++)
        TRY(write_u32(w, (uint32_t)parts->part[i].size));
    for (size_t i = 0; i < PART_COUNT; i++)
        TRY(write_span(w, parts->part[i]));
    return OK;
}

static struct err keep(struct tpm *tpm, const struct parts *parts)
{
    size_t size = HEADER_SIZE;
    for (size_t i = 0; i < PART_COUNT; i++)
        size += parts->part[i].size;
    uint8_t *bytes = malloc(size);
    ENSURE(bytes, NO_MEMORY);
    struct writer w = writer_of(bytes, size);
    struct err err = write_parts(parts, &w);
    if (!err.code) err = tpm_keep_state(tpm, writer_span(&w));
    wipe(bytes, size);
    free(bytes);
    return err;
}

/* The permanent part comes first in a TPM's life; before that nothing else is stored. */
static struct err put(struct tpm *tpm, const char *name, struct span part)
{
    struct parts parts = {0};
    const size_t index = index_of(name);
    ENSURE(index < PART_COUNT, TPM);
    if (tpm->permanent) TRY(parse(span_of(tpm->permanent, tpm->permanent_size), &parts));
    parts.part[index] = part;
    ENSURE(parts.part[0].size > 0, TPM);
    return keep(tpm, &parts);
}

/* libtpms draws from libcrypto's generator alone, which was stirred. */
static struct err nothing(struct tpm *tpm)
{
    tpm->failed = false;
    return OK;
}

/* Without anything that was only true of its own time. The counters stay as they are: see above. */
static struct err reverted(struct tpm *tpm, const struct tpm_floors *floors)
{
    (void)floors;
    return put(tpm, TPM_SAVESTATE_NAME, span_empty());
}

static uint64_t before_reset(void)
{
    return 0;
}

static struct err after_reset(uint64_t kept)
{
    (void)kept;
    return OK;
}

/* TPM_SaveState is the operating system's to say, and there is nothing that only a power-off would store. */
static void shut_down(struct tpm *tpm)
{
    (void)tpm;
}

static struct err save(struct tpm *tpm)
{
    unsigned char *permanent = NULL;
    uint32_t size = 0;
    ENSURE(TPMLIB_GetState(TPMLIB_STATE_PERMANENT, &permanent, &size) == TPM_SUCCESS, TPM);
    struct err err = put(tpm, TPM_PERMANENT_ALL_NAME, span_of(permanent, size));
    wipe(permanent, size);
    free(permanent);
    return err;
}

static struct err answered(struct tpm *tpm, struct span command, struct span response)
{
    (void)command;
    struct reader r = reader_of(response);
    struct span skipped;
    uint32_t code = 0;
    TRY(read_span(&r, 6, &skipped));
    TRY(read_be32(&r, &code));
    /* libtpms is in failure mode from the moment that it says the one, and says the other from then on. */
    tpm->failed |= code == TPM_FAIL || code == TPM_FAILEDSELFTEST;
    return OK;
}

static void read_floors(struct tpm_floors *out)
{
    *out = (struct tpm_floors){0};
}

static bool failed(const struct tpm *tpm)
{
    return tpm->failed;
}

const struct family tpm_family_12 = {
    .version = TPMLIB_TPM_VERSION_1_2,
    .find = find,
    .put = put,
    .begun = nothing,
    .opened = nothing,
    .reverted = reverted,
    .resumed = nothing,
    .before_reset = before_reset,
    .after_reset = after_reset,
    .shut_down = shut_down,
    .save = save,
    .answered = answered,
    .read_floors = read_floors,
    .failed = failed,
};
