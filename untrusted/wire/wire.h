/*
 * Frames between our own processes, on unix stream sockets.
 *
 *   u32 size of the body, u8 kind, u8[3] 0, the body
 *
 * vtpm-instance and vtpmd (socket: daemon.sock in vtpmd's runtime directory)
 *
 *   kind              from      body
 *    1 HELLO_INSTANCE instance  u16 version = 1, u8 enclave (1 blank, 2 serving), u8 front (1 in this process,
 *                               2 separate), u32 0, u8[16] id, u64 start number (serving), u8[32] share of the
 *                               front-end (blank; zeros if separate: vtpmd then waits for HELLO_FRONT)
 *    2 PEER           both      one message of the peer session (abi/peer.h)
 *    3 COMMIT         instance  u64 version, u32 size, the sealed state (behind it, in size, the sealed volatile state
 *                               when it is suspended), then the message of the peer session
 *    4 STATE          vtpmd     u64 version, then what COMMIT brought as the sealed state (version 0: none)
 *    5 LINK           vtpmd     u8 link kind, u8[7] 0, u8[16] id, u64 epoch, u64 start,
 *                               u8[32] MRENCLAVE of the manager, u8[32] of the instance, u8[32] share of the instance
 *    6 RECEIPT        instance  PEER_RECEIPT_SIZE bytes of abi/peer.h; said again on each connection until RECORDED
 *    7 STOP           vtpmd     u8 enum stop_mode, u8[7] 0: end in order, send the receipt
 *    8 REFUSED        vtpmd     u16 err code: no more is done for this connection
 *                   instance  u16 err code: its enclave does not take the state; the process ends
 *    9 HEALTH         instance  u8 enum wire_health, u8[7] 0, u64 commands, u64 commits: on every change of the first,
 *                               and when the daemon asks
 *   10 ASK_HEALTH     vtpmd     empty
 *   15 STOP_REFUSED   instance  u16 err code: it cannot be suspended, and goes on as if it had not been asked
 *   16 RECORDED       vtpmd     empty: the receipt is recorded, and the process that brought it may end
 *
 * vtpm-front and vtpmd (the same socket)
 *
 *   11 HELLO_FRONT     front     u16 version = 1, u8[6] 0, u8[16] id, u8[32] share of the front-end
 *      LINK, REFUSED   vtpmd
 *
 * vtpm-front and vtpm-instance (front.sock in the instance's directory)
 *
 *   12 RECORD          front     u8 verb (enum k2_verb, or 0 for FINISH and FINAL), u8[7] 0, one record of K2
 *                      instance  u8[8] 0, one record of K2
 *   13 FAILED          instance  u16 err code, u8 1 if a reset of the machine may cure it (the front-end then registers
 *                                anew with a new share), u8[5] 0: what was asked is not answered
 *   14 SHUTDOWN        front     empty: the client wants the process to end; after K2_POWER_OFF
 *
 * Guarantees of this parser: a frame is delivered whole or not at all; a size above the kind's limit, an unknown kind
 * and padding that is not zero end the connection. What the body says is for whoever gets it to check.
 */
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "link/k2.h"
#include "link/link.h"

#define WIRE_VERSION     1u
#define WIRE_HEADER_SIZE 8u
#define WIRE_PARTS_MAX   4u
#define WIRE_BODY_MAX    (256u * 1024u + 4096u) /* a sealed state and what goes with it */

enum wire_kind {
    WIRE_HELLO_INSTANCE = 1,
    WIRE_PEER = 2,
    WIRE_COMMIT = 3,
    WIRE_STATE = 4,
    WIRE_LINK = 5,
    WIRE_RECEIPT = 6,
    WIRE_STOP = 7,
    WIRE_REFUSED = 8,
    WIRE_HEALTH = 9,
    WIRE_ASK_HEALTH = 10,
    WIRE_HELLO_FRONT = 11,
    WIRE_RECORD = 12,
    WIRE_FAILED = 13,
    WIRE_SHUTDOWN = 14,
    WIRE_STOP_REFUSED = 15,
    WIRE_RECORDED = 16,
};

enum wire_health {
    HEALTH_SERVING = 1,
    HEALTH_AWAITING_RESET = 2, /* rebuilt: TPM_RC_FAILURE until the machine resets */
    HEALTH_BROKEN = 3,         /* the enclave was lost, or a commit took too long */
    HEALTH_TPM_FAILURE = 4,    /* libtpms is in failure mode */
    HEALTH_AWAITING_FRONT = 5, /* nobody has linked yet */
};

