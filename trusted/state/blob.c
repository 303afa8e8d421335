#include "trusted/state/blob.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/aead.h"
#include "crypto/hkdf.h"
#include "trusted/runtime/entropy.h"

_Static_assert(BLOB_OFFSET_RANDOM + BLOB_RANDOM_SIZE == BLOB_HEADER_SIZE, "layout");
_Static_assert(BLOB_TAG_SIZE == AEAD_TAG_SIZE, "layout");
_Static_assert(sizeof(struct aead_key) == AEAD_KEY_SIZE + AEAD_IV_SIZE, "HKDF fills key and IV in one go");

static struct err derive_root(const struct crypto *crypto, const uint8_t *key, const uint8_t manager[SGX_HASH_SIZE],
                              struct span label, uint8_t out[BLOB_ROOT_SIZE])
{
    return hkdf_sha256(crypto, span_of(key, BLOB_ROOT_SIZE), span_of(manager, SGX_HASH_SIZE), label, out,
                       BLOB_ROOT_SIZE);
}

struct err blob_state_root(const struct crypto *crypto, const uint8_t root_key[BLOB_ROOT_SIZE],
                           const uint8_t manager[SGX_HASH_SIZE], uint8_t out[BLOB_ROOT_SIZE])
{
    static const char label[] = "vtpm state";
    return derive_root(crypto, root_key, manager, span_of(label, sizeof label - 1), out);
}

struct err blob_export_root(const struct crypto *crypto, const uint8_t root_key[BLOB_ROOT_SIZE],
                            const uint8_t manager[SGX_HASH_SIZE], uint8_t out[BLOB_ROOT_SIZE])
{
    static const char label[] = "vtpm export";
    return derive_root(crypto, root_key, manager, span_of(label, sizeof label - 1), out);
}

struct err blob_ledger_root(const struct crypto *crypto, const uint8_t master[BLOB_ROOT_SIZE],
                            const uint8_t manager[SGX_HASH_SIZE], uint8_t out[BLOB_ROOT_SIZE])
{
    static const char label[] = "vtpm ledger";
    return derive_root(crypto, master, manager, span_of(label, sizeof label - 1), out);
}

/* Bytes before the ciphertext, all of them authenticated. */
static size_t head_size(enum blob_kind kind)
{
    return BLOB_HEADER_SIZE + (kind == BLOB_MASTER ? BLOB_KEYREQUEST_SIZE : 0);
}

size_t blob_size(enum blob_kind kind, size_t plaintext_size)
{
    return head_size(kind) + plaintext_size + BLOB_TAG_SIZE;
}

/* header is the blob's own: the random bytes, format and kind in it make the key. */
static struct err derive_key(const struct crypto *crypto, struct span root, const uint8_t *header, struct aead_key *out)
{
    static const char label[] = "vtpm blob";
    uint8_t info[sizeof label - 1 + BLOB_OFFSET_SIZE - BLOB_OFFSET_FORMAT];
    struct writer w = writer_of(info, sizeof info);
    TRY(write_bytes(&w, label, sizeof label - 1));
    TRY(write_bytes(&w, header + BLOB_OFFSET_FORMAT, BLOB_OFFSET_SIZE - BLOB_OFFSET_FORMAT));
    return hkdf_sha256(crypto, root, span_of(header + BLOB_OFFSET_RANDOM, BLOB_RANDOM_SIZE), writer_span(&w), out,
                       sizeof *out);
}

static struct err write_head(const struct blob_header *header, uint32_t ciphertext_size, struct span keyrequest,
                             struct writer *w)
{
    uint8_t random[BLOB_RANDOM_SIZE];
    entropy_fill(random, sizeof random);
    TRY(write_bytes(w, BLOB_MAGIC, BLOB_MAGIC_SIZE));
    TRY(write_u16(w, BLOB_FORMAT));
    TRY(write_u16(w, (uint16_t)header->kind));
    TRY(write_u32(w, ciphertext_size));
    TRY(write_bytes(w, header->id.bytes, sizeof header->id.bytes));
    TRY(write_u64(w, header->epoch));
    TRY(write_u64(w, header->version));
    TRY(write_u64(w, header->number));
    TRY(write_u64(w, header->era));
    TRY(write_bytes(w, header->manager, sizeof header->manager));
    TRY(write_bytes(w, random, sizeof random));
    return write_span(w, keyrequest);
}

