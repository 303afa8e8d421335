/* The processor model: every input of every key matters, every rule of ECREATE and EADD is enforced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "untrusted/cpu/processor.h"

#define XCR0 UINT64_C(0xE7)

static struct processor processor;
static struct processor_enclave enclave; /* as after EINIT */
static struct sgx_keyrequest request;

static int set_up(void **state)
{
    (void)state;
    static const uint8_t secret[PROCESSOR_SECRET_SIZE] = {1, 2, 3};
    static const uint8_t keyid[32] = {9, 9, 9};
    assert_int_equal(processor_start(&processor, secret, keyid).code, 0);
    memset(&enclave, 0, sizeof enclave);
    enclave.secs.ATTRIBUTES = (struct sgx_attributes){
        .FLAGS = SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT | SGX_FLAGS_PROVISIONKEY | SGX_FLAGS_EINITTOKENKEY, .XFRM = 7};
    enclave.secs.MISCSELECT = 1;
    memset(enclave.secs.MRENCLAVE, 0x11, SGX_HASH_SIZE);
    memset(enclave.secs.MRSIGNER, 0x22, SGX_HASH_SIZE);
    enclave.secs.ISVPRODID = 5;
    enclave.secs.ISVSVN = 4;
    request = (struct sgx_keyrequest){.KEYNAME = SGX_KEYNAME_SEAL,
                                      .KEYPOLICY = SGX_KEYPOLICY_MRENCLAVE | SGX_KEYPOLICY_MRSIGNER,
                                      .ISVSVN = 4,
                                      .ATTRIBUTEMASK = {.FLAGS = UINT64_MAX, .XFRM = UINT64_MAX},
                                      .MISCMASK = UINT32_MAX,
                                      .KEYID = {7}};
    memcpy(request.CPUSVN, processor_cpusvn, sizeof request.CPUSVN);
    return 0;
}

static void get_key(uint8_t key[SGX_KEY_SIZE])
{
    uint32_t rax = 99;
    assert_int_equal(processor_egetkey(&processor, &enclave, &request, &rax, key).code, 0);
    assert_int_equal(rax, 0);
}

/* One input of a key: where it is, which bit is flipped, and which keys it goes into. */
enum { IN_TOKEN = 1, IN_PROVISION = 2, IN_PROVISION_SEAL = 4, IN_REPORT = 8, IN_SEAL = 16, IN_ALL = 31 };

struct input {
    const char *name;
    uint8_t *byte;
    uint8_t flip;
    int keys;
};

static const uint16_t keynames[] = {SGX_KEYNAME_EINITTOKEN, SGX_KEYNAME_PROVISION, SGX_KEYNAME_PROVISION_SEAL,
                                    SGX_KEYNAME_REPORT, SGX_KEYNAME_SEAL};

#define BYTE(object) ((uint8_t *)&(object))

/* The rows of the SDM's table "Key derivation". The masks keep XFRM's bit 2 and MISCSELECT's bit 0 in. */
static const struct input inputs[] = {
    {"seal fuses", processor.seal_fuses, 1, IN_TOKEN | IN_PROVISION_SEAL | IN_REPORT | IN_SEAL},
    {"provision fuses", processor.provision_fuses, 1, IN_PROVISION},
    {"MRENCLAVE", enclave.secs.MRENCLAVE, 1, IN_REPORT | IN_SEAL},
    {"MRSIGNER", enclave.secs.MRSIGNER, 1, IN_TOKEN | IN_PROVISION | IN_PROVISION_SEAL | IN_SEAL},
    {"ISVPRODID", BYTE(enclave.secs.ISVPRODID), 1, IN_ALL & ~IN_REPORT},
    {"ISVSVN", BYTE(request.ISVSVN), 4, IN_ALL & ~IN_REPORT},
    {"XFRM", BYTE(enclave.secs.ATTRIBUTES.XFRM), 4, IN_ALL},
    {"DEBUG", BYTE(enclave.secs.ATTRIBUTES.FLAGS), 2, IN_ALL},
    {"ATTRIBUTEMASK of a clear bit", BYTE(request.ATTRIBUTEMASK.FLAGS) + 7, 1,
     IN_PROVISION | IN_PROVISION_SEAL | IN_SEAL},
    {"ATTRIBUTEMASK of XFRM", BYTE(request.ATTRIBUTEMASK.XFRM) + 7, 1, IN_PROVISION | IN_PROVISION_SEAL | IN_SEAL},
    {"MISCSELECT", BYTE(enclave.secs.MISCSELECT), 1, IN_ALL},
    {"MISCMASK of a clear bit", BYTE(request.MISCMASK) + 3, 1, IN_PROVISION | IN_PROVISION_SEAL | IN_SEAL},
    {"KEYID", request.KEYID, 1, IN_TOKEN | IN_REPORT | IN_SEAL},
    {"KEYPOLICY", BYTE(request.KEYPOLICY), SGX_KEYPOLICY_NOISVPRODID, IN_PROVISION_SEAL | IN_SEAL},
    {"KEYPOLICY MRENCLAVE", BYTE(request.KEYPOLICY), SGX_KEYPOLICY_MRENCLAVE, IN_PROVISION_SEAL | IN_SEAL},
    {"report KEYID", processor.report_keyid, 1, 0},
};

