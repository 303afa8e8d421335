/*
 * Guarantees: no key serves two blobs, because each is derived from random bytes of its own; every field of a foreign
 * KEYREQUEST is compared with what this code asks for before the processor sees it, so a header cannot make it derive
 * another kind of key. Not guaranteed: that the error tells altered from foreign against somebody who alters the
 * MRENCLAVE or the device tag in the header; it refuses either way.
 */
#include "trusted/state/blob.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trusted/crypto/aead.h"
#include "trusted/crypto/hkdf.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/sgx.h"

_Static_assert(BLOB_OFFSET_KEYREQUEST + sizeof(struct sgx_keyrequest) == BLOB_HEADER_SIZE, "layout");
_Static_assert(BLOB_OFFSET_RANDOM + BLOB_RANDOM_SIZE == BLOB_OFFSET_KEYREQUEST, "layout");
_Static_assert(BLOB_TAG_SIZE == AEAD_TAG_SIZE, "layout");

struct root_key {
    uint8_t bytes[SGX_KEY_SIZE];
};

static void root_key_wipe(struct root_key *root)
{
    wipe(root, sizeof *root);
}

/*
 * FLAGS and MISCSELECT take part in the key whole: no debug enclave ever derives it. XFRM does not, because the same
 * image is allowed to run with several and a machine whose kernel or hypervisor offers more or less of them after an
 * update must not lose its TPMs; MRENCLAVE already says which code may use the key. EGETKEY itself adds INIT and DEBUG
 * to any mask (SDM 3D, EGETKEY).
 */
static struct sgx_keyrequest key_request(const uint8_t CPUSVN[16], uint16_t ISVSVN, const uint8_t KEYID[32])
{
    struct sgx_keyrequest request = {
        .KEYNAME = SGX_KEYNAME_SEAL,
        .KEYPOLICY = SGX_KEYPOLICY_MRENCLAVE,
        .ISVSVN = ISVSVN,
        .ATTRIBUTEMASK = {.FLAGS = UINT64_MAX, .XFRM = 0},
        .MISCMASK = UINT32_MAX,
    };
    memcpy(request.CPUSVN, CPUSVN, sizeof request.CPUSVN);
    memcpy(request.KEYID, KEYID, sizeof request.KEYID);
    return request;
}

/*
 * The tag of a blob is made at the security versions of that blob's own KEYREQUEST, so a newer firmware or image still
 * knows it; it protects nothing.
 */
static struct err device_tag(const struct crypto *crypto, const struct sgx_keyrequest *versions,
                             uint8_t out[BLOB_DEVICE_TAG_SIZE])
{
    static const uint8_t KEYID[32] = "vtpm device tag";
    static const char label[] = "vtpm device tag";
    struct sgx_keyrequest request = key_request(versions->CPUSVN, versions->ISVSVN, KEYID);
    struct root_key key DEFER(root_key_wipe) = {0};
    TRY(sgx_egetkey(&request, key.bytes));
    return hkdf_sha256(crypto, span_of(key.bytes, sizeof key.bytes), span_empty(), span_of(label, sizeof label - 1),
                       out, BLOB_DEVICE_TAG_SIZE);
}

void blob_sealer_wipe(struct blob_sealer *sealer)
{
    wipe(sealer, sizeof *sealer);
}

struct err blob_sealer_init(const struct crypto *crypto, const struct sgx_report *own, struct blob_sealer *out)
{
    uint8_t KEYID[32];
    entropy_fill(KEYID, sizeof KEYID);
    struct blob_sealer sealer DEFER(blob_sealer_wipe) = {.request = key_request(own->CPUSVN, own->ISVSVN, KEYID)};
    memcpy(sealer.MRENCLAVE, own->MRENCLAVE, sizeof sealer.MRENCLAVE);
    TRY(sgx_egetkey(&sealer.request, sealer.root));
    TRY(device_tag(crypto, &sealer.request, sealer.device_tag));
    *out = sealer;
    return OK;
}

size_t blob_size(size_t plaintext_size)
{
    return BLOB_HEADER_SIZE + plaintext_size + BLOB_TAG_SIZE;
}

