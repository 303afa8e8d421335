#include "untrusted/host/hygiene.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* linux/prctl.h of older headers lacks it */
#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

static bool steers_loader(const char *variable)
{
    return strncmp(variable, "LD_", 3) == 0 || strncmp(variable, "GLIBC_TUNABLES=", 15) == 0;
}

struct err hygiene_clean_environment(char **argv)
{
    size_t kept = 0;
    size_t count = 0;
    for (; environ && environ[count]; count++)
        if (!steers_loader(environ[count])) environ[kept++] = environ[count];
    if (kept == count) return OK;
    environ[kept] = NULL;
    execve("/proc/self/exe", argv, environ);
    return FAIL(SANDBOX);
}

struct err hygiene_apply(void)
{
    struct rlimit none = {0};
    ENSURE(setrlimit(RLIMIT_CORE, &none) == 0, SANDBOX);
    ENSURE(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0, SANDBOX);
    ENSURE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, SANDBOX);
    int refused = prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0);
    ENSURE(refused == 0 || errno == EINVAL, SANDBOX);
    return OK;
}
