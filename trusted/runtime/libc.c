/*
 * The operating-system half of the C library, for code that was compiled against a whole one: libtpms, libcrypto and
 * the pure half of musl. There is no operating system: memory is the enclave's heap, randomness is the processor's,
 * time is what the host claimed, there is one thread, and everything else is not there and says so.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>

#include "trusted/runtime/clock.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/heap.h"
#include "trusted/runtime/panic.h"

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_US UINT64_C(1000)

static int the_errno;

int *__errno_location(void)
{
    return &the_errno;
}

/* ---- memory ---- */

void *malloc(size_t size)
{
    void *memory = heap_allocate(size);
    if (!memory) the_errno = ENOMEM;
    return memory;
}

void free(void *memory)
{
    heap_free(memory);
}

void *calloc(size_t count, size_t size)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        the_errno = ENOMEM;
        return NULL;
    }
    return malloc(bytes); /* the heap hands out zeros */
}

void *realloc(void *memory, size_t size)
{
    if (!memory) return malloc(size);
    size_t old_size = heap_size(memory);
    void *moved = malloc(size);
    if (!moved) return NULL;
    memcpy(moved, memory, old_size < size ? old_size : size);
    free(memory);
    return moved;
}

char *strdup(const char *string)
{
    size_t size = strlen(string) + 1;
    char *copy = malloc(size);
    return copy ? memcpy(copy, string, size) : NULL;
}

/* ---- randomness ---- */

ssize_t getrandom(void *out, size_t size, unsigned flags)
{
    (void)flags;
    entropy_fill(out, size);
    return (ssize_t)size;
}

int getentropy(void *out, size_t size)
{
    entropy_fill(out, size);
    return 0;
}

/* ---- time ---- */

int clock_gettime(clockid_t clock, struct timespec *out)
{
    (void)clock;
    out->tv_sec = (time_t)(clock_now() / NS_PER_S);
    out->tv_nsec = (long)(clock_now() % NS_PER_S);
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    (void)zone;
    out->tv_sec = (time_t)(clock_now() / NS_PER_S);
    out->tv_usec = (suseconds_t)(clock_now() % NS_PER_S / NS_PER_US);
    return 0;
}

time_t time(time_t *out)
{
    time_t now = (time_t)(clock_now() / NS_PER_S);
    if (out) *out = now;
    return now;
}

clock_t clock(void)
{
    return (clock_t)(clock_now() / NS_PER_US); /* CLOCKS_PER_SEC is a million */
}

/* ---- one thread ---- */

#define THREAD_KEYS 32u

static const void *thread_values[THREAD_KEYS];
static unsigned thread_key_count;

pthread_t pthread_self(void)
{
    return 1;
}

int pthread_once(pthread_once_t *control, void (*routine)(void))
{
    if (*control == PTHREAD_ONCE_INIT) {
        *control = PTHREAD_ONCE_INIT + 1;
        routine();
    }
    return 0;
}

int pthread_key_create(pthread_key_t *out, void (*destructor)(void *))
{
    (void)destructor; /* the thread never ends */
    if (thread_key_count == THREAD_KEYS) return EAGAIN;
    *out = thread_key_count++;
    return 0;
}

void *pthread_getspecific(pthread_key_t key)
{
    return key < THREAD_KEYS ? (void *)(uintptr_t)thread_values[key] : NULL;
}

int pthread_setspecific(pthread_key_t key, const void *value)
{
    if (key >= THREAD_KEYS) return EINVAL;
    thread_values[key] = value;
    return 0;
}

/* ---- the ends of a program ---- */

void abort(void)
{
    panic(PANIC_ABORT);
}

void __assert_fail(const char *assertion, const char *file, unsigned line, const char *function)
{
    (void)assertion, (void)file, (void)line, (void)function;
    panic(PANIC_ABORT);
}

/* ---- the checked forms that _FORTIFY_SOURCE makes ---- */

void *__memcpy_chk(void *restrict to, const void *restrict from, size_t size, size_t capacity);
void *__memset_chk(void *to, int byte, size_t size, size_t capacity);
int __snprintf_chk(char *out, size_t size, int flag, size_t capacity, const char *format, ...);
int __vsnprintf_chk(char *out, size_t size, int flag, size_t capacity, const char *format, va_list arguments);
int __asprintf_chk(char **out, int flag, const char *format, ...);

void *__memcpy_chk(void *restrict to, const void *restrict from, size_t size, size_t capacity)
{
    if (size > capacity) panic(PANIC_ABORT);
    return memcpy(to, from, size);
}

void *__memset_chk(void *to, int byte, size_t size, size_t capacity)
{
    if (size > capacity) panic(PANIC_ABORT);
    return memset(to, byte, size);
}

int __vsnprintf_chk(char *out, size_t size, int flag, size_t capacity, const char *format, va_list arguments)
{
    (void)flag;
    if (size > capacity) panic(PANIC_ABORT);
    return vsnprintf(out, size, format, arguments);
}

int __snprintf_chk(char *out, size_t size, int flag, size_t capacity, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = __vsnprintf_chk(out, size, flag, capacity, format, arguments);
    va_end(arguments);
    return length;
}

int __asprintf_chk(char **out, int flag, const char *format, ...)
{
    (void)flag;
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *string = length < 0 ? NULL : malloc((size_t)length + 1);
    if (string) vsnprintf(string, (size_t)length + 1, format, again);
    va_end(again);
    va_end(arguments);
    if (!string) return -1;
    *out = string;
    return length;
}

