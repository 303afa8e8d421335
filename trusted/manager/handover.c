#include "trusted/manager/handover.h"

#include <string.h>

#include "base/memory.h"
#include "crypto/aead.h"
#include "trusted/manager/image.h"
#include "trusted/manager/manager.h"
#include "trusted/manager/side.h"
#include "trusted/runtime/sgx.h"
#include "trusted/session/report.h"

#define LABEL "vtpm handover v1"

enum handover_role { HANDOVER_NEW = 1, HANDOVER_OLD = 2 };

/* The secrets, as they are sealed. */
#define GIFT_MAX (INSTANCE_ID_SIZE + MASTER_SIZE + ANCHOR_CONFIG_SIZE + 8u + ANCHOR_VALUE_SIZE + DOMAIN_KEY_SIZE)

struct gift {
    uint8_t bytes[GIFT_MAX];
};

static void gift_wipe(struct gift *gift)
{
    wipe(gift, sizeof *gift);
}

struct manifest {
    uint8_t old[SGX_HASH_SIZE];
    uint8_t new[SGX_HASH_SIZE];
    uint32_t security_version;
    uint8_t digest[SHA256_SIZE]; /* of the whole manifest */
};

/* ERR_NO_RELEASE_KEY, ERR_MANIFEST: not signed by the release key of this image. */
static struct err open_manifest(const struct crypto *crypto, struct span bytes, struct manifest *out)
{
    static const char expected[16] = MANIFEST_LABEL;
    static const uint8_t none[SHA256_SIZE];
    struct reader r = reader_of(bytes);
    char label[16];
    uint32_t reserved = 0;
    uint8_t key[ED25519_PUBLIC_SIZE];
    uint8_t key_digest[SHA256_SIZE];
    struct span signature;
    ENSURE(memcmp(manager_image()->release_key, none, sizeof none) != 0, NO_RELEASE_KEY);
    TRY(read_bytes(&r, label, sizeof label));
    TRY(read_bytes(&r, out->old, sizeof out->old));
    TRY(read_bytes(&r, out->new, sizeof out->new));
    TRY(read_u32(&r, &out->security_version));
    TRY(read_u32(&r, &reserved));
    TRY(read_bytes(&r, key, sizeof key));
    TRY(read_span(&r, ED25519_SIGNATURE_SIZE, &signature));
    TRY(reader_end(&r));
    const struct span whole_key = span_of(key, sizeof key);
    TRY(hash_sha256(crypto, &whole_key, 1, key_digest));
    ENSURE(memcmp(key_digest, manager_image()->release_key, sizeof key_digest) == 0, MANIFEST);
    struct err verified = ed25519_verify(crypto, key, span_of(bytes.data, MANIFEST_SIGNED_SIZE), signature.data);
    ENSURE(verified.code != ERR_AUTHENTICATION, MANIFEST);
    TRY(verified);
    ENSURE(memcmp(label, expected, sizeof label) == 0 && reserved == 0, MANIFEST);
    return hash_sha256(crypto, &bytes, 1, out->digest);
}

/* REPORTDATA of the new one's message: it knows nothing of the other side yet. */
static struct err greeting_data(const struct crypto *crypto, const struct side *new, uint8_t out[SGX_REPORTDATA_SIZE])
{
    static const uint8_t role = HANDOVER_NEW;
    const struct span parts[] = {span_of(LABEL, sizeof LABEL - 1), span_of(&role, 1), span_of(new, sizeof *new)};
    return hash_sha512(crypto, parts, 3, out);
}

/* REPORTDATA of the old one's: the whole exchange. Its hash is the salt of the key as well. */
static struct err gift_data(const struct crypto *crypto, const struct side *new, const struct side *old,
                            const struct manifest *manifest, uint8_t out[SGX_REPORTDATA_SIZE])
{
    static const uint8_t role = HANDOVER_OLD;
    const struct span parts[] = {span_of(LABEL, sizeof LABEL - 1), span_of(&role, 1), span_of(new, sizeof *new),
                                 span_of(old, sizeof *old), span_of(manifest->digest, sizeof manifest->digest)};
    return hash_sha512(crypto, parts, sizeof parts / sizeof *parts, out);
}

struct err handover_greet(struct manager *manager, const struct sgx_targetinfo *old, struct writer *out_message)
{
    struct handover *handover = &manager->handover;
    uint8_t reportdata[SGX_REPORTDATA_SIZE];
    struct sgx_report report;
    struct side new;
    TRY(side_draw(&manager->crypto, &handover->own, &new));
    memcpy(handover->nonce, new.nonce, sizeof handover->nonce);
    TRY(greeting_data(&manager->crypto, &new, reportdata));
    sgx_ereport(old, reportdata, &report);
    TRY(side_write(&new, out_message));
    return write_bytes(out_message, &report, SGX_REPORT_SIZE);
}

static struct err check_greeting(const struct manager *manager, const struct manifest *manifest, struct span greeting,
                                 struct side *out_new, struct sgx_targetinfo *out_target)
{
    struct reader r = reader_of(greeting);
    struct span bytes;
    uint8_t reportdata[SGX_REPORTDATA_SIZE];
    struct sgx_report report;
    TRY(side_read(&r, out_new));
    TRY(read_span(&r, SGX_REPORT_SIZE, &bytes));
    TRY(reader_end(&r));
    TRY(greeting_data(&manager->crypto, out_new, reportdata));
    const struct report_expected expected = {
        .MRENCLAVE = manifest->new, .ISVPRODID = PRODID_MANAGER, .reportdata = reportdata};
    TRY(report_verify(&manager->crypto, bytes, &expected, &report));
    report_target_of(&report, out_target);
    return OK;
}

