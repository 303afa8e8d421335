/*
 * The anchor as the host keeps it (abi/anchor.h): it carries what the manager enclave asks of it, and brings the answer.
 *
 *   file   two slots of 4096 bytes, written in turn and in place, each with a number that rises and a SHA-256:
 *          u8[16] "vtpm anchor v1\0\0", u64 number, u8[32] value, u8[32] SHA-256 of all before it, zeros
 *   tpm    one TPM behind a TCTI of tpm2-tss, opened at the first exchange and kept, for its sessions are the client's
 *
 * Guarantees, file: what is answered is durable; a write that a crash cuts off leaves the value as it was before; two
 * processes never have it; it is made by anchor_file_make alone, so one that is lost or damaged is never replaced by a
 * fresh one. It does not guarantee that the file is the newest there ever was: whoever can put back the disk can put
 * back the file. tpm: nothing; the enclave checks what is answered.
 *
 * Calls block, for as long as the disk or the TPM takes. One thread at a time.
 */
#pragma once

#include "abi/anchor.h"
#include "base/err.h"
#include "base/span.h"

struct anchor_host;

/*
 * A file with the value of 32 zeros, durable on success. One that is there already and has that value is left as it is.
 * ERR_STORE_EXISTS (it has another), ERR_STORE_BUSY, ERR_ANCHOR_IO (errno, or 0 if it is damaged), ERR_NO_MEMORY.
 */
struct err anchor_file_make(const char *path);

/*
 * place: the path of the file, or the TCTI ("device:/dev/tpmrm0"), which is not spoken to yet. ERR_STORE_BUSY,
 * ERR_ANCHOR_IO (anchor_host_error says more, and the caller closes it then), ERR_NO_MEMORY (nothing is to be closed).
 */
struct err anchor_host_open(enum anchor_kind kind, const char *place, struct anchor_host **out_anchor);
/* NULL is allowed. */
void anchor_host_close(struct anchor_host **anchor);

enum anchor_kind anchor_host_kind(const struct anchor_host *anchor);

/*
 * One exchange; the same request may be given again after ERR_ANCHOR_IO, and a TPM is then connected to anew. The answer
 * has at most ANCHOR_EXCHANGE_MAX bytes. ERR_ANCHOR_IO, ERR_BAD_VALUE (this is no request for this kind).
 */
struct err anchor_host_exchange(struct anchor_host *anchor, struct span request,
                                uint8_t out_answer[ANCHOR_EXCHANGE_MAX], size_t *out_size);

/* What went wrong in the last ERR_ANCHOR_IO, for the log. */
const char *anchor_host_error(const struct anchor_host *anchor);