/* ---- strings that musl keeps per thread or per locale: this is the C locale ---- */

const char __utc[] = "UTC"; /* for musl's gmtime_r; its own comes with the files of time zones */

int wctomb(char *out, wchar_t wide)
{
    if (!out) return 0;
    if (wide < 0 || wide > 0x7F) return -1;
    *out = (char)wide;
    return 1;
}

char *strerror(int code)
{
    (void)code;
    return (char *)(uintptr_t) "error";
}

int __xpg_strerror_r(int code, char *out, size_t size);

int __xpg_strerror_r(int code, char *out, size_t size)
{
    const char *message = strerror(code);
    size_t needed = strlen(message) + 1;
    if (needed > size) return ERANGE;
    memcpy(out, message, needed);
    return 0;
}

/* ---- what is not there ----
 *
 * Reached by code that looks for an operating system and can do without. absent() answers -1 with ENOSYS, none() a null
 * pointer, nothing() 0, and meaningless() panics: what would call it is a change of context or a weaker random number.
 */

long libc_absent(void);
void *libc_none(void);
long libc_nothing(void);
_Noreturn void libc_meaningless(void);

long libc_absent(void)
{
    the_errno = ENOSYS;
    return -1;
}

void *libc_none(void)
{
    the_errno = ENOENT;
    return NULL;
}

long libc_nothing(void)
{
    return 0;
}

void libc_meaningless(void)
{
    panic(PANIC_LIBC);
}

#define SAME_AS(target, name) __asm__(".globl " #name "\n.hidden " #name "\n.set " #name ", " #target)
#define ABSENT(name)          SAME_AS(libc_absent, name)
#define NONE(name)            SAME_AS(libc_none, name)
#define NOTHING(name)         SAME_AS(libc_nothing, name)
#define MEANINGLESS(name)     SAME_AS(libc_meaningless, name)

SAME_AS(__errno_location, ___errno_location); /* musl's name for it inside its library */

/* files */
ABSENT(open);
ABSENT(close);
ABSENT(read);
ABSENT(write);
ABSENT(stat);
ABSENT(fstat);
ABSENT(remove);
ABSENT(fcntl);
ABSENT(ioctl);
ABSENT(select);
NONE(opendir);
NONE(readdir);
ABSENT(closedir);
/* streams */
NONE(fopen);
NONE(fopen64);
ABSENT(fclose);
NOTHING(fread);
NONE(fgets);
ABSENT(fputs);
ABSENT(fputc);
ABSENT(fseek);
ABSENT(ftell);
ABSENT(fileno);
NOTHING(ferror);
NOTHING(feof);
NOTHING(fflush);
NOTHING(perror);
ABSENT(__fprintf_chk);
ABSENT(__vfprintf_chk);
ABSENT(__dprintf_chk);
ABSENT(__vdprintf_chk);
ABSENT(__isoc99_sscanf);
/* the network */
ABSENT(socket);
ABSENT(bind);
ABSENT(listen);
ABSENT(accept);
ABSENT(connect);
ABSENT(shutdown);
ABSENT(setsockopt);
ABSENT(getsockopt);
ABSENT(getsockname);
ABSENT(getnameinfo);
ABSENT(getaddrinfo);
ABSENT(sendmsg);
ABSENT(recvmsg);
NONE(gethostbyname);
NONE(gai_strerror);
NOTHING(freeaddrinfo);
/* processes, shared memory, terminals, shared objects */
NOTHING(getpid);
ABSENT(syscall);
ABSENT(mmap);
ABSENT(munmap);
ABSENT(mprotect);
ABSENT(mlock);
ABSENT(madvise);
ABSENT(shmget);
ABSENT(shmat);
ABSENT(shmdt);
ABSENT(sysconf);
ABSENT(uname);
ABSENT(sleep);
ABSENT(usleep);
ABSENT(signal);
ABSENT(sigaction);
ABSENT(tcgetattr);
ABSENT(tcsetattr);
NONE(dlopen);
NONE(dlsym);
NONE(dlerror);
ABSENT(dlclose);
NOTHING(dladdr);
NONE(getenv);
NONE(secure_getenv);
NOTHING(atexit);
/* locks, of which one thread needs none */
NOTHING(pthread_rwlock_init);
NOTHING(pthread_rwlock_rdlock);
NOTHING(pthread_rwlock_wrlock);
NOTHING(pthread_rwlock_unlock);
NOTHING(pthread_rwlock_destroy);
NOTHING(pthread_key_delete);
NOTHING(__lockfile);
NOTHING(__unlockfile);
/* changes of context, and the C library's generator, which nobody may take for a random one */
MEANINGLESS(getcontext);
MEANINGLESS(setcontext);
MEANINGLESS(makecontext);
MEANINGLESS(rand);
MEANINGLESS(srand);
MEANINGLESS(__fdelt_chk);

/*
 * stderr and stdin: musl's fwrite, which vsnprintf brings along, sees a stream that can be neither read nor written.
 * The first word of musl's FILE holds its flags.
 */
#define MUSL_F_NORD 4u
#define MUSL_F_NOWR 8u

static struct {
    unsigned flags;
    uint8_t rest[508];
} stream = {.flags = MUSL_F_NORD | MUSL_F_NOWR};

FILE *libc_stream = (FILE *)(void *)&stream;
SAME_AS(libc_stream, stderr);
SAME_AS(libc_stream, stdin);
