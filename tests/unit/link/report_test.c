#include "tests/fakes/assertions.h"

#include <string.h>

#include "abi/call.h"
#include "tests/fakes/peer_pair.h"
#include "trusted/runtime/sgx.h"
#include "trusted/session/report.h"

static struct crypto crypto;
static struct sgx_targetinfo manager;
static const uint8_t reportdata[SGX_REPORTDATA_SIZE] = "what the two agreed on";
static const struct report_expected expected = {
    .MRENCLAVE = fake_instance_mrenclave, .ISVPRODID = PRODID_INSTANCE, .reportdata = reportdata};

/* A REPORT of the instance for the manager, whose turn it is afterwards. */
static struct sgx_report honest(void)
{
    struct sgx_report report;
    become_manager();
    report_own_target(&manager);
    become_instance();
    sgx_ereport(&manager, reportdata, &report);
    become_manager();
    return report;
}

static struct err verify(const struct sgx_report *report)
{
    struct sgx_report out;
    return report_verify(&crypto, span_of(report, SGX_REPORT_SIZE), &expected, &out);
}

static void an_honest_report_verifies(void **state)
{
    (void)state;
    struct sgx_report report = honest(), out;
    assert_ok(report_verify(&crypto, span_of(&report, SGX_REPORT_SIZE), &expected, &out));
    assert_memory_equal(&out, &report, SGX_REPORT_SIZE);
}

static void any_mrenclave_is_accepted_when_none_is_named(void **state)
{
    (void)state;
    struct sgx_report report = honest(), out;
    struct report_expected any = expected;
    any.MRENCLAVE = NULL;
    memset(report.MRENCLAVE, 7, sizeof report.MRENCLAVE);
    fake_report_mac(&manager, &report);
    assert_err(verify(&report), PEER_IDENTITY);
    assert_ok(report_verify(&crypto, span_of(&report, SGX_REPORT_SIZE), &any, &out));
    assert_memory_equal(out.MRENCLAVE, report.MRENCLAVE, sizeof out.MRENCLAVE);
}

static void a_report_has_one_size(void **state)
{
    (void)state;
    struct sgx_report report = honest(), out;
    assert_err(report_verify(&crypto, span_of(&report, SGX_REPORT_SIZE - 1), &expected, &out), TRUNCATED);
    assert_err(report_verify(&crypto, span_of(&report, SGX_REPORT_SIZE + 1), &expected, &out), TRUNCATED);
}

/* The own SVNs of the other end's code and processor and who signed it are not what admission goes by. */
static void versions_and_signer_may_be_any(void **state)
{
    (void)state;
    struct sgx_report report = honest();
    report.ISVSVN = 99;
    memset(report.CPUSVN, 9, sizeof report.CPUSVN);
    memset(report.MRSIGNER, 9, sizeof report.MRSIGNER);
    fake_report_mac(&manager, &report);
    assert_ok(verify(&report));
}

static void each_xfrm_of_our_images_is_accepted(void **state)
{
    (void)state;
    static const uint64_t xfrm[] = {0x3, 0x7, 0xE7};
    for (size_t i = 0; i < 3; i++) {
        struct sgx_report report = honest();
        report.ATTRIBUTES.XFRM = xfrm[i];
        fake_report_mac(&manager, &report);
        assert_ok(verify(&report));
    }
}

static void the_own_target_is_what_a_report_of_ours_says(void **state)
{
    (void)state;
    struct sgx_report report = honest();
    struct sgx_targetinfo own, other;
    become_instance();
    report_own_target(&own);
    report_target_of(&report, &other);
    assert_memory_equal(&own, &other, sizeof own);
    assert_memory_equal(own.MRENCLAVE, fake_instance_mrenclave, SGX_HASH_SIZE);
}

static void a_target_of_ours_is_parsed(void **state)
{
    (void)state;
    struct sgx_targetinfo parsed;
    honest();
    assert_ok(report_parse_target(span_of(&manager, REPORT_TARGET_SIZE), &parsed));
    assert_memory_equal(&parsed, &manager, sizeof parsed);
    assert_err(report_parse_target(span_of(&manager, REPORT_TARGET_SIZE - 1), &parsed), BAD_VALUE);
    assert_err(report_parse_target(span_of(&manager, REPORT_TARGET_SIZE + 1), &parsed), BAD_VALUE);
}

/* Each bit but those of MRENCLAVE: what we never have, the processor is not asked for. */
static void a_target_with_any_other_attribute_is_refused(void **state)
{
    (void)state;
    struct sgx_targetinfo parsed;
    honest();
    for (size_t i = SGX_HASH_SIZE; i < REPORT_TARGET_SIZE; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            uint8_t *byte = (uint8_t *)&manager + i;
            bool avx = i == offsetof(struct sgx_targetinfo, ATTRIBUTES.XFRM) && bit == 2;
            *byte ^= (uint8_t)(1u << bit);
            struct err err = report_parse_target(span_of(&manager, REPORT_TARGET_SIZE), &parsed);
            *byte ^= (uint8_t)(1u << bit);
            assert_int_equal(err.code, avx ? ERR_NONE : ERR_BAD_VALUE);
        }
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_report_verifies),
        cmocka_unit_test(any_mrenclave_is_accepted_when_none_is_named),
        cmocka_unit_test(a_report_has_one_size),
        cmocka_unit_test(versions_and_signer_may_be_any),
        cmocka_unit_test(each_xfrm_of_our_images_is_accepted),
        cmocka_unit_test(the_own_target_is_what_a_report_of_ours_says),
        cmocka_unit_test(a_target_of_ours_is_parsed),
        cmocka_unit_test(a_target_with_any_other_attribute_is_refused),
    };
    return cmocka_run_group_tests_name("report", tests, init, NULL);
}
