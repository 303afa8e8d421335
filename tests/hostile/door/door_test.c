/*
 * The host lies at the call boundary: every pointer and length (B1), buffers that change while they are read (B2),
 * modes and registers at entry (B3), random records (B4). Against the real image, on both devices.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <xmmintrin.h>

#include <cmocka.h>
#include <cpuid.h>
#include <openssl/kdf.h>

#include "abi/peer.h"
#include "crypto/hash.h"
#include "tests/hostile/live.h"

/* tests/hostile/device/poison.S */
extern uint64_t poison_flags;                /* or'ed into RFLAGS right before EENTER */
extern uint32_t poison_registers;            /* 1: general registers too, and the extended state, which is */
extern uint8_t poison_area[4096];            /* this one, as XRSTOR takes it */
extern const uint64_t poison_left[9];        /* at the last EEXIT: RDX, R8 to R15, */
extern const uint8_t poison_left_area[4096]; /* and the extended state */

#define FLAG_DF (UINT64_C(1) << 10)
#define FLAG_AC (UINT64_C(1) << 18)

#define live    live_of_group

/*
 * The enclaves' code is all that is shared and executable in this process. The manager's is of another size, and the page
 * with the stub, which comes first, is a mapping of its own.
 */
static uintptr_t elrange(void)
{
    const uint64_t code_size = live.instance.image.segments[0].size - SGX_PAGE_SIZE;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    char line[512];
    unsigned long base = 0;
    while (!base && fgets(line, sizeof line, maps)) {
        char permissions[5] = "";
        unsigned long low = 0, high = 0;
        if (sscanf(line, "%lx-%lx %4s", &low, &high, permissions) != 3) continue;
        if (strcmp(permissions, "r-xs") == 0 && high - low == code_size) base = low - SGX_PAGE_SIZE;
    }
    fclose(maps);
    assert_int_not_equal(base, 0);
    assert_int_equal(base & (live.instance.image.size - 1), 0);
    return base;
}

/* One entry with registers of the test's choice; returns RDI, the enclave's answer. */
static uint64_t enter(uint64_t in, uint64_t in_size, uint64_t out, uint64_t capacity, uint64_t reserved)
{
    struct device_run run = {.rdi = in, .rsi = in_size, .rdx = out, .r8 = capacity, .r9 = reserved};
    assert_int_equal(live.instance.device->ops->enter(live.instance.device, live.instance.tcs_offset, &run).code, 0);
    assert_int_equal(run.function, SGX_EEXIT);
    if (run.rdi != 0) assert_int_equal(run.rsi, 0); /* nothing was written */
    assert_int_equal(run.rdx | run.r8 | run.r9, 0); /* and nothing else comes out in registers */
    return run.rdi;
}

static const uint8_t get_random[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7B, 0, 8};

static void the_enclave_still_works(void)
{
    uint8_t reply[TPM_BUFFER_MAX];
    assert_int_equal(live_tpm(&live, get_random, sizeof get_random, reply), 20);
}

/* A call that the running enclave takes any number of times: to begin a new session with the manager. */
static size_t good_record(void)
{
    return live_record(INSTANCE_RESUME, NULL, 0);
}

