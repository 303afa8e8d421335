/*
 * The master secret of a ledger, and what is known of its anchor, of its recovery keys and of the trust domain that it
 * has joined, sealed for this very enclave image: the root is EGETKEY's, KEYPOLICY MRENCLAVE.
 *
 * Guarantees: every field of a foreign KEYREQUEST is compared with what this code asks for before the processor sees
 * it, so a blob cannot make it derive another kind of key; the whole KEYREQUEST is authenticated.
 */
#pragma once

#include "abi/manager.h"
#include "base/id.h"
#include "link/recovery.h"
#include "trusted/anchor/anchor.h"
#include "trusted/state/blob.h"

#define MASTER_SIZE       BLOB_ROOT_SIZE
/* The domain key only of a ledger that has joined: who made its domain derives it. */
#define MASTER_SEALED_MAX (MASTER_SIZE + ANCHOR_CONFIG_SIZE + 8u + DOMAIN_KEY_SIZE)
#define MASTER_BLOB_MAX   (BLOB_HEADER_SIZE + BLOB_KEYREQUEST_SIZE + MASTER_SEALED_MAX + BLOB_TAG_SIZE)

struct master {
    struct instance_id domain;
    uint8_t secret[MASTER_SIZE];
    struct anchor_config anchor;
    struct recovery_rule recovery;
    bool joined;
    uint8_t domain_key[DOMAIN_KEY_SIZE]; /* joined */
};

void master_wipe(struct master *master);

/* 8 bytes. ERR_NO_SPACE; ERR_TRUNCATED, ERR_BAD_VALUE. */
struct err master_write_rule(const struct recovery_rule *rule, struct writer *out);
struct err master_read_rule(struct reader *r, struct recovery_rule *out);

/* The domain key of one that has joined, as the last thing: nothing else. ERR_NO_SPACE; ERR_TRUNCATED, ERR_TRAILING. */
struct err master_write_joined(bool joined, const uint8_t domain_key[DOMAIN_KEY_SIZE], struct writer *out);
struct err master_read_joined(struct reader *r, bool *out_joined, uint8_t out_domain_key[DOMAIN_KEY_SIZE]);

/* own: a REPORT of this enclave. Appends a blob of kind MASTER. ERR_NO_SPACE, ERR_CRYPTO, ERR_SGX_*. */
struct err master_seal(const struct crypto *crypto, const struct sgx_report *own, const struct master *master,
                       struct writer *out);

/* The errors of blob_open; ERR_LEDGER_OTHER_IMAGE, ERR_STATE_OTHER_DEVICE. The caller wipes out. */
struct err master_open(const struct crypto *crypto, const struct sgx_report *own, struct span blob, struct master *out);
