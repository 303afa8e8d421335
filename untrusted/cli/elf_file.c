/*
 * Guarantees: a layout that elf_file_read hands out can run wherever the enclave's base is, needs nothing but RELATIVE
 * relocations in its own writable pages, and has no page that is both writable and executable. It does not guarantee
 * that the code is legal in an enclave: tools/check-image looks at the instructions.
 */
#include "untrusted/cli/elf_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gelf.h>

#include "abi/sgx.h"
#include "base/checked.h"
#include "untrusted/sgx/image.h"

#define SECINFO_R  (SGX_SECINFO_REG | SGX_SECINFO_R)
#define SECINFO_RW (SGX_SECINFO_REG | SGX_SECINFO_R | SGX_SECINFO_W)
#define SECINFO_RX (SGX_SECINFO_REG | SGX_SECINFO_R | SGX_SECINFO_X)

struct reading {
    Elf *elf;
    struct span file;
    const char *path;
    struct explanation *why;
    GElf_Ehdr header;
    size_t segment_count;
    size_t names; /* section that holds the names of the sections */
    struct layout *layout;
};

/* A run of addresses of the enclave */
struct area {
    uint64_t start;
    uint64_t size; /* bytes */
};

enum special { HEAP, STACK, SSA, TLS, TCS, SPECIAL_COUNT };

static const struct {
    const char *name;
    uint64_t secinfo_flags;
    bool measured;
    bool one_page;
} specials[SPECIAL_COUNT] = {
    [HEAP] = {".enclave.heap", SECINFO_RW, false, false},  [STACK] = {".enclave.stack", SECINFO_RW, true, false},
    [SSA] = {".enclave.ssa", SECINFO_RW, true, false},     [TLS] = {".enclave.tls", SECINFO_RW, true, true},
    [TCS] = {".enclave.tcs", SGX_SECINFO_TCS, true, true},
};

void layout_close(struct layout *layout)
{
    free(layout->pages);
    free(layout->content);
    *layout = (struct layout){0};
}

static void elf_close(Elf **elf)
{
    if (*elf) (void)elf_end(*elf);
}

__attribute__((format(printf, 2, 3))) static struct err refuse(const struct reading *in, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return explain(in->why, FAIL(ELF_UNUSABLE), "%s: %s", in->path, text);
}

static struct err check_header(struct reading *in)
{
    if (elf_kind(in->elf) != ELF_K_ELF || !gelf_getehdr(in->elf, &in->header))
        return refuse(in, "not an ELF file: %s", elf_errmsg(-1));
    const GElf_Ehdr *h = &in->header;
    if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB || h->e_machine != EM_X86_64)
        return refuse(in, "not for 64-bit x86");
    if (h->e_type != ET_DYN)
        return refuse(in, "not position-independent (ELF type %u); link it with -static-pie", h->e_type);
    if (elf_getphdrnum(in->elf, &in->segment_count) != 0 || elf_getshdrstrndx(in->elf, &in->names) != 0)
        return refuse(in, "its headers cannot be read: %s", elf_errmsg(-1));
    return OK;
}

static struct err program_header(const struct reading *in, size_t index, GElf_Phdr *out_header)
{
    if (!gelf_getphdr(in->elf, (int)index, out_header))
        return refuse(in, "program header %zu cannot be read: %s", index, elf_errmsg(-1));
    return OK;
}

static struct err check_load(const struct reading *in, const GElf_Phdr *h)
{
    if (h->p_flags & PF_W && h->p_flags & PF_X)
        return refuse(in, "the segment at 0x%lx is both writable and executable", (unsigned long)h->p_vaddr);
    if (!(h->p_flags & PF_R)) return refuse(in, "the segment at 0x%lx is not readable", (unsigned long)h->p_vaddr);
    uint64_t end = 0;
    if (!checked_add(h->p_offset, h->p_filesz, &end) || end > in->file.size || h->p_filesz > h->p_memsz)
        return refuse(in, "the segment at 0x%lx lies outside the file", (unsigned long)h->p_vaddr);
    return OK;
}

/* What a segment may be at all; where it lies is looked at later. */
static struct err check_segment(const struct reading *in, const GElf_Phdr *h)
{
    switch (h->p_type) {
    case PT_LOAD:
        return check_load(in, h);
    case PT_INTERP:
        return refuse(in, "it wants a program interpreter (PT_INTERP); link it with -static-pie");
    case PT_TLS:
        return refuse(in, "it has thread-local variables (PT_TLS); an enclave has none");
    case PT_GNU_STACK:
        if (h->p_flags & PF_X)
            return refuse(in, "it wants an executable stack (PT_GNU_STACK); link it with -z noexecstack");
        return OK;
    default:
        return OK;
    }
}

