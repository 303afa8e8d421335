/*
 * Instances that are served on sockets which a client of the admin API opened and handed over (`start` with `swtpm`).
 * That client holds the instance: when its connection ends, or it does not come back after a new start of vtpmd, the
 * instance is stopped.
 *
 * Guarantees: the descriptors are closed once nothing needs them; a connected one is given to one process only; whoever
 * holds the instance is told once, when its process has ended and none will follow. It does not guarantee what sort of
 * socket a descriptor is: a process that is given another one does not serve.
 */
#pragma once

#include "untrusted/daemon/instance.h"

#define HANDED_MAX 4u

struct handed;

struct handed_holder {
    void *ctx;
    void (*ended)(void *ctx, struct instance *instance, const char *reason); /* NULL: as the instance's own has it */
    void (*committed)(void *ctx, struct instance *instance);                 /* its state is being stored */
};

/*
 * what: the argument "swtpm" of a request. The descriptors are taken over, on success only, and *count becomes 0.
 * ERR_BAD_VALUE, and *out_reason says what is wrong; ERR_NO_MEMORY.
 */
struct err handed_parse(const json_t *what, int fds[HANDED_MAX], size_t *count, struct handed **out_handed,
                        const char **out_reason);
void handed_free(struct handed **handed);

/* Whoever asked holds the instance, or the process beside it that is to be served on them. instance: NULL if it is not known
 * before handed_is_for. */
void handed_hold(struct handed *handed, struct instance *instance, const struct handed_holder *holder);
void handed_is_for(struct handed *handed, struct instance *instance);
/* The instance is served on them from its next start on. handed is taken over. */
void handed_begin(struct instance *instance, struct handed *handed);
/* They serve nothing any more: freed, and the holder is told. Safe on NULL. */
void handed_end(struct handed **handed, const char *reason);
/* It was held before vtpmd's own start: somebody has time to say that he holds it. */
void handed_await(struct instance *instance);
/* There is a socket that another process of the instance could be reached on. */
bool handed_can_serve(const struct handed *handed);
bool handed_is_held(const struct handed *handed);
bool handed_is_held_by(const struct handed *handed, const void *ctx);
/* The holder has gone, and nothing is told him. */
void handed_forget_holder(struct handed *handed);
/* The same, and the instance is stopped. */
void handed_leave(struct instance *instance);
/* A state of it was given to the store. The holder is told soon. */
void handed_committed(struct handed *handed);
/* After everything that may have been the end of it. */
void handed_settle(struct instance *instance);

/* Another process of the instance serves it, on sockets of its own, or on those, which are taken over; or NULL. */
void handed_taken_over(struct instance *instance, struct handed *by);

/* What spawn needs: the options of vtpm-instance, which name descriptors from first on, in the order of out_fds. */
#define HANDED_ARGUMENTS_MAX (2u * HANDED_MAX + 9u)
size_t handed_arguments(const struct handed *handed, int first, const char *out_arguments[HANDED_ARGUMENTS_MAX],
                        int out_fds[HANDED_MAX], size_t *out_count);
/* The process has them. */
void handed_spawned(struct handed *handed);
