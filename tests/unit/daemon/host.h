/*
 * A whole vtpmd in a test: the supervisor, a real store, the manager's own program in a child process, and instances
 * that are fake_keeper.c with an enclave of tests/fakes/fake_instance.h in the test.
 */
#pragma once

#include "tests/fakes/fake_instance.h"
#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/admin.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/supervisor.h"

struct host {
    char directory[64];
    struct config config;
    uint8_t mrenclave[LINK_MRENCLAVE_SIZE];
    uint8_t admitted[LINK_MRENCLAVE_SIZE];
    pid_t manager_pid;
    int manager_fd;
    int keeper_fd; /* listens */
    struct store *store;
    char anchor_path[96];
    struct anchor_host *anchor;
    struct supervisor supervisor;
    char events[65536];                 /* all that were told */
    uint8_t owner[ED25519_PUBLIC_SIZE]; /* of what is created next */
    /* the last act */
    bool answered;
    struct err result;
    char reason[256];
    struct instance *instance;
};

/* The process of an instance, and the enclave that it would have. */
struct guest {
    struct host *host;
    int line; /* to fake_keeper */
    bool rebuilt;
    int fd;
    struct wire_stream *stream;
    struct fake_instance enclave;
    char state[64];     /* as it came */
    const char *sealed; /* what it commits; NULL: "sealed" */
    uint64_t version;
    uint8_t digest[SHA256_SIZE];
};

void host_open(struct host *host);
void host_close(struct host *host);
/* vtpmd and the manager end and begin anew; instances go on. between: with the closed store's directory. */
void host_restart(struct host *host, void (*between)(struct host *host));
void host_run(struct host *host, uint64_t usec);
/* Runs until done, or fails the test after ten seconds. */
void host_until(struct host *host, bool (*done)(void *ctx), void *ctx);
bool host_told(const struct host *host, const char *event);
/* Of the test's process, with all its hosts. */
unsigned host_count_descriptors(void);

/* Its admin.sock; to be closed before it. */
struct admin *host_open_admin(struct host *host);
int host_connect_admin(const struct host *host);

/* For acts. */
void host_done(void *ctx, struct err result, const char *reason, struct instance *instance);
void host_await_answer(struct host *host);
void host_start(struct host *host, bool declare_dead);
void host_stop(struct host *host);
void host_create(struct host *host, const char *label, json_t *listen);
/* Both until the manager has answered, which is successful. */
void host_challenge(struct host *host, uint8_t out_nonce[SHA256_SIZE]);
void host_status(struct host *host, struct manager_status *out_status);

/* An instance, "one", that is in process out and serves. It has no state yet. */
void guest_make(struct host *host, struct guest *out);
/* The next process that vtpmd starts; NULL stays. */
void guest_accept(struct host *host, struct guest *out);
bool guest_comes(struct host *host, uint64_t usec);
/* The same process with a new connection. */
void guest_reconnect(struct guest *guest);
void guest_hello(struct guest *guest, bool separate);
struct span guest_expect(struct guest *guest, enum wire_kind kind);
/* vtpmd closes; the reason of REFUSED, or 0. */
uint16_t guest_expect_closed(struct guest *guest);
void guest_say(struct guest *guest, struct span message);
/* From CHALLENGE to the PROOF; and to LINK. */
void guest_prove(struct guest *guest);
void guest_serve(struct guest *guest);
void guest_send_commit(struct guest *guest);
void guest_expect_anchored(struct guest *guest);
void guest_receipt(struct guest *guest);
/* It is to take over from that start, of epoch 0. */
void guest_redeem(struct guest *guest, uint64_t start, uint64_t version);
/* Its process ends in order or not: vtpmd sees no difference. */
void guest_end(struct guest *guest);