static struct err section_header(const struct reading *in, Elf_Scn *section, GElf_Shdr *out_header,
                                 const char **out_name)
{
    *out_name = gelf_getshdr(section, out_header) ? elf_strptr(in->elf, in->names, out_header->sh_name) : NULL;
    if (!*out_name) return refuse(in, "section %zu cannot be read: %s", elf_ndxscn(section), elf_errmsg(-1));
    return OK;
}

/* The only section of this name */
static struct err find_section(const struct reading *in, const char *name, GElf_Shdr *out_header)
{
    bool found = false;
    for (Elf_Scn *section = elf_nextscn(in->elf, NULL); section; section = elf_nextscn(in->elf, section)) {
        GElf_Shdr header;
        const char *its_name = NULL;
        TRY(section_header(in, section, &header, &its_name));
        if (strcmp(its_name, name) != 0) continue;
        if (found) return refuse(in, "there are two sections %s", name);
        found = true;
        *out_header = header;
    }
    if (!found) return refuse(in, "there is no section %s; link it with the enclave's linker script", name);
    return OK;
}

static struct err find_special(const struct reading *in, enum special special, struct area *out_area)
{
    const char *name = specials[special].name;
    GElf_Shdr h;
    TRY(find_section(in, name, &h));
    if (h.sh_size == 0 || h.sh_addr % SGX_PAGE_SIZE || h.sh_size % SGX_PAGE_SIZE)
        return refuse(in, "section %s (0x%lx, 0x%lx bytes) is not made of whole pages", name, (unsigned long)h.sh_addr,
                      (unsigned long)h.sh_size);
    if (specials[special].one_page && h.sh_size != SGX_PAGE_SIZE)
        return refuse(in, "section %s has 0x%lx bytes; it is exactly one page", name, (unsigned long)h.sh_size);
    *out_area = (struct area){.start = h.sh_addr, .size = h.sh_size};
    return OK;
}

/* Raises end to the end of area */
static struct err extend(const struct reading *in, struct area area, uint64_t *end)
{
    uint64_t its_end = 0;
    if (!checked_add(area.start, area.size, &its_end) || its_end > IMAGE_SIZE_MAX)
        return refuse(in, "the part at 0x%lx ends above the limit of %u MiB", (unsigned long)area.start,
                      IMAGE_SIZE_MAX >> 20);
    if (its_end > *end) *end = its_end;
    return OK;
}

static struct err open_pages(const struct reading *in, uint64_t end)
{
    struct layout *layout = in->layout;
    layout->size = SGX_SIZE_MIN;
    while (layout->size < end)
        layout->size *= 2;
    layout->page_count = (end + SGX_PAGE_SIZE - 1) / SGX_PAGE_SIZE;
    layout->pages = calloc(layout->page_count, sizeof *layout->pages);
    layout->content = calloc(layout->page_count, SGX_PAGE_SIZE);
    ENSURE(layout->pages && layout->content, NO_MEMORY);
    return OK;
}

/* Gives all pages that area touches to one part of the enclave. */
static struct err claim(const struct reading *in, struct area area, struct layout_page page)
{
    uint64_t end = area.start + area.size;
    for (uint64_t address = area.start & ~(uint64_t)(SGX_PAGE_SIZE - 1); address < end; address += SGX_PAGE_SIZE) {
        struct layout_page *place = &in->layout->pages[address / SGX_PAGE_SIZE];
        if (place->secinfo_flags)
            return refuse(in, "two parts of the enclave lie in the page at 0x%lx", (unsigned long)address);
        *place = page;
    }
    return OK;
}

static struct area segment_area(const GElf_Phdr *h)
{
    return (struct area){.start = h->p_vaddr, .size = h->p_memsz};
}

static struct err place_load(const struct reading *in, const GElf_Phdr *h)
{
    struct layout_page page = {.secinfo_flags = SECINFO_R, .measured = true, .public = !(h->p_flags & PF_W)};
    if (h->p_flags & PF_W) page.secinfo_flags = SECINFO_RW;
    if (h->p_flags & PF_X) page.secinfo_flags = SECINFO_RX;
    TRY(claim(in, segment_area(h), page));
    if (h->p_filesz) memcpy(in->layout->content + h->p_vaddr, in->file.data + h->p_offset, h->p_filesz);
    return OK;
}

static bool is_kind(const struct layout *layout, uint64_t address, uint64_t secinfo_flags)
{
    uint64_t page = address / SGX_PAGE_SIZE;
    return page < layout->page_count && layout->pages[page].secinfo_flags == secinfo_flags;
}