/* header is the blob's own: the random bytes, format and kind in it make the key. */
static struct err derive_key(const struct crypto *crypto, const uint8_t root[SGX_KEY_SIZE], const uint8_t *header,
                             struct aead_key *out)
{
    static const char label[] = "vtpm blob";
    uint8_t info[sizeof label - 1 + BLOB_OFFSET_SIZE - BLOB_OFFSET_FORMAT];
    struct writer w = writer_of(info, sizeof info);
    TRY(write_bytes(&w, label, sizeof label - 1));
    TRY(write_bytes(&w, header + BLOB_OFFSET_FORMAT, BLOB_OFFSET_SIZE - BLOB_OFFSET_FORMAT));
    return hkdf_sha256(crypto, span_of(root, SGX_KEY_SIZE), span_of(header + BLOB_OFFSET_RANDOM, BLOB_RANDOM_SIZE),
                       writer_span(&w), out, sizeof *out);
}
_Static_assert(sizeof(struct aead_key) == AEAD_KEY_SIZE + AEAD_IV_SIZE, "HKDF fills key and IV in one go");

static struct err write_header(const struct blob_sealer *sealer, const struct blob_identity *identity,
                               uint32_t ciphertext_size, struct writer *w)
{
    uint8_t random[BLOB_RANDOM_SIZE];
    entropy_fill(random, sizeof random);
    TRY(write_bytes(w, BLOB_MAGIC, BLOB_MAGIC_SIZE));
    TRY(write_u16(w, BLOB_FORMAT));
    TRY(write_u16(w, BLOB_KIND_PERMANENT));
    TRY(write_u32(w, ciphertext_size));
    TRY(write_bytes(w, identity->instance, sizeof identity->instance));
    TRY(write_u64(w, identity->version));
    TRY(write_u64(w, identity->time));
    TRY(write_bytes(w, sealer->MRENCLAVE, sizeof sealer->MRENCLAVE));
    TRY(write_bytes(w, sealer->device_tag, sizeof sealer->device_tag));
    TRY(write_bytes(w, random, sizeof random));
    /* An architectural structure: its layout in memory is its layout on paper. */
    return write_bytes(w, &sealer->request, sizeof sealer->request);
}

struct err blob_seal(const struct crypto *crypto, const struct blob_sealer *sealer,
                     const struct blob_identity *identity, struct span plaintext, struct writer *out)
{
    ENSURE(plaintext.size <= BLOB_PLAINTEXT_MAX, TOO_LARGE);
    uint8_t *blob = NULL;
    struct writer whole = *out; /* moves only if everything succeeds */
    TRY(write_zeros(&whole, blob_size(plaintext.size), &blob));

    struct writer header = writer_of(blob, BLOB_HEADER_SIZE);
    TRY(write_header(sealer, identity, (uint32_t)plaintext.size, &header));
    struct aead_key key DEFER(aead_key_wipe) = {0};
    TRY(derive_key(crypto, sealer->root, blob, &key));
    TRY(aead_seal(crypto, &key, writer_span(&header), plaintext, blob + BLOB_HEADER_SIZE,
                  blob + BLOB_HEADER_SIZE + plaintext.size));
    *out = whole;
    return OK;
}

void blob_state_free(struct blob_state *state)
{
    wipe(state->plaintext, state->plaintext_size);
    free(state->plaintext);
    *state = (struct blob_state){0};
}

/* The header as it was parsed, once; nothing in it is believed before it authenticates. */
struct header {
    uint8_t bytes[BLOB_HEADER_SIZE];
    uint16_t format;
    uint16_t kind;
    uint32_t ciphertext_size;
    struct blob_identity identity;
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    uint8_t device_tag[BLOB_DEVICE_TAG_SIZE];
    struct sgx_keyrequest request;
};

static struct err parse_header(struct span blob, struct header *out)
{
    ENSURE(blob.size >= BLOB_HEADER_SIZE + BLOB_TAG_SIZE, STATE_MAGIC);
    ENSURE(memcmp(blob.data, BLOB_MAGIC, BLOB_MAGIC_SIZE) == 0, STATE_MAGIC);
    memcpy(out->bytes, blob.data, sizeof out->bytes);
    struct reader r = {.next = out->bytes + BLOB_OFFSET_FORMAT, .left = sizeof out->bytes - BLOB_OFFSET_FORMAT};
    TRY(read_u16(&r, &out->format));
    ENSURE(out->format == BLOB_FORMAT, STATE_FORMAT);
    TRY(read_u16(&r, &out->kind));
    ENSURE(out->kind == BLOB_KIND_PERMANENT, STATE_FORMAT);
    TRY(read_u32(&r, &out->ciphertext_size));
    ENSURE(blob.size - BLOB_HEADER_SIZE - BLOB_TAG_SIZE == out->ciphertext_size, STATE_CUT);
    ENSURE(out->ciphertext_size <= BLOB_PLAINTEXT_MAX, STATE_CUT);
    TRY(read_bytes(&r, out->identity.instance, sizeof out->identity.instance));
    TRY(read_u64(&r, &out->identity.version));
    TRY(read_u64(&r, &out->identity.time));
    TRY(read_bytes(&r, out->MRENCLAVE, sizeof out->MRENCLAVE));
    TRY(read_bytes(&r, out->device_tag, sizeof out->device_tag));
    struct span random;
    TRY(read_span(&r, BLOB_RANDOM_SIZE, &random)); /* derive_key takes it from where it lies */
    TRY(read_bytes(&r, &out->request, sizeof out->request));
    return reader_end(&r);
}

