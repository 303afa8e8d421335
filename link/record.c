#include "link/record.h"

#include <string.h>

#include "base/memory.h"

/* Id of the session, then the header of the record: all of it is authenticated. */
#define AAD_SIZE (RECORD_SESSION_ID_SIZE + RECORD_HEADER_SIZE)

struct err record_session_open(const struct crypto *crypto, const uint8_t id[RECORD_SESSION_ID_SIZE],
                               const struct record_direction *send, const struct record_direction *receive,
                               struct record_session *out)
{
    struct record_session session DEFER(record_session_close) = {.open = true};
    TRY(aead_cipher_open(crypto, send->key, true, &session.seal));
    TRY(aead_cipher_open(crypto, receive->key, false, &session.opener));
    memcpy(session.id, id, sizeof session.id);
    memcpy(session.seal_iv, send->iv, sizeof session.seal_iv);
    memcpy(session.open_iv, receive->iv, sizeof session.open_iv);
    *out = session;
    session = (struct record_session){0}; /* now it is the caller's */
    return OK;
}

void record_session_close(struct record_session *session)
{
    aead_cipher_close(&session->seal);
    aead_cipher_close(&session->opener);
    wipe(session, sizeof *session);
}

struct header {
    enum record_type type;
    uint32_t ciphertext_size;
    uint64_t number;
};

static struct err parse_header(struct reader *r, struct header *out)
{
    uint8_t type, zeros[3];
    TRY(read_u8(r, &type));
    TRY(read_bytes(r, zeros, sizeof zeros));
    TRY(read_u32(r, &out->ciphertext_size));
    TRY(read_u64(r, &out->number));
    ENSURE(type >= RECORD_FINISH && type <= RECORD_FINAL && (zeros[0] | zeros[1] | zeros[2]) == 0, BAD_VALUE);
    ENSURE(out->ciphertext_size <= RECORD_PLAINTEXT_MAX, TOO_LARGE);
    out->type = (enum record_type)type;
    return OK;
}

struct err record_size(struct span received, size_t *out_size)
{
    struct reader r = reader_of(received);
    struct header header;
    if (received.size < RECORD_HEADER_SIZE) {
        *out_size = 0;
        return OK;
    }
    TRY(parse_header(&r, &header));
    *out_size = RECORD_OVERHEAD + header.ciphertext_size;
    return OK;
}

static void make_nonce(const uint8_t iv[AEAD_IV_SIZE], uint64_t number, uint8_t out[AEAD_IV_SIZE])
{
    memcpy(out, iv, AEAD_IV_SIZE);
    for (size_t i = 0; i < sizeof number; i++)
        out[AEAD_IV_SIZE - sizeof number + i] ^= (uint8_t)(number >> 8 * i);
}

static void make_aad(const struct record_session *session, const uint8_t *header, uint8_t out[AAD_SIZE])
{
    memcpy(out, session->id, RECORD_SESSION_ID_SIZE);
    memcpy(out + RECORD_SESSION_ID_SIZE, header, RECORD_HEADER_SIZE);
}

static struct err write_header(enum record_type type, size_t size, uint64_t number, struct writer *w)
{
    static const uint8_t zeros[3];
    TRY(write_u8(w, (uint8_t)type));
    TRY(write_bytes(w, zeros, sizeof zeros));
    TRY(write_u32(w, (uint32_t)size));
    return write_u64(w, number);
}

struct err record_seal(struct record_session *session, enum record_type type, struct span plaintext, struct writer *out)
{
    ENSURE(session->open && !session->final_sent, LINK_CLOSED);
    ENSURE(plaintext.size <= RECORD_PLAINTEXT_MAX, TOO_LARGE);
    if (session->sent == UINT64_MAX) { /* the last number is never used, so that none is used twice */
        record_session_close(session);
        return FAIL(LINK_CLOSED);
    }
    struct writer whole = *out; /* moves only if everything succeeds */
    uint8_t *record, nonce[AEAD_IV_SIZE], aad[AAD_SIZE];
    TRY(write_zeros(&whole, RECORD_OVERHEAD + plaintext.size, &record));
    struct writer header = writer_of(record, RECORD_HEADER_SIZE);
    TRY(write_header(type, plaintext.size, session->sent, &header));
    make_nonce(session->seal_iv, session->sent, nonce);
    make_aad(session, record, aad);
    struct err sealed = aead_cipher_seal(&session->seal, nonce, span_of(aad, sizeof aad), plaintext,
                                         record + RECORD_HEADER_SIZE, record + RECORD_HEADER_SIZE + plaintext.size);
    if (sealed.code) {
        record_session_close(session); /* the nonce may have been used */
        return sealed;
    }
    session->sent++;
    session->final_sent = type == RECORD_FINAL;
    *out = whole;
    return OK;
}

/* The number is compared before anything is deciphered, so a wrong record costs its sender more than us. */
static struct err open_record(struct record_session *session, struct span record, struct header *header,
                              uint8_t *out_plaintext)
{
    uint8_t bytes[RECORD_HEADER_SIZE], nonce[AEAD_IV_SIZE], aad[AAD_SIZE];
    struct reader r = reader_of(record);
    struct span ciphertext, tag;
    TRY(read_bytes(&r, bytes, sizeof bytes));
    struct reader header_bytes = reader_of(span_of(bytes, sizeof bytes));
    TRY(parse_header(&header_bytes, header));
    TRY(read_span(&r, header->ciphertext_size, &ciphertext));
    TRY(read_span(&r, AEAD_TAG_SIZE, &tag));
    TRY(reader_end(&r));
    ENSURE(header->number == session->received && session->received != UINT64_MAX, LINK_RECORD);
    make_nonce(session->open_iv, header->number, nonce);
    make_aad(session, bytes, aad);
    return aead_cipher_open_message(&session->opener, nonce, span_of(aad, sizeof aad), ciphertext, tag.data,
                                    out_plaintext);
}

struct err record_open(struct record_session *session, struct span record, enum record_type *out_type,
                       uint8_t *out_plaintext, size_t *out_size)
{
    struct header header;
    ENSURE(session->open && !session->final_received, LINK_CLOSED);
    if (open_record(session, record, &header, out_plaintext).code) {
        record_session_close(session);
        return FAIL(LINK_RECORD);
    }
    session->received++;
    session->final_received = header.type == RECORD_FINAL;
    *out_type = header.type;
    *out_size = header.ciphertext_size;
    return OK;
}