/* Constants that hold addresses: the enclave writes them once, at its first entry, and no secret ever. */
static struct err place_relro(const struct reading *in, const GElf_Phdr *relro)
{
    uint64_t end = 0;
    if (relro->p_vaddr % SGX_PAGE_SIZE || relro->p_memsz % SGX_PAGE_SIZE ||
        !checked_add(relro->p_vaddr, relro->p_memsz, &end))
        return refuse(in, "PT_GNU_RELRO (0x%lx, 0x%lx bytes) is not made of whole pages", (unsigned long)relro->p_vaddr,
                      (unsigned long)relro->p_memsz);
    for (size_t i = 0; i < in->segment_count; i++) {
        GElf_Phdr h;
        TRY(program_header(in, i, &h));
        bool around =
            h.p_type == PT_LOAD && h.p_flags & PF_W && h.p_vaddr <= relro->p_vaddr && end <= h.p_vaddr + h.p_memsz;
        if (!around) continue;
        for (uint64_t address = relro->p_vaddr; address < end; address += SGX_PAGE_SIZE)
            in->layout->pages[address / SGX_PAGE_SIZE].public = true;
        return OK;
    }
    return refuse(in, "PT_GNU_RELRO at 0x%lx lies in no writable segment", (unsigned long)relro->p_vaddr);
}

static struct err place_segments(const struct reading *in)
{
    for (size_t i = 0; i < in->segment_count; i++) {
        GElf_Phdr h;
        TRY(program_header(in, i, &h));
        if (h.p_type == PT_LOAD) TRY(place_load(in, &h));
    }
    for (size_t i = 0; i < in->segment_count; i++) {
        GElf_Phdr h;
        TRY(program_header(in, i, &h));
        if (h.p_type == PT_GNU_RELRO) TRY(place_relro(in, &h));
    }
    return OK;
}

static struct err place_specials(const struct reading *in, const struct area areas[SPECIAL_COUNT])
{
    for (size_t i = 0; i < SPECIAL_COUNT; i++) {
        struct layout_page page = {.secinfo_flags = specials[i].secinfo_flags, .measured = specials[i].measured};
        TRY(claim(in, areas[i], page));
    }
    if (!is_kind(in->layout, in->header.e_entry, SECINFO_RX))
        return refuse(in, "the entry point 0x%lx lies in no executable segment", (unsigned long)in->header.e_entry);
    struct sgx_tcs tcs = {
        .OSSA = areas[SSA].start,
        .NSSA = (uint32_t)(areas[SSA].size / SGX_PAGE_SIZE),
        .OENTRY = in->header.e_entry,
        .OFSBASE = areas[TLS].start,
        .OGSBASE = areas[TLS].start,
        .FSLIMIT = UINT32_MAX,
        .GSLIMIT = UINT32_MAX,
    };
    memcpy(in->layout->content + areas[TCS].start, &tcs, sizeof tcs);
    return OK;
}

static struct err place_stub(const struct reading *in)
{
    GElf_Shdr h;
    TRY(find_section(in, ".enclave.stub", &h));
    if (h.sh_addr % SGX_PAGE_SIZE || !is_kind(in->layout, h.sh_addr, SECINFO_RX))
        return refuse(in, "section .enclave.stub (0x%lx) does not begin a page of an executable segment",
                      (unsigned long)h.sh_addr);
    if (memcmp(in->layout->content + h.sh_addr, image_stub, sizeof image_stub) != 0)
        return refuse(in, "section .enclave.stub does not hold the ENCLU stub: enclu, ret, then int3 up to %u bytes",
                      IMAGE_STUB_SIZE);
    in->layout->stub_offset = h.sh_addr;
    return OK;
}

static struct err check_target(const struct reading *in, uint64_t address)
{
    uint64_t last = 0;
    if (!checked_add(address, sizeof(uint64_t) - 1, &last) || !is_kind(in->layout, address, SECINFO_RW) ||
        !is_kind(in->layout, last, SECINFO_RW))
        return refuse(in, "the relocation at 0x%lx is not in a writable page", (unsigned long)address);
    return OK;
}

static struct err check_rela(const struct reading *in, Elf_Data *data)
{
    GElf_Rela rela;
    for (int i = 0; gelf_getrela(data, i, &rela); i++) {
        if (GELF_R_TYPE(rela.r_info) != R_X86_64_RELATIVE)
            return refuse(in,
                          "the relocation at 0x%lx has type %lu; only R_X86_64_RELATIVE can be applied in an enclave",
                          (unsigned long)rela.r_offset, (unsigned long)GELF_R_TYPE(rela.r_info));
        TRY(check_target(in, rela.r_offset));
    }
    return OK;
}

