#include "trusted/manager/side.h"

#include <string.h>

#include "base/memory.h"
#include "crypto/aead.h"
#include "crypto/hkdf.h"
#include "trusted/runtime/entropy.h"

_Static_assert(sizeof(struct side) == SIDE_NONCE_SIZE + X25519_SIZE, "bytes only");

struct err side_draw(const struct crypto *crypto, struct x25519_key *out_own, struct side *out)
{
    TRY(x25519_generate(crypto, out_own));
    entropy_fill(out->nonce, sizeof out->nonce);
    memcpy(out->share, out_own->public, sizeof out->share);
    return OK;
}

struct err side_write(const struct side *side, struct writer *out)
{
    return write_bytes(out, side, sizeof *side);
}

struct err side_read(struct reader *r, struct side *out)
{
    return read_bytes(r, out, sizeof *out);
}

struct shared_secret {
    uint8_t bytes[X25519_SIZE];
};

static void wipe_shared(struct shared_secret *shared)
{
    wipe(shared, sizeof *shared);
}

static struct err derive_key(const struct side_session *session, struct aead_key *out)
{
    struct shared_secret shared DEFER(wipe_shared) = {0};
    TRY(x25519_shared(session->crypto, session->own->private, session->peer, shared.bytes));
    return hkdf_sha256(session->crypto, span_of(shared.bytes, sizeof shared.bytes),
                       span_of(session->transcript, SGX_REPORTDATA_SIZE),
                       span_of(session->label, strlen(session->label)), out, sizeof *out);
}

struct err side_seal(const struct side_session *session, struct span plaintext, struct writer *out)
{
    struct aead_key key DEFER(aead_key_wipe) = {0};
    uint8_t *sealed = NULL;
    TRY(derive_key(session, &key));
    TRY(write_zeros(out, plaintext.size + AEAD_TAG_SIZE, &sealed));
    return aead_seal(session->crypto, &key, span_of(session->transcript, SGX_REPORTDATA_SIZE), plaintext, sealed,
                     sealed + plaintext.size);
}

struct err side_open(const struct side_session *session, struct span sealed, uint8_t *out, size_t *out_size)
{
    struct aead_key key DEFER(aead_key_wipe) = {0};
    ENSURE(sealed.size >= AEAD_TAG_SIZE, TRUNCATED);
    const struct span ciphertext = span_of(sealed.data, sealed.size - AEAD_TAG_SIZE);
    TRY(derive_key(session, &key));
    TRY(aead_open(session->crypto, &key, span_of(session->transcript, SGX_REPORTDATA_SIZE), ciphertext,
                  ciphertext.data + ciphertext.size, out));
    *out_size = ciphertext.size;
    return OK;
}
