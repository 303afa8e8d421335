#include "untrusted/cpu/processor.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "untrusted/sgx/sigstruct.h"

#define PAGE_TCS 0x80u
#define PAGE_REG 0x40u /* with the SECINFO permission bits */
#define PAGE_RW  (PAGE_REG | SGX_SECINFO_R | SGX_SECINFO_W)

static bool all_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

static bool all_or_none(uint64_t value, uint64_t bits)
{
    return (value & bits) == 0 || (value & bits) == bits;
}

/* What XSETBV would accept, within XCR0 (SDM volume 1, 13.3). */
static bool xfrm_allowed(uint64_t xfrm, uint64_t host_xcr0)
{
    if ((xfrm & SGX_XFRM_LEGACY) != SGX_XFRM_LEGACY || (xfrm & ~host_xcr0)) return false;
    if ((xfrm & SGX_XFRM_AVX512) && !(xfrm & SGX_XFRM_AVX)) return false;
    return all_or_none(xfrm, SGX_XFRM_MPX) && all_or_none(xfrm, SGX_XFRM_AVX512) && all_or_none(xfrm, SGX_XFRM_AMX);
}

/* The places of the extended components differ between processors: CPUID 0DH names them. */
static uint64_t ssa_frame_size(uint64_t xfrm, uint32_t miscselect)
{
    uint64_t size = 576;
    for (unsigned int component = 2; component < 63; component++) {
        unsigned int length = 0;
        unsigned int offset = 0;
        unsigned int ecx = 0;
        unsigned int edx = 0;
        if (!(xfrm & UINT64_C(1) << component)) continue;
        if (!__get_cpuid_count(0x0D, component, &length, &offset, &ecx, &edx)) return UINT64_MAX;
        if ((uint64_t)offset + length > size) size = (uint64_t)offset + length;
    }
    return size + (miscselect ? 16 : 0) + sizeof(struct sgx_gprsgx);
}

static bool secs_reserved_zero(const struct sgx_secs *secs)
{
    return secs->CET_LEG_BITMAP_OFFSET == 0 && secs->CET_ATTRIBUTES == 0 && secs->CONFIGSVN == 0 &&
           all_zero(secs->reserved1, sizeof secs->reserved1) && all_zero(secs->reserved2, sizeof secs->reserved2) &&
           all_zero(secs->reserved3, sizeof secs->reserved3) && all_zero(secs->reserved4, sizeof secs->reserved4) &&
           all_zero(secs->CONFIGID, sizeof secs->CONFIGID);
}

struct err processor_ecreate(struct processor_enclave *enclave, const struct sgx_secs *secs, uint64_t host_xcr0)
{
    uint64_t size = secs->SIZE;
    ENSURE(size >= SGX_SIZE_MIN && (size & (size - 1)) == 0, SGX_SECS);
    ENSURE(size <= PROCESSOR_SIZE_MAX, TOO_LARGE);
    ENSURE(secs->BASEADDR % size == 0 && secs->BASEADDR >> 47 == 0, SGX_SECS);
    ENSURE(secs_reserved_zero(secs), SGX_SECS);
    ENSURE((secs->ATTRIBUTES.FLAGS & ~PROCESSOR_FLAGS) == 0, SGX_SECS);
    ENSURE(secs->ATTRIBUTES.FLAGS & SGX_FLAGS_MODE64BIT, SGX_SECS);
    ENSURE((secs->MISCSELECT & ~PROCESSOR_MISCSELECT) == 0, SGX_SECS);
    ENSURE(xfrm_allowed(secs->ATTRIBUTES.XFRM, host_xcr0), SGX_SECS);
    ENSURE(secs->SSAFRAMESIZE <= size / SGX_PAGE_SIZE, SGX_SECS);
    ENSURE((uint64_t)secs->SSAFRAMESIZE * SGX_PAGE_SIZE >= ssa_frame_size(secs->ATTRIBUTES.XFRM, secs->MISCSELECT),
           SGX_SECS);
    uint8_t *pages = calloc(size / SGX_PAGE_SIZE, 1);
    ENSURE(pages, NO_MEMORY);
    *enclave = (struct processor_enclave){.secs = *secs, .pages = pages};
    memset(enclave->secs.MRENCLAVE, 0, sizeof enclave->secs.MRENCLAVE);
    memset(enclave->secs.MRSIGNER, 0, sizeof enclave->secs.MRSIGNER);
    enclave->secs.ISVPRODID = 0;
    enclave->secs.ISVSVN = 0;
    return OK;
}