static void b1_input_pointers_are_refused(void **state)
{
    (void)state;
    uint64_t base = elrange();
    uint64_t end = base + live.instance.image.size;
    size_t size = good_record();
    uint64_t out = (uintptr_t)live_output;
    const struct {
        uint64_t in, size;
        uint16_t code;
    } cases[] = {
        {base, size, ERR_CALL_RANGE},                                /* its first byte */
        {base + live.instance.image.size / 2, size, ERR_CALL_RANGE}, /* the middle */
        {end - 8, 16, ERR_CALL_RANGE},                               /* its last word, and beyond */
        {base - 8, 16, ERR_CALL_RANGE},                              /* straddles its lower edge by one word */
        {base - 4096, CALL_INPUT_MAX, ERR_CALL_RANGE},
        {0, size, ERR_CALL_RANGE},
        {UINT64_MAX - 7, 16, ERR_CALL_RANGE}, /* wraps */
        {UINT64_MAX - 15, 16, ERR_CALL_RANGE},
        {UINT64_MAX, 16, ERR_CALL_ALIGNMENT},
        {(uintptr_t)live_input, 0, ERR_TRUNCATED},
        {(uintptr_t)live_input, 15, ERR_TRUNCATED},
        {(uintptr_t)live_input, CALL_INPUT_MAX + 1, ERR_TOO_LARGE},
        {(uintptr_t)live_input, UINT64_C(1) << 63, ERR_TOO_LARGE},
        {(uintptr_t)live_input, UINT64_MAX, ERR_TOO_LARGE},
        {(uintptr_t)live_input, UINT64_MAX - 6, ERR_TOO_LARGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(enter(cases[i].in, cases[i].size, out, sizeof live_output, 0), cases[i].code);
    for (uint64_t off = 1; off < 8; off++) {
        assert_int_equal(enter((uintptr_t)live_input + off, size, out, sizeof live_output, 0), ERR_CALL_ALIGNMENT);
    }
    the_enclave_still_works();
}

static void b1_output_pointers_are_refused_and_nothing_is_written(void **state)
{
    (void)state;
    uint64_t base = elrange();
    uint64_t end = base + live.instance.image.size;
    size_t size = good_record();
    uint64_t in = (uintptr_t)live_input;
    const struct {
        uint64_t out, capacity;
        uint16_t code;
    } cases[] = {
        {base, CALL_OUTPUT_MAX, ERR_CALL_RANGE},
        {base + live.instance.image.size / 2, CALL_OUTPUT_MAX, ERR_CALL_RANGE},
        {base - CALL_OUTPUT_MAX + 8, CALL_OUTPUT_MAX, ERR_CALL_RANGE},
        {end - 8, CALL_OUTPUT_MAX, ERR_CALL_RANGE},
        {base - 4096, live.instance.image.size + 8192, ERR_CALL_RANGE}, /* the enclave lies inside the buffer */
        {0, CALL_OUTPUT_MAX, ERR_CALL_RANGE},
        {UINT64_MAX - CALL_OUTPUT_MAX + 1, CALL_OUTPUT_MAX + 8, ERR_CALL_RANGE},
        {(uintptr_t)live_output, UINT64_MAX - 7, ERR_CALL_RANGE},
        {base - 4096, UINT64_C(1) << 63, ERR_CALL_RANGE},
        {(uintptr_t)live_output + 4, CALL_OUTPUT_MAX, ERR_CALL_ALIGNMENT},
        {(uintptr_t)live_output, CALL_OUTPUT_MAX - 8, ERR_NO_SPACE},
        {(uintptr_t)live_output, 0, ERR_NO_SPACE},
    };
    memset(live_output, 0xDB, sizeof live_output);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(enter(in, size, cases[i].out, cases[i].capacity, 0), cases[i].code);
    for (size_t i = 0; i < sizeof live_output; i++)
        assert_int_equal(live_output[i], 0xDB);
    the_enclave_still_works();
}

static void b1_a_reserved_register_must_be_zero(void **state)
{
    (void)state;
    size_t size = good_record();
    assert_int_equal(enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 1), ERR_BAD_VALUE);
    the_enclave_still_works();
}

static void b1_record_sizes_must_agree(void **state)
{
    (void)state;
    size_t size = good_record();
    for (uint32_t claimed = 0; claimed < 64; claimed++) {
        good_record();
        memcpy(live_input + 4, &claimed, sizeof claimed);
        uint64_t code = enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 0);
        uint16_t expected = claimed > size - CALL_RECORD_HEADER_SIZE   ? ERR_TRUNCATED
                            : claimed < size - CALL_RECORD_HEADER_SIZE ? ERR_TRAILING
                                                                       : 0;
        assert_int_equal(code, expected);
    }
    uint32_t huge = UINT32_MAX;
    good_record();
    memcpy(live_input + 4, &huge, sizeof huge);
    assert_int_equal(enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 0), ERR_TRUNCATED);
    the_enclave_still_works();
}

