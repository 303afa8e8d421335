/*
 * Architectural structures of Intel SGX, with the field names of the Intel SDM, volume 3D,
 * chapters 34 "Enclave Access and Data Structures" and following (numbering of 2023). Every size and
 * offset is asserted here, so a wrong structure does not compile. All integers are little-endian.
 *
 * What is not here: structures of other technologies that reuse the names, SGX1 launch
 * tokens (Linux sets the launch key's hash instead), and anything that is not read by us.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SGX_PAGE_SIZE           4096u
#define SGX_CHUNK_SIZE          256u /* what one EEXTEND measures */
#define SGX_SIZE_MIN            0x2000u
#define SGX_HASH_SIZE           32u
#define SGX_KEY_SIZE            16u
#define SGX_RSA_SIZE            384u /* RSA-3072 */

/* ENCLU leaves, in EAX */
#define SGX_EREPORT             0u
#define SGX_EGETKEY             1u
#define SGX_EENTER              2u
#define SGX_ERESUME             3u
#define SGX_EEXIT               4u

/* Error codes of ENCLS and ENCLU, in RAX */
#define SGX_SUCCESS             0u
#define SGX_INVALID_SIG_STRUCT  1u
#define SGX_INVALID_ATTRIBUTE   2u
#define SGX_INVALID_MEASUREMENT 4u
#define SGX_INVALID_SIGNATURE   8u
#define SGX_INVALID_CPUSVN      32u
#define SGX_INVALID_ISVSVN      64u
#define SGX_INVALID_KEYNAME     256u

/* ATTRIBUTES.FLAGS */
#define SGX_FLAGS_INIT          (UINT64_C(1) << 0)
#define SGX_FLAGS_DEBUG         (UINT64_C(1) << 1)
#define SGX_FLAGS_MODE64BIT     (UINT64_C(1) << 2)
#define SGX_FLAGS_PROVISIONKEY  (UINT64_C(1) << 4)
#define SGX_FLAGS_EINITTOKENKEY (UINT64_C(1) << 5)
#define SGX_FLAGS_CET           (UINT64_C(1) << 6)
#define SGX_FLAGS_KSS           (UINT64_C(1) << 7)
#define SGX_FLAGS_AEXNOTIFY     (UINT64_C(1) << 10)

/* ATTRIBUTES.XFRM has the layout of XCR0 */
#define SGX_XFRM_LEGACY         UINT64_C(0x3) /* x87 and SSE: always 1 */
#define SGX_XFRM_AVX            UINT64_C(0x4)
#define SGX_XFRM_MPX            UINT64_C(0x18)
#define SGX_XFRM_AVX512         UINT64_C(0xE0) /* all three or none, and only with AVX */
#define SGX_XFRM_PKRU           UINT64_C(0x200)
#define SGX_XFRM_AMX            UINT64_C(0x60000) /* both or none */

struct sgx_attributes {
    uint64_t FLAGS;
    uint64_t XFRM;
};
_Static_assert(sizeof(struct sgx_attributes) == 16, "ATTRIBUTES");

struct sgx_secs {
    uint64_t SIZE;
    uint64_t BASEADDR;
    uint32_t SSAFRAMESIZE; /* pages */
    uint32_t MISCSELECT;
    uint64_t CET_LEG_BITMAP_OFFSET;
    uint8_t CET_ATTRIBUTES;
    uint8_t reserved1[15];
    struct sgx_attributes ATTRIBUTES;
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    uint8_t reserved2[32];
    uint8_t MRSIGNER[SGX_HASH_SIZE];
    uint8_t reserved3[32];
    uint8_t CONFIGID[64];
    uint16_t ISVPRODID;
    uint16_t ISVSVN;
    uint16_t CONFIGSVN;
    uint8_t reserved4[3834];
};
_Static_assert(sizeof(struct sgx_secs) == SGX_PAGE_SIZE, "SECS");
_Static_assert(offsetof(struct sgx_secs, BASEADDR) == 8, "SECS");
_Static_assert(offsetof(struct sgx_secs, SSAFRAMESIZE) == 16, "SECS");
_Static_assert(offsetof(struct sgx_secs, MISCSELECT) == 20, "SECS");
_Static_assert(offsetof(struct sgx_secs, CET_LEG_BITMAP_OFFSET) == 24, "SECS");
_Static_assert(offsetof(struct sgx_secs, CET_ATTRIBUTES) == 32, "SECS");
_Static_assert(offsetof(struct sgx_secs, ATTRIBUTES) == 48, "SECS");
_Static_assert(offsetof(struct sgx_secs, MRENCLAVE) == 64, "SECS");
_Static_assert(offsetof(struct sgx_secs, MRSIGNER) == 128, "SECS");
_Static_assert(offsetof(struct sgx_secs, CONFIGID) == 192, "SECS");
_Static_assert(offsetof(struct sgx_secs, ISVPRODID) == 256, "SECS");
_Static_assert(offsetof(struct sgx_secs, ISVSVN) == 258, "SECS");
_Static_assert(offsetof(struct sgx_secs, CONFIGSVN) == 260, "SECS");
_Static_assert(offsetof(struct sgx_secs, reserved4) == 262, "SECS");

