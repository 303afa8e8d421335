/*
 * Guarantees: what is printed was recomputed from the pages and checked against every signature. It does not say
 * whether the signer is to be trusted.
 */
#include "untrusted/cli/show.h"

#include <inttypes.h>
#include <string.h>

#include "untrusted/sgx/measure.h"
#include "untrusted/sgx/sigstruct.h"

#define HEX_SIZE (2 * SGX_HASH_SIZE + 1)

static const struct {
    uint64_t flag;
    const char *name;
} attribute_names[] = {
    {SGX_FLAGS_DEBUG, "DEBUG"},
    {SGX_FLAGS_MODE64BIT, "MODE64BIT"},
    {SGX_FLAGS_PROVISIONKEY, "PROVISIONKEY"},
    {SGX_FLAGS_EINITTOKENKEY, "EINITTOKENKEY"},
    {SGX_FLAGS_CET, "CET"},
    {SGX_FLAGS_KSS, "KSS"},
    {SGX_FLAGS_AEXNOTIFY, "AEXNOTIFY"},
};

struct pages {
    uint64_t code, constants, writable, tcs; /* by SECINFO */
    uint64_t unmeasured, public;             /* counted again */
};

static struct pages count_pages(const struct image *image)
{
    struct pages pages = {0};
    for (uint32_t i = 0; i < image->segment_count; i++) {
        const struct image_segment *segment = &image->segments[i];
        uint64_t count = segment->size / SGX_PAGE_SIZE;
        if (segment->secinfo_flags == SGX_SECINFO_TCS)
            pages.tcs += count;
        else if (segment->secinfo_flags & SGX_SECINFO_X)
            pages.code += count;
        else if (segment->secinfo_flags & SGX_SECINFO_W)
            pages.writable += count;
        else
            pages.constants += count;
        if (!segment->measured) pages.unmeasured += count;
        if (segment->public) pages.public += count;
    }
    return pages;
}

static bool same_word(const struct sgx_sigstruct *a, const struct sgx_sigstruct *b)
{
    return memcmp(a->MODULUS, b->MODULUS, SGX_RSA_SIZE) == 0 && a->ISVPRODID == b->ISVPRODID &&
           a->ISVSVN == b->ISVSVN && a->DATE == b->DATE;
}

struct err show_check(const struct image *image, const char *path, struct identity_of_image *out_identity,
                      struct explanation *why)
{
    struct identity_of_image identity;
    TRY(measure_image(image, identity.mrenclave));
    TRY(sigstruct_mrsigner(&image->signatures[0], identity.mrsigner));
    for (uint32_t i = 0; i < image->signature_count; i++) {
        const struct sgx_sigstruct *s = &image->signatures[i];
        struct sgx_secs secs;
        image_secs(image, i, 0, &secs);
        struct err err = sigstruct_verify(s);
        if (err.code) return explain(why, err, "%s: SIGSTRUCT %u is not validly signed; sign the image again", path, i);
        err = sigstruct_matches(s, &secs, identity.mrenclave);
        if (err.code)
            return explain(why, err, "%s: SIGSTRUCT %u was made for another enclave than its pages are; sign it again",
                           path, i);
        if (!same_word(s, &image->signatures[0]))
            return explain(why, FAIL(IMAGE_FORMAT),
                           "%s: SIGSTRUCTs 0 and %u differ in signer, ISVPRODID, ISVSVN or date", path, i);
    }
    *out_identity = identity;
    return OK;
}