static void each_input_of_each_key_matters(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof keynames / sizeof *keynames; k++)
        for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
            uint8_t before[SGX_KEY_SIZE], after[SGX_KEY_SIZE];
            request.KEYNAME = keynames[k];
            get_key(before);
            *inputs[i].byte ^= inputs[i].flip;
            get_key(after);
            *inputs[i].byte ^= inputs[i].flip;
            bool changed = memcmp(before, after, sizeof before) != 0;
            if (changed != ((inputs[i].keys >> k & 1) != 0))
                fail_msg("key %u and %s: changed is %d", keynames[k], inputs[i].name, changed);
        }
}

static void keys_of_different_names_differ(void **state)
{
    (void)state;
    uint8_t keys[5][SGX_KEY_SIZE];
    for (size_t k = 0; k < 5; k++) {
        request.KEYNAME = keynames[k];
        get_key(keys[k]);
        for (size_t other = 0; other < k; other++)
            assert_memory_not_equal(keys[k], keys[other], SGX_KEY_SIZE);
    }
}

static void debug_goes_into_a_key_whatever_the_mask(void **state)
{
    (void)state;
    uint8_t before[SGX_KEY_SIZE], after[SGX_KEY_SIZE];
    request.ATTRIBUTEMASK.FLAGS = 0;
    get_key(before);
    enclave.secs.ATTRIBUTES.FLAGS |= SGX_FLAGS_DEBUG;
    get_key(after);
    assert_memory_not_equal(before, after, SGX_KEY_SIZE);
}

static void masked_attributes_do_not_matter(void **state)
{
    (void)state;
    uint8_t before[SGX_KEY_SIZE], after[SGX_KEY_SIZE];
    request.ATTRIBUTEMASK = (struct sgx_attributes){0};
    request.MISCMASK = 0;
    get_key(before);
    enclave.secs.ATTRIBUTES.XFRM = 3;
    enclave.secs.MISCSELECT = 0;
    get_key(after);
    assert_memory_equal(before, after, SGX_KEY_SIZE);
}

/* The encoding of keys.c, recomputed independently: HMAC-SHA-256 with Python's hmac and hashlib. */
static void seal_key_is_the_documented_one(void **state)
{
    (void)state;
    static const uint8_t expected[SGX_KEY_SIZE] = {0x9a, 0xe9, 0xe9, 0xe7, 0x75, 0x1d, 0x70, 0xdf,
                                                   0x37, 0x37, 0x59, 0x0b, 0x1c, 0x88, 0x30, 0x86};
    uint8_t key[SGX_KEY_SIZE];
    get_key(key);
    assert_memory_equal(key, expected, sizeof key);
}

static uint32_t refusal(void)
{
    static const uint8_t untouched[SGX_KEY_SIZE] = {0};
    uint8_t key[SGX_KEY_SIZE] = {0};
    uint32_t rax = 0;
    assert_int_equal(processor_egetkey(&processor, &enclave, &request, &rax, key).code, 0);
    assert_memory_equal(key, untouched, sizeof key);
    return rax;
}

