#include "trusted/manager/owner.h"

#include <string.h>

#include "trusted/runtime/entropy.h"

static struct owner_nonce *find(struct owner_nonces *nonces, const struct ledger_row *row)
{
    for (size_t i = 0; i < OWNER_NONCES_MAX; i++) {
        if (nonces->ring[i].valid && nonces->ring[i].slot == row->slot) return &nonces->ring[i];
    }
    return NULL;
}

void owner_challenge(struct owner_nonces *nonces, const struct ledger_row *row, uint8_t out[OWNER_NONCE_SIZE])
{
    struct owner_nonce *nonce = find(nonces, row);
    if (!nonce) nonce = &nonces->ring[nonces->next++ % OWNER_NONCES_MAX];
    *nonce = (struct owner_nonce){.slot = row->slot, .valid = true};
    entropy_fill(nonce->nonce, sizeof nonce->nonce);
    memcpy(out, nonce->nonce, sizeof nonce->nonce);
}

static struct err write_act(const struct ledger *ledger, const struct ledger_row *row, enum manager_verb verb,
                            struct span arguments, const uint8_t nonce[OWNER_NONCE_SIZE], struct writer *out)
{
    static const char label[16] = OWNER_ACT_LABEL;
    uint8_t digest[SHA256_SIZE];
    TRY(hash_sha256(ledger->owner.crypto, &arguments, 1, digest));
    TRY(write_bytes(out, label, sizeof label));
    TRY(write_u16(out, verb));
    TRY(write_u16(out, 0));
    TRY(write_u32(out, 0));
    TRY(write_bytes(out, ledger->domain.bytes, sizeof ledger->domain.bytes));
    TRY(write_bytes(out, row->id.bytes, sizeof row->id.bytes));
    TRY(write_u64(out, row->epoch));
    TRY(write_bytes(out, nonce, OWNER_NONCE_SIZE));
    TRY(write_bytes(out, ledger->owner.own.MRENCLAVE, SGX_HASH_SIZE));
    return write_bytes(out, digest, sizeof digest);
}

struct err owner_check(struct owner_nonces *nonces, const struct ledger *ledger, const struct ledger_row *row,
                       enum manager_verb verb, struct span arguments, const uint8_t signature[ED25519_SIGNATURE_SIZE])
{
    static const uint8_t none[ED25519_SIGNATURE_SIZE];
    bool is_signed = memcmp(signature, none, sizeof none) != 0;
    ENSURE(is_signed == row_has_owner(row), OWNER_SIGNATURE);
    if (!is_signed) return OK;

    struct owner_nonce *nonce = find(nonces, row);
    ENSURE(nonce, OWNER_SIGNATURE);
    nonce->valid = false;
    uint8_t act[OWNER_ACT_SIZE];
    struct writer w = writer_of(act, sizeof act);
    TRY(write_act(ledger, row, verb, arguments, nonce->nonce, &w));
    struct err verified = ed25519_verify(ledger->owner.crypto, row->owner, writer_span(&w), signature);
    ENSURE(verified.code != ERR_AUTHENTICATION, OWNER_SIGNATURE);
    return verified;
}
