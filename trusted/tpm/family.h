/*
 * What the families of the specification differ in, behind the one interface of tpm.h: one const table each, of which
 * tpm.c asks the chosen one. Everything here runs between a power-on and a power-off of libtpms, unless it says so.
 *
 *   tpm.c     all that is the same for both: callbacks, buffers, commits, power
 *   tpm20.c   TPM 2.0
 *   tpm12.c   TPM 1.2
 */
#pragma once

#include <libtpms/tpm_library.h>

#include "trusted/tpm/tpm.h"

struct family {
    TPMLIB_TPMVersion version;

    /* --- the state, as it is sealed, and the parts that libtpms loads and stores by name; libtpms may be off --- */

    /* False if the state has no part of that name, or is not one of this family's. What is inside a part is libtpms' to
     * judge. */
    bool (*find)(struct span state, const char *name, struct span *out_part);
    /* The state with this part in place of the one of that name, or without it if part is empty, becomes tpm's
     * (tpm_keep_state). ERR_TPM: there are no parts of that name. ERR_NO_MEMORY. */
    struct err (*put)(struct tpm *tpm, const char *name, struct span part);

    /* --- power --- */

    /* libtpms is just on: fresh bytes for what its state brought along, beyond libcrypto's generator. */
    struct err (*begun)(struct tpm *tpm);
    /* The newest state was opened at a start of the instance. */
    struct err (*opened)(struct tpm *tpm);
    /* An older one was: raise it to the floors and have it stored. */
    struct err (*reverted)(struct tpm *tpm, const struct tpm_floors *floors);
    /* A suspended one goes on. */
    struct err (*resumed)(struct tpm *tpm);
    /* The same of one that is not the newest: raise it to the floors, end what was begun, and have it stored. NULL: it
     * may not. */
    struct err (*went_back)(struct tpm *tpm, const struct tpm_floors *floors);
    /* What a reset of the machine has to keep of the life before, and puts back; 0 if there was none. */
    uint64_t (*before_reset)(void);
    struct err (*after_reset)(uint64_t kept);
    /* The power goes in order. */
    void (*shut_down)(struct tpm *tpm);

    /* --- while it is on --- */

    /* All that libtpms would keep, stored: a commit is pending afterwards. */
    struct err (*save)(struct tpm *tpm);
    /* After each command, before its response leaves: what may have to be stored first. */
    struct err (*answered)(struct tpm *tpm, struct span command, struct span response);
    void (*read_floors)(struct tpm_floors *out);
    bool (*failed)(const struct tpm *tpm);
};

extern const struct family tpm_family_20;
extern const struct family tpm_family_12;

/* The bytes become tpm->permanent, and are to be committed. ERR_NO_MEMORY: it is as it was. For put. */
struct err tpm_keep_state(struct tpm *tpm, struct span state);
