/*
 * What there is on this machine, for this process: all that vtpmctl doctor looks at.
 *
 * Guarantees: nothing is changed; the SGX device is opened and closed, no enclave is made. What cannot be found out is
 * said to be unknown. Not guaranteed: that another process sees the same. A service has a /dev, a user and limits of its
 * own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/err.h"

#define DOCTOR_TEXT_SIZE 64u

enum doctor_node {
    DOCTOR_NODE_ABSENT,
    DOCTOR_NODE_DEVICE, /* a character device */
    DOCTOR_NODE_OTHER,
};

enum doctor_answer { DOCTOR_UNKNOWN, DOCTOR_NO, DOCTOR_YES };

struct doctor_facts {
    /* CPUID */
    char vendor[13];
    char brand[49];
    uint32_t features;    /* 1: ECX */
    bool SGX, SGX_LC;     /* 7.0 */
    bool SGX1, SGX2;      /* 12H.0 */
    uint64_t epc_size;    /* 12H.2 and on, bytes */
    bool hypervisor;      /* this is a guest */
    bool kernel_sees_sgx; /* flags of /proc/cpuinfo: "sgx" */
    bool feature_control_known;
    uint64_t IA32_FEATURE_CONTROL;

    /* the kernel */
    char release[DOCTOR_TEXT_SIZE];
    unsigned major, minor;
    bool driver; /* it has made an SGX device, whether or not this process sees it */
    bool vdso;
    bool epc_used_known; /* the kernel tells it (cgroup misc) */
    uint64_t epc_used;   /* bytes */
    bool fsgsbase;
    int landlock; /* its ABI; 0: none */
    bool seccomp;
    bool user_dispatch; /* of system calls */
    enum doctor_answer smt;

    /* the device, as this process sees it */
    struct err obstacle; /* kernel_device_probe's */
    enum doctor_node node;
    bool noexec;
    char user[DOCTOR_TEXT_SIZE];    /* who asks */
    char group[DOCTOR_TEXT_SIZE];   /* the device's */
    enum doctor_answer service_may; /* vtpmd.service may open it; UNKNOWN: there is no account vtpm */
    bool container;
    bool aesm;

    /* memory and time */
    struct err secret_memory; /* secret_memory_open's */
    bool memlock_free;        /* nothing is counted: CAP_IPC_LOCK, or no limit */
    uint64_t memlock;         /* RLIMIT_MEMLOCK, bytes */
    bool synchronised;
    int64_t now; /* seconds since 1970 */
};

void doctor_facts_gather(struct doctor_facts *out_facts);
/*
 * Whether who runs under an account may open the device for reading and writing, by its mode; an access control list is not
 * looked at. more_groups: what he has beside the account's, names or numbers with blanks between them. UNKNOWN: there is no
 * such account.
 */
enum doctor_answer doctor_may_open(const struct stat *device, const char *account, const char *more_groups);
