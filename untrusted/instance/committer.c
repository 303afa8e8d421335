#include "untrusted/instance/committer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "abi/call.h"
#include "untrusted/host/log.h"

#define FIRST_PAUSE_MSEC 10u
#define PAUSE_MAX_MSEC   1000u
#define STACK_SIZE       (64u * 1024u)

struct committer {
    struct committer_target target;
    struct committer_listener listener;
    sd_event_source *source;
    int done_fd; /* eventfd: the state is durable */
    pthread_t thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t changed;
    bool started;
    bool under_way;
    bool given_up;
    bool closing;
    size_t size;              /* bytes of state */
    uint8_t state[STATE_MAX]; /* the thread's while under_way */
};

static struct timespec after(unsigned msec)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += (long)msec * 1000000L;
    time.tv_sec += time.tv_nsec / 1000000000L;
    time.tv_nsec %= 1000000000L;
    return time;
}

/* False if the state was given up meanwhile. */
static bool pause_for(struct committer *c, unsigned msec)
{
    struct timespec end = after(msec);
    pthread_mutex_lock(&c->lock);
    while (!c->given_up && pthread_cond_timedwait(&c->changed, &c->lock, &end) == 0)
        ;
    bool go_on = !c->given_up;
    pthread_mutex_unlock(&c->lock);
    return go_on;
}

static bool commit_until_done(struct committer *c)
{
    bool complained = false;
    for (unsigned pause = FIRST_PAUSE_MSEC;; pause = pause * 2 < PAUSE_MAX_MSEC ? pause * 2 : PAUSE_MAX_MSEC) {
        struct err result = c->target.commit(c->target.ctx, span_of(c->state, c->size));
        if (!result.code) {
            if (complained) log_line(LOG_LEVEL_NOTICE, "%s: the state is written now", c->target.instance);
            return true;
        }
        if (!complained)
            log_line(LOG_LEVEL_ERROR,
                     "%s: %s (%s); the TPM's answer waits and the write is tried again: see to the disk of the state "
                     "directory",
                     c->target.instance, err_sentence(result), strerror(errno));
        complained = true;
        if (!pause_for(c, pause)) return false;
    }
}

/* False at the end. */
static bool wait_for_state(struct committer *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->under_way && !c->closing)
        pthread_cond_wait(&c->changed, &c->lock);
    bool closing = c->closing;
    pthread_mutex_unlock(&c->lock);
    return !closing;
}

static void *committer_thread(void *ctx)
{
    struct committer *c = ctx;
    pthread_mutex_lock(&c->lock);
    c->started = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    while (wait_for_state(c)) {
        if (!commit_until_done(c)) break;
        pthread_mutex_lock(&c->lock);
        c->under_way = false;
        pthread_mutex_unlock(&c->lock);
        (void)eventfd_write(c->done_fd, 1);
    }
    return NULL;
}

static int on_done(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    struct committer *c = ctx;
    eventfd_t count = 0;
    if (eventfd_read(fd, &count) != 0) return 0;
    pthread_mutex_lock(&c->lock);
    bool given_up = c->given_up;
    pthread_mutex_unlock(&c->lock);
    if (!given_up) c->listener.stored(c->listener.ctx);
    return 0;
}

/* Returns when the thread runs: what the C library does at a thread's birth, a confined process may not do. */
static struct err start_thread(struct committer *c)
{
    pthread_condattr_t clock;
    pthread_attr_t small;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK_SIZE);
    int result = pthread_create(&c->thread, &small, committer_thread, c);
    pthread_attr_destroy(&small);
    ENSURE(result == 0, SYSTEM);
    pthread_mutex_lock(&c->lock);
    while (!c->started)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return OK;
}

struct err committer_open(sd_event *event, const struct committer_target *target,
                          const struct committer_listener *listener, struct committer **out_committer)
{
    struct committer *c = calloc(1, sizeof *c);
    ENSURE(c, NO_MEMORY);
    c->target = *target;
    c->listener = *listener;
    c->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool watched = c->done_fd >= 0 && sd_event_add_io(event, &c->source, c->done_fd, EPOLLIN, on_done, c) >= 0;
    struct err result = watched ? start_thread(c) : FAIL(SYSTEM);
    if (result.code) {
        sd_event_source_disable_unref(c->source);
        if (c->done_fd >= 0) close(c->done_fd);
        free(c);
        return result;
    }
    *out_committer = c;
    return OK;
}

struct err committer_begin(struct committer *c, struct span state)
{
    ENSURE(state.size > 0 && state.size <= sizeof c->state, TOO_LARGE);
    pthread_mutex_lock(&c->lock);
    bool free_now = !c->under_way && !c->given_up;
    if (free_now) {
        memcpy(c->state, state.data, state.size);
        c->size = state.size;
        c->under_way = true;
        pthread_cond_signal(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    ENSURE(free_now, CALL_BUSY);
    return OK;
}

void committer_give_up(struct committer *c)
{
    pthread_mutex_lock(&c->lock);
    c->given_up = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void committer_close(struct committer **committer)
{
    struct committer *c = *committer;
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->given_up = true;
    c->closing = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    sd_event_source_disable_unref(c->source);
    close(c->done_fd);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
    *committer = NULL;
}