static const char *hex(const uint8_t hash[SGX_HASH_SIZE], char out[HEX_SIZE])
{
    for (size_t i = 0; i < SGX_HASH_SIZE; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", hash[i]);
    return out;
}

/* Between quotes in JSON, bare in the table */
static void print_attributes(uint64_t flags, bool json, FILE *out)
{
    const char *separator = "";
    for (size_t i = 0; i < sizeof attribute_names / sizeof *attribute_names; i++) {
        if (!(flags & attribute_names[i].flag)) continue;
        (void)fprintf(out, json ? "%s\"%s\"" : "%s%s", separator, attribute_names[i].name);
        separator = json ? ", " : " ";
    }
}

static void print_xfrm(const struct image *image, bool json, FILE *out)
{
    for (uint32_t i = 0; i < image->signature_count; i++) {
        const char *separator = i == 0 ? "" : json ? ", " : " ";
        (void)fprintf(out, json ? "%s\"0x%" PRIx64 "\"" : "%s0x%" PRIx64, separator,
                      image->signatures[i].ATTRIBUTES.XFRM);
    }
}

static void print_table(const struct image *image, const struct identity_of_image *identity, FILE *out)
{
    const struct sgx_sigstruct *s = &image->signatures[0];
    const struct pages pages = count_pages(image);
    char text[HEX_SIZE];
    (void)fprintf(out, "MRENCLAVE   %s\n", hex(identity->mrenclave, text));
    (void)fprintf(out, "MRSIGNER    %s\n", hex(identity->mrsigner, text));
    (void)fprintf(out, "ISVPRODID   %u\n", s->ISVPRODID);
    (void)fprintf(out, "ISVSVN      %u\n", s->ISVSVN);
    (void)fprintf(out, "ATTRIBUTES  ");
    print_attributes(image->attributes_flags, false, out);
    (void)fprintf(out, "\nXFRM        ");
    print_xfrm(image, false, out);
    (void)fprintf(out, "\nMISCSELECT  0x%x\n", image->miscselect);
    (void)fprintf(out, "signed on   %04x-%02x-%02x\n", s->DATE >> 16, s->DATE >> 8 & 0xFF, s->DATE & 0xFF);
    (void)fprintf(out, "size        0x%" PRIx64 " bytes of address space, %zu bytes of file\n", image->size,
                  image->file.size);
    (void)fprintf(out, "pages       %" PRIu64 " code, %" PRIu64 " constants, %" PRIu64 " writable, %" PRIu64 " TCS\n",
                  pages.code, pages.constants, pages.writable, pages.tcs);
    (void)fprintf(out, "of these    %" PRIu64 " not measured, %" PRIu64 " public\n", pages.unmeasured, pages.public);
}

static void print_json(const struct image *image, const struct identity_of_image *identity, FILE *out)
{
    const struct sgx_sigstruct *s = &image->signatures[0];
    const struct pages pages = count_pages(image);
    char text[HEX_SIZE];
    (void)fprintf(out, "{\n  \"mrenclave\": \"%s\",\n", hex(identity->mrenclave, text));
    (void)fprintf(out, "  \"mrsigner\": \"%s\",\n", hex(identity->mrsigner, text));
    (void)fprintf(out, "  \"isvprodid\": %u,\n  \"isvsvn\": %u,\n", s->ISVPRODID, s->ISVSVN);
    (void)fprintf(out, "  \"attributes\": [");
    print_attributes(image->attributes_flags, true, out);
    (void)fprintf(out, "],\n  \"xfrm\": [");
    print_xfrm(image, true, out);
    (void)fprintf(out, "],\n  \"miscselect\": %u,\n", image->miscselect);
    (void)fprintf(out, "  \"date\": \"%04x-%02x-%02x\",\n", s->DATE >> 16, s->DATE >> 8 & 0xFF, s->DATE & 0xFF);
    (void)fprintf(out, "  \"size\": %" PRIu64 ",\n  \"file_size\": %zu,\n", image->size, image->file.size);
    (void)fprintf(out, "  \"pages\": {\"code\": %" PRIu64 ", \"constants\": %" PRIu64 ", \"writable\": %" PRIu64,
                  pages.code, pages.constants, pages.writable);
    (void)fprintf(out, ", \"tcs\": %" PRIu64 ", \"unmeasured\": %" PRIu64 ", \"public\": %" PRIu64 "}\n}\n", pages.tcs,
                  pages.unmeasured, pages.public);
}

void show_print(const struct image *image, const struct identity_of_image *identity, bool json, FILE *out)
{
    if (json)
        print_json(image, identity, out);
    else
        print_table(image, identity, out);
}
