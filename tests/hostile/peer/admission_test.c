/*
 * E2: somebody who is not the instance enclave that the manager expects asks it for keys, or somebody who is not the
 * manager admits an instance. The host carries, alters, replays and makes up messages, and owns other enclaves.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "abi/call.h"
#include "tests/fakes/peer_pair.h"
#include "trusted/runtime/sgx.h"
#include "trusted/session/report.h"

#define PROOF_REPORT (4u + PEER_NONCE_SIZE + X25519_SIZE + ED25519_PUBLIC_SIZE) /* where it begins */
#define ADMIT_REPORT 4u

static struct peer_pair pair, other;

static int init_pair(void **state)
{
    (void)state;
    fake_runtime_reset();
    peer_pair_init(&pair);
    peer_pair_init(&other);
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    peer_pair_close(&pair);
    peer_pair_close(&other);
    return 0;
}

/* CHALLENGE and PROOF of an honest instance. */
static void prove(struct peer_pair *p)
{
    assert_ok(peer_pair_challenge(p));
    assert_ok(peer_pair_prove(p));
}

static void admit(struct peer_pair *p)
{
    prove(p);
    assert_ok(peer_pair_check_proof(p));
    assert_ok(peer_pair_admit(p));
}

static void assert_nothing_left(struct peer *peer)
{
    static const struct peer zeros;
    struct writer w = writer_of(pair.bytes[5], PEER_MESSAGE_MAX);
    assert_memory_equal(peer, &zeros, sizeof zeros);
    assert_err(peer_send(peer, PEER_PROVISION, span_empty(), &w), LINK_CLOSED);
}

/* The manager refuses the proof, and this session admits nobody afterwards. */
#define ASSERT_NOT_ADMITTED(name)                                                                                      \
    do {                                                                                                               \
        assert_err(peer_pair_check_proof(&pair), name);                                                                \
        assert_nothing_left(&pair.manager);                                                                            \
        assert_err(peer_pair_admit(&pair), LINK_ORDER);                                                                \
    } while (0)

#define ASSERT_ADMISSION_REFUSED(name)                                                                                 \
    do {                                                                                                               \
        assert_err(peer_pair_check_admission(&pair), name);                                                            \
        assert_nothing_left(&pair.instance);                                                                           \
    } while (0)

static struct sgx_report report_in(const struct writer *message, size_t offset)
{
    struct sgx_report report = {0};
    memcpy(&report, message->start + offset, SGX_REPORT_SIZE);
    return report;
}

static void put_report(struct writer *message, size_t offset, const struct sgx_report *report)
{
    memcpy(message->start + offset, report, SGX_REPORT_SIZE);
}

static void who_is_no_enclave_is_not_admitted(void **state)
{
    (void)state;
    prove(&pair);
    struct sgx_report report = report_in(&pair.proof, PROOF_REPORT);
    memset(report.MAC, 0, sizeof report.MAC); /* it knows everything but the REPORT key */
    put_report(&pair.proof, PROOF_REPORT, &report);
    ASSERT_NOT_ADMITTED(PEER_REPORT);
}

static void an_enclave_of_another_processor_is_not_admitted(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    fake_processor.secret[0] ^= 1;
    assert_ok(peer_pair_prove(&pair));
    fake_processor.secret[0] ^= 1;
    ASSERT_NOT_ADMITTED(PEER_REPORT);
}

static void a_report_for_another_target_is_not_admitted(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    pair.challenge.start[4] ^= 1; /* MRENCLAVE in the TARGETINFO that the host carries */
    assert_ok(peer_pair_prove(&pair));
    ASSERT_NOT_ADMITTED(PEER_REPORT);
}

static void another_enclave_on_this_processor_is_not_admitted(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    become_instance();
    fake_processor.MRENCLAVE[31] ^= 1;
    pair.proof.size = 0;
    assert_ok(
        peer_prove(&pair.crypto, writer_span(&pair.challenge), &pair.id, pair.holder, &pair.instance, &pair.proof));
    ASSERT_NOT_ADMITTED(PEER_IDENTITY);
}