#define SGX_TCS_AEXNOTIFY UINT64_C(2)

struct sgx_tcs {
    uint64_t STATE;
    uint64_t FLAGS;
    uint64_t OSSA;
    uint32_t CSSA;
    uint32_t NSSA;
    uint64_t OENTRY;
    uint64_t AEP;
    uint64_t OFSBASE;
    uint64_t OGSBASE;
    uint32_t FSLIMIT;
    uint32_t GSLIMIT;
    uint8_t reserved[4024];
};
_Static_assert(sizeof(struct sgx_tcs) == SGX_PAGE_SIZE, "TCS");
_Static_assert(offsetof(struct sgx_tcs, FLAGS) == 8, "TCS");
_Static_assert(offsetof(struct sgx_tcs, OSSA) == 16, "TCS");
_Static_assert(offsetof(struct sgx_tcs, CSSA) == 24, "TCS");
_Static_assert(offsetof(struct sgx_tcs, NSSA) == 28, "TCS");
_Static_assert(offsetof(struct sgx_tcs, OENTRY) == 32, "TCS");
_Static_assert(offsetof(struct sgx_tcs, AEP) == 40, "TCS");
_Static_assert(offsetof(struct sgx_tcs, OFSBASE) == 48, "TCS");
_Static_assert(offsetof(struct sgx_tcs, OGSBASE) == 56, "TCS");
_Static_assert(offsetof(struct sgx_tcs, FSLIMIT) == 64, "TCS");
_Static_assert(offsetof(struct sgx_tcs, GSLIMIT) == 68, "TCS");
_Static_assert(offsetof(struct sgx_tcs, reserved) == 72, "TCS");

/* The last 184 bytes of an SSA frame */
struct sgx_gprsgx {
    uint64_t RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI;
    uint64_t R8, R9, R10, R11, R12, R13, R14, R15;
    uint64_t RFLAGS;
    uint64_t RIP;
    uint64_t URSP;
    uint64_t URBP;
    uint32_t EXITINFO;
    uint8_t reserved[3];
    uint8_t AEXNOTIFY;
    uint64_t FSBASE;
    uint64_t GSBASE;
};
_Static_assert(sizeof(struct sgx_gprsgx) == 184, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, RSP) == 32, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, RDI) == 56, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, R8) == 64, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, R15) == 120, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, RFLAGS) == 128, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, RIP) == 136, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, URSP) == 144, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, URBP) == 152, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, EXITINFO) == 160, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, AEXNOTIFY) == 167, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, FSBASE) == 168, "GPRSGX");
_Static_assert(offsetof(struct sgx_gprsgx, GSBASE) == 176, "GPRSGX");

#define SGX_EXITINFO_VALID    (UINT32_C(1) << 31)
#define SGX_EXITINFO_HARDWARE (UINT32_C(3) << 8)

/* SECINFO.FLAGS */
#define SGX_SECINFO_R         UINT64_C(0x1)
#define SGX_SECINFO_W         UINT64_C(0x2)
#define SGX_SECINFO_X         UINT64_C(0x4)
#define SGX_SECINFO_TYPE_MASK UINT64_C(0xFF00)
#define SGX_SECINFO_TCS       UINT64_C(0x100)
#define SGX_SECINFO_REG       UINT64_C(0x200)

