#include "tests/fakes/link_pair.h"

#include <stdlib.h>
#include <string.h>

static void must(struct err err)
{
    if (err.code) abort();
}

static void fixed_key(const struct crypto *crypto, uint8_t first, struct x25519_key *out)
{
    uint8_t private[X25519_SIZE];
    for (size_t i = 0; i < sizeof private; i++)
    private[i] = (uint8_t)(first + i);
    static const uint8_t base_point[X25519_SIZE] = {9};
    memcpy(out->private, private, sizeof private);
    must(x25519_shared(crypto, private, base_point, out->public));
}

/* libcrypto is initialised once in a program's life. */
static struct crypto once(void)
{
    static struct crypto crypto;
    if (!crypto.sha256) must(crypto_init(&crypto));
    return crypto;
}

void link_pair_init(struct link_pair *pair, enum link_kind kind)
{
    *pair = (struct link_pair){.binding = {.kind = kind}};
    pair->crypto = once();
    fixed_key(&pair->crypto, 0x10, &pair->host_key);
    fixed_key(&pair->crypto, 0x40, &pair->enclave_key);
    fixed_key(&pair->crypto, 0x70, &pair->enrolled);
    memset(pair->binding.manager, 0xA1, sizeof pair->binding.manager);
    if (kind == LINK_K1) return;
    memcpy(pair->binding.instance.bytes, "instance of test", INSTANCE_ID_SIZE);
    pair->binding.epoch = 3;
    pair->binding.start = 0x0102030405060708;
    memset(pair->binding.program, 0xB2, sizeof pair->binding.program);
}

struct err link_pair_open_host(struct link_pair *pair, const uint8_t enclave_share[X25519_SIZE])
{
    bool enrolled = pair->binding.kind == LINK_K2_ENROLLED;
    struct link_keys keys = {
        .own = &pair->host_key, .peer = enclave_share, .enrolled = enrolled ? pair->enrolled.private : NULL};
    return link_open(&pair->crypto, LINK_HOST, &pair->binding, &keys, &pair->host);
}

struct err link_pair_open_enclave(struct link_pair *pair, const uint8_t host_share[X25519_SIZE])
{
    bool enrolled = pair->binding.kind == LINK_K2_ENROLLED;
    struct link_keys keys = {
        .own = &pair->enclave_key, .peer = host_share, .enrolled = enrolled ? pair->enrolled.public : NULL};
    return link_open(&pair->crypto, LINK_ENCLAVE, &pair->binding, &keys, &pair->enclave);
}

static void pass_finish(struct link *from, struct link *to)
{
    uint8_t bytes[RECORD_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    enum link_event event;
    struct span none;
    must(link_finish(from, &w));
    must(link_pair_hear(to, writer_span(&w), &event, &none));
    if (event != LINK_FINISHED) abort();
}

void link_pair_establish(struct link_pair *pair)
{
    must(link_pair_open_host(pair, pair->enclave_key.public));
    must(link_pair_open_enclave(pair, pair->host_key.public));
    pass_finish(&pair->enclave, &pair->host);
    pass_finish(&pair->host, &pair->enclave);
}

void link_pair_close(struct link_pair *pair)
{
    link_close(&pair->host);
    link_close(&pair->enclave);
}

struct span link_pair_say(struct link *from, struct span plaintext, uint8_t out[RECORD_MAX])
{
    struct writer w = writer_of(out, RECORD_MAX);
    must(link_send(from, plaintext, &w));
    return writer_span(&w);
}

struct err link_pair_hear(struct link *to, struct span record, enum link_event *out_event, struct span *out_plaintext)
{
    static uint8_t plaintext[2 * RECORD_MAX];
    size_t size = 0;
    TRY(link_receive(to, record, out_event, plaintext, &size));
    *out_plaintext = span_of(plaintext, size);
    return OK;
}
