/*
 * The host of an instance program, for tests: vtpmd and worker, which carry messages between it and a fake_manager and
 * keep its sealed state, and a front-end at the other end of K2. What should work and does not aborts the program.
 */
#pragma once

#include <stdbool.h>

#include "link/k2.h"
#include "tests/fakes/fake_manager.h"
#include "tests/fakes/program.h"
#include "tests/fakes/tpm_commands.h"

/* A sealed state as the host keeps it. */
struct stored_state {
    uint64_t version;
    size_t size;
    uint8_t blob[STATE_MAX];
};

struct client {
    struct enclave_process enclave;
    struct fake_manager manager;
    uint64_t host_time;
    struct x25519_key key;      /* of the front-end */
    struct x25519_key enrolled; /* used if manager.link_kind is LINK_K2_ENROLLED */
    struct link link;           /* its end of K2 */
    struct stored_state stored; /* the newest that was recorded */
    struct stored_state given;  /* the newest that came out */
    struct enclave_result result;
    uint16_t code;                                    /* of the K2 response that came last */
    uint8_t record[RECORD_OVERHEAD + K2_MESSAGE_MAX]; /* the K2 request that was made last */
    uint8_t response[K2_MESSAGE_MAX];
};

/* An instance that was never started, and a blank enclave for it. */
void client_open(struct client *c);
void client_close(struct client *c);
/* Another enclave for the same instance. */
void client_restart(struct client *c);

/* One call; the result is in c->result, and in c->given if there is a state. Returns its code. */
uint16_t client_call(struct client *c, uint32_t number, struct span body);
uint16_t client_start(struct client *c);
/* Gives the enclave a message of the manager. */
uint16_t client_tell(struct client *c, const struct fake_message *message);
/* Gives the manager all that the last call has for it. */
void client_carry(struct client *c);

/* START to ADMIT. */
void client_admit(struct client *c);
/* The same, and PROVISION: the enclave waits for its state. */
void client_provision(struct client *c);
uint16_t client_load(struct client *c, const struct stored_state *state);
/* Asks for the orderly end. */
uint16_t client_stop(struct client *c, enum instance_stop mode);
/* Has the manager record the commit that is under way; the result is that of ANCHORED. */
void client_anchor(struct client *c);
/* Both ends of K2 finish it. */
void client_link(struct client *c);
/* All of it: from a blank enclave to one that serves over K2. */
void client_serve(struct client *c);
/* The connection to the manager is new. */
void client_resume(struct client *c);

/* Makes a request of K2, in c->record. */
struct span client_seal(struct client *c, enum k2_verb verb, uint8_t locality, struct span command);
/* One request of K2, without any word of the manager. Returns the code of the call. */
uint16_t client_request(struct client *c, enum k2_verb verb, struct span command);
/* The response in the last result: the TPM's own. c->code says what else it was. Aborts if there is none. */
struct span client_response(struct client *c);
/* A request whose commit, if it makes one, is recorded, and whose lease, if it needs one, is given. */
struct span client_run(struct client *c, enum k2_verb verb, struct span command);
/* A TPM command, the same. */
struct span client_command(struct client *c, const struct tpm_message *command);