static atomic_bool flipping;

static void *flip(void *arg)
{
    volatile uint8_t *byte = arg;
    while (atomic_load(&flipping))
        *byte ^= 8 ^ 16;
    return NULL;
}

/* What the host may say before anybody proved anything: a CHALLENGE. Offsets are those of the message. */
#define CHALLENGE_NONCE 132u
#define CHALLENGE_SHARE (CHALLENGE_NONCE + PEER_NONCE_SIZE)
#define CHALLENGE_ID    (CHALLENGE_SHARE + X25519_SIZE)
#define CHALLENGE_START (CHALLENGE_ID + INSTANCE_ID_SIZE)
#define CHALLENGE_BASE  (CHALLENGE_START + 8u)
#define CHALLENGE_SIZE  (CHALLENGE_BASE + PEER_BASE_SIZE)
#define PROOF_HOLDER    (4u + PEER_NONCE_SIZE + X25519_SIZE)
#define PROOF_REPORT    (PROOF_HOLDER + ED25519_PUBLIC_SIZE)

/* True if the REPORT of a PROOF is over this very CHALLENGE. */
static bool proof_is_about(const uint8_t *proof, const uint8_t challenge[CHALLENGE_SIZE])
{
    static const uint8_t role = PEER_INSTANCE;
    uint8_t expected[SGX_REPORTDATA_SIZE];
    const struct span parts[] = {
        span_of("vtpm peer v1", 12),
        span_of(&role, 1),
        span_of(challenge + CHALLENGE_SHARE, X25519_SIZE),
        span_of(proof + 4 + PEER_NONCE_SIZE, X25519_SIZE),
        span_of(challenge + CHALLENGE_NONCE, PEER_NONCE_SIZE),
        span_of(proof + 4, PEER_NONCE_SIZE),
        span_of(challenge + CHALLENGE_ID, CHALLENGE_BASE - CHALLENGE_ID),
        span_of(proof + PROOF_HOLDER, ED25519_PUBLIC_SIZE),
        span_of(challenge + CHALLENGE_BASE, PEER_BASE_SIZE),
    };
    struct crypto crypto;
    if (crypto_init(&crypto).code || hash_sha512(&crypto, parts, 9, expected).code) fail();
    EVP_KDF_CTX_free(crypto.hkdf_sha256);
    return memcmp(proof + PROOF_REPORT + offsetof(struct sgx_report, REPORTDATA), expected, sizeof expected) == 0;
}