/* Fields of a REPORT that the processor would sign for an enclave that is built or launched differently. */
static const struct altered {
    const char *what;
    size_t offset;
    uint8_t change;
} altered[] = {
    {"MRENCLAVE", offsetof(struct sgx_report, MRENCLAVE), 1},
    {"DEBUG", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_DEBUG},
    {"INIT", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_INIT},
    {"MODE64BIT", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_MODE64BIT},
    {"PROVISIONKEY", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_PROVISIONKEY},
    {"EINITTOKENKEY", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_EINITTOKENKEY},
    {"CET", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_CET},
    {"KSS", offsetof(struct sgx_report, ATTRIBUTES.FLAGS), SGX_FLAGS_KSS},
    {"AEXNOTIFY", offsetof(struct sgx_report, ATTRIBUTES.FLAGS) + 1, SGX_FLAGS_AEXNOTIFY >> 8},
    {"a flag that is reserved", offsetof(struct sgx_report, ATTRIBUTES.FLAGS) + 7, 0x80},
    {"XFRM without SSE", offsetof(struct sgx_report, ATTRIBUTES.XFRM), 2},
    {"XFRM with MPX", offsetof(struct sgx_report, ATTRIBUTES.XFRM), SGX_XFRM_MPX},
    {"XFRM with AVX-512 and no AVX", offsetof(struct sgx_report, ATTRIBUTES.XFRM), SGX_XFRM_AVX512},
    {"XFRM with PKRU", offsetof(struct sgx_report, ATTRIBUTES.XFRM) + 1, SGX_XFRM_PKRU >> 8},
    {"XFRM with AMX", offsetof(struct sgx_report, ATTRIBUTES.XFRM) + 2, SGX_XFRM_AMX >> 16},
    {"ISVPRODID of the manager", offsetof(struct sgx_report, ISVPRODID), PRODID_MANAGER ^ PRODID_INSTANCE},
    {"ISVPRODID's high byte", offsetof(struct sgx_report, ISVPRODID) + 1, 1},
    {"MISCSELECT", offsetof(struct sgx_report, MISCSELECT), 1},
    {"CET_ATTRIBUTES", offsetof(struct sgx_report, CET_ATTRIBUTES), 1},
    {"ISVEXTPRODID", offsetof(struct sgx_report, ISVEXTPRODID), 1},
    {"ISVFAMILYID", offsetof(struct sgx_report, ISVFAMILYID), 1},
    {"CONFIGID", offsetof(struct sgx_report, CONFIGID) + 63, 1},
    {"CONFIGSVN", offsetof(struct sgx_report, CONFIGSVN), 1},
    {"reserved bytes 21", offsetof(struct sgx_report, reserved1), 1},
    {"reserved bytes 96", offsetof(struct sgx_report, reserved2) + 31, 1},
    {"reserved bytes 160", offsetof(struct sgx_report, reserved3), 1},
    {"reserved bytes 262", offsetof(struct sgx_report, reserved4) + 41, 1},
};
#define ALTERED_COUNT (sizeof altered / sizeof altered[0])

/* The processor's MAC is right: it is what it would say of such an enclave. */
static void remake(struct writer *message, size_t offset, const struct sgx_targetinfo *target,
                   const struct altered *how)
{
    struct sgx_report report = report_in(message, offset);
    ((uint8_t *)&report)[how->offset] ^= how->change;
    fake_report_mac(target, &report);
    put_report(message, offset, &report);
}

static void an_enclave_of_another_identity_or_attributes_is_not_admitted(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALTERED_COUNT; i++) {
        struct sgx_targetinfo manager = {0};
        prove(&pair);
        memcpy(&manager, pair.instance.target, sizeof pair.instance.target);
        remake(&pair.proof, PROOF_REPORT, &manager, &altered[i]);
        if (peer_pair_check_proof(&pair).code != ERR_PEER_IDENTITY) fail_msg("%s", altered[i].what);
        assert_nothing_left(&pair.manager);
    }
}

/* The same for the other end; which MRENCLAVE a manager has an instance cannot know, and keeps. */
static void a_manager_of_another_kind_or_attributes_admits_nobody(void **state)
{
    (void)state;
    for (size_t i = 1; i < ALTERED_COUNT; i++) {
        struct sgx_targetinfo instance;
        prove(&pair);
        become_instance();
        report_own_target(&instance);
        assert_ok(peer_pair_check_proof(&pair));
        assert_ok(peer_pair_admit(&pair));
        remake(&pair.admit, ADMIT_REPORT, &instance, &altered[i]);
        if (peer_pair_check_admission(&pair).code != ERR_PEER_IDENTITY) fail_msg("%s", altered[i].what);
        assert_nothing_left(&pair.instance);
    }
}

static void an_instance_knows_which_manager_admitted_it(void **state)
{
    (void)state;
    admit(&pair);
    struct sgx_targetinfo instance;
    become_instance();
    report_own_target(&instance);
    remake(&pair.admit, ADMIT_REPORT, &instance, &altered[0]);
    assert_ok(peer_pair_check_admission(&pair));
    assert_memory_not_equal(pair.instance.other_program, fake_manager_mrenclave, SGX_HASH_SIZE);
}

