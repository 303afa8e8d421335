/*
 * A host for the manager's program: it keeps what is to be stored, is the anchor (of kind file), speaks K1, and carries
 * the messages of instances. The manager lives in a child process, so that its life can end and another one begin with
 * what was stored; or, with enter, wherever that leads.
 *
 * Unless it is told to hold them, it makes stores durable and carries exchanges with the anchor at once. What should
 * work and does not fails the test.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "abi/anchor.h"
#include "abi/manager.h"
#include "link/link.h"
#include "link/recovery.h"
#include "tests/fakes/fake_instance.h"
#include "trusted/ledger/row.h"
#include "trusted/manager/image.h"

#define RIG_BLOB_MAX    1024u
#define RIG_ROWS_MAX    MANAGER_INSTANCES_MAX
#define RIG_EFFECTS_MAX 512u

struct rig_blob {
    size_t size;
    uint8_t bytes[RIG_BLOB_MAX];
};

/* What an honest host has stored. */
struct rig_disk {
    struct rig_blob master;
    struct rig_blob head;
    uint32_t row_count;
    struct {
        struct instance_id id;
        uint64_t version;
        struct rig_blob blob;
    } rows[RIG_ROWS_MAX];
};

/* For MANAGER_EFFECT_RECORD the bytes are what the record carried; the rest as it came. */
struct rig_effect {
    uint32_t kind;
    struct span bytes;
};

struct rig {
    /* NULL: a child process. Else makes a call; the err code, and the effects in out, of CALL_OUTPUT_MAX bytes. */
    uint16_t (*enter)(void *ctx, uint32_t number, uint64_t host_time, struct span body, uint8_t *out, size_t *out_size);
    void *enter_ctx;
    pid_t pid;
    int line; /* one byte each way for each call */
    struct rig_shared *shared;
    struct link k1;
    uint8_t MRENCLAVE[SGX_HASH_SIZE]; /* as LINK said */
    uint64_t requests;
    uint64_t time; /* of the host, ns */
    bool hold_stores;
    bool imports;         /* what is created is created to be imported */
    uint8_t family;       /* what is created is of this one */
    uint8_t snapshots;    /* the same */
    uint64_t held_store;  /* the number of the one that waits, 0: none */
    bool held_exchange;   /* one with the anchor waits, */
    uint64_t held_number; /* which has this number, */
    uint8_t held_request[ANCHOR_FILE_REQUEST_SIZE];
    struct rig_disk disk;
    uint8_t anchor[ANCHOR_VALUE_SIZE]; /* where it stands */
    bool anchor_stuck;                 /* it says so, and does not move */
    struct recovery_rule recovery;     /* of a new domain, */
    struct x25519_key holders[RECOVERY_KEYS_MAX];
    size_t record_size; /* and what came of it */
    uint8_t record[RECOVERY_RECORD_MAX];
    uint8_t request[RECOVERY_REQUEST_SIZE];
    size_t effect_count; /* of the last call, and of those that confirmed stores */
    struct rig_effect effects[RIG_EFFECTS_MAX];
    size_t arena_used;
};

/* What manager_image() says in lives that begin from now on; and who the manager and the instances are. */
extern struct manager_image rig_image;
void rig_identities(const char *manager, const char *instance);

/* A new life of the program, BLANK. The zeroed disk of a new rig stays; a K1 is not there yet. */
void rig_boot(struct rig *rig);
void rig_end(struct rig *rig);
/* The same, and its disk with it: a new rig, but for the memory that its lives share. */
void rig_forget(struct rig *rig);

/* One call, and all exchanges that follow from it; the first err code. Effects are in rig->effects. */
uint16_t rig_call(struct rig *rig, uint32_t number, struct span body);
/* The nth effect of a kind of the last call, or fails; and how many there are. */
struct span rig_effect(const struct rig *rig, uint32_t kind, size_t nth);
size_t rig_count(const struct rig *rig, uint32_t kind);