/*
 * Only KEYID and the security versions may differ from what this enclave would ask for, and a version above its own was
 * never asked for by this image: EGETKEY refuses that too, but with a code that the host would read as a fault.
 */
static struct err check_request(const struct sgx_keyrequest *theirs, const struct sgx_keyrequest *own)
{
    struct sgx_keyrequest expected = key_request(theirs->CPUSVN, theirs->ISVSVN, theirs->KEYID);
    ENSURE(memcmp(theirs, &expected, sizeof expected) == 0, STATE_ALTERED);
    ENSURE(theirs->ISVSVN <= own->ISVSVN, STATE_ALTERED);
    return OK;
}

/* A security version that this processor never had is another device's, too. */
static struct err check_device(const struct crypto *crypto, const struct blob_sealer *sealer,
                               const struct header *header)
{
    uint8_t own[BLOB_DEVICE_TAG_SIZE];
    const struct sgx_keyrequest *theirs = &header->request;
    if (theirs->ISVSVN == sealer->request.ISVSVN &&
        memcmp(theirs->CPUSVN, sealer->request.CPUSVN, sizeof theirs->CPUSVN) == 0) {
        memcpy(own, sealer->device_tag, sizeof own);
    } else {
        struct err derived = device_tag(crypto, theirs, own);
        ENSURE(derived.code != ERR_SGX_CPUSVN, STATE_OTHER_DEVICE);
        TRY(derived);
    }
    ENSURE(memcmp(header->device_tag, own, sizeof own) == 0, STATE_OTHER_DEVICE);
    return OK;
}

static struct err open_ciphertext(const struct crypto *crypto, const struct header *header, struct span blob,
                                  uint8_t *out)
{
    struct root_key root DEFER(root_key_wipe) = {0};
    /* A security version in the header that this processor never had: the tag said same device, so it was altered. */
    ENSURE(sgx_egetkey(&header->request, root.bytes).code == ERR_NONE, STATE_ALTERED);
    struct aead_key key DEFER(aead_key_wipe) = {0};
    TRY(derive_key(crypto, root.bytes, header->bytes, &key));
    const uint8_t *ciphertext = blob.data + BLOB_HEADER_SIZE;
    struct err opened =
        aead_open(crypto, &key, span_of(header->bytes, sizeof header->bytes),
                  span_of(ciphertext, header->ciphertext_size), ciphertext + header->ciphertext_size, out);
    ENSURE(opened.code != ERR_AUTHENTICATION, STATE_ALTERED);
    return opened;
}

struct err blob_open(const struct crypto *crypto, const struct blob_sealer *sealer, struct span blob,
                     const uint8_t instance[INSTANCE_ID_SIZE], struct blob_state *out)
{
    struct header header;
    TRY(parse_header(blob, &header));
    ENSURE(memcmp(header.MRENCLAVE, sealer->MRENCLAVE, sizeof header.MRENCLAVE) == 0, STATE_OTHER_IMAGE);
    TRY(check_request(&header.request, &sealer->request));
    TRY(check_device(crypto, sealer, &header));

    struct blob_state state DEFER(blob_state_free) = {.identity = header.identity,
                                                      .plaintext_size = header.ciphertext_size};
    state.plaintext = malloc(header.ciphertext_size ? header.ciphertext_size : 1);
    ENSURE(state.plaintext, NO_MEMORY);
    TRY(open_ciphertext(crypto, &header, blob, state.plaintext));
    ENSURE(memcmp(header.identity.instance, instance, INSTANCE_ID_SIZE) == 0, STATE_OTHER_INSTANCE);
    *out = state;
    state = (struct blob_state){0}; /* now it is the caller's */
    return OK;
}
