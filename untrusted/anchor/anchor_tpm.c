/*
 * The kind tpm: see anchor_host.h.
 */
#include "untrusted/anchor/anchor_kinds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

#define TIMEOUT_MSEC 60000 /* of one exchange, where the TCTI can end one; a chip makes its primary key in seconds */
#define RESPONSE_MAX 4096u /* of any TPM: some drivers lose the rest of what is not read at once */
#define HEADER_SIZE  10u   /* TPM 2.0 Library, Part 1, 18.1: tag, size, code */

struct anchor_tpm {
    char *place;
    TSS2_TCTI_CONTEXT *tcti; /* NULL: to be opened by the next exchange */
};

struct err anchor_tpm_open(const char *tcti, struct anchor_tpm **out_tpm)
{
    struct anchor_tpm *tpm DEFER(anchor_tpm_close) = calloc(1, sizeof *tpm);
    ENSURE(tpm, NO_MEMORY);
    /* tpm2-tss writes several lines for each attempt; anchor_host_error has what is worth saying, once. */
    ENSURE(setenv("TSS2_LOG", "all+none", 1) == 0, NO_MEMORY);
    tpm->place = strdup(tcti);
    ENSURE(tpm->place, NO_MEMORY);
    *out_tpm = tpm;
    tpm = NULL;
    return OK;
}

void anchor_tpm_close(struct anchor_tpm **tpm)
{
    if (!*tpm) return;
    Tss2_TctiLdr_Finalize(&(*tpm)->tcti);
    free((*tpm)->place);
    free(*tpm);
    *tpm = NULL;
}

/* What the TPM may answer yet is not to be taken for the answer to the next request: the connection goes. */
static struct err fail(struct anchor_tpm *tpm, char *reason, const char *what, TSS2_RC code)
{
    Tss2_TctiLdr_Finalize(&tpm->tcti);
    (void)snprintf(reason, ANCHOR_REASON_SIZE, "%s: %s: %s", tpm->place, what, Tss2_RC_Decode(code));
    return FAIL(ANCHOR_IO);
}

struct err anchor_tpm_exchange(struct anchor_tpm *tpm, struct span request, char *reason, uint8_t *out_answer,
                               size_t *out_size)
{
    uint8_t response[RESPONSE_MAX];
    size_t size = sizeof response;
    TSS2_RC code = TSS2_RC_SUCCESS;
    ENSURE(request.size >= HEADER_SIZE && request.size <= ANCHOR_EXCHANGE_MAX, BAD_VALUE);
    if (!tpm->tcti) code = Tss2_TctiLdr_Initialize(tpm->place, &tpm->tcti);
    if (code) return fail(tpm, reason, "connecting", code);
    code = Tss2_Tcti_Transmit(tpm->tcti, request.size, request.data);
    if (code) return fail(tpm, reason, "sending a command", code);
    code = Tss2_Tcti_Receive(tpm->tcti, &size, response, TIMEOUT_MSEC);
    if (code || size > ANCHOR_EXCHANGE_MAX) return fail(tpm, reason, "receiving the response", code);
    memcpy(out_answer, response, size);
    *out_size = size;
    return OK;
}