/* MANAGER_START; the err code. On success K1 is open both ways, if it is a new domain, which is then READY. */
uint16_t rig_start_new(struct rig *rig);
uint16_t rig_start_open(struct rig *rig);
/* Beside a new anchor. Then the answers of holders, who are numbered from 0; the err code. */
uint16_t rig_start_recover(struct rig *rig);
uint16_t rig_share(struct rig *rig, size_t holder);
/* MANAGER_GREET to the enclave of this TARGETINFO; the err code. */
uint16_t rig_greet(struct rig *rig, const uint8_t target[128]);
/* MANAGER_ROWS with all rows of the disk. */
uint16_t rig_rows(struct rig *rig);
/* MANAGER_LOADED, as rig_call. */
uint16_t rig_loaded(struct rig *rig);
/* Finishes K1 after LOADED: the program is READY then. */
void rig_finish_k1(struct rig *rig);

/* A new domain in a new life; a new life on what is on the disk. */
void rig_open(struct rig *rig);
void rig_reopen(struct rig *rig);

/* Makes the store that is held durable, and no more. */
void rig_keep(struct rig *rig);
/* The same, and carries the exchange with the anchor that is held; the err code. */
uint16_t rig_exchange(struct rig *rig);
/* The same, which has to succeed. */
void rig_store(struct rig *rig);

/* A verb over K1; the err code of its answer. results: of that answer, ERR_SYSTEM if it has not come. */
uint16_t rig_ask(struct rig *rig, uint16_t verb, struct span arguments, struct span *results);
#define RIG_NOT_ANSWERED ERR_SYSTEM
/* The answer to the request that was asked last, among the effects. */
uint16_t rig_answer(struct rig *rig, struct span *results);
/* An event among the effects, or fails: its fields and code. */
struct span rig_event(const struct rig *rig, uint16_t event, uint16_t *code);

void rig_parse_row(struct span row, struct ledger_row *out);
/* Verbs with an id; out may be NULL. */
uint16_t rig_on(struct rig *rig, uint16_t verb, const struct instance_id *id, struct ledger_row *out);
uint16_t rig_create(struct rig *rig, const char *label, const uint8_t *owner, const uint8_t *front_key,
                    struct ledger_row *out);
uint16_t rig_delete(struct rig *rig, const struct instance_id *id, const uint8_t *signature);
uint16_t rig_attach(struct rig *rig, const struct instance_id *id, uint64_t channel);
uint16_t rig_attach_incoming(struct rig *rig, const struct instance_id *id, uint64_t channel);
uint16_t rig_reattach(struct rig *rig, const struct instance_id *id, uint64_t channel);
uint16_t rig_stopped(struct rig *rig, const uint8_t receipt[PEER_RECEIPT_SIZE]);
/* The row as SHOW says. */
struct ledger_row rig_row(struct rig *rig, const struct instance_id *id);

/* A message from an instance; the err code of the call. */
uint16_t rig_say(struct rig *rig, const struct fake_instance *fake, struct span message);
/* The nth message for it among the effects. */
struct span rig_sent(const struct rig *rig, const struct fake_instance *fake, size_t nth);
/* The code of CLOSE for this channel; 0 if there is none. */
uint16_t rig_closed(const struct rig *rig, const struct fake_instance *fake);

/* START_INSTANCE, ATTACH, the whole exchange, READY: a holder on this channel. */
void rig_serve(struct rig *rig, const struct instance_id *id, uint64_t channel, struct fake_instance *out);
/* The same up to PROOF, which is made and not sent. */
struct span rig_challenged(struct rig *rig, const struct instance_id *id, uint64_t channel, struct fake_instance *out);
/* A commit that is anchored. */
void rig_commit(struct rig *rig, struct fake_instance *fake, uint64_t version, uint8_t fill);
/* STOP, with a good receipt over the newest version. */
uint16_t rig_stop(struct rig *rig, const struct fake_instance *fake);

/* Between two managers. What one says, as it is carried. */
struct rig_message {
    size_t size;
    uint8_t bytes[PEER_MESSAGE_MAX];
};

/* Each is a verb of abi/manager.h; the err code. id NULL: JOIN's. out, row: may be NULL. */
uint16_t rig_member_ask(struct rig *rig, enum member_act what, const struct instance_id *id, struct rig_message *out);
uint16_t rig_member_answer(struct rig *rig, const struct rig_message *question, struct rig_message *out);
uint16_t rig_member_take(struct rig *rig, const struct instance_id *id, const struct rig_message *answer,
                         struct ledger_row *row);
/* All three, from asker to answerer and back; the first err code. */
uint16_t rig_member(struct rig *asker, struct rig *answerer, enum member_act what, const struct instance_id *id,
                    struct ledger_row *row);