/* In the words of abi/instance.h. */
enum stop_mode {
    STOP_OFF = 1,     /* the TPM is shut down */
    STOP_SUSPEND = 2, /* the next start goes on where it stops */
};

struct hello_instance {
    bool serving;
    bool separate_front;
    struct instance_id id;
    uint64_t start;
    uint8_t front_share[X25519_SIZE];
};

struct link_told {
    struct link_binding binding;
    uint8_t enclave_share[X25519_SIZE];
};

/*
 * A connection's buffers: bytes come in by wire_receive until a whole frame is there. The descriptor is non-blocking
 * and stays the caller's. What is sent and does not fit into the socket is kept and sent when it is writable again.
 */
struct wire_stream;

struct wire_frame {
    enum wire_kind kind;
    struct span body; /* valid until the next call on the stream */
};

/* body_max: at most WIRE_BODY_MAX. ERR_NO_MEMORY. */
struct err wire_stream_open(int fd, size_t body_max, struct wire_stream **out_stream);
void wire_stream_close(struct wire_stream **stream);

/*
 * The next whole frame, or out_frame->kind = 0 if more has to come: call it until then, as frames that were read
 * together wake nobody again. ERR_PEER_CLOSED, ERR_PROTOCOL, ERR_NO_MEMORY, ERR_SYSTEM.
 */
struct err wire_receive(struct wire_stream *stream, struct wire_frame *out_frame);

/* parts: the body, in a row, at most WIRE_PARTS_MAX. Queues what the socket does not take. ERR_TOO_LARGE (also when too
 * much is queued: nothing was sent then), ERR_PEER_CLOSED, ERR_NO_MEMORY, ERR_SYSTEM. */
struct err wire_send(struct wire_stream *stream, enum wire_kind kind, const struct span *parts, size_t count);
/* True while something is queued: wait for EPOLLOUT and call wire_flush. */
bool wire_pending(const struct wire_stream *stream);
struct err wire_flush(struct wire_stream *stream);

/* Bodies, strictly parsed. ERR_PROTOCOL. */
struct err wire_send_hello_instance(struct wire_stream *stream, const struct hello_instance *hello);
struct err wire_parse_hello_instance(struct span body, struct hello_instance *out);
struct err wire_send_hello_front(struct wire_stream *stream, const struct instance_id *id,
                                 const uint8_t share[X25519_SIZE]);
struct err wire_parse_hello_front(struct span body, struct instance_id *out_id, uint8_t out_share[X25519_SIZE]);
struct err wire_send_link(struct wire_stream *stream, const struct link_told *told);
struct err wire_parse_link(struct span body, struct link_told *out);

struct err wire_send_commit(struct wire_stream *stream, uint64_t version, struct span state, struct span message);
struct err wire_parse_commit(struct span body, uint64_t *out_version, struct span *out_state, struct span *out_message);
struct err wire_send_state(struct wire_stream *stream, uint64_t version, struct span state);
struct err wire_parse_state(struct span body, uint64_t *out_version, struct span *out_state);
struct err wire_send_refused(struct wire_stream *stream, struct err why);
/* out_why is never success. */
struct err wire_parse_refused(struct span body, struct err *out_why);

struct err wire_send_stop(struct wire_stream *stream, enum stop_mode mode);
struct err wire_parse_stop(struct span body, enum stop_mode *out_mode);
struct err wire_send_stop_refused(struct wire_stream *stream, struct err why);
/* out_why is never success. */
struct err wire_parse_stop_refused(struct span body, struct err *out_why);

struct health_told {
    enum wire_health health;
    uint64_t commands;
    uint64_t commits;
};

struct err wire_send_health(struct wire_stream *stream, const struct health_told *told);
struct err wire_parse_health(struct span body, struct health_told *out);

/* verb: 0 where there is none. */
struct err wire_send_record(struct wire_stream *stream, uint8_t verb, struct span record);
struct err wire_parse_record(struct span body, uint8_t *out_verb, struct span *out_record);
struct err wire_send_failed(struct wire_stream *stream, struct err why, bool reset_may_cure);
struct err wire_parse_failed(struct span body, struct err *out_why, bool *out_reset_may_cure);
