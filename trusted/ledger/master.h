/*
 * The master secret of a trust domain, and what is known of its anchor and of its recovery keys, sealed for this very
 * enclave image: the root is EGETKEY's, KEYPOLICY MRENCLAVE.
 *
 * Guarantees: every field of a foreign KEYREQUEST is compared with what this code asks for before the processor sees
 * it, so a blob cannot make it derive another kind of key; the whole KEYREQUEST is authenticated.
 */
#pragma once

#include "base/id.h"
#include "link/recovery.h"
#include "trusted/anchor/anchor.h"
#include "trusted/state/blob.h"

#define MASTER_SIZE        BLOB_ROOT_SIZE
#define MASTER_SEALED_SIZE (MASTER_SIZE + ANCHOR_CONFIG_SIZE + 8u)
#define MASTER_BLOB_SIZE   (BLOB_HEADER_SIZE + BLOB_KEYREQUEST_SIZE + MASTER_SEALED_SIZE + BLOB_TAG_SIZE)

struct master {
    struct instance_id domain;
    uint8_t secret[MASTER_SIZE];
    struct anchor_config anchor;
    struct recovery_rule recovery;
};

void master_wipe(struct master *master);

/* 8 bytes. ERR_NO_SPACE; ERR_TRUNCATED, ERR_BAD_VALUE. */
struct err master_write_rule(const struct recovery_rule *rule, struct writer *out);
struct err master_read_rule(struct reader *r, struct recovery_rule *out);

/* own: a REPORT of this enclave. Appends a blob of kind MASTER. ERR_NO_SPACE, ERR_CRYPTO, ERR_SGX_*. */
struct err master_seal(const struct crypto *crypto, const struct sgx_report *own, const struct master *master,
                       struct writer *out);

/* The errors of blob_open; ERR_LEDGER_OTHER_IMAGE, ERR_STATE_OTHER_DEVICE. The caller wipes out. */
struct err master_open(const struct crypto *crypto, const struct sgx_report *own, struct span blob, struct master *out);