static void error_codes_are_those_of_egetkey(void **state)
{
    (void)state;
    request.KEYNAME = 5;
    assert_int_equal(refusal(), SGX_INVALID_KEYNAME);
    request.KEYNAME = SGX_KEYNAME_SEAL;
    request.ISVSVN = 5;
    assert_int_equal(refusal(), SGX_INVALID_ISVSVN);
    request.ISVSVN = 4;
    request.CPUSVN[15] ^= 1;
    assert_int_equal(refusal(), SGX_INVALID_CPUSVN);
    enclave.secs.ATTRIBUTES.FLAGS = SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT;
    for (uint16_t name = SGX_KEYNAME_EINITTOKEN; name <= SGX_KEYNAME_PROVISION_SEAL; name++) {
        request.KEYNAME = name;
        assert_int_equal(refusal(), SGX_INVALID_ATTRIBUTE);
    }
}

static bool faults(void)
{
    uint8_t key[SGX_KEY_SIZE];
    uint32_t rax = 0;
    return processor_egetkey(&processor, &enclave, &request, &rax, key).code == ERR_SGX_FAULT;
}

static void reserved_fields_of_a_keyrequest_fault(void **state)
{
    (void)state;
    static const struct {
        uint8_t *byte;
        uint8_t flip;
    } reserved[] = {
        {BYTE(request.reserved1), 1},    {BYTE(request.reserved1) + 1, 0x80},
        {request.reserved2, 1},          {request.reserved2 + 433, 0x80},
        {BYTE(request.CONFIGSVN), 1},    {BYTE(request.KEYPOLICY), SGX_KEYPOLICY_CONFIGID},
        {BYTE(request.KEYPOLICY), 0x10}, {BYTE(request.KEYPOLICY), 0x20},
        {BYTE(request.KEYPOLICY), 0x40}, {BYTE(request.KEYPOLICY) + 1, 0x80},
    };
    assert_false(faults());
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
        *reserved[i].byte ^= reserved[i].flip;
        assert_true(faults());
        *reserved[i].byte ^= reserved[i].flip;
    }
}

static void report_verifies_with_the_targets_report_key(void **state)
{
    (void)state;
    static const uint8_t reportdata[SGX_REPORTDATA_SIZE] = {0xD0};
    struct sgx_targetinfo target = {.ATTRIBUTES = {.FLAGS = 5, .XFRM = 3}};
    struct sgx_report report;
    uint8_t key[SGX_KEY_SIZE], mac[16];
    memset(target.MRENCLAVE, 0x77, sizeof target.MRENCLAVE);
    assert_int_equal(processor_ereport(&processor, &enclave, &target, reportdata, (uint8_t *)&report).code, 0);
    assert_memory_equal(report.KEYID, processor.report_keyid, sizeof report.KEYID);
    enclave.secs.ATTRIBUTES = target.ATTRIBUTES; /* now be the target */
    enclave.secs.MISCSELECT = 0;
    memset(enclave.secs.MRENCLAVE, 0x77, SGX_HASH_SIZE);
    request = (struct sgx_keyrequest){.KEYNAME = SGX_KEYNAME_REPORT};
    memcpy(request.KEYID, report.KEYID, sizeof request.KEYID);
    get_key(key);
    assert_int_equal(processor_cmac(key, &report, SGX_REPORT_BODY_SIZE, mac).code, 0);
    assert_memory_equal(mac, report.MAC, sizeof mac);
}

static void reserved_fields_of_a_targetinfo_fault(void **state)
{
    (void)state;
    static struct sgx_targetinfo target;
    static uint8_t *const reserved[] = {&target.CET_ATTRIBUTES, &target.reserved1,   BYTE(target.CONFIGSVN),
                                        target.reserved2 + 7,   target.CONFIGID + 9, target.reserved3 + 383};
    uint8_t reportdata[SGX_REPORTDATA_SIZE] = {0}, report[SGX_REPORT_SIZE];
    assert_int_equal(processor_ereport(&processor, &enclave, &target, reportdata, report).code, 0);
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
        *reserved[i] ^= 1;
        assert_int_equal(processor_ereport(&processor, &enclave, &target, reportdata, report).code, ERR_SGX_FAULT);
        *reserved[i] ^= 1;
    }
}

