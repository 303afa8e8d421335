/* EREPORT and EGETKEY through the gate: right answers, every register kept, and the faults of wrong operands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/hostile/device/probe.h"
#include "tests/hostile/device/rig.h"
#include "untrusted/cpu/processor.h"

static struct rig rig;

static int set_up(void **state)
{
    (void)state;
    rig_start(&rig);
    rig_open(&rig);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&rig);
    return 0;
}

/* What the probe takes for EREPORT, in one piece. */
struct ereport_input {
    struct sgx_targetinfo target;
    uint8_t reportdata[SGX_REPORTDATA_SIZE];
};

/* rig.device's own REPORT, for itself if target is NULL. */
static void report_for(const struct sgx_targetinfo *target, struct sgx_report *out)
{
    struct ereport_input input = {0};
    if (target) input.target = *target;
    memset(input.reportdata, 0xD1, sizeof input.reportdata);
    assert_int_equal(rig_call(&rig, PROBE_EREPORT, (uint64_t)&input, (uint64_t)out, 0, 0) & 0xFFFFFFFF, 0);
}

static void target_of(const struct sgx_report *report, struct sgx_targetinfo *out)
{
    *out = (struct sgx_targetinfo){.ATTRIBUTES = report->ATTRIBUTES, .MISCSELECT = report->MISCSELECT};
    memcpy(out->MRENCLAVE, report->MRENCLAVE, sizeof out->MRENCLAVE);
}

static uint64_t get_key(const struct sgx_keyrequest *request, uint8_t key[SGX_KEY_SIZE])
{
    return rig_call(&rig, PROBE_EGETKEY, (uint64_t)request, (uint64_t)key, 0, 0);
}

static void report_names_the_measured_identity(void **state)
{
    (void)state;
    struct sgx_report report = {0};
    report_for(NULL, &report);
    assert_memory_equal(report.MRENCLAVE, rig.image.signatures[0].ENCLAVEHASH, SGX_HASH_SIZE);
    assert_int_equal(report.ISVPRODID, 77);
    assert_int_equal(report.ISVSVN, 3);
    assert_int_equal(report.ATTRIBUTES.FLAGS, SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT);
    assert_memory_equal(report.CPUSVN, processor_cpusvn, sizeof report.CPUSVN);
    assert_int_equal(report.REPORTDATA[63], 0xD1);
}

/* Row E1: anybody may sign, and whoever reads the report sees who did. */
static void another_signer_is_in_the_report(void **state)
{
    (void)state;
    const char *path = rig_image_path;
    struct sgx_report report = {0}, other = {0};
    report_for(NULL, &report);
    rig_stop(&rig);
    rig_image_path = rig_other_image_path;
    rig_start(&rig);
    rig_open(&rig);
    rig_image_path = path;
    report_for(NULL, &other);
    assert_memory_equal(report.MRENCLAVE, other.MRENCLAVE, SGX_HASH_SIZE);
    assert_memory_not_equal(report.MRSIGNER, other.MRSIGNER, SGX_HASH_SIZE);
}

static void report_verifies_in_its_target_only(void **state)
{
    (void)state;
    struct sgx_report first = {0}, report = {0};
    struct sgx_targetinfo target;
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_REPORT};
    uint8_t key[SGX_KEY_SIZE], mac[16];
    report_for(NULL, &first);
    target_of(&first, &target);
    report_for(&target, &report);
    memcpy(request.KEYID, report.KEYID, sizeof request.KEYID);
    assert_int_equal(get_key(&request, key), 0);
    assert_int_equal(processor_cmac(key, &report, SGX_REPORT_BODY_SIZE, mac).code, 0);
    assert_memory_equal(mac, report.MAC, sizeof mac);
    assert_int_equal(processor_cmac(key, &first, SGX_REPORT_BODY_SIZE, mac).code, 0);
    assert_memory_not_equal(mac, first.MAC, sizeof mac); /* made for nobody */
}

static void seal_key(uint8_t keyid, uint8_t out_key[SGX_KEY_SIZE])
{
    struct sgx_keyrequest request = {
        .KEYNAME = SGX_KEYNAME_SEAL, .KEYPOLICY = SGX_KEYPOLICY_MRENCLAVE, .ISVSVN = 3, .KEYID = {keyid}};
    memcpy(request.CPUSVN, processor_cpusvn, sizeof request.CPUSVN);
    assert_int_equal(get_key(&request, out_key), 0);
}

static void seal_key_is_stable_and_depends_on_the_request(void **state)
{
    (void)state;
    uint8_t first[SGX_KEY_SIZE], again[SGX_KEY_SIZE], other[SGX_KEY_SIZE];
    seal_key(1, first);
    rig.device->ops->destroy(rig.device);
    rig_open(&rig);
    seal_key(1, again);
    seal_key(2, other);
    assert_memory_equal(first, again, SGX_KEY_SIZE);
    assert_memory_not_equal(first, other, SGX_KEY_SIZE);
}

static void refusal_sets_zf_and_leaves_the_key_alone(void **state)
{
    (void)state;
    uint8_t key[SGX_KEY_SIZE], untouched[SGX_KEY_SIZE];
    memset(untouched, 0xEE, sizeof untouched); /* the probe fills its buffer with it first */
    struct sgx_keyrequest request = {.KEYNAME = 9};
    uint64_t zf = UINT64_C(1) << 32;
    assert_int_equal(get_key(&request, key), zf | SGX_INVALID_KEYNAME);
    assert_memory_equal(key, untouched, sizeof key);
    request = (struct sgx_keyrequest){.KEYNAME = SGX_KEYNAME_PROVISION};
    assert_int_equal(get_key(&request, key), zf | SGX_INVALID_ATTRIBUTE);
    request = (struct sgx_keyrequest){.KEYNAME = SGX_KEYNAME_SEAL, .CPUSVN = {0xFF}};
    assert_int_equal(get_key(&request, key), zf | SGX_INVALID_CPUSVN);
    memcpy(request.CPUSVN, processor_cpusvn, sizeof request.CPUSVN);
    request.ISVSVN = 4;
    assert_int_equal(get_key(&request, key), zf | SGX_INVALID_ISVSVN);
}

