/*
 * What the enclave does once, at its first entry: it relocates itself and fills in the stack protector's canary.
 *
 * Guarantees: nothing outside the page range that the linker marked as relocated constants, initialised data or the
 * canary is written; every relocation is checked to lie in there. Compiled without the stack protector, because the
 * canary changes under it.
 */
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#include "abi/call_codes.h"
#include "base/err.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/layout.h"
#include "trusted/runtime/panic.h"

_Static_assert(ERR_CODE_ENCLAVE_DEAD == ERR_ENCLAVE_DEAD, "assembly and C agree");

#define CANARY_OFFSET 0x28 /* x86-64 psABI: the compiler reads FS:0x28 */

struct relocations {
    const Elf64_Rela *rela;
    size_t rela_count;
    const Elf64_Relr *relr;
    size_t relr_count;
};

static struct relocations find_relocations(uintptr_t base)
{
    struct relocations found = {0};
    for (const Elf64_Dyn *dyn = enclave_dynamic; dyn->d_tag != DT_NULL; dyn++) {
        switch (dyn->d_tag) {
        case DT_RELA:
            found.rela = (const Elf64_Rela *)(base + dyn->d_un.d_ptr);
            break;
        case DT_RELASZ:
            found.rela_count = dyn->d_un.d_val / sizeof(Elf64_Rela);
            break;
        case DT_RELR:
            found.relr = (const Elf64_Relr *)(base + dyn->d_un.d_ptr);
            break;
        case DT_RELRSZ:
            found.relr_count = dyn->d_un.d_val / sizeof(Elf64_Relr);
            break;
        default:
            break;
        }
    }
    return found;
}

static uint64_t *writable_word(uintptr_t base, uint64_t offset)
{
    uintptr_t place = base + offset;
    if (place < (uintptr_t)enclave_writable_start || place > (uintptr_t)enclave_writable_end - sizeof(uint64_t))
        panic(PANIC_RELOCATION);
    return (uint64_t *)place;
}

/* gABI "SHT_RELR": an even entry is an address, an odd one a bitmap of the 63 words behind it. */
static void apply_relr(uintptr_t base, const struct relocations *r)
{
    uint64_t next = 0;
    for (size_t i = 0; i < r->relr_count; i++) {
        uint64_t entry = r->relr[i];
        if ((entry & 1) == 0) {
            *writable_word(base, entry) += base;
            next = entry + sizeof(uint64_t);
            continue;
        }
        for (unsigned bit = 1; bit < 64; bit++) {
            if (entry >> bit & 1) *writable_word(base, next + (bit - 1) * sizeof(uint64_t)) += base;
        }
        next += 63 * sizeof(uint64_t);
    }
}

static void apply_rela(uintptr_t base, const struct relocations *r)
{
    for (size_t i = 0; i < r->rela_count; i++) {
        if (ELF64_R_TYPE(r->rela[i].r_info) != R_X86_64_RELATIVE) panic(PANIC_RELOCATION);
        *writable_word(base, r->rela[i].r_offset) = base + (uint64_t)r->rela[i].r_addend;
    }
}

/* Called by entry.S, once. */
void enclave_start(void);

void enclave_start(void)
{
    uintptr_t base = (uintptr_t)enclave_base;
    struct relocations relocations = find_relocations(base);
    apply_relr(base, &relocations);
    apply_rela(base, &relocations);
    entropy_fill(enclave_tls + CANARY_OFFSET, sizeof(uint64_t));
    enclave_tls[CANARY_OFFSET] = 0; /* a string that overruns cannot copy the canary past its NUL */
}
