#include "untrusted/swtpm/key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

const char key_sentence[] =
    "the key that was given is not needed: this TPM's state is always sealed, under keys of its "
    "enclave's manager";

static void drain(int fd)
{
    char bytes[256];
    ssize_t got = 1;
    while (got > 0 || (got < 0 && errno == EINTR))
        got = read(fd, bytes, sizeof bytes);
    explicit_bzero(bytes, sizeof bytes);
    (void)close(fd);
}

struct err key_drain(const struct swtpm_key *key, struct explanation *why)
{
    const char *path = key->file ? key->file : key->password_file;
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY) : key->fd >= 0 ? key->fd : key->password_fd;
    if (fd < 0) return explain(why, FAIL(SYSTEM), "the key %.200s: %s", path ? path : "", strerror(errno));
    drain(fd);
    if (path && key->remove) (void)unlink(path);
    return OK;
}