static void each_bit_of_a_proof_matters(void **state)
{
    (void)state;
    prove(&pair);
    for (size_t i = 0; i < pair.proof.size; i++) {
        uint8_t bytes[PEER_MESSAGE_MAX];
        struct peer manager = pair.manager; /* has no records yet, so that a copy is another one */
        memcpy(bytes, pair.proof.start, pair.proof.size);
        bytes[i] ^= (uint8_t)(1u << i % 8);
        become_manager();
        struct err err =
            peer_check_proof(&pair.crypto, &manager, span_of(bytes, pair.proof.size), fake_instance_mrenclave);
        if (err.code == ERR_NONE) fail_msg("byte %zu", i);
        assert_nothing_left(&manager);
    }
    assert_ok(peer_pair_check_proof(&pair));
}

static void each_bit_of_an_admission_matters(void **state)
{
    (void)state;
    admit(&pair);
    for (size_t i = 0; i < pair.admit.size; i++) {
        uint8_t bytes[PEER_MESSAGE_MAX];
        struct peer instance = pair.instance;
        memcpy(bytes, pair.admit.start, pair.admit.size);
        bytes[i] ^= (uint8_t)(1u << i % 8);
        become_instance();
        if (peer_check_admission(&pair.crypto, &instance, span_of(bytes, pair.admit.size)).code == ERR_NONE)
            fail_msg("byte %zu", i);
        assert_nothing_left(&instance);
    }
    assert_ok(peer_pair_check_admission(&pair));
}

/* Id, start, base, nonce, share: what the host alters in the CHALLENGE stands in the instance's REPORT. */
static void each_byte_of_a_challenge_matters(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    for (size_t i = 0; i < pair.challenge.size; i++) {
        struct peer manager = pair.manager;
        pair.challenge.start[i] ^= 0x10;
        struct err err = peer_pair_prove(&pair);
        if (err.code == ERR_NONE) {
            become_manager();
            err = peer_check_proof(&pair.crypto, &manager, writer_span(&pair.proof), fake_instance_mrenclave);
        }
        if (err.code == ERR_NONE) fail_msg("byte %zu", i);
        pair.challenge.start[i] ^= 0x10;
    }
}

static void messages_that_are_cut_or_longer_are_refused(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    pair.challenge.size--;
    assert_err(
        peer_prove(&pair.crypto, writer_span(&pair.challenge), &pair.id, pair.holder, &pair.instance, &pair.proof),
        TRUNCATED);
    pair.challenge.size += 2;
    assert_err(
        peer_prove(&pair.crypto, writer_span(&pair.challenge), &pair.id, pair.holder, &pair.instance, &pair.proof),
        TRAILING);
    prove(&pair);
    pair.proof.size--;
    ASSERT_NOT_ADMITTED(TRUNCATED);
    prove(&pair);
    pair.proof.size++;
    ASSERT_NOT_ADMITTED(TRAILING);
    admit(&pair);
    pair.admit.size--;
    ASSERT_ADMISSION_REFUSED(TRUNCATED);
    admit(&pair);
    pair.admit.size++;
    ASSERT_ADMISSION_REFUSED(TRAILING);
}

static void a_proof_of_another_exchange_is_not_admitted(void **state)
{
    (void)state;
    prove(&other);
    prove(&pair);
    memcpy(pair.proof.start, other.proof.start, other.proof.size);
    ASSERT_NOT_ADMITTED(PEER_TRANSCRIPT);
}

static void a_replayed_proof_ends_the_session(void **state)
{
    (void)state;
    prove(&pair);
    assert_ok(peer_pair_check_proof(&pair));
    assert_err(peer_pair_check_proof(&pair), LINK_ORDER);
    assert_nothing_left(&pair.manager);
}

/* Two blank enclaves of one MRENCLAVE: the REPORT of one does not vouch for the share of the other. */
static void a_report_does_not_vouch_for_another_share_or_holder(void **state)
{
    (void)state;
    static const size_t fields[] = {4, 4 + PEER_NONCE_SIZE, 4 + PEER_NONCE_SIZE + X25519_SIZE};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        prove(&pair);
        memset(pair.proof.start + fields[i], 0x77, 32);
        ASSERT_NOT_ADMITTED(PEER_TRANSCRIPT);
    }
}