/* A byte of the manager's nonce flips between two values while the enclave reads it, to answer it and to sign it. */
static void b2_a_changing_buffer_is_one_of_two_inputs(void **state)
{
    (void)state;
    static uint8_t in[CALL_RECORD_HEADER_SIZE + CHALLENGE_SIZE + 8] __attribute__((aligned(8)));
    uint8_t challenges[2][CHALLENGE_SIZE] = {{PEER_CHALLENGE}};
    const struct sgx_attributes attributes = {.FLAGS = SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT, .XFRM = SGX_XFRM_LEGACY};
    memcpy(challenges[0] + 4 + offsetof(struct sgx_targetinfo, ATTRIBUTES), &attributes, sizeof attributes);
    memcpy(challenges[0] + CHALLENGE_ID, live.id.bytes, INSTANCE_ID_SIZE);
    memset(challenges[0] + CHALLENGE_NONCE, 8, PEER_NONCE_SIZE + X25519_SIZE);
    memcpy(challenges[1], challenges[0], CHALLENGE_SIZE);
    challenges[1][CHALLENGE_NONCE] = 16;

    live_reload(&live);
    live_greet(&live);
    size_t size = live_record(INSTANCE_PEER, challenges[0], CHALLENGE_SIZE);
    memcpy(in, live_input, size);
    pthread_t thread;
    atomic_store(&flipping, true);
    assert_int_equal(pthread_create(&thread, NULL, flip, in + CALL_RECORD_HEADER_SIZE + CHALLENGE_NONCE), 0);
    unsigned seen[2] = {0};
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(enter((uintptr_t)in, size, (uintptr_t)live_output, sizeof live_output, 0), 0);
        size_t proof_size = 0;
        const uint8_t *proof = live_effect(INSTANCE_EFFECT_PEER, &proof_size);
        assert_non_null(proof);
        bool second = proof_is_about(proof, challenges[1]);
        assert_true(second || proof_is_about(proof, challenges[0]));
        seen[second]++;
        size_t bad = live_record(INSTANCE_PEER, "x", 1); /* and back to where it takes another CHALLENGE */
        assert_int_equal(enter((uintptr_t)live_input, bad, (uintptr_t)live_output, sizeof live_output, 0), 0);
    }
    atomic_store(&flipping, false);
    pthread_join(thread, NULL);
    assert_true(seen[0] > 0 && seen[1] > 0);
    live_reload(&live);
    live_start(&live);
    live_startup(&live);
}

static void b2_a_changing_header_is_one_of_two_inputs(void **state)
{
    (void)state;
    size_t size = good_record();
    pthread_t thread;
    atomic_store(&flipping, true);
    assert_int_equal(pthread_create(&thread, NULL, flip, live_input + 4), 0); /* the record's size field */
    for (int i = 0; i < 20000; i++) {
        uint64_t code = enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 0);
        assert_true(code == 0 || code == ERR_TRUNCATED || code == ERR_TRAILING);
    }
    atomic_store(&flipping, false);
    pthread_join(thread, NULL);
    the_enclave_still_works();
}

/* RSA key generation and signing run through x87, SSE and AVX code; a host that poisons the modes changes no result. */
static void b3_odd_floating_point_modes_change_nothing(void **state)
{
    (void)state;
    unsigned short control = 0;
    unsigned short odd_control = 0x0040; /* single precision, all exceptions unmasked */
    unsigned mxcsr = _mm_getcsr();
    __asm__ volatile("fnstcw %0" : "=m"(control));
    for (unsigned rounding = 0; rounding < 4; rounding++) {
        __asm__ volatile("fldcw %0" : : "m"(odd_control));
        _mm_setcsr(0x1F80 | rounding << 13 | 0x8040); /* rounding, flush to zero, denormals are zero */
        size_t size = good_record();
        uint64_t code = enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 0);
        unsigned after = _mm_getcsr();
        unsigned short control_after = 0;
        __asm__ volatile("fnstcw %0" : "=m"(control_after));
        _mm_setcsr(mxcsr);
        __asm__ volatile("fldcw %0" : : "m"(control));
        assert_int_equal(code, 0);
        assert_int_equal(after & 0xFFC0, 0x1F80 | rounding << 13 | 0x8040); /* the host has its own modes back */
        assert_int_equal(control_after, odd_control);
    }
    the_enclave_still_works();
}

/* Where SSA frame 0 lies: the TCS in the image says it. */
static uintptr_t ssa_frame(void)
{
    uint64_t ossa = 0;
    for (uint32_t i = 0; i < live.instance.image.segment_count; i++) {
        const struct image_segment *segment = &live.instance.image.segments[i];
        if (segment->offset != live.instance.tcs_offset) continue;
        memcpy(&ossa, image_page(&live.instance.image, segment, 0) + offsetof(struct sgx_tcs, OSSA), sizeof ossa);
    }
    assert_int_not_equal(ossa, 0);
    return elrange() + ossa;
}