/* RELR: an even word is an address, an odd word a bitmap of the 63 words that follow (System V gABI, "SHT_RELR"). */
static struct err check_relr(const struct reading *in, const Elf_Data *data)
{
    uint64_t next = 0;
    for (size_t i = 0; i + sizeof(uint64_t) <= data->d_size; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        memcpy(&word, (const uint8_t *)data->d_buf + i, sizeof word);
        if ((word & 1) == 0) {
            TRY(check_target(in, word));
            next = word + sizeof(uint64_t);
            continue;
        }
        for (unsigned bit = 1; bit < 64; bit++)
            if (word >> bit & 1) TRY(check_target(in, next + (bit - 1) * sizeof(uint64_t)));
        next += 63 * sizeof(uint64_t);
    }
    return OK;
}

static struct err check_dynamic(const struct reading *in, Elf_Data *data)
{
    GElf_Dyn entry;
    for (int i = 0; gelf_getdyn(data, i, &entry) && entry.d_tag != DT_NULL; i++)
        if (entry.d_tag == DT_NEEDED)
            return refuse(in, "it needs a shared library (DT_NEEDED); link it with -static-pie");
    return OK;
}

static struct err check_symbols(const struct reading *in, Elf_Data *data, const GElf_Shdr *h)
{
    GElf_Sym symbol;
    for (int i = 1; gelf_getsym(data, i, &symbol); i++) {
        if (symbol.st_shndx != SHN_UNDEF) continue;
        const char *name = elf_strptr(in->elf, h->sh_link, symbol.st_name);
        return refuse(in, "the symbol %s is undefined", name ? name : "(without a name)");
    }
    return OK;
}

static struct err section_data(const struct reading *in, Elf_Scn *section, const char *name, Elf_Data **out_data)
{
    *out_data = elf_getdata(section, NULL);
    if (!*out_data) return refuse(in, "section %s cannot be read: %s", name, elf_errmsg(-1));
    return OK;
}

static struct err check_symbol_table(const struct reading *in, Elf_Scn *section, const GElf_Shdr *h, const char *name)
{
    if (h->sh_type != SHT_SYMTAB && h->sh_type != SHT_DYNSYM) return OK;
    Elf_Data *data = NULL;
    TRY(section_data(in, section, name, &data));
    return check_symbols(in, data, h);
}

static struct err check_relocations(const struct reading *in, Elf_Scn *section, const GElf_Shdr *h, const char *name)
{
    if (!(h->sh_flags & SHF_ALLOC) || h->sh_type == SHT_NOBITS || h->sh_size == 0) return OK;
    if (h->sh_type == SHT_REL) return refuse(in, "section %s holds relocations without addends", name);
    Elf_Data *data = NULL;
    TRY(section_data(in, section, name, &data));
    if (h->sh_type == SHT_RELA) return check_rela(in, data);
    if (h->sh_type == SHT_RELR) return check_relr(in, data);
    if (h->sh_type == SHT_DYNAMIC) return check_dynamic(in, data);
    return OK;
}

typedef struct err section_check(const struct reading *in, Elf_Scn *section, const GElf_Shdr *h, const char *name);

static struct err check_sections(const struct reading *in, section_check *check)
{
    for (Elf_Scn *section = elf_nextscn(in->elf, NULL); section; section = elf_nextscn(in->elf, section)) {
        GElf_Shdr h;
        const char *name = NULL;
        TRY(section_header(in, section, &h, &name));
        TRY(check(in, section, &h, name));
    }
    return OK;
}

static struct err read_layout(struct reading *in)
{
    TRY(check_header(in));
    uint64_t end = 0;
    for (size_t i = 0; i < in->segment_count; i++) {
        GElf_Phdr h;
        TRY(program_header(in, i, &h));
        TRY(check_segment(in, &h));
        if (h.p_type == PT_LOAD) TRY(extend(in, segment_area(&h), &end));
    }
    struct area areas[SPECIAL_COUNT];
    for (size_t i = 0; i < SPECIAL_COUNT; i++) {
        TRY(find_special(in, i, &areas[i]));
        TRY(extend(in, areas[i], &end));
    }
    TRY(open_pages(in, end));
    TRY(place_segments(in));
    TRY(place_specials(in, areas));
    TRY(place_stub(in));
    TRY(check_sections(
        in, check_symbol_table)); /* first: it has names, and an unknown name is often the cause of the rest */
    return check_sections(in, check_relocations);
}

struct err elf_file_read(struct span file, const char *path, struct layout *out_layout, struct explanation *why)
{
    ENSURE(elf_version(EV_CURRENT) != EV_NONE, ELF_UNUSABLE);
    struct layout layout DEFER(layout_close) = {0};
    /* libelf takes a pointer that is not const, but a file that is only read is not written. */
    Elf *elf DEFER(elf_close) = elf_memory((char *)(uintptr_t)file.data, file.size);
    struct reading in = {.elf = elf, .file = file, .path = path, .why = why, .layout = &layout};
    TRY(read_layout(&in));
    *out_layout = layout;
    layout = (struct layout){0};
    return OK;
}
