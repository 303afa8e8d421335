/*
 * What a worker tells its keeper, over a SOCK_SEQPACKET pair.
 *
 *   READY      u8 1, u8[16] instance id: clients are served now
 *   HAND_OVER  u8 2, then for each session u8 endpoint, u8 1 if it waits for a reset (else 0), and its descriptor
 *
 * The keeper takes a worker to be hostile: a message is parsed whole or refused.
 */
#pragma once

#include "base/err.h"
#include "untrusted/front/front.h"
#include "untrusted/instance/id.h"

enum keeper_message_kind { KEEPER_GONE, KEEPER_READY, KEEPER_HAND_OVER };

struct keeper_message {
    enum keeper_message_kind kind; /* KEEPER_GONE: the worker has closed its end */
    struct instance_id id;         /* READY */
    size_t session_count;          /* HAND_OVER; the descriptors are the receiver's */
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
};

/* ERR_SYSTEM */
struct err keeper_send_ready(int fd, const struct instance_id *id);
/* The descriptors stay the caller's. ERR_SYSTEM */
struct err keeper_send_hand_over(int fd, const struct front_session *sessions, size_t count);

/* Waits for a message. ERR_BAD_VALUE for one that is malformed; its descriptors are closed. ERR_SYSTEM */
struct err keeper_receive(int fd, struct keeper_message *out_message);
