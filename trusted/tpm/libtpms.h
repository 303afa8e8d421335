/*
 * What this room uses of libtpms beyond its public interface: the one list.
 *
 * The layouts are those of the archive that is linked (amd64), in libtpms' own names, with what is not used left out as
 * bytes. They are checked twice: each size below is the size of the symbol in the archive (tests/unit/trusted,
 * libtpms_layout), and each field is read back through TPM commands (tests/unit/trusted, floors).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* gp: what a TPM keeps for ever (libtpms' PERSISTENT_DATA). */
struct libtpms_persistent {
    uint8_t skipped_hierarchies[0x328];
    uint64_t totalResetCount;
    uint32_t resetCount;
    uint8_t skipped_pcrs[0x3e8 - 0x334];
    uint32_t failedTries;
    uint32_t maxTries;
    uint32_t recoveryTime;
    uint32_t lockoutRecovery;
    int32_t lockOutAuthEnabled;
    uint16_t orderlyState;
    uint8_t skipped_audit[0x410 - 0x3fe];
    uint64_t auditCounter;
    uint8_t skipped_versions[0x424 - 0x418];
    uint32_t timeEpoch;
};
_Static_assert(sizeof(struct libtpms_persistent) == 0x428, "gp");

/* go: what TPM2_Shutdown saves (ORDERLY_DATA). All times are ms. */
struct libtpms_orderly {
    uint64_t clock;
    uint8_t clockSafe;
    uint8_t skipped_drbg[0x68 - 0x9];
    uint64_t selfHealTimer; /* g_time when failedTries last changed */
    uint64_t lockoutTimer;  /* g_time when lockoutAuth failed */
    uint64_t time;
};
_Static_assert(sizeof(struct libtpms_orderly) == 0x80, "go");

/* gr: what a TPM Reset begins anew (STATE_RESET_DATA). */
struct libtpms_reset {
    uint8_t nullProof[2 + 64]; /* a TPM2B */
    uint8_t skipped_contexts[0x178 - 0x42];
    uint8_t commitNonce[2 + 64]; /* a TPM2B */
    uint8_t commitArray[16];
    uint8_t skipped_end[0x1d0 - 0x1ca];
};
_Static_assert(sizeof(struct libtpms_reset) == 0x1d0, "gr");

/* The globals themselves. */
extern struct libtpms_persistent gp;
extern struct libtpms_orderly go;
extern struct libtpms_reset gr;
extern uint64_t g_time;       /* ms since power-on */
extern int32_t g_initialized; /* TPM2_Startup was done */
extern int32_t g_inFailureMode;
extern uint32_t g_exclusiveAuditSession;

/* gp.orderlyState: what the last TPM2_Shutdown was, and where the startup before it came from. */
#define LIBTPMS_SU_DA_USED 0xfffeu /* this and 0xffff: none was done */

/* s_NV: libtpms' NV memory. gp, gr, gc, go lie at its beginning, then the orderly indices, then all others. */
#define LIBTPMS_NV_SIZE    0x2b2c0u
#define LIBTPMS_NV_GP      0u
#define LIBTPMS_NV_GO      0x1114u
#define LIBTPMS_NV_RAM     0x1400u
#define LIBTPMS_NV_LIST    0x1600u
extern uint8_t s_NV[LIBTPMS_NV_SIZE];
_Static_assert(sizeof g_time == 0x8, "g_time");
_Static_assert(sizeof g_initialized == 0x4, "g_initialized");
_Static_assert(sizeof g_inFailureMode == 0x4, "g_inFailureMode");
_Static_assert(sizeof g_exclusiveAuditSession == 0x4, "g_exclusiveAuditSession");
_Static_assert(sizeof s_NV == 0x2b2c0, "s_NV");

/* What a TPM that was started uses in place of those in s_NV: the orderly indices, and the highest of a deleted counter. */
extern uint8_t s_indexOrderlyRam[LIBTPMS_NV_LIST - LIBTPMS_NV_RAM];
extern uint64_t s_maxCounter;
_Static_assert(sizeof s_indexOrderlyRam == 0x200, "s_indexOrderlyRam");
_Static_assert(sizeof s_maxCounter == 0x8, "s_maxCounter");

/* One entry of either list; one of size 0 ends it. Numbers are little-endian, but for the data of an index. */
#define LIBTPMS_ENTRY_HANDLE         4u
#define LIBTPMS_NV_ATTRIBUTES        12u
#define LIBTPMS_NV_DATA              (4u + 0x94u)
#define LIBTPMS_RAM_ATTRIBUTES       8u
#define LIBTPMS_RAM_DATA             12u
#define LIBTPMS_LIST_END_MAX_COUNTER 4u /* behind the size 0: the highest value of any counter that was deleted */

/* MAX_ORDERLY_COUNT: the low bits in which an orderly counter may run ahead of what is stored. */
#define LIBTPMS_ORDERLY_COUNT        0xffu

#define LIBTPMS_SHA256               0xbu

/* Into s_NV, and s_NV through the store callback. Both are true on success. */
int32_t NvWrite(uint32_t offset, uint32_t size, const void *data);
int32_t NvCommit(void);

uint32_t CryptRandomStir(uint16_t size, uint8_t *data); /* a TPM_RC */
uint16_t CryptRandomGenerate(uint16_t size, uint8_t *out);

uint64_t _plat__TimerRead(void); /* ms: what g_time becomes with the next command */

/* What a startup of this type does with sessions, and with the audit of commands; both return true. */
#define LIBTPMS_SU_RESET      0u
#define LIBTPMS_RH_UNASSIGNED 0x40000008u
int32_t SessionStartup(uint32_t type);
int32_t CommandAuditStartup(uint32_t type);

uint16_t CryptHashBlock(uint16_t algorithm, uint32_t size, const uint8_t *data, uint32_t out_size, uint8_t *out);