/*
 * What the enclave itself runs with. It faults when it writes its answer to memory that is not there, and the SSA frame
 * keeps the modes of that moment; in this process the frame can be read. The enclave is dead then: a new one follows.
 */
static void b3_inside_the_modes_are_the_enclaves_own(void **state)
{
    (void)state;
    void *nowhere = mmap(NULL, CALL_OUTPUT_MAX + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(nowhere != MAP_FAILED);
    live_reload(&live); /* here, because cmocka took the signal handlers of the one before */
    live_start(&live);
    live_startup(&live);
    const uint8_t *frame = (const uint8_t *)ssa_frame();
    struct device_run run = {
        .rdi = (uintptr_t)live_input, .rsi = good_record(), .rdx = (uintptr_t)nowhere, .r8 = CALL_OUTPUT_MAX};
    unsigned short control = 0;
    unsigned short odd_control = 0x0C7F; /* rounds to zero, all exceptions masked */
    unsigned mxcsr = _mm_getcsr();
    __asm__ volatile("fnstcw %0" : "=m"(control));
    __asm__ volatile("fldcw %0" : : "m"(odd_control));
    _mm_setcsr(0xFFC0); /* rounds to zero, flushes to zero */
    struct err err = live.instance.device->ops->enter(live.instance.device, live.instance.tcs_offset, &run);
    _mm_setcsr(mxcsr);
    __asm__ volatile("fldcw %0" : : "m"(control));
    uint16_t saved_control = 0;
    uint32_t saved_mxcsr = 0;
    memcpy(&saved_control, frame, sizeof saved_control);
    memcpy(&saved_mxcsr, frame + 24, sizeof saved_mxcsr);
    munmap(nowhere, CALL_OUTPUT_MAX + 4096);
    live_reload(&live);
    live_start(&live);
    live_startup(&live);

    assert_int_equal(err.code, 0);
    assert_int_equal(run.function, SGX_ERESUME);
    assert_int_equal(run.exception_vector, 14); /* #PF */
    assert_int_equal(saved_control, 0x037F);
    assert_int_equal(saved_mxcsr, 0x1FBF);
}

static void b3_a_full_x87_stack_changes_nothing(void **state)
{
    (void)state;
    size_t size = good_record();
    __asm__ volatile("fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1" ::: "memory");
    uint64_t code = enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 0);
    __asm__ volatile("fninit");
    assert_int_equal(code, 0);
    the_enclave_still_works();
}

static const uint8_t create_primary[] = {
    0x80, 0x02, 0, 0,    0,    65,   0, 0,    0x01, 0x31,             /* TPM2_CreatePrimary */
    0x40, 0,    0, 0x01,                                              /* TPM_RH_OWNER */
    0,    0,    0, 9,    0x40, 0,    0, 0x09, 0,    0,    0, 0, 0,    /* an empty password */
    0,    4,    0, 0,    0,    0,                                     /* inSensitive */
    0,    24,   0, 0x23, 0,    0x0B, 0, 0x04, 0x04, 0x72, 0, 0,       /* inPublic: ECC, SHA-256, sign */
    0,    0x10, 0, 0x18, 0,    0x0B, 0, 0x03, 0,    0x10, 0, 0, 0, 0, /* ECDSA, P-256, no KDF, no point */
    0,    0,    0, 0,    0,    0,                                     /* outsideInfo, creationPCR */
};

static void flush_primary(void)
{
    static const uint8_t flush[] = {0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65, 0x80, 0, 0, 0};
    uint8_t ignored[TPM_BUFFER_MAX];
    live_tpm(&live, flush, sizeof flush, ignored);
}

/*
 * With DF set every string instruction of the image would run backwards, with AC set every unaligned access would
 * fault: signing copies, hashes and allocates, so it would show.
 */