struct err blob_seal(const struct crypto *crypto, struct span root, const struct blob_header *header,
                     struct span keyrequest, struct span plaintext, struct writer *out)
{
    ENSURE(plaintext.size <= BLOB_PLAINTEXT_MAX, TOO_LARGE);
    ENSURE(keyrequest.size == head_size(header->kind) - BLOB_HEADER_SIZE, BAD_VALUE);
    uint8_t *blob = NULL;
    struct writer whole = *out; /* moves only if everything succeeds */
    TRY(write_zeros(&whole, blob_size(header->kind, plaintext.size), &blob));

    struct writer head = writer_of(blob, head_size(header->kind));
    TRY(write_head(header, (uint32_t)plaintext.size, keyrequest, &head));
    struct aead_key key DEFER(aead_key_wipe) = {0};
    TRY(derive_key(crypto, root, blob, &key));
    uint8_t *ciphertext = blob + head.size;
    TRY(aead_seal(crypto, &key, writer_span(&head), plaintext, ciphertext, ciphertext + plaintext.size));
    *out = whole;
    return OK;
}

/* The header as far as the size of the ciphertext, which there is room for behind it. */
static struct err read_kind_and_size(struct span blob, enum blob_kind kind, struct reader *out_rest, size_t *out_size)
{
    struct reader r = reader_of(blob);
    struct span magic;
    uint16_t format = 0, found_kind = 0;
    uint32_t ciphertext_size = 0;
    ENSURE(read_span(&r, BLOB_MAGIC_SIZE, &magic).code == ERR_NONE, STATE_MAGIC);
    ENSURE(memcmp(magic.data, BLOB_MAGIC, BLOB_MAGIC_SIZE) == 0, STATE_MAGIC);
    ENSURE(blob.size >= blob_size(kind, 0), STATE_CUT);
    TRY(read_u16(&r, &format));
    TRY(read_u16(&r, &found_kind));
    ENSURE(format == BLOB_FORMAT && found_kind == kind, STATE_FORMAT);
    TRY(read_u32(&r, &ciphertext_size));
    ENSURE(ciphertext_size <= BLOB_PLAINTEXT_MAX && blob.size >= blob_size(kind, ciphertext_size), STATE_CUT);
    *out_rest = r;
    *out_size = blob_size(kind, ciphertext_size);
    return OK;
}

struct err blob_take(struct reader *r, enum blob_kind kind, struct span *out)
{
    struct reader rest;
    size_t size = 0;
    TRY(read_kind_and_size(span_of(r->next, r->left), kind, &rest, &size));
    return read_span(r, size, out);
}

struct err blob_peek(struct span blob, enum blob_kind kind, struct blob_header *out)
{
    struct reader r;
    struct span random;
    struct blob_header header = {.kind = kind};
    size_t size = 0;
    TRY(read_kind_and_size(blob, kind, &r, &size));
    ENSURE(size == blob.size, STATE_CUT);
    TRY(read_bytes(&r, header.id.bytes, sizeof header.id.bytes));
    TRY(read_u64(&r, &header.epoch));
    TRY(read_u64(&r, &header.version));
    TRY(read_u64(&r, &header.number));
    TRY(read_u64(&r, &header.era));
    TRY(read_bytes(&r, header.manager, sizeof header.manager));
    TRY(read_span(&r, BLOB_RANDOM_SIZE, &random)); /* derive_key takes it from where it lies */
    *out = header;
    return OK;
}

struct span blob_keyrequest(struct span blob)
{
    return span_of(blob.data + BLOB_HEADER_SIZE, BLOB_KEYREQUEST_SIZE);
}

void blob_free(struct blob *blob)
{
    wipe(blob->plaintext, blob->plaintext_size);
    free(blob->plaintext);
    *blob = (struct blob){0};
}

struct err blob_open(const struct crypto *crypto, struct span root, struct span blob, enum blob_kind kind,
                     struct blob *out)
{
    struct blob opened DEFER(blob_free) = {0};
    TRY(blob_peek(blob, kind, &opened.header));
    opened.plaintext_size = blob.size - blob_size(kind, 0);
    opened.plaintext = malloc(opened.plaintext_size ? opened.plaintext_size : 1);
    ENSURE(opened.plaintext, NO_MEMORY);

    struct aead_key key DEFER(aead_key_wipe) = {0};
    TRY(derive_key(crypto, root, blob.data, &key));
    struct span head = span_of(blob.data, head_size(kind));
    struct span ciphertext = span_of(blob.data + head.size, opened.plaintext_size);
    struct err err = aead_open(crypto, &key, head, ciphertext, ciphertext.data + ciphertext.size, opened.plaintext);
    ENSURE(err.code != ERR_AUTHENTICATION, STATE_ALTERED);
    TRY(err);
    *out = opened;
    opened = (struct blob){0}; /* now it is the caller's */
    return OK;
}
