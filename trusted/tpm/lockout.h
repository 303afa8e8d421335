/*
 * What heals a TPM's lockout after wrong passwords (Part 1, 19.8 "Dictionary attack protection"). libtpms lets time do
 * it, and time is the host's word: a host that runs years ahead in one go has every guess back.
 */
#pragma once

#include <stdbool.h>

enum lockout_heals {
    LOCKOUT_HEALS_TIME = 0,       /* as the specification has it */
    LOCKOUT_HEALS_START_ONLY = 1, /* each start of the instance takes back one failed try, and unlocks lockoutAuth */
    LOCKOUT_HEALS_NEVER = 2,      /* only TPM2_DictionaryAttackLockReset does */
};

/*
 * From now on, for every TPM that is powered on. What an owner sets by TPM2_DictionaryAttackParameters stays his: a
 * recovery time of 0 means no lockout, a lockout recovery of 0 that each TPM2_Startup unlocks lockoutAuth.
 */
void lockout_set_heals(enum lockout_heals heals);

/* A start of the instance, before TPM2_Startup. True if it healed something, so that the state is to be stored. */
bool lockout_start(void);
