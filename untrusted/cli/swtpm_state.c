#include "untrusted/cli/swtpm_state.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "crypto/hash.h"

#define FILE_VERSION     2u
#define LEAST_VERSION    1u /* that reads such a file */
#define HEADER_SIZE      10u
#define FLAG_ENCRYPTED   1u
#define FLAG_256_BIT_KEY 8u

#define BLOCK_SIZE       16u /* of AES */
#define PERMANENT_MAGIC  0xab364723u

enum tag { TAG_STATE = 1, TAG_ENCRYPTED_STATE = 2, TAG_MAC = 3, TAG_IV = 6, TAG_COUNT };

/* --- the file --- */

struct header {
    uint8_t version;
    uint8_t least_version;
    uint16_t size;
    uint16_t flags;
    uint32_t file_size;
};

static struct err read_header(struct reader *r, struct header *out)
{
    TRY(read_u8(r, &out->version));
    TRY(read_u8(r, &out->least_version));
    TRY(read_be16(r, &out->size));
    TRY(read_be16(r, &out->flags));
    return read_be32(r, &out->file_size);
}

static struct err check_header(const char *path, const struct header *header, size_t size, struct explanation *why)
{
    if (header->version != FILE_VERSION || header->least_version != LEAST_VERSION || header->size != HEADER_SIZE)
        return explain(why, FAIL(BAD_VALUE), "%s: not a state file of swtpm 0.1 to 0.10, or a damaged one", path);
    if (header->file_size != size)
        return explain(why, FAIL(BAD_VALUE), "%s: damaged: its header says %u bytes, and there are %zu", path,
                       header->file_size, size);
    if (header->flags & ~(FLAG_ENCRYPTED | FLAG_256_BIT_KEY))
        return explain(why, FAIL(BAD_VALUE), "%s: not swtpm's own state file, or a damaged one (flags 0x%x)", path,
                       header->flags);
    return OK;
}

/* Each tag once at most; no size of 0. */
static struct err read_fields(struct reader *r, struct span fields[TAG_COUNT])
{
    while (r->left > 0) {
        uint16_t tag = 0;
        uint32_t size = 0;
        TRY(read_be16(r, &tag));
        TRY(read_be32(r, &size));
        bool known = tag == TAG_STATE || tag == TAG_ENCRYPTED_STATE || tag == TAG_MAC || tag == TAG_IV;
        ENSURE(known && size > 0 && fields[tag].size == 0, BAD_VALUE);
        TRY(read_span(r, size, &fields[tag]));
    }
    return OK;
}

static bool is_plain(uint16_t flags, const struct span *fields)
{
    return flags == 0 && fields[TAG_STATE].size && !fields[TAG_ENCRYPTED_STATE].size && !fields[TAG_MAC].size &&
           !fields[TAG_IV].size;
}

static bool is_encrypted(uint16_t flags, const struct span *fields, size_t key_size)
{
    const struct span *state = &fields[TAG_ENCRYPTED_STATE];
    return (flags & FLAG_ENCRYPTED) && !fields[TAG_STATE].size && state->size && state->size % key_size == 0 &&
           fields[TAG_MAC].size == SHA256_SIZE && fields[TAG_IV].size == key_size;
}

struct err swtpm_file_parse(const char *path, struct span bytes, struct swtpm_file *out_file, struct explanation *why)
{
    struct reader r = reader_of(bytes);
    struct header header;
    struct span fields[TAG_COUNT] = {0};
    if (read_header(&r, &header).code)
        return explain(why, FAIL(BAD_VALUE), "%s: %zu bytes are no state file of swtpm", path, bytes.size);
    TRY(check_header(path, &header, bytes.size, why));
    const size_t key_size = header.flags & FLAG_256_BIT_KEY ? 32 : 16;
    struct err read = read_fields(&r, fields);
    if (!read.code && is_plain(header.flags, fields)) {
        *out_file = (struct swtpm_file){.state = fields[TAG_STATE]};
        return OK;
    }
    if (read.code || !is_encrypted(header.flags, fields, key_size))
        return explain(why, FAIL(BAD_VALUE), "%s: damaged: its parts are not those of a state file of swtpm", path);
    *out_file = (struct swtpm_file){fields[TAG_ENCRYPTED_STATE], fields[TAG_MAC], fields[TAG_IV], key_size};
    return OK;
}

bool swtpm_is_permanent_state(struct span state)
{
    struct reader r = reader_of(state);
    uint16_t version = 0;
    uint32_t magic = 0;
    return !read_be16(&r, &version).code && !read_be32(&r, &magic).code && magic == PERMANENT_MAGIC;
}

