/*
 * One error type from top to bottom.
 *
 * Three kinds of failure are never mixed: bad input from outside returns an err and
 * changes nothing; a refusal by the TPM is a well-formed response, and err is success;
 * a broken invariant of our own is panic(). The sentence that a person reads for each
 * code stands beside it here and nowhere else.
 */
#pragma once

#include <stdint.h>

struct [[nodiscard]] err {
    uint16_t code; /* 0 is success; the values are stable: they cross the enclave boundary */
};

/*    name                   value  what the operator is told */
#define ERR_LIST(X)                                                                                                    \
    X(NONE, 0, "success")                                                                                              \
    /* input that came over a boundary */                                                                              \
    X(TRUNCATED, 1, "the data ends before the structure does")                                                         \
    X(TRAILING, 2, "there are bytes behind the end of the structure")                                                  \
    X(TOO_LARGE, 3, "a size is above the limit")                                                                       \
    X(BAD_VALUE, 5, "a field has a value that is not allowed")                                                         \
    X(NO_SPACE, 6, "the output buffer is too small")                                                                   \
    X(NO_MEMORY, 7, "out of memory")                                                                                   \
    /* the call boundary of an enclave */                                                                              \
    X(CALL_RANGE, 16, "a buffer of the call does not lie wholly outside the enclave")                                  \
    X(CALL_ALIGNMENT, 17, "a buffer of the call is not aligned to 8 bytes")                                            \
    X(CALL_UNKNOWN, 18, "the enclave has no call of this number")                                                      \
    X(CALL_STATE, 19, "the call is not allowed in this state of the enclave")                                          \
    X(CALL_BUSY, 20, "a commit is under way; only its outcome can be told to the enclave now")                         \
    X(ENCLAVE_DEAD, 21, "the enclave has stopped for good after an internal fault; start the instance again")          \
    X(ENCLAVE_ENTERED, 22, "the enclave is being executed by another thread")                                          \
    /* an enclave image */                                                                                             \
    X(IMAGE_MAGIC, 32, "this is not an enclave image file")                                                            \
    X(IMAGE_FORMAT, 33, "the enclave image file has an unknown format or a malformed header")                          \
    X(IMAGE_SEGMENT, 34, "the enclave image file has a malformed segment")                                             \
    X(IMAGE_STUB, 35, "the enclave image has no ENCLU stub where its header says")                                     \
    X(IMAGE_NO_XFRM, 36, "the enclave image is not signed for any XFRM that this machine can run")                     \
    X(IMAGE_UNSEALED, 37, "the enclave image could still be changed: its descriptor is not sealed")                    \
    X(ELF_UNUSABLE, 38, "the ELF file cannot become an enclave image")                                                 \
    /* ECREATE, EADD, EINIT, EENTER, in the words of the SDM */                                                        \
    X(SGX_SECS, 48, "ECREATE refused the SECS")                                                                        \
    X(SGX_SECINFO, 49, "EADD refused the page: SECINFO, offset or TCS content")                                        \
    X(SGX_ORDER, 50, "the operation is not allowed at this point of the enclave's life")                               \
    X(SGX_SIG_STRUCT, 51, "EINIT refused: SGX_INVALID_SIG_STRUCT (header, exponent, reserved bytes)")                  \
    X(SGX_SIGNATURE, 52, "EINIT refused: SGX_INVALID_SIGNATURE (signature, Q1 or Q2)")                                 \
    X(SGX_MEASUREMENT, 53, "EINIT refused: SGX_INVALID_MEASUREMENT (the pages are not those that were signed)")        \
    X(SGX_ATTRIBUTE, 54, "EINIT refused: SGX_INVALID_ATTRIBUTE (attributes or MISCSELECT under the mask)")             \
    X(SGX_TCS_BUSY, 55, "EENTER refused: the TCS is in use, or is not a TCS")                                          \
    X(SGX_FAULT, 56, "the enclave faulted and is dead; it can only be destroyed")                                      \
    X(SGX_CPUSVN, 57, "EGETKEY refused: SGX_INVALID_CPUSVN")                                                           \
    X(SGX_ISVSVN, 58, "EGETKEY refused: SGX_INVALID_ISVSVN")                                                           \
    X(SGX_KEYNAME, 59, "EGETKEY refused: SGX_INVALID_KEYNAME")                                                         \
    X(NO_SECRET_MEMORY, 60,                                                                                            \
      "the kernel gives no secret memory (memfd_secret): boot with secretmem.enable=1, or use a kernel from 6.5 on; "  \
      "in a container, let its seccomp profile allow memfd_secret")                                                    \
    X(MEMLOCK, 61, "secret memory was refused: RLIMIT_MEMLOCK is too low (systemd: LimitMEMLOCK=, shell: ulimit -l)")  \
    X(CPU_UNREACHABLE, 62, "the software device's processor (vtpm-cpu) does not answer")                               \
    X(SGX_NO_DEVICE, 63,                                                                                               \
      "there is no SGX device: the processor has no SGX, the firmware has it or its launch control off, or the "       \
      "kernel has no driver (CONFIG_X86_SGX)")                                                                         \
    X(SGX_DEVICE_DENIED, 64, "this user may not open the SGX device: its group, usually sgx, may")                     \
    X(SGX_NOEXEC, 65, "the SGX device's file system is mounted noexec: mount -o remount,exec /dev")                    \
    X(SGX_PERSONALITY, 66,                                                                                             \
      "the process runs with READ_IMPLIES_EXEC (an executable stack, setarch -X), and gets no enclave so")             \
    X(SGX_EPC, 67, "the memory that the processor keeps for enclaves (EPC) is exhausted: end other enclaves")          \
    X(SGX_VDSO, 68, "this kernel's vDSO has no __vdso_sgx_enter_enclave: it was built without SGX")                    \
    X(SGX_SOURCE, 69, "the enclave image lies in memory that may not become executable")                               \
    X(SGX_LAUNCH, 70,                                                                                                  \
      "EINIT refused, and nothing is wrong with enclave and SIGSTRUCT: the processor does not launch this signer, "    \
      "or was interrupted again and again")                                                                            \
    X(OTHER_DEVICE, 71, "the store was made on another kind of SGX device than the one that is used now")              \
    /* sealed state */                                                                                                 \
    X(STATE_MAGIC, 80, "this is not a sealed vTPM state")                                                              \
    X(STATE_FORMAT, 81, "the sealed state has a format that this release does not read")                               \
    X(STATE_CUT, 82, "the sealed state is cut off or has bytes added")                                                 \
    X(STATE_OTHER_INSTANCE, 83, "the sealed state belongs to another instance")                                        \
    X(STATE_OTHER_DEVICE, 85, "the sealed state was made on another SGX device, or under another device secret")       \
    X(STATE_ALTERED, 86, "the sealed state was altered: it does not authenticate")                                     \
    X(STATE_MISSING, 87, "the instance's state is missing; nothing was created in its place")                          \
    X(STATE_REJECTED, 89, "the TPM library refused the state that the seal authenticated")                             \
    X(STATE_LOCKED, 90, "the instance's state is in use by another process")                                           \
    X(STATE_OLD, 92, "the sealed state is older than the newest one that was acknowledged")                            \
    X(STATE_NOT_RECORDED, 93, "the sealed state is this instance's, but was never acknowledged")                       \
    /* cryptography and the TPM */                                                                                     \
    X(CRYPTO, 96, "a cryptographic operation failed")                                                                  \
    X(AUTHENTICATION, 97, "the data does not authenticate")                                                            \
    X(TPM, 98, "the TPM library failed")                                                                               \
    X(TPM_OFF, 99, "the TPM is powered off")                                                                           \
    X(TPM_FAILED, 100, "the TPM is in failure mode, which only a reset of the machine ends; it cannot be suspended")   \
    X(TPM_FAMILY, 101, "a TPM 1.2 cannot do this: only a TPM 2.0 can")                                                 \
    /* the host */                                                                                                     \
    X(SYSTEM, 112, "a system call failed")                                                                             \
    X(USAGE, 113, "the command line is wrong")                                                                         \
    X(PEER_CLOSED, 114, "the other side closed the connection")                                                        \
    X(SANDBOX, 115, "the process could not confine itself")                                                            \
    X(KEY_UNUSABLE, 116, "the signing key cannot be used: SGX wants RSA-3072 with the public exponent 3")              \
    X(SECRET_MISSING, 117, "the device secret is missing; nothing was created in its place")                           \
    X(SECRET_UNUSABLE, 118, "the device secret cannot be used: wrong size, owner or mode")                             \
    X(SECRET_EXISTS, 119, "there is a device secret already; nothing was changed")                                     \
    X(PASSPHRASE, 120, "the passphrase is not the one that the device secret was made with")                           \
    /* sessions */                                                                                                     \
    X(LINK_CLOSED, 144, "the session is closed")                                                                       \
    X(LINK_RECORD, 145, "a record was altered, replayed, reordered or is not of this session; the session is closed")  \
    X(LINK_ORDER, 146, "a message is not allowed at this point of the session; the session is closed")                 \
    X(LINK_TRUNCATED, 147, "the connection ended without the session's final record: what came last may be missing")   \
    X(PEER_REPORT, 148, "the peer's REPORT does not verify: it was not made for this enclave by this processor")       \
    X(PEER_IDENTITY, 149, "the peer is an enclave of another identity (MRENCLAVE, ISVPRODID or attributes)")           \
    X(PEER_TRANSCRIPT, 150, "the peer's REPORT is about another exchange than this one")                               \
    X(FENCED, 151, "another start of this instance holds its state now; this copy may go no further")                  \
    X(LEASE, 152, "the manager has not confirmed this instance for too long")                                          \
    /* the manager's answers */                                                                                        \
    X(NO_INSTANCE, 160, "there is no instance of this id")                                                             \
    X(DELETED, 161, "the instance was deleted; it never comes back")                                                   \
    X(LABEL_TAKEN, 162, "the label is in use, or was the id or the label of another instance")                         \
    X(LABEL_BAD, 163, "a label is 1 to 63 letters, digits, '.', '_', '-', and begins with a letter or a digit")        \
    X(VERB_STATE, 164, "the instance's state does not allow this")                                                     \
    X(HELD, 165, "a start of this instance is recorded that has not ended with a receipt")                             \
    X(RECEIPT, 166, "the receipt is not the recorded holder's, or not of its newest state")                            \
    X(OWNER_SIGNATURE, 167, "the owner's signature is missing or does not verify")                                     \
    X(LEDGER_FULL, 168, "the ledger has no room for another instance")                                                 \
    X(LEDGER_ROOT, 169, "the ledger's rows are not those that its newest record was made over")                        \
    X(LEDGER_OTHER_IMAGE, 170, "the ledger was sealed by another manager image (another MRENCLAVE)")                   \
    X(NO_RELEASE_KEY, 171, "this image was built without a release key: it hands over to no other")                    \
    X(MANIFEST, 172, "the upgrade manifest does not verify, or is about other images")                                 \
    X(DOWNGRADE, 173, "the new image has a lower security version than the ledger has seen")                           \
    X(HANDED_OVER, 174, "this manager has handed its secrets over to its successor")                                   \
    X(FRONT_ENROLLED, 175, "the owner enrolled a front-end key for this instance: only vtpm-front with it can serve")  \
    /* the anchor */                                                                                                   \
    X(ANCHOR_VALUE, 176,                                                                                               \
      "the anchor does not stand where the store's newest record left it: the store is an older "                      \
      "copy, or a manager on another copy of it has gone on")                                                          \
    X(ANCHOR_ANSWER, 177, "the anchor's answer does not authenticate")                                                 \
    X(ANCHOR_REFUSED, 178, "the anchor's TPM refused a command")                                                       \
    X(ANCHOR_IDENTITY, 179, "this is not the TPM or not the NV index that the trust domain was anchored in")           \
    X(ANCHOR_IO, 180, "the anchor could not be read or written")                                                       \
    /* other managers of the trust domain */                                                                           \
    X(MOVED, 184, "the instance has moved to another vtpmd of its trust domain, and is started there")                 \
    X(OTHER_DOMAIN, 185, "the other vtpmd is of another trust domain: nothing goes there (vtpmctl join)")              \
    X(WEAKER_ANCHOR, 186, "the other vtpmd's anchor is weaker than this one's")                                        \
    X(NOT_EMPTY, 187, "only a vtpmd that never had an instance, and has no recovery keys, can join a trust domain")    \
    /* the daemon and its store */                                                                                     \
    X(CONFIG, 192, "the configuration file is wrong")                                                                  \
    X(STORE_MISSING, 193, "there is no store here; vtpmd --init makes one, once")                                      \
    X(STORE_EXISTS, 194, "there is a store already; nothing was changed")                                              \
    X(STORE_FOREIGN, 195, "the file is not a store of this program, or of a newer release")                            \
    X(STORE_BUSY, 196, "the store is in use by another process")                                                       \
    X(STORE_IO, 197, "the store could not be read or written")                                                         \
    X(PROTOCOL, 198, "the other side does not keep to the protocol")                                                   \
    X(TIMEOUT, 199, "it was not done in time")                                                                         \
    X(SNAPSHOT_EXISTS, 200, "the instance has a snapshot of this name already; it was left as it is")                  \
    X(NO_SNAPSHOT, 201, "the instance has no snapshot of this name")

enum err_code {
#define ERR_ENUM(name, value, sentence) ERR_##name = (value),
    ERR_LIST(ERR_ENUM)
#undef ERR_ENUM
};

#define OK         ((struct err){ERR_NONE})
#define FAIL(name) ((struct err){ERR_##name})

/* Returns the error of call to the caller, if there is one. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        struct err err_of_try_ = (call);                                                                               \
        if (err_of_try_.code) return err_of_try_;                                                                      \
    } while (0)

/* Returns ERR_name unless condition holds. */
#define ENSURE(condition, name)                                                                                        \
    do {                                                                                                               \
        if (!(condition)) return (struct err){ERR_##name};                                                             \
    } while (0)

/* Runs fn(&variable) when the variable goes out of scope. */
#define DEFER(fn) __attribute__((cleanup(fn)))
