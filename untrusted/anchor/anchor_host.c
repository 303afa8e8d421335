#include "untrusted/anchor/anchor_host.h"

#include <stdlib.h>

#include "untrusted/anchor/anchor_kinds.h"

struct anchor_host {
    enum anchor_kind kind;
    struct anchor_file *file;
    struct anchor_tpm *tpm;
    char reason[ANCHOR_REASON_SIZE];
};

struct err anchor_host_open(enum anchor_kind kind, const char *place, struct anchor_host **out_anchor)
{
    struct anchor_host *anchor = calloc(1, sizeof *anchor);
    ENSURE(anchor, NO_MEMORY);
    anchor->kind = kind;
    *out_anchor = anchor;
    if (kind == ANCHOR_FILE) return anchor_file_open(place, anchor->reason, &anchor->file);
    return anchor_tpm_open(place, &anchor->tpm);
}

void anchor_host_close(struct anchor_host **anchor)
{
    if (!*anchor) return;
    anchor_file_close(&(*anchor)->file);
    anchor_tpm_close(&(*anchor)->tpm);
    free(*anchor);
    *anchor = NULL;
}

enum anchor_kind anchor_host_kind(const struct anchor_host *anchor)
{
    return anchor->kind;
}

struct err anchor_host_exchange(struct anchor_host *anchor, struct span request,
                                uint8_t out_answer[ANCHOR_EXCHANGE_MAX], size_t *out_size)
{
    if (anchor->kind == ANCHOR_FILE)
        return anchor_file_exchange(anchor->file, request, anchor->reason, out_answer, out_size);
    return anchor_tpm_exchange(anchor->tpm, request, anchor->reason, out_answer, out_size);
}

const char *anchor_host_error(const struct anchor_host *anchor)
{
    return anchor->reason;
}
