/*
 * An enclave as the host sees it: load an image into a device, then call it. This is the forwarder
 * of the method: it carries bytes, it understands none of them.
 */
#pragma once

#include "abi/sgx.h"
#include "base/err.h"
#include "base/span.h"
#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

struct enclave;

/*
 * Creates, adds and initialises image in device. Takes the device over: it is destroyed on error and by enclave_close.
 * image must stay until enclave_close.
 */
struct err enclave_open(struct device *device, const struct image *image, struct enclave **out_enclave);

/*
 * One call (abi/call.h). input.data and output are aligned to 8 bytes, capacity is a multiple of 8.
 * Returns the enclave's own door error, ERR_SGX_FAULT when it faulted now, ERR_ENCLAVE_DEAD when it had before.
 */
struct err enclave_call(struct enclave *enclave, struct span input, uint8_t *output, size_t capacity, size_t *out_size);

/* What happened at the last fault: the vector, and the address for #PF. For the log. */
void enclave_fault(const struct enclave *enclave, uint16_t *out_vector, uint64_t *out_address);

void enclave_close(struct enclave **enclave);
