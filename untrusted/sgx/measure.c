/*
 * MRENCLAVE as one SHA-256 over 64-byte records.
 *
 *   ECREATE   0 "ECREATE\0"   8 u32 SSAFRAMESIZE  12 u64 SIZE           zeros up to 64
 *   EADD      0 "EADD\0..."   8 u64 page offset   16 SECINFO[0..48)
 *   EEXTEND   0 "EEXTEND\0"   8 u64 chunk offset  zeros up to 64        then 256 bytes of content
 *
 * Guarantees: the value that EINIT would find in SECS.MRENCLAVE, if the calls come in the order of the
 * instructions. It does not check whether the instructions would have been accepted.
 */
#include "untrusted/sgx/measure.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/bytes.h"

#define RECORD_SIZE     64u
#define CHUNKS_PER_PAGE (SGX_PAGE_SIZE / SGX_CHUNK_SIZE)

struct measurement {
    EVP_MD_CTX *hash;
};

static struct err update(struct measurement *m, const uint8_t *data, size_t size)
{
    ENSURE(EVP_DigestUpdate(m->hash, data, size) == 1, CRYPTO);
    return OK;
}

static struct err start(struct measurement *m, uint32_t ssaframesize, uint64_t size)
{
    m->hash = EVP_MD_CTX_new();
    ENSURE(m->hash, NO_MEMORY);
    ENSURE(EVP_DigestInit_ex(m->hash, EVP_sha256(), NULL) == 1, CRYPTO);
    uint8_t record[RECORD_SIZE] = {0};
    struct writer w = writer_of(record, sizeof record);
    TRY(write_bytes(&w, "ECREATE", 8));
    TRY(write_u32(&w, ssaframesize));
    TRY(write_u64(&w, size));
    return update(m, record, sizeof record);
}

struct err measurement_create(uint32_t ssaframesize, uint64_t size, struct measurement **out_measurement)
{
    struct measurement *m DEFER(measurement_close) = calloc(1, sizeof *m);
    ENSURE(m, NO_MEMORY);
    TRY(start(m, ssaframesize, size));
    *out_measurement = m;
    m = NULL;
    return OK;
}

struct err measurement_add(struct measurement *m, uint64_t offset, uint64_t secinfo_flags)
{
    uint8_t record[RECORD_SIZE] = {0};
    struct writer w = writer_of(record, sizeof record);
    TRY(write_bytes(&w, "EADD\0\0\0", 8));
    TRY(write_u64(&w, offset));
    TRY(write_u64(&w, secinfo_flags));
    return update(m, record, sizeof record);
}

struct err measurement_extend_page(struct measurement *m, uint64_t offset, const uint8_t *content)
{
    uint8_t records[CHUNKS_PER_PAGE * (RECORD_SIZE + SGX_CHUNK_SIZE)] = {0};
    for (size_t i = 0; i < CHUNKS_PER_PAGE; i++) {
        uint8_t *record = records + i * (RECORD_SIZE + SGX_CHUNK_SIZE);
        struct writer w = writer_of(record, RECORD_SIZE);
        TRY(write_bytes(&w, "EEXTEND", 8));
        TRY(write_u64(&w, offset + i * SGX_CHUNK_SIZE));
        memcpy(record + RECORD_SIZE, content + i * SGX_CHUNK_SIZE, SGX_CHUNK_SIZE);
    }
    return update(m, records, sizeof records);
}

struct err measurement_finish(struct measurement *m, uint8_t out_mrenclave[SGX_HASH_SIZE])
{
    uint8_t hash[SGX_HASH_SIZE];
    ENSURE(EVP_DigestFinal_ex(m->hash, hash, NULL) == 1, CRYPTO);
    memcpy(out_mrenclave, hash, sizeof hash);
    return OK;
}

void measurement_close(struct measurement **m)
{
    if (!*m) return;
    EVP_MD_CTX_free((*m)->hash);
    free(*m);
    *m = NULL;
}

static struct err measure_segment(struct measurement *m, const struct image *image, const struct image_segment *segment)
{
    static const uint8_t zero_page[SGX_PAGE_SIZE];
    for (uint64_t offset = 0; offset < segment->size; offset += SGX_PAGE_SIZE) {
        TRY(measurement_add(m, segment->offset + offset, segment->secinfo_flags));
        if (!segment->measured) continue;
        const uint8_t *content = image_page(image, segment, offset);
        TRY(measurement_extend_page(m, segment->offset + offset, content ? content : zero_page));
    }
    return OK;
}

struct err measure_image(const struct image *image, uint8_t out_mrenclave[SGX_HASH_SIZE])
{
    struct measurement *m DEFER(measurement_close) = NULL;
    TRY(measurement_create(image->ssaframesize, image->size, &m));
    for (uint32_t i = 0; i < image->segment_count; i++)
        TRY(measure_segment(m, image, &image->segments[i]));
    return measurement_finish(m, out_mrenclave);
}