/* RFC 4493, 4: examples 1 to 4 */
static void cmac_is_that_of_rfc_4493(void **state)
{
    (void)state;
    static const uint8_t key[16] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6,
                                    0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c};
    static const uint8_t text[64] = {0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73,
                                     0x93, 0x17, 0x2a, 0xae, 0x2d, 0x8a, 0x57, 0x1e, 0x03, 0xac, 0x9c, 0x9e, 0xb7,
                                     0x6f, 0xac, 0x45, 0xaf, 0x8e, 0x51, 0x30, 0xc8, 0x1c, 0x46, 0xa3, 0x5c, 0xe4,
                                     0x11, 0xe5, 0xfb, 0xc1, 0x19, 0x1a, 0x0a, 0x52, 0xef, 0xf6, 0x9f, 0x24, 0x45,
                                     0xdf, 0x4f, 0x9b, 0x17, 0xad, 0x2b, 0x41, 0x7b, 0xe6, 0x6c, 0x37, 0x10};
    static const struct {
        size_t size;
        uint8_t mac[16];
    } examples[] = {
        {0, {0xbb, 0x1d, 0x69, 0x29, 0xe9, 0x59, 0x37, 0x28, 0x7f, 0xa3, 0x7d, 0x12, 0x9b, 0x75, 0x67, 0x46}},
        {16, {0x07, 0x0a, 0x16, 0xb4, 0x6b, 0x4d, 0x41, 0x44, 0xf7, 0x9b, 0xdd, 0x9d, 0xd0, 0x4a, 0x28, 0x7c}},
        {40, {0xdf, 0xa6, 0x67, 0x47, 0xde, 0x9a, 0xe6, 0x30, 0x30, 0xca, 0x32, 0x61, 0x14, 0x97, 0xc8, 0x27}},
        {64, {0x51, 0xf0, 0xbe, 0xbf, 0x7e, 0x3b, 0x9d, 0x92, 0xfc, 0x49, 0x74, 0x17, 0x79, 0x36, 0x3c, 0xfe}},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        uint8_t mac[16];
        assert_int_equal(processor_cmac(key, text, examples[i].size, mac).code, 0);
        assert_memory_equal(mac, examples[i].mac, sizeof mac);
    }
}

static struct sgx_secs good_secs(void)
{
    return (struct sgx_secs){.SIZE = 0x10000,
                             .BASEADDR = 0x7F0000000000,
                             .SSAFRAMESIZE = 1,
                             .ATTRIBUTES = {.FLAGS = SGX_FLAGS_MODE64BIT, .XFRM = 3}};
}

static uint16_t ecreate(const struct sgx_secs *secs)
{
    struct processor_enclave made = {0};
    struct err result = processor_ecreate(&made, secs, XCR0);
    processor_enclave_close(&made);
    return result.code;
}

static void ecreate_takes_a_good_secs(void **state)
{
    (void)state;
    struct sgx_secs secs = good_secs();
    assert_int_equal(ecreate(&secs), 0);
    secs.ATTRIBUTES.FLAGS |= SGX_FLAGS_DEBUG;
    assert_int_equal(ecreate(&secs), 0);
}