static void leaf_keeps_every_register(void **state)
{
    (void)state;
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_REPORT};
    assert_int_equal(rig_call(&rig, PROBE_PRESERVE, (uint64_t)&request, 0, 0, 0), 0);
}

static void reserved_bits_fault(void **state)
{
    (void)state;
    struct device_run run;
    uint8_t key[SGX_KEY_SIZE];
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_SEAL, .KEYPOLICY = SGX_KEYPOLICY_CONFIGID};
    assert_int_equal(rig_enter(&rig, PROBE_EGETKEY, (uint64_t)&request, (uint64_t)key, &run).code, 0);
    assert_int_equal(run.function, SGX_ERESUME);
    assert_int_equal(run.exception_vector, 13);
}

struct operands {
    uint64_t leaf, rbx, rcx, rdx;
    uint16_t vector;
};

static void expect_fault(const struct operands *operands)
{
    struct device_run run = {
        .rdi = PROBE_LEAF, .rsi = operands->leaf, .rdx = operands->rbx, .r8 = operands->rcx, .r9 = operands->rdx};
    assert_int_equal(rig.device->ops->enter(rig.device, rig.tcs_offset, &run).code, 0);
    assert_int_equal(run.function, SGX_ERESUME);
    assert_int_equal(run.exception_vector, operands->vector);
    rig.device->ops->destroy(rig.device);
    rig_open(&rig);
}

/* Addresses are relative to the place that base names, as every new enclave lies elsewhere. */
static void wrong_operands_fault(void **state)
{
    (void)state;
    static _Alignas(512) uint8_t outside[512];
    enum { BUFFER, CODE, GUARD, TCS, OUTSIDE };
    static const struct {
        uint64_t leaf;
        int rbx_place;
        uint64_t rbx;
        int rcx_place;
        uint64_t rcx;
        uint16_t vector;
    } cases[] = {
        {SGX_EGETKEY, BUFFER, 1, BUFFER, 512, 13},
        {SGX_EGETKEY, BUFFER, 256, BUFFER, 512, 13},
        {SGX_EGETKEY, BUFFER, 0, BUFFER, 513, 13},
        {SGX_EGETKEY, OUTSIDE, 0, BUFFER, 512, 13},
        {SGX_EGETKEY, BUFFER, 0, OUTSIDE, 0, 13},
        {SGX_EGETKEY, GUARD, 0, BUFFER, 0, 14},
        {SGX_EGETKEY, TCS, 0, BUFFER, 0, 14},
        {SGX_EGETKEY, BUFFER, 0, CODE, 0, 14},
        {SGX_EREPORT, BUFFER, 0, BUFFER, 64, 13},
        {SGX_EREPORT, TCS, 0, BUFFER, 0, 14},
        {SGX_EENTER, BUFFER, 0, BUFFER, 0, 13},
        {SGX_ERESUME, BUFFER, 0, BUFFER, 0, 13},
        {5, BUFFER, 0, BUFFER, 0, 13},
        {0x80000001, BUFFER, 0, BUFFER, 512, 13},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t place[] = {
            [BUFFER] = rig_call(&rig, PROBE_ADDRESS, PLACE_BUFFER, 0, 0, 0),
            [CODE] = rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0),
            [GUARD] = rig_call(&rig, PROBE_ADDRESS, PLACE_GUARD, 0, 0, 0),
            [TCS] = rig_call(&rig, PROBE_ADDRESS, PLACE_TCS, 0, 0, 0),
            [OUTSIDE] = (uint64_t)outside,
        };
        struct operands operands = {.leaf = cases[i].leaf,
                                    .rbx = place[cases[i].rbx_place] + cases[i].rbx,
                                    .rcx = place[cases[i].rcx_place] + cases[i].rcx,
                                    .rdx = place[BUFFER] + 1024,
                                    .vector = cases[i].vector};
        expect_fault(&operands);
    }
}

static void without_a_processor_there_is_no_key(void **state)
{
    (void)state;
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_REPORT};
    uint8_t key[SGX_KEY_SIZE] = {0};
    struct device_run run;
    assert_int_equal(get_key(&request, key) & 0xFFFFFFFF, 0);
    rig.device->ops->release_processor(rig.device);
    assert_int_equal(rig_enter(&rig, PROBE_EGETKEY, (uint64_t)&request, (uint64_t)key, &run).code, 0);
    assert_int_equal(run.function, SGX_ERESUME);
    assert_int_equal(run.exception_vector, 13); /* #GP */
    assert_int_equal(rig_enter(&rig, PROBE_EGETKEY, (uint64_t)&request, (uint64_t)key, &run).code, ERR_SGX_FAULT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    rig_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(report_names_the_measured_identity),
        TEST(another_signer_is_in_the_report),
        TEST(report_verifies_in_its_target_only),
        TEST(seal_key_is_stable_and_depends_on_the_request),
        TEST(refusal_sets_zf_and_leaves_the_key_alone),
        TEST(leaf_keeps_every_register),
        TEST(reserved_bits_fault),
        TEST(wrong_operands_fault),
        /* from here on of the software device alone */
        TEST(without_a_processor_there_is_no_key),
    };
    const size_t count = rig_is_sgx ? 8 : sizeof tests / sizeof *tests;
    return _cmocka_run_group_tests("leaf", tests, count, NULL, NULL);
}