static struct err write_gift(const struct ledger *ledger, struct writer *out)
{
    TRY(write_bytes(out, ledger->domain.bytes, sizeof ledger->domain.bytes));
    TRY(write_bytes(out, ledger->master, sizeof ledger->master));
    TRY(anchor_config_write(&ledger->anchor, out));
    TRY(master_write_rule(&ledger->recovery, out));
    TRY(write_bytes(out, ledger->value, sizeof ledger->value));
    return master_write_joined(ledger->joined, ledger->domain_key, out);
}

static void wipe_x25519_key(struct x25519_key *key)
{
    wipe(key, sizeof *key);
}

static struct err seal_gift(const struct manager *manager, const struct manifest *manifest, const struct side *new,
                            const struct sgx_targetinfo *target, struct writer *out)
{
    struct x25519_key own DEFER(wipe_x25519_key) = {0};
    struct gift gift DEFER(gift_wipe) = {0};
    struct writer w = writer_of(gift.bytes, sizeof gift.bytes);
    struct side old;
    uint8_t transcript[SGX_REPORTDATA_SIZE];
    struct sgx_report report;
    const struct side_session session = {&manager->crypto, &own, new->share, transcript, LABEL};
    TRY(side_draw(&manager->crypto, &own, &old));
    TRY(gift_data(&manager->crypto, new, &old, manifest, transcript));
    TRY(write_gift(&manager->ledger, &w));
    sgx_ereport(target, transcript, &report);
    TRY(side_write(&old, out));
    TRY(write_bytes(out, &report, SGX_REPORT_SIZE));
    return side_seal(&session, writer_span(&w), out);
}

struct err handover_give(struct manager *manager, struct span manifest_bytes, struct span greeting,
                         struct writer *out_message)
{
    struct manifest manifest;
    struct side new;
    struct sgx_targetinfo target;
    TRY(open_manifest(&manager->crypto, manifest_bytes, &manifest));
    ENSURE(memcmp(manifest.old, manager->own.MRENCLAVE, sizeof manifest.old) == 0, MANIFEST);
    ENSURE(manifest.security_version >= manager->ledger.security_version, DOWNGRADE);
    TRY(check_greeting(manager, &manifest, greeting, &new, &target));
    return seal_gift(manager, &manifest, &new, &target, out_message);
}

static struct err read_gift(struct span plaintext, const struct manifest *manifest, struct ledger_inheritance *out)
{
    struct reader r = reader_of(plaintext);
    TRY(read_bytes(&r, out->domain.bytes, sizeof out->domain.bytes));
    TRY(read_bytes(&r, out->master, sizeof out->master));
    TRY(anchor_config_parse(&r, &out->anchor));
    TRY(master_read_rule(&r, &out->recovery));
    TRY(read_bytes(&r, out->value, sizeof out->value));
    memcpy(out->predecessor, manifest->old, sizeof out->predecessor);
    return master_read_joined(&r, &out->joined, out->domain_key);
}

static struct err open_gift(struct manager *manager, const struct manifest *manifest, struct span message,
                            struct ledger_inheritance *out)
{
    const struct handover *handover = &manager->handover;
    struct reader r = reader_of(message);
    struct side new;
    struct side old;
    struct span bytes;
    struct span sealed;
    uint8_t transcript[SGX_REPORTDATA_SIZE];
    struct sgx_report report;
    TRY(side_read(&r, &old));
    TRY(read_span(&r, SGX_REPORT_SIZE, &bytes));
    TRY(read_span(&r, r.left, &sealed));
    ENSURE(sealed.size <= GIFT_MAX + AEAD_TAG_SIZE, TRAILING);
    memcpy(new.nonce, handover->nonce, sizeof new.nonce);
    memcpy(new.share, handover->own.public, sizeof new.share);
    TRY(gift_data(&manager->crypto, &new, &old, manifest, transcript));
    const struct report_expected expected = {
        .MRENCLAVE = manifest->old, .ISVPRODID = PRODID_MANAGER, .reportdata = transcript};
    TRY(report_verify(&manager->crypto, bytes, &expected, &report));

    struct gift gift DEFER(gift_wipe) = {0};
    size_t size = 0;
    const struct side_session session = {&manager->crypto, &handover->own, old.share, transcript, LABEL};
    TRY(side_open(&session, sealed, gift.bytes, &size));
    return read_gift(span_of(gift.bytes, size), manifest, out);
}

/* The new one believes the manifest too: a manager of somebody's own making could give it a secret that he knows. */
struct err handover_take(struct manager *manager, struct span manifest_bytes, struct span gift,
                         struct ledger_inheritance *out)
{
    struct manifest manifest;
    TRY(open_manifest(&manager->crypto, manifest_bytes, &manifest));
    ENSURE(memcmp(manifest.new, manager->own.MRENCLAVE, sizeof manifest.new) == 0, MANIFEST);
    ENSURE(manifest.security_version == manager_image()->security_version, DOWNGRADE);
    return open_gift(manager, &manifest, gift, out);
}