static void b3_direction_and_alignment_flags_change_nothing(void **state)
{
    (void)state;
    uint8_t plain[TPM_BUFFER_MAX];
    uint8_t poisoned[TPM_BUFFER_MAX];
    size_t plain_size = live_tpm(&live, create_primary, sizeof create_primary, plain);
    assert_memory_equal(plain + 6, "\0\0\0\0", 4);
    const uint64_t poisons[] = {FLAG_DF, FLAG_AC, FLAG_DF | FLAG_AC};
    for (size_t i = 0; i < sizeof poisons / sizeof poisons[0]; i++) {
        flush_primary();
        poison_flags = poisons[i];
        size_t size = live_tpm(&live, create_primary, sizeof create_primary, poisoned);
        poison_flags = 0;
        assert_int_equal(size, plain_size);
        assert_memory_equal(poisoned, plain, size); /* the same seed makes the same key, to the last bit */
    }
}

#define XSAVE_FCW      0u
#define XSAVE_FSW      2u
#define XSAVE_FTW      4u
#define XSAVE_MXCSR    24u
#define XSAVE_ST       32u
#define XSAVE_ST_END   416u /* and of XMM */
#define XSAVE_BV       512u
#define XSAVE_EXTENDED 576u
#define COMPONENTS     UINT64_C(0xE7)

/* What this processor has of them, in an XSAVE area beyond x87 and SSE. */
static uint64_t components(void)
{
    uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low & COMPONENTS;
}

static void place_of(unsigned component, uint32_t *out_offset, uint32_t *out_size)
{
    uint32_t ecx = 0, edx = 0;
    __cpuid_count(0x0D, component, *out_size, *out_offset, ecx, edx);
    assert_true(*out_offset >= XSAVE_EXTENDED && *out_offset + *out_size <= sizeof poison_area);
}

/* Nothing is a number, everything is rounded to zero and flushed, every exception is let through, and some are pending. */
static void fill_poison(void)
{
    const uint16_t control = 0x0C40;
    const uint16_t status = 0x80BF;
    const uint32_t mxcsr = 0xE040;
    const uint64_t present = components();
    memset(poison_area, 0, sizeof poison_area);
    memcpy(poison_area + XSAVE_FCW, &control, sizeof control);
    memcpy(poison_area + XSAVE_FSW, &status, sizeof status);
    poison_area[XSAVE_FTW] = 0xFF;
    memcpy(poison_area + XSAVE_MXCSR, &mxcsr, sizeof mxcsr);
    memset(poison_area + XSAVE_ST, 0xFF, XSAVE_ST_END - XSAVE_ST);
    memcpy(poison_area + XSAVE_BV, &present, sizeof present);
    for (unsigned i = 2; i < 64; i++) {
        uint32_t offset = 0, size = 0;
        if (!(present >> i & 1)) continue;
        place_of(i, &offset, &size);
        memset(poison_area + offset, 0xFF, size);
    }
}

static void assert_zeros(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        assert_int_equal(((const uint8_t *)bytes)[i], 0);
}

/* At the last EEXIT. */
static void assert_nothing_was_left(void)
{
    static const uint8_t clean[XSAVE_MXCSR + 4] = {0x7F, 0x03, [XSAVE_MXCSR] = 0xBF, 0x1F};
    assert_zeros(poison_left, sizeof poison_left);
    assert_memory_equal(poison_left_area, clean, sizeof clean);
    assert_zeros(poison_left_area + XSAVE_ST, XSAVE_ST_END - XSAVE_ST);
    for (unsigned i = 2; i < 64; i++) {
        uint32_t offset = 0, size = 0;
        if (!(components() >> i & 1)) continue;
        place_of(i, &offset, &size);
        assert_zeros(poison_left_area + offset, size);
    }
}