/* --- the key --- */

static bool parse_hex(struct span text, size_t key_size, uint8_t *out_key)
{
    const char *digits = (const char *)text.data;
    size_t left = text.size;
    if (left >= 2 && digits[0] == '0' && digits[1] == 'x') {
        digits += 2;
        left -= 2;
    }
    if (left < 2 * key_size) return false;
    for (size_t i = 0; i < key_size; i++) {
        const char pair[3] = {digits[2 * i], digits[2 * i + 1]};
        if (!isxdigit((unsigned char)pair[0]) || !isxdigit((unsigned char)pair[1])) return false;
        if (sscanf(pair, "%2hhx", &out_key[i]) != 1) return false;
    }
    for (size_t i = 2 * key_size; i < left; i++)
        if (!isspace((unsigned char)digits[i])) return false;
    return true;
}

static struct err derive(enum swtpm_key_source source, struct span password, size_t key_size, uint8_t *out_key)
{
    static const unsigned char salt[] = {'s', 'w', 't', 'p', 'm'};
    uint8_t digest[SHA512_SIZE];
    if (source == SWTPM_PASSWORD_PBKDF2) {
        ENSURE(PKCS5_PBKDF2_HMAC((const char *)password.data, (int)password.size, salt, sizeof salt, 1000, EVP_sha512(),
                                 (int)key_size, out_key) == 1,
               CRYPTO);
        return OK;
    }
    ENSURE(EVP_Digest(password.data, password.size, digest, NULL, EVP_sha512(), NULL) == 1, CRYPTO);
    memcpy(out_key, digest, key_size);
    wipe(digest, sizeof digest);
    return OK;
}

struct err swtpm_key_make(const char *path, enum swtpm_key_source source, struct span secret, size_t key_size,
                          uint8_t out_key[SWTPM_KEY_MAX], struct explanation *why)
{
    if (source == SWTPM_KEY_HEX) {
        if (!parse_hex(secret, key_size, out_key))
            return explain(why, FAIL(BAD_VALUE),
                           "%s: a key of %zu hexadecimal digits is wanted (--key-format binary takes %zu bytes)", path,
                           2 * key_size, key_size);
        return OK;
    }
    if (source == SWTPM_KEY_BINARY) {
        if (secret.size != key_size)
            return explain(why, FAIL(BAD_VALUE), "%s: a key of %zu bytes is wanted, and there are %zu", path, key_size,
                           secret.size);
        memcpy(out_key, secret.data, key_size);
        return OK;
    }
    if (secret.size == 0) return explain(why, FAIL(BAD_VALUE), "%s: there is no password in it", path);
    return derive(source, secret, key_size, out_key);
}

/* --- the encryption --- */

static void free_context(EVP_CIPHER_CTX **context)
{
    EVP_CIPHER_CTX_free(*context);
}

static struct err run_cipher(const struct swtpm_file *file, const uint8_t *key, uint8_t *out)
{
    const EVP_CIPHER *cipher = file->key_size == 32 ? EVP_aes_256_cbc() : EVP_aes_128_cbc();
    EVP_CIPHER_CTX *context DEFER(free_context) = EVP_CIPHER_CTX_new();
    int size = 0;
    ENSURE(context, NO_MEMORY);
    ENSURE(EVP_DecryptInit_ex(context, cipher, NULL, key, file->iv.data) == 1, CRYPTO);
    ENSURE(EVP_CIPHER_CTX_set_padding(context, 0) == 1, CRYPTO);
    ENSURE(EVP_DecryptUpdate(context, out, &size, file->state.data, (int)file->state.size) == 1, CRYPTO);
    ENSURE((size_t)size == file->state.size, CRYPTO);
    return OK;
}
_Static_assert(SWTPM_KEY_MAX >= BLOCK_SIZE, "an IV field, as long as the key, holds an IV of the cipher");

struct err swtpm_file_decrypt(const struct crypto *crypto, const struct swtpm_file *file, const uint8_t *key,
                              uint8_t *out, size_t *out_size)
{
    const struct span parts[] = {file->state, file->iv};
    uint8_t mac[SHA256_SIZE];
    TRY(hmac_sha256(crypto, span_of(key, file->key_size), parts, 2, mac));
    ENSURE(memcmp(mac, file->mac.data, sizeof mac) == 0, AUTHENTICATION);
    TRY(run_cipher(file, key, out));
    const uint8_t padding = out[file->state.size - 1];
    ENSURE(padding > 0 && padding <= file->key_size, BAD_VALUE);
    *out_size = file->state.size - padding;
    return OK;
}
