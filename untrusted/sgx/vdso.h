/* Functions that the kernel lends a process. */
#pragma once

/* __vdso_sgx_enter_enclave (asm/sgx.h), or NULL: the kernel was built without SGX. */
void *vdso_sgx_enter_enclave(void);
