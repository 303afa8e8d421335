#include "untrusted/daemon/committer.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"

#define FIRST_PAUSE_MSEC 10u
#define PAUSE_MAX_MSEC   1000u
#define STACK_SIZE       (256u * 1024u)

struct node {
    struct committer_job job;
    struct err result;
    struct node *next;
};

struct queue {
    struct node *first;
    struct node **end;
};

struct committer {
    struct store *store;
    struct anchor_host *anchor;
    sd_event_source *source;
    int done_fd; /* eventfd: something is in done */
    pthread_t thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t changed;
    bool closing;
    uint64_t began; /* CLOCK_MONOTONIC, us; 0: no job runs */
    struct queue waiting;
    struct queue done;
};

static void push(struct queue *queue, struct node *node)
{
    node->next = NULL;
    *queue->end = node;
    queue->end = &node->next;
}

static struct node *pop(struct queue *queue)
{
    struct node *node = queue->first;
    if (!node) return NULL;
    queue->first = node->next;
    if (!queue->first) queue->end = &queue->first;
    return node;
}

static struct timespec after(unsigned msec)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += (long)msec * 1000000L;
    time.tv_sec += time.tv_nsec / 1000000000L;
    time.tv_nsec %= 1000000000L;
    return time;
}

/* False if the committer is being closed. */
static bool pause_for(struct committer *c, unsigned msec)
{
    struct timespec end = after(msec);
    pthread_mutex_lock(&c->lock);
    while (!c->closing && pthread_cond_timedwait(&c->changed, &c->lock, &end) == 0)
        ;
    bool go_on = !c->closing;
    pthread_mutex_unlock(&c->lock);
    return go_on;
}

static bool is_worth_another_try(struct err result)
{
    return result.code == ERR_STORE_IO || result.code == ERR_ANCHOR_IO;
}

static void complain(const struct committer *c, struct err result)
{
    const bool store = result.code == ERR_STORE_IO;
    log_line(LOG_LEVEL_ERROR, "%s (%s); whoever waits for it goes on waiting and it is tried again: see to the %s",
             err_sentence(result), store ? store_error(c->store) : anchor_host_error(c->anchor),
             store ? "disk of the state directory" : "anchor");
}

static struct err run_until_done(struct committer *c, const struct committer_job *job)
{
    struct err complained = OK;
    for (unsigned pause = FIRST_PAUSE_MSEC;; pause = pause * 2 < PAUSE_MAX_MSEC ? pause * 2 : PAUSE_MAX_MSEC) {
        struct err result = job->run(job->ctx, c->store, c->anchor);
        if (!is_worth_another_try(result)) {
            if (complained.code) log_line(LOG_LEVEL_NOTICE, "the store and the anchor can be used again");
            return result;
        }
        if (complained.code != result.code) complain(c, result);
        complained = result;
        if (!pause_for(c, pause)) return result;
    }
}

/* NULL at the end. */
static struct node *wait_for_job(struct committer *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->waiting.first && !c->closing)
        pthread_cond_wait(&c->changed, &c->lock);
    struct node *node = c->closing ? NULL : pop(&c->waiting);
    if (node) c->began = clock_now_usec();
    pthread_mutex_unlock(&c->lock);
    return node;
}

static void *committer_thread(void *ctx)
{
    struct committer *c = ctx;
    for (struct node *node; (node = wait_for_job(c));) {
        node->result = run_until_done(c, &node->job);
        pthread_mutex_lock(&c->lock);
        push(&c->done, node);
        c->began = 0;
        pthread_mutex_unlock(&c->lock);
        (void)eventfd_write(c->done_fd, 1);
    }
    return NULL;
}

static struct node *pop_done(struct committer *c)
{
    pthread_mutex_lock(&c->lock);
    struct node *node = pop(&c->done);
    pthread_mutex_unlock(&c->lock);
    return node;
}

static int on_done(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    struct committer *c = ctx;
    eventfd_t count = 0;
    (void)eventfd_read(fd, &count);
    for (struct node *node; (node = pop_done(c));) {
        node->job.done(node->job.ctx, node->result);
        free(node);
    }
    return 0;
}

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
    return OK;
}

struct err committer_open(sd_event *event, struct store *store, struct anchor_host *anchor,
                          struct committer **out_committer)
{
    struct committer *c = calloc(1, sizeof *c);
    ENSURE(c, NO_MEMORY);
    c->store = store;
    c->anchor = anchor;
    c->waiting.end = &c->waiting.first;
    c->done.end = &c->done.first;
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

struct err committer_submit(struct committer *committer, const struct committer_job *job)
{
    struct node *node = calloc(1, sizeof *node);
    ENSURE(node, NO_MEMORY);
    node->job = *job;
    node->result = FAIL(STORE_IO);
    pthread_mutex_lock(&committer->lock);
    push(&committer->waiting, node);
    pthread_cond_signal(&committer->changed);
    pthread_mutex_unlock(&committer->lock);
    return OK;
}

uint64_t committer_running_usec(struct committer *committer)
{
    pthread_mutex_lock(&committer->lock);
    uint64_t began = committer->began;
    pthread_mutex_unlock(&committer->lock);
    return began ? clock_now_usec() - began : 0;
}

static void end_all(struct queue *queue)
{
    for (struct node *node; (node = pop(queue));) {
        node->job.done(node->job.ctx, node->result);
        free(node);
    }
}

void committer_close(struct committer **committer)
{
    struct committer *c = *committer;
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    end_all(&c->done);
    end_all(&c->waiting);
    sd_event_source_disable_unref(c->source);
    close(c->done_fd);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
    *committer = NULL;
}
