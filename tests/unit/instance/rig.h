/*
 * A service between a fake enclave, which really is the other end of K2, and a fake vtpmd at the other end of a socket.
 * Messages of the peer session are made up: a kind of abi/peer.h, or a record type and a letter behind it (P provision,
 * R ready, C commit, A anchored, Q ask for a lease, L lease).
 */
#pragma once

#include "abi/peer.h"
#include "link/k2.h"
#include "link/link.h"
#include "untrusted/instance/service.h"

#define RIG_TIMEOUT_USEC UINT64_C(300000)
#define RIG_START        7u

enum { RIG_PROVISION = 'P', RIG_READY = 'R', RIG_COMMIT = 'C', RIG_ANCHORED = 'A', RIG_ASK = 'Q', RIG_LEASE = 'L' };

struct rig {
    /* the fake enclave */
    struct err fault; /* of the next calls */
    bool stores;      /* every command changes the state */
    bool load_stores; /* opening the state does */
    bool fails;       /* the TPM goes into failure mode */
    unsigned calls;
    unsigned number[8];    /* calls by number */
    struct err no_suspend; /* the enclave's answer to it */
    uint8_t stop_mode;     /* as it was asked last */
    bool waiting;          /* for ANCHORED or LEASE */
    uint64_t version;
    uint8_t last_verb;
    struct link link;
    bool link_open;
    struct x25519_key share;
    uint8_t front_share[X25519_SIZE]; /* as HELLO or the test says */

    /* around the service */
    struct crypto crypto;
    struct instance_id id;
    sd_event *event;
    struct machine machine;
    void *machine_memory;
    struct service *service;
    unsigned admitted;
    unsigned disconnected;

    /* vtpmd */
    int daemon_fd;
    struct wire_stream *daemon;
};

/* Opens all but the service; the options lack front and separate_front. */
struct service_options rig_begin(struct rig *rig, bool awaiting_reset);
void rig_end(struct rig *rig);

/* Gives the service a connection. */
void rig_connect(struct rig *rig);
/* vtpmd goes away. */
void rig_hang_up(struct rig *rig);
/* The receipt is. */
void rig_recorded(struct rig *rig);
void rig_run_for(struct rig *rig, uint64_t usec);
/* Runs until the frame that vtpmd gets next is there, five seconds at most, which has to be of this kind. */
struct span rig_expect(struct rig *rig, enum wire_kind kind);
/* No frame comes. */
void rig_expect_nothing(struct rig *rig);
/* The connection is closed, after frames that nobody wants. */
void rig_expect_closed(struct rig *rig);
/* A message of the manager. */
void rig_peer(struct rig *rig, uint8_t kind, uint8_t word);
void rig_expect_peer(struct rig *rig, uint8_t kind, uint8_t word);
void rig_expect_commit(struct rig *rig, uint64_t version);
void rig_expect_health(struct rig *rig, enum wire_health health);
struct link_told rig_told(struct rig *rig);
/* From HELLO to READY. */
void rig_admit(struct rig *rig);
/* And LINK. */
void rig_start(struct rig *rig);
void rig_assert_ended(struct rig *rig, int code);
