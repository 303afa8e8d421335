#include "trusted/ledger/master.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/sgx.h"

_Static_assert(sizeof(struct sgx_keyrequest) == BLOB_KEYREQUEST_SIZE, "a KEYREQUEST is stored whole");

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

void master_wipe(struct master *master)
{
    wipe(master, sizeof *master);
}

struct err master_write_rule(const struct recovery_rule *rule, struct writer *out)
{
    uint8_t *padding = NULL;
    TRY(write_u8(out, rule->threshold));
    TRY(write_u8(out, rule->count));
    return write_zeros(out, 6, &padding);
}

struct err master_read_rule(struct reader *r, struct recovery_rule *out)
{
    struct span padding;
    TRY(read_u8(r, &out->threshold));
    TRY(read_u8(r, &out->count));
    TRY(read_span(r, 6, &padding));
    return recovery_check_rule(out);
}

struct err master_write_joined(bool joined, const uint8_t domain_key[DOMAIN_KEY_SIZE], struct writer *out)
{
    return joined ? write_bytes(out, domain_key, DOMAIN_KEY_SIZE) : OK;
}

struct err master_read_joined(struct reader *r, bool *out_joined, uint8_t out_domain_key[DOMAIN_KEY_SIZE])
{
    *out_joined = r->left > 0;
    if (*out_joined) TRY(read_bytes(r, out_domain_key, DOMAIN_KEY_SIZE));
    return reader_end(r);
}

struct sealed {
    uint8_t bytes[MASTER_SEALED_MAX];
};

static void sealed_wipe(struct sealed *sealed)
{
    wipe(sealed, sizeof *sealed);
}

struct err master_seal(const struct crypto *crypto, const struct sgx_report *own, const struct master *master,
                       struct writer *out)
{
    struct sealed plaintext DEFER(sealed_wipe) = {0};
    struct writer w = writer_of(plaintext.bytes, sizeof plaintext.bytes);
    TRY(write_bytes(&w, master->secret, sizeof master->secret));
    TRY(anchor_config_write(&master->anchor, &w));
    TRY(master_write_rule(&master->recovery, &w));
    TRY(master_write_joined(master->joined, master->domain_key, &w));
    uint8_t KEYID[32];
    entropy_fill(KEYID, sizeof KEYID);
    struct sgx_keyrequest request = key_request(own->CPUSVN, own->ISVSVN, KEYID);
    struct root_key root DEFER(root_key_wipe) = {0};
    TRY(sgx_egetkey(&request, root.bytes));
    struct blob_header header = {.kind = BLOB_MASTER, .id = master->domain};
    memcpy(header.manager, own->MRENCLAVE, sizeof header.manager);
    return blob_seal(crypto, span_of(root.bytes, sizeof root.bytes), &header, span_of(&request, sizeof request),
                     writer_span(&w), out);
}

/*
 * Only KEYID and the security versions may differ from what this enclave would ask for, and a version above its own was
 * never asked for by this image: EGETKEY refuses that too, but with a code that the host would read as a fault.
 */
static struct err check_request(const struct sgx_keyrequest *theirs, const struct sgx_report *own)
{
    struct sgx_keyrequest expected = key_request(theirs->CPUSVN, theirs->ISVSVN, theirs->KEYID);
    ENSURE(memcmp(theirs, &expected, sizeof expected) == 0, STATE_ALTERED);
    ENSURE(theirs->ISVSVN <= own->ISVSVN, STATE_ALTERED);
    return OK;
}

struct err master_open(const struct crypto *crypto, const struct sgx_report *own, struct span blob, struct master *out)
{
    struct blob_header header;
    TRY(blob_peek(blob, BLOB_MASTER, &header));
    ENSURE(memcmp(header.manager, own->MRENCLAVE, sizeof header.manager) == 0, LEDGER_OTHER_IMAGE);
    struct sgx_keyrequest request;
    memcpy(&request, blob_keyrequest(blob).data, sizeof request);
    TRY(check_request(&request, own));

    struct root_key root DEFER(root_key_wipe) = {0};
    struct err derived = sgx_egetkey(&request, root.bytes);
    ENSURE(derived.code != ERR_SGX_CPUSVN, STATE_OTHER_DEVICE);
    TRY(derived);
    struct blob master DEFER(blob_free) = {0};
    TRY(blob_open(crypto, span_of(root.bytes, sizeof root.bytes), blob, BLOB_MASTER, &master));
    struct reader r = reader_of(span_of(master.plaintext, master.plaintext_size));
    out->domain = master.header.id;
    TRY(read_bytes(&r, out->secret, sizeof out->secret));
    TRY(anchor_config_parse(&r, &out->anchor));
    TRY(master_read_rule(&r, &out->recovery));
    return master_read_joined(&r, &out->joined, out->domain_key);
}