/* What the two ends mean by the exchange: id, start, base. The instance was told otherwise by the host. */
static void a_proof_about_another_start_or_base_is_not_admitted(void **state)
{
    (void)state;
    prove(&pair);
    pair.manager.transcript.start++;
    ASSERT_NOT_ADMITTED(PEER_TRANSCRIPT);
    prove(&pair);
    pair.manager.transcript.base[0] ^= 1;
    ASSERT_NOT_ADMITTED(PEER_TRANSCRIPT);
    prove(&pair);
    pair.manager.transcript.instance.bytes[0] ^= 1;
    ASSERT_NOT_ADMITTED(PEER_TRANSCRIPT);
}

/* The manager's own role, said back to it: an instance never says it, but the host tries whatever REPORT it has. */
static void a_reflected_role_is_not_admitted(void **state)
{
    (void)state;
    uint8_t bytes[PEER_MESSAGE_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    prove(&pair);
    /* An instance enclave whose role byte is the manager's. */
    pair.instance.role = PEER_MANAGER;
    pair.instance.step = PEER_PROVEN;
    struct sgx_targetinfo manager;
    become_manager();
    report_own_target(&manager);
    memcpy(pair.instance.target, &manager, sizeof pair.instance.target);
    become_instance();
    assert_ok(peer_admit(&pair.crypto, &pair.instance, &w));
    memcpy(pair.proof.start + PROOF_REPORT, bytes + ADMIT_REPORT, SGX_REPORT_SIZE);
    ASSERT_NOT_ADMITTED(PEER_TRANSCRIPT);
}

/* The instance's PROOF for the manager, offered to the instance as the manager's ADMIT. */
static void a_reflected_proof_admits_nobody(void **state)
{
    (void)state;
    admit(&pair);
    memcpy(pair.admit.start + ADMIT_REPORT, pair.proof.start + PROOF_REPORT, SGX_REPORT_SIZE);
    ASSERT_ADMISSION_REFUSED(PEER_REPORT); /* it is for another target */
}

static void an_admission_of_another_exchange_admits_nobody(void **state)
{
    (void)state;
    admit(&other);
    admit(&pair);
    memcpy(pair.admit.start, other.admit.start, other.admit.size);
    ASSERT_ADMISSION_REFUSED(PEER_TRANSCRIPT);
}

/* A blank enclave accepts one provisioning: what admitted it does not admit it again. */
static void a_replayed_admission_ends_the_session(void **state)
{
    (void)state;
    admit(&pair);
    assert_ok(peer_pair_check_admission(&pair));
    ASSERT_ADMISSION_REFUSED(LINK_ORDER);
}

static void a_share_of_small_order_establishes_nothing(void **state)
{
    (void)state;
    static const uint8_t one[X25519_SIZE] = {1};
    assert_ok(peer_pair_challenge(&pair));
    memcpy(pair.challenge.start + 4 + REPORT_TARGET_SIZE + PEER_NONCE_SIZE, one, sizeof one);
    memcpy(pair.manager.transcript.share[0], one, sizeof one); /* a manager that says it itself */
    assert_ok(peer_pair_prove(&pair));
    assert_ok(peer_pair_check_proof(&pair));
    assert_ok(peer_pair_admit(&pair));
    ASSERT_ADMISSION_REFUSED(AUTHENTICATION);
}

int main(void)
{
#define PAIR(test) cmocka_unit_test_setup_teardown(test, init_pair, close_pair)
    const struct CMUnitTest tests[] = {
        PAIR(who_is_no_enclave_is_not_admitted),
        PAIR(an_enclave_of_another_processor_is_not_admitted),
        PAIR(a_report_for_another_target_is_not_admitted),
        PAIR(another_enclave_on_this_processor_is_not_admitted),
        PAIR(an_enclave_of_another_identity_or_attributes_is_not_admitted),
        PAIR(a_manager_of_another_kind_or_attributes_admits_nobody),
        PAIR(an_instance_knows_which_manager_admitted_it),
        PAIR(each_bit_of_a_proof_matters),
        PAIR(each_bit_of_an_admission_matters),
        PAIR(each_byte_of_a_challenge_matters),
        PAIR(messages_that_are_cut_or_longer_are_refused),
        PAIR(a_proof_of_another_exchange_is_not_admitted),
        PAIR(a_replayed_proof_ends_the_session),
        PAIR(a_report_does_not_vouch_for_another_share_or_holder),
        PAIR(a_proof_about_another_start_or_base_is_not_admitted),
        PAIR(a_reflected_role_is_not_admitted),
        PAIR(a_reflected_proof_admits_nobody),
        PAIR(an_admission_of_another_exchange_admits_nobody),
        PAIR(a_replayed_admission_ends_the_session),
        PAIR(a_share_of_small_order_establishes_nothing),
    };
    return cmocka_run_group_tests_name("admission", tests, NULL, NULL);
}