/* EADD clears some of these fields before EEXTEND reads them; a TCS that has them set was never what was signed. */
static struct err add_tcs(struct processor_enclave *enclave, const uint8_t *content)
{
    struct sgx_tcs tcs;
    ENSURE(content, SGX_SECINFO);
    memcpy(&tcs, content, sizeof tcs);
    ENSURE(tcs.STATE == 0 && tcs.CSSA == 0 && tcs.AEP == 0 && tcs.FLAGS == 0, SGX_SECINFO);
    ENSURE(all_zero(tcs.reserved, sizeof tcs.reserved), SGX_SECINFO);
    ENSURE(((tcs.OSSA | tcs.OFSBASE | tcs.OGSBASE) & (SGX_PAGE_SIZE - 1)) == 0, SGX_SECINFO);
    ENSURE(tcs.OENTRY < enclave->secs.SIZE && tcs.OFSBASE < enclave->secs.SIZE && tcs.OGSBASE < enclave->secs.SIZE,
           SGX_SECINFO);
    ENSURE(tcs.NSSA > 0 && enclave->tcs_count < PROCESSOR_TCS_MAX, SGX_SECINFO);
    enclave->tcs[enclave->tcs_count++] = (struct processor_tcs){.ossa = tcs.OSSA, .nssa = tcs.NSSA};
    return OK;
}

struct err processor_eadd(struct processor_enclave *enclave, uint64_t offset, const struct sgx_secinfo *secinfo,
                          const uint8_t *content)
{
    uint64_t flags = secinfo->FLAGS;
    uint64_t permissions = flags & (SGX_SECINFO_R | SGX_SECINFO_W | SGX_SECINFO_X);
    ENSURE(offset % SGX_PAGE_SIZE == 0 && offset < enclave->secs.SIZE, SGX_SECINFO);
    ENSURE(all_zero(secinfo->reserved, sizeof secinfo->reserved), SGX_SECINFO);
    ENSURE(!(permissions & SGX_SECINFO_W) || (permissions & SGX_SECINFO_R), SGX_SECINFO);
    uint8_t *page = &enclave->pages[offset / SGX_PAGE_SIZE];
    ENSURE(*page == 0, SGX_SECINFO);
    ENSURE(enclave->added + SGX_PAGE_SIZE <= PROCESSOR_EPC_MAX, TOO_LARGE);
    if (flags == SGX_SECINFO_TCS) {
        TRY(add_tcs(enclave, content));
        *page = PAGE_TCS;
    } else {
        ENSURE((flags & ~permissions) == SGX_SECINFO_REG, SGX_SECINFO);
        *page = (uint8_t)(PAGE_REG | permissions);
    }
    enclave->added += SGX_PAGE_SIZE;
    return OK;
}

static struct err check_ssa(const struct processor_enclave *enclave, const struct processor_tcs *tcs)
{
    uint64_t size = 0;
    uint64_t end = 0;
    ENSURE(!__builtin_mul_overflow((uint64_t)tcs->nssa, (uint64_t)enclave->secs.SSAFRAMESIZE * SGX_PAGE_SIZE, &size),
           SGX_SECINFO);
    ENSURE(checked_add(tcs->ossa, size, &end) && end <= enclave->secs.SIZE, SGX_SECINFO);
    for (uint64_t offset = tcs->ossa; offset < end; offset += SGX_PAGE_SIZE)
        ENSURE(enclave->pages[offset / SGX_PAGE_SIZE] == PAGE_RW, SGX_SECINFO);
    return OK;
}

struct err processor_einit(struct processor_enclave *enclave, const struct sgx_sigstruct *sigstruct,
                           const uint8_t mrenclave[SGX_HASH_SIZE])
{
    uint8_t mrsigner[SGX_HASH_SIZE];
    TRY(sigstruct_verify(sigstruct));
    TRY(sigstruct_matches(sigstruct, &enclave->secs, mrenclave));
    for (uint32_t i = 0; i < enclave->tcs_count; i++)
        TRY(check_ssa(enclave, &enclave->tcs[i]));
    TRY(sigstruct_mrsigner(sigstruct, mrsigner));
    struct sgx_secs *secs = &enclave->secs;
    memcpy(secs->MRENCLAVE, mrenclave, SGX_HASH_SIZE);
    memcpy(secs->MRSIGNER, mrsigner, SGX_HASH_SIZE);
    secs->ISVPRODID = sigstruct->ISVPRODID;
    secs->ISVSVN = sigstruct->ISVSVN;
    secs->ATTRIBUTES.FLAGS |= SGX_FLAGS_INIT;
    free(enclave->pages);
    enclave->pages = NULL;
    return OK;
}

void processor_enclave_close(struct processor_enclave *enclave)
{
    free(enclave->pages);
    *enclave = (struct processor_enclave){0};
}