/* One entry from it to the response, which makes a key: every register of the enclave is used. */
static void b3_registers_of_the_host_change_nothing_and_none_of_the_enclaves_comes_out(void **state)
{
    (void)state;
    uint8_t plain[TPM_BUFFER_MAX];
    uint8_t poisoned[TPM_BUFFER_MAX];
    flush_primary();
    size_t plain_size = live_tpm(&live, create_primary, sizeof create_primary, plain);
    assert_memory_equal(plain + 6, "\0\0\0\0", 4);
    flush_primary();
    fill_poison();
    size_t size = live_request(&live, create_primary, sizeof create_primary);
    poison_flags = FLAG_DF | FLAG_AC;
    poison_registers = 1;
    uint64_t code = enter((uintptr_t)live_input, size, (uintptr_t)live_output, sizeof live_output, 0);
    poison_flags = 0;
    poison_registers = 0;
    assert_int_equal(code, 0);
    assert_nothing_was_left();
    live_deliver(&live);
    size = live_response(&live, poisoned);
    assert_int_equal(size, plain_size);
    assert_memory_equal(poisoned, plain, size);
}

static const uint8_t create_rsa_primary[] = {
    0x80, 0x02, 0, 0,    0,    65,   0,    0,    0x01, 0x31,                   /* TPM2_CreatePrimary */
    0x40, 0,    0, 0x01,                                                       /* TPM_RH_OWNER */
    0,    0,    0, 9,    0x40, 0,    0,    0x09, 0,    0,    0, 0, 0,          /* an empty password */
    0,    4,    0, 0,    0,    0,                                              /* inSensitive */
    0,    24,   0, 0x01, 0,    0x0B, 0,    0x04, 0x04, 0x72, 0, 0,             /* inPublic: RSA, SHA-256, sign */
    0,    0x10, 0, 0x14, 0,    0x0B, 0x08, 0,    0,    0,    0, 0, 0, 0, 0, 0, /* RSASSA, 2048 bits, no unique */
    0,    0,    0, 0,                                                          /* creationPCR */
};

static void *second_entry(void *arg)
{
    atomic_bool *stop = arg;
    static uint8_t in[64] __attribute__((aligned(8)));
    static uint8_t out[CALL_OUTPUT_MAX] __attribute__((aligned(8)));
    unsigned long refused = 0;
    while (!atomic_load(stop)) {
        struct device_run run = {.rdi = (uintptr_t)in, .rsi = 16, .rdx = (uintptr_t)out, .r8 = sizeof out};
        struct err err = live.instance.device->ops->enter(live.instance.device, live.instance.tcs_offset, &run);
        if (err.code) refused++;
    }
    return (void *)refused;
}

static void b3_a_second_entry_while_one_runs_is_refused(void **state)
{
    (void)state;
    atomic_bool stop = false;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, second_entry, &stop), 0);
    unsigned long own_refused = 0;
    for (unsigned done = 0; done < 3; done++) { /* as many as there is room for; each runs for milliseconds */
        size_t size = live_request(&live, create_rsa_primary, sizeof create_rsa_primary);
        uint8_t reply[TPM_BUFFER_MAX];
        struct device_run run = {0};
        for (struct err err = FAIL(SGX_TCS_BUSY); err.code; own_refused += err.code != 0) {
            run = (struct device_run){
                .rdi = (uintptr_t)live_input, .rsi = size, .rdx = (uintptr_t)live_output, .r8 = sizeof live_output};
            err = live.instance.device->ops->enter(live.instance.device, live.instance.tcs_offset, &run);
        }
        assert_int_equal(run.rdi, 0);
        live_deliver(&live);
        assert_true(live_response(&live, reply) >= 10);
    }
    atomic_store(&stop, true);
    void *refused = NULL;
    pthread_join(thread, &refused);
    assert_true((unsigned long)refused + own_refused > 0);
    the_enclave_still_works();
}

static void b3_a_page_that_is_no_tcs_is_refused(void **state)
{
    (void)state;
    struct device_run run = {0};
    assert_int_not_equal(live.instance.device->ops->enter(live.instance.device, 0, &run).code, 0);
    assert_int_not_equal(
        live.instance.device->ops->enter(live.instance.device, live.instance.tcs_offset + 8, &run).code, 0);
    assert_int_not_equal(live.instance.device->ops->enter(live.instance.device, live.instance.image.size, &run).code,
                         0);
    the_enclave_still_works();
}