struct sgx_secinfo {
    uint64_t FLAGS;
    uint8_t reserved[56];
};
_Static_assert(sizeof(struct sgx_secinfo) == 64, "SECINFO");

struct sgx_sigstruct {
    uint8_t HEADER[16];
    uint32_t VENDOR;
    uint32_t DATE; /* binary-coded decimal 0xYYYYMMDD */
    uint8_t HEADER2[16];
    uint32_t SWDEFINED;
    uint8_t reserved1[84];
    uint8_t MODULUS[SGX_RSA_SIZE]; /* little-endian, like SIGNATURE, Q1 and Q2 */
    uint32_t EXPONENT;
    uint8_t SIGNATURE[SGX_RSA_SIZE];
    uint32_t MISCSELECT;
    uint32_t MISCMASK;
    uint8_t CET_ATTRIBUTES;
    uint8_t CET_ATTRIBUTES_MASK;
    uint8_t reserved2[2];
    uint8_t ISVFAMILYID[16];
    struct sgx_attributes ATTRIBUTES;
    struct sgx_attributes ATTRIBUTEMASK;
    uint8_t ENCLAVEHASH[SGX_HASH_SIZE];
    uint8_t reserved3[16];
    uint8_t ISVEXTPRODID[16];
    uint16_t ISVPRODID;
    uint16_t ISVSVN;
    uint8_t reserved4[12];
    uint8_t Q1[SGX_RSA_SIZE];
    uint8_t Q2[SGX_RSA_SIZE];
} __attribute__((packed));
_Static_assert(sizeof(struct sgx_sigstruct) == 1808, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, VENDOR) == 16, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, DATE) == 20, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, HEADER2) == 24, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, SWDEFINED) == 40, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, MODULUS) == 128, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, EXPONENT) == 512, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, SIGNATURE) == 516, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, MISCSELECT) == 900, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, MISCMASK) == 904, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, CET_ATTRIBUTES) == 908, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ISVFAMILYID) == 912, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ATTRIBUTES) == 928, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ATTRIBUTEMASK) == 944, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ENCLAVEHASH) == 960, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ISVEXTPRODID) == 1008, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ISVPRODID) == 1024, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, ISVSVN) == 1026, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, Q1) == 1040, "SIGSTRUCT");
_Static_assert(offsetof(struct sgx_sigstruct, Q2) == 1424, "SIGSTRUCT");

/* What the signature covers: these two parts of the SIGSTRUCT, one behind the other */
#define SGX_SIGNED_PART1_OFFSET 0u
#define SGX_SIGNED_PART2_OFFSET 900u
#define SGX_SIGNED_PART_SIZE    128u

struct sgx_targetinfo {
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    struct sgx_attributes ATTRIBUTES;
    uint8_t CET_ATTRIBUTES;
    uint8_t reserved1;
    uint16_t CONFIGSVN;
    uint32_t MISCSELECT;
    uint8_t reserved2[8];
    uint8_t CONFIGID[64];
    uint8_t reserved3[384];
} __attribute__((aligned(512)));
_Static_assert(sizeof(struct sgx_targetinfo) == 512, "TARGETINFO");
_Static_assert(offsetof(struct sgx_targetinfo, ATTRIBUTES) == 32, "TARGETINFO");
_Static_assert(offsetof(struct sgx_targetinfo, CET_ATTRIBUTES) == 48, "TARGETINFO");
_Static_assert(offsetof(struct sgx_targetinfo, CONFIGSVN) == 50, "TARGETINFO");
_Static_assert(offsetof(struct sgx_targetinfo, MISCSELECT) == 52, "TARGETINFO");
_Static_assert(offsetof(struct sgx_targetinfo, CONFIGID) == 64, "TARGETINFO");

#define SGX_REPORTDATA_SIZE      64u
#define SGX_REPORTDATA_ALIGNMENT 128u
#define SGX_REPORT_BODY_SIZE     384u /* what MAC covers */
#define SGX_REPORT_SIZE          432u

