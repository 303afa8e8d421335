/*
 * The client's side of untrusted/sgx/cpu_wire.h. Every function waits for the reply, at most CPU_TIMEOUT_SECONDS.
 * What a leaf instruction reads and writes goes between the socket and the enclave's memory without a copy in the
 * host's.
 */
#pragma once

#include "abi/sgx.h"
#include "base/err.h"
#include "untrusted/sgx/device.h"

#define CPU_TIMEOUT_SECONDS 30

/* Connects to vtpm-cpu. The caller owns the descriptor. ERR_CPU_UNREACHABLE, ERR_TOO_LARGE (the path). */
struct err cpu_connect(const char *path, int *out_fd);

/*
 * Has an image file made unchangeable: out_sealed_fd is a sealed copy that all enclaves of this image share, opened
 * read-only. Both descriptors are the caller's. ERR_CPU_UNREACHABLE, or what vtpm-cpu says of the file.
 */
struct err cpu_image(int cpu_fd, int file_fd, int *out_sealed_fd);

/* ECREATE, EADD (with EEXTEND), EINIT. ERR_CPU_UNREACHABLE, ERR_SGX_*, ERR_IMAGE_*. */
struct err cpu_create(int cpu_fd, const struct sgx_secs *secs, int sealed_fd);
struct err cpu_add_pages(int cpu_fd, const struct device_pages *pages);
struct err cpu_init(int cpu_fd, const struct sgx_sigstruct *sigstruct);

/* The operands are addresses in the enclave that the caller has checked. ERR_SGX_FAULT is #GP. */
struct err cpu_ereport(int cpu_fd, const void *targetinfo, const void *reportdata, void *out_report);
/* out_rax: 0, or the error code of EGETKEY; out_key is written only with 0. */
struct err cpu_egetkey(int cpu_fd, const void *keyrequest, uint32_t *out_rax, void *out_key);
