/*
 * Where the device secret comes from. It stands in for the fuses of a processor: whoever has it derives every key of
 * every enclave on this host.
 *
 *   file:PATH                    32 bytes in a file of mode 0600 that belongs to the user who starts vtpm-cpu. A stolen
 *                                disk or a full backup then opens everything.
 *   credential:NAME              32 bytes that systemd puts into $CREDENTIALS_DIRECTORY; with systemd-creds they are
 *                                encrypted by the host's TPM.
 *   passphrase:FD,salt=PATH      scrypt over what is read from descriptor FD up to its end or a newline. PATH holds the
 *                                salt and a value that tells a wrong passphrase; it is no secret, but whoever has it
 *                                can try passphrases.
 *
 * Guarantees: a missing secret is an error and never made silently; making one never replaces another.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "untrusted/cpu/processor.h"

#define SECRET_FILE_DEFAULT "/var/lib/vtpm/device-secret"

enum secret_kind {
    SECRET_FILE = 1,
    SECRET_CREDENTIAL,
    SECRET_PASSPHRASE,
};

struct secret_place {
    enum secret_kind kind;
    const char *path;     /* of the file, or of the salt; the credential's name. Points into the text that was parsed */
    int fd;               /* of the passphrase */
    bool ordinary_memory; /* the operator accepted memory that its readers can read */
};

/* ERR_USAGE. */
struct err secret_parse(const char *text, struct secret_place *out_place);

/* Makes a new secret. ERR_SECRET_EXISTS, ERR_USAGE (a credential is made by systemd-creds), ERR_SYSTEM. */
struct err secret_create(const struct secret_place *place);

/* out_secret lies in secret memory. ERR_SECRET_MISSING, ERR_SECRET_UNUSABLE, ERR_PASSPHRASE, ERR_MEMLOCK. */
struct err secret_load(const struct secret_place *place, uint8_t out_secret[PROCESSOR_SECRET_SIZE]);

/* One line: where the secret is, and what that means. */
const char *secret_meaning(const struct secret_place *place);