#define EXPECT_REFUSED(change, expected)                                                                               \
    do {                                                                                                               \
        struct sgx_secs secs = good_secs();                                                                            \
        change;                                                                                                        \
        assert_int_equal(ecreate(&secs), ERR_##expected);                                                              \
    } while (0)

static void ecreate_refuses_sizes_and_addresses(void **state)
{
    (void)state;
    EXPECT_REFUSED(secs.SIZE = 0x1000, SGX_SECS);
    EXPECT_REFUSED(secs.SIZE = 0x11000, SGX_SECS);
    EXPECT_REFUSED(secs.SIZE = 0, SGX_SECS);
    EXPECT_REFUSED(secs.SIZE = UINT64_C(1) << 31, TOO_LARGE);
    EXPECT_REFUSED(secs.BASEADDR += 0x1000, SGX_SECS);
    EXPECT_REFUSED(secs.BASEADDR = UINT64_C(1) << 47, SGX_SECS);
    EXPECT_REFUSED(secs.SSAFRAMESIZE = 0, SGX_SECS);
    EXPECT_REFUSED(secs.SSAFRAMESIZE = UINT32_MAX, SGX_SECS);
}

static void ecreate_refuses_attributes(void **state)
{
    (void)state;
    EXPECT_REFUSED(secs.ATTRIBUTES.FLAGS = 0, SGX_SECS);
    for (unsigned int bit = 0; bit < 64; bit++)
        if (bit != 1 && bit != 2) EXPECT_REFUSED(secs.ATTRIBUTES.FLAGS |= UINT64_C(1) << bit, SGX_SECS);
    static const uint64_t xfrm[] = {0, 1, 2, 3 | 0x18, 3 | 0x20, 7 | 0x20, 3 | 0xE0, 3 | 0x200, 3 | UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof xfrm / sizeof *xfrm; i++)
        EXPECT_REFUSED(secs.ATTRIBUTES.XFRM = xfrm[i], SGX_SECS);
    EXPECT_REFUSED(secs.MISCSELECT = 2, SGX_SECS);
}

static void ecreate_refuses_reserved_fields(void **state)
{
    (void)state;
    EXPECT_REFUSED(secs.CET_LEG_BITMAP_OFFSET = 1, SGX_SECS);
    EXPECT_REFUSED(secs.CET_ATTRIBUTES = 1, SGX_SECS);
    EXPECT_REFUSED(secs.reserved1[14] = 1, SGX_SECS);
    EXPECT_REFUSED(secs.reserved2[31] = 1, SGX_SECS);
    EXPECT_REFUSED(secs.reserved3[0] = 1, SGX_SECS);
    EXPECT_REFUSED(secs.reserved4[3833] = 1, SGX_SECS);
    EXPECT_REFUSED(secs.CONFIGID[0] = 1, SGX_SECS);
    EXPECT_REFUSED(secs.CONFIGSVN = 1, SGX_SECS);
}

static uint16_t eadd_tcs(const struct sgx_tcs *tcs)
{
    struct processor_enclave made = {0};
    struct sgx_secs secs = good_secs();
    struct sgx_secinfo secinfo = {.FLAGS = SGX_SECINFO_TCS};
    assert_int_equal(processor_ecreate(&made, &secs, XCR0).code, 0);
    struct err result = processor_eadd(&made, 0, &secinfo, (const uint8_t *)tcs);
    processor_enclave_close(&made);
    return result.code;
}

static void eadd_refuses_what_it_would_have_to_clear_in_a_tcs(void **state)
{
    (void)state;
    static struct sgx_tcs tcs = {.NSSA = 1, .OSSA = 0x2000};
    static uint8_t *const wrong[] = {BYTE(tcs.STATE), BYTE(tcs.FLAGS),       BYTE(tcs.CSSA),      BYTE(tcs.AEP),
                                     BYTE(tcs.OSSA),  BYTE(tcs.OFSBASE),     BYTE(tcs.OGSBASE),   tcs.reserved + 4023,
                                     BYTE(tcs.NSSA),  BYTE(tcs.OFSBASE) + 7, BYTE(tcs.OENTRY) + 7};
    assert_int_equal(eadd_tcs(&tcs), 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        *wrong[i] ^= 1;
        assert_int_equal(eadd_tcs(&tcs), ERR_SGX_SECINFO);
        *wrong[i] ^= 1;
    }
}

static void eadd_stops_when_the_epc_is_full(void **state)
{
    (void)state;
    struct processor_enclave made = {0};
    struct sgx_secs secs = good_secs();
    struct sgx_secinfo secinfo = {.FLAGS = SGX_SECINFO_REG | SGX_SECINFO_R};
    secs.SIZE = 2 * PROCESSOR_EPC_MAX;
    assert_int_equal(processor_ecreate(&made, &secs, XCR0).code, 0);
    for (uint64_t offset = 0; offset < PROCESSOR_EPC_MAX; offset += SGX_PAGE_SIZE)
        assert_int_equal(processor_eadd(&made, offset, &secinfo, NULL).code, 0);
    assert_int_equal(processor_eadd(&made, PROCESSOR_EPC_MAX, &secinfo, NULL).code, ERR_TOO_LARGE);
    processor_enclave_close(&made);
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_input_of_each_key_matters),
        TEST(keys_of_different_names_differ),
        TEST(debug_goes_into_a_key_whatever_the_mask),
        TEST(masked_attributes_do_not_matter),
        TEST(seal_key_is_the_documented_one),
        TEST(error_codes_are_those_of_egetkey),
        TEST(reserved_fields_of_a_keyrequest_fault),
        TEST(report_verifies_with_the_targets_report_key),
        TEST(reserved_fields_of_a_targetinfo_fault),
        TEST(cmac_is_that_of_rfc_4493),
        TEST(ecreate_takes_a_good_secs),
        TEST(ecreate_refuses_sizes_and_addresses),
        TEST(ecreate_refuses_attributes),
        TEST(ecreate_refuses_reserved_fields),
        TEST(eadd_refuses_what_it_would_have_to_clear_in_a_tcs),
        TEST(eadd_stops_when_the_epc_is_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
