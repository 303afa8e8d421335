/*
 * What swtpm_setup makes in a TPM 1.2: the same endorsement key, owner and indices as Debian's makes.
 *
 *   0x1000f000  the EK's certificate, 0x1000f002 the platform's: TCG PC Client Specific Implementation Specification for
 *               Conventional BIOS 1.2, 7.4.5; read and written with the owner's authorization
 *
 * Guarantees: a TPM that answers with an error ends it with the command's name and the code. The owner's and the SRK's
 * secrets cross to the TPM encrypted to its endorsement key, as the specification has it.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"

#define SETUP12_MODULUS_SIZE 256u
#define SETUP12_SECRET_SIZE  20u

enum setup12_certificate { SETUP12_EK, SETUP12_PLATFORM };

/* fd: a data channel, connected, of a TPM that was started. Physical presence, enabled, activated. ERR_TPM, ERR_PROTOCOL. */
struct err setup12_enable(int fd, struct explanation *why);
struct err setup12_make_ek(int fd, uint8_t out_modulus[SETUP12_MODULUS_SIZE], struct explanation *why);
/* ek: its modulus. owner, srk: what their authorization is from now on. */
struct err setup12_take_ownership(int fd, const uint8_t ek[SETUP12_MODULUS_SIZE],
                                  const uint8_t owner[SETUP12_SECRET_SIZE], const uint8_t srk[SETUP12_SECRET_SIZE],
                                  struct explanation *why);
/* certificate: with its TPM_TAG_PCCLIENT_STORED_CERT in front, as the tool makes it for a TPM 1.2. */
struct err setup12_keep_certificate(int fd, enum setup12_certificate which, struct span certificate,
                                    struct explanation *why);
/* From now on NV asks for its authorizations. */
struct err setup12_lock(int fd, struct explanation *why);