/* A front-end that holds the link, and says anything. */
static void b4_random_commands_are_answered(void **state)
{
    (void)state;
    for (int i = 0; i < 5000; i++) {
        uint8_t command[600], reply[TPM_BUFFER_MAX];
        size_t size = 10 + (size_t)rand() % (sizeof command - 10);
        for (size_t k = 0; k < size; k++)
            command[k] = (uint8_t)rand();
        if (rand() % 2) { /* a plausible head */
            const uint8_t head[] = {
                0x80, (uint8_t)(1 + rand() % 2),      0, 0, (uint8_t)(size >> 8), (uint8_t)size, 0, 0,
                1,    (uint8_t)(0x1F + rand() % 0x7F)};
            memcpy(command, head, sizeof head);
        }
        assert_true(live_tpm(&live, command, size, reply) >= 10);
    }
}

/* A host that has no key to anything. Last: it closes the sessions, and stops nothing. */
static void b4_random_records_are_answered(void **state)
{
    (void)state;
    for (int i = 0; i < 20000; i++) {
        uint8_t body[600];
        size_t size = (size_t)rand() % sizeof body;
        for (size_t k = 0; k < size; k++)
            body[k] = (uint8_t)rand();
        uint32_t number = rand() % 4 ? (uint32_t)rand() % 8 : (uint32_t)rand();
        size_t record = live_record(number, body, size);
        uint64_t code = enter((uintptr_t)live_input, record, (uintptr_t)live_output, sizeof live_output, 0);
        assert_int_equal(code, 0);
    }
    const uint8_t off[8] = {INSTANCE_STOP_OFF};
    size_t record = live_record(INSTANCE_STOP, off, sizeof off); /* it is still there, and still has a TPM to save */
    assert_int_equal(enter((uintptr_t)live_input, record, (uintptr_t)live_output, sizeof live_output, 0), 0);
    size_t size = 0;
    assert_non_null(live_effect(INSTANCE_EFFECT_STORE, &size));
}

static int set_up(void **state)
{
    unsigned seed = getenv("VTPM_SEED") ? (unsigned)atoi(getenv("VTPM_SEED")) : (unsigned)time(NULL);
    printf("# seed %u\n", seed);
    srand(seed);
    return live_set_up(state);
}

int main(int argc, char **argv)
{
    live_is_sgx = argc > 1 && strcmp(argv[1], "sgx") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(b1_input_pointers_are_refused),
        cmocka_unit_test(b1_output_pointers_are_refused_and_nothing_is_written),
        cmocka_unit_test(b1_a_reserved_register_must_be_zero),
        cmocka_unit_test(b1_record_sizes_must_agree),
        cmocka_unit_test(b2_a_changing_buffer_is_one_of_two_inputs),
        cmocka_unit_test(b2_a_changing_header_is_one_of_two_inputs),
        cmocka_unit_test(b3_odd_floating_point_modes_change_nothing),
        cmocka_unit_test(b3_inside_the_modes_are_the_enclaves_own),
        cmocka_unit_test(b3_a_full_x87_stack_changes_nothing),
        cmocka_unit_test(b3_direction_and_alignment_flags_change_nothing),
        cmocka_unit_test(b3_registers_of_the_host_change_nothing_and_none_of_the_enclaves_comes_out),
        cmocka_unit_test(b3_a_second_entry_while_one_runs_is_refused),
        cmocka_unit_test(b3_a_page_that_is_no_tcs_is_refused),
        cmocka_unit_test(b4_random_commands_are_answered),
        cmocka_unit_test(b4_random_records_are_answered),
    };
    return cmocka_run_group_tests(tests, set_up, live_tear_down);
}
