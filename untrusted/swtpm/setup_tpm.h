/*
 * What swtpm_setup makes in a TPM 2.0: the same keys, indices and PCR banks as Debian's makes.
 *
 *   0x81010001  EK, RSA 2048: TCG EK Credential Profile, L-1; at 0x8101001c with 3072 bits: H-6
 *   0x81010016  EK, ECC P-384: H-3
 *   0x81000001  storage primary key, if asked for
 *   0x01c00002, 0x01c0001c, 0x01c00016, 0x01c08000  certificates; 0x01c00004, 0x01c0001d, 0x01c00017  templates, if the
 *               EKs may sign and so are none of the profile's
 *
 * Guarantees: a TPM that answers with an error ends it with the command's name and the code.
 */
#pragma once

#include <stdbool.h>

#include <tss2/tss2_esys.h>

#include "base/err.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"

struct setup_tpm;

/* fd: a data channel, connected; the caller's. ERR_TPM, ERR_NO_MEMORY. */
struct err setup_tpm_open(int fd, struct setup_tpm **out_tpm, struct explanation *why);
void setup_tpm_close(struct setup_tpm **tpm);

struct setup_ek {
    bool ecc;
    unsigned rsa_bits;
    bool may_sign, may_decrypt; /* --allow-signing, --decryption */
};

#define SETUP_TEMPLATE_MAX 512u
#define SETUP_KEY_TEXT_MAX 1024u

struct setup_ek_made {
    TPM2_HANDLE handle;
    TPM2_HANDLE certificate_index, template_index; /* of NV */
    size_t template_size;
    uint8_t template[SETUP_TEMPLATE_MAX];
    char text[SETUP_KEY_TEXT_MAX]; /* as --ek of the tool that makes certificates has it */
    const char *name;              /* for the log */
};

struct err setup_tpm_make_ek(struct setup_tpm *tpm, const struct setup_ek *ek, struct setup_ek_made *out_made,
                             struct explanation *why);
struct err setup_tpm_make_spk(struct setup_tpm *tpm, bool ecc, unsigned rsa_bits, TPM2_HANDLE *out_handle,
                              struct explanation *why);
/* An index of the platform's with that content; lock: it is not written again. */
struct err setup_tpm_write_index(struct setup_tpm *tpm, TPM2_HANDLE index, struct span content, bool lock,
                                 struct explanation *why);
/* banks: names with commas. out_all: those that there are. ERR_BAD_VALUE: none of the banks is there. */
struct err setup_tpm_choose_banks(struct setup_tpm *tpm, const char *banks, char out_active[64], char out_all[64],
                                  struct explanation *why);
struct err setup_tpm_shut_down(struct setup_tpm *tpm, struct explanation *why);
