/* libtpms calls DASelfHeal whenever it looks at the time (Time.c), which is at the beginning of each command. */
#include "trusted/tpm/lockout.h"

#include "trusted/tpm/libtpms.h"

void __real_DASelfHeal(void);
void __wrap_DASelfHeal(void);

static enum lockout_heals lockout_heals = LOCKOUT_HEALS_TIME;

void lockout_set_heals(enum lockout_heals heals)
{
    lockout_heals = heals;
}

/* The rest of DASelfHeal stays: it forgives what an owner wants forgiven, and counts no further than maxTries. */
void __wrap_DASelfHeal(void)
{
    if (lockout_heals != LOCKOUT_HEALS_TIME) go.selfHealTimer = go.lockoutTimer = g_time;
    __real_DASelfHeal();
}

bool lockout_start(void)
{
    bool locked = gp.failedTries > 0 || !gp.lockOutAuthEnabled;
    if (lockout_heals != LOCKOUT_HEALS_START_ONLY || !locked) return false;
    if (gp.failedTries > 0) gp.failedTries--;
    gp.lockOutAuthEnabled = 1;
    return true;
}
