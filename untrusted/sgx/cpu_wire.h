/*
 * What goes over the socket between a process that runs an enclave and vtpm-cpu, the software device's processor.
 *
 * A unix socket of type SOCK_SEQPACKET; one connection is one enclave. The client sends a request and waits for its
 * reply. All integers are little-endian; the SGX structures have their architectural layout (abi/sgx.h).
 *
 *   request:  u32 message, then the body          reply:  u32 err code, then the body if the code is 0
 *
 *   message     body                              descriptor     reply                       state
 *   IMAGE       -                                 image file     - (with the sealed image)   NEW
 *   CREATE      SECS                              sealed image   -                           NEW -> BUILDING
 *   ADD_PAGES   u64 offset, u64 length,           -              -                           BUILDING
 *               u64 file offset (0: zeros),
 *               u32 1 if measured, u32 0, SECINFO
 *   INIT        SIGSTRUCT                         -              -                           BUILDING -> RUNNING
 *   EREPORT     TARGETINFO, REPORTDATA            -              REPORT, 432 bytes           RUNNING
 *   EGETKEY     KEYREQUEST                        -              u32 RAX, and the key when   RUNNING
 *                                                                RAX is 0
 *
 * A message of another size, or in another state, ends the connection. A refused CREATE, ADD_PAGES or INIT is answered
 * and leaves nothing to go on with: only closing. In a reply to EREPORT and EGETKEY, ERR_SGX_FAULT is the processor's
 * #GP.
 */
#pragma once

#include "abi/sgx.h"

#define CPU_SOCKET_DEFAULT "/run/vtpm/cpu.sock"

/* CPUSVN of every software device, 16 bytes: not zero, and nothing that hardware would report. */
#define CPU_CPUSVN         "vtpm software\0\0\1"

enum cpu_message {
    CPU_IMAGE = 1,
    CPU_CREATE = 2,
    CPU_ADD_PAGES = 3,
    CPU_INIT = 4,
    CPU_EREPORT = 5,
    CPU_EGETKEY = 6,
};

#define CPU_HEADER_SIZE    4u
#define CPU_ADD_PAGES_SIZE (8u + 8u + 8u + 4u + 4u + 64u) /* bytes of body */
#define CPU_REQUEST_MAX    (CPU_HEADER_SIZE + SGX_PAGE_SIZE)
#define CPU_REPLY_MAX      (CPU_HEADER_SIZE + SGX_REPORT_SIZE)