/* EREPORT writes 432 bytes to a 512-aligned place; the tail of the structure is ours. */
struct sgx_report {
    uint8_t CPUSVN[16];
    uint32_t MISCSELECT;
    uint8_t CET_ATTRIBUTES;
    uint8_t reserved1[11];
    uint8_t ISVEXTPRODID[16];
    struct sgx_attributes ATTRIBUTES;
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    uint8_t reserved2[32];
    uint8_t MRSIGNER[SGX_HASH_SIZE];
    uint8_t reserved3[32];
    uint8_t CONFIGID[64];
    uint16_t ISVPRODID;
    uint16_t ISVSVN;
    uint16_t CONFIGSVN;
    uint8_t reserved4[42];
    uint8_t ISVFAMILYID[16];
    uint8_t REPORTDATA[SGX_REPORTDATA_SIZE];
    uint8_t KEYID[32];
    uint8_t MAC[16];
    uint8_t padding[80];
} __attribute__((aligned(512)));
_Static_assert(sizeof(struct sgx_report) == 512, "REPORT");
_Static_assert(offsetof(struct sgx_report, MISCSELECT) == 16, "REPORT");
_Static_assert(offsetof(struct sgx_report, CET_ATTRIBUTES) == 20, "REPORT");
_Static_assert(offsetof(struct sgx_report, ISVEXTPRODID) == 32, "REPORT");
_Static_assert(offsetof(struct sgx_report, ATTRIBUTES) == 48, "REPORT");
_Static_assert(offsetof(struct sgx_report, MRENCLAVE) == 64, "REPORT");
_Static_assert(offsetof(struct sgx_report, MRSIGNER) == 128, "REPORT");
_Static_assert(offsetof(struct sgx_report, CONFIGID) == 192, "REPORT");
_Static_assert(offsetof(struct sgx_report, ISVPRODID) == 256, "REPORT");
_Static_assert(offsetof(struct sgx_report, ISVSVN) == 258, "REPORT");
_Static_assert(offsetof(struct sgx_report, CONFIGSVN) == 260, "REPORT");
_Static_assert(offsetof(struct sgx_report, ISVFAMILYID) == 304, "REPORT");
_Static_assert(offsetof(struct sgx_report, REPORTDATA) == 320, "REPORT");
_Static_assert(offsetof(struct sgx_report, KEYID) == SGX_REPORT_BODY_SIZE, "REPORT");
_Static_assert(offsetof(struct sgx_report, MAC) == 416, "REPORT");
_Static_assert(offsetof(struct sgx_report, padding) == SGX_REPORT_SIZE, "REPORT");

/* KEYREQUEST.KEYNAME */
#define SGX_KEYNAME_EINITTOKEN     0u
#define SGX_KEYNAME_PROVISION      1u
#define SGX_KEYNAME_PROVISION_SEAL 2u
#define SGX_KEYNAME_REPORT         3u
#define SGX_KEYNAME_SEAL           4u

/* KEYREQUEST.KEYPOLICY */
#define SGX_KEYPOLICY_MRENCLAVE    0x1u
#define SGX_KEYPOLICY_MRSIGNER     0x2u
#define SGX_KEYPOLICY_NOISVPRODID  0x4u
#define SGX_KEYPOLICY_CONFIGID     0x8u
#define SGX_KEYPOLICY_KSS          0x3Cu /* those that need ATTRIBUTES.KSS */

struct sgx_keyrequest {
    uint16_t KEYNAME;
    uint16_t KEYPOLICY;
    uint16_t ISVSVN;
    uint16_t reserved1;
    uint8_t CPUSVN[16];
    struct sgx_attributes ATTRIBUTEMASK;
    uint8_t KEYID[32];
    uint32_t MISCMASK;
    uint16_t CONFIGSVN;
    uint8_t reserved2[434];
} __attribute__((aligned(512)));
_Static_assert(sizeof(struct sgx_keyrequest) == 512, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, KEYPOLICY) == 2, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, ISVSVN) == 4, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, CPUSVN) == 8, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, ATTRIBUTEMASK) == 24, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, KEYID) == 40, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, MISCMASK) == 72, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, CONFIGSVN) == 76, "KEYREQUEST");
_Static_assert(offsetof(struct sgx_keyrequest, reserved2) == 78, "KEYREQUEST");
