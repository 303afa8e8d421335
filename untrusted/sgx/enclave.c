#include "untrusted/sgx/enclave.h"

#include <stdlib.h>

#include "untrusted/host/log.h"

struct enclave {
    struct device *device;
    uint64_t tcs_offset;
    bool dead;
    uint16_t fault_vector;
    uint64_t fault_address;
};

static struct err add_segment(struct enclave *enclave, const struct image_segment *segment)
{
    struct device_pages pages = {
        .offset = segment->offset,
        .length = segment->size,
        .file_offset = segment->file_offset,
        .secinfo = {.FLAGS = segment->secinfo_flags},
        .measured = segment->measured,
        .public = segment->public,
    };
    if ((segment->secinfo_flags & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_TCS) enclave->tcs_offset = segment->offset;
    return enclave->device->ops->add_pages(enclave->device, &pages);
}

static struct err load(struct enclave *enclave, const struct image *image)
{
    const struct device_ops *ops = enclave->device->ops;
    struct sgx_secs secs;
    uint32_t signature = 0;
    TRY(image_select_signature(image, enclave->device->xfrm, &signature));
    image_secs(image, signature, 0, &secs);
    TRY(ops->create(enclave->device, &secs));
    for (uint32_t i = 0; i < image->segment_count; i++)
        TRY(add_segment(enclave, &image->segments[i]));
    return ops->init(enclave->device, &image->signatures[signature]);
}

struct err enclave_open(struct device *device, const struct image *image, struct enclave **out_enclave)
{
    struct enclave *enclave = calloc(1, sizeof *enclave);
    if (!enclave) {
        device->ops->destroy(device);
        return FAIL(NO_MEMORY);
    }
    enclave->device = device;
    struct err result = load(enclave, image);
    if (result.code) {
        enclave_close(&enclave);
        return result;
    }
    *out_enclave = enclave;
    return OK;
}

struct err enclave_call(struct enclave *enclave, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    struct device_run run = {
        .rdi = (uint64_t)input.data,
        .rsi = input.size,
        .rdx = (uint64_t)output,
        .r8 = capacity,
    };
    ENSURE(!enclave->dead, ENCLAVE_DEAD);
    TRY(enclave->device->ops->enter(enclave->device, enclave->tcs_offset, &run));
    if (run.function == SGX_EENTER)
        log_line(LOG_LEVEL_ERROR,
                 "EENTER failed, vector %u, error code %#x: the enclave is not there any more, as after the host was "
                 "suspended",
                 run.exception_vector, run.exception_error_code);
    if (run.function != SGX_EEXIT) {
        enclave->dead = true;
        enclave->fault_vector = run.exception_vector;
        enclave->fault_address = run.exception_addr;
        return FAIL(SGX_FAULT);
    }
    if (run.rdi == ERR_ENCLAVE_DEAD) enclave->dead = true;
    ENSURE(run.rdi <= UINT16_MAX, BAD_VALUE);
    if (run.rdi) return (struct err){(uint16_t)run.rdi};
    ENSURE(run.rsi <= capacity, BAD_VALUE);
    *out_size = run.rsi;
    return OK;
}

void enclave_fault(const struct enclave *enclave, uint16_t *out_vector, uint64_t *out_address)
{
    *out_vector = enclave->fault_vector;
    *out_address = enclave->fault_address;
}

void enclave_close(struct enclave **enclave)
{
    if (!*enclave) return;
    (*enclave)->device->ops->destroy((*enclave)->device);
    free(*enclave);
    *enclave = NULL;
}
