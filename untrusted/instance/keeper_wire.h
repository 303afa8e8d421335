/*
 * What a worker tells its keeper, over a SOCK_SEQPACKET pair.
 *
 *   READY         u8 1: clients are served now, or their front-end is waited for
 *   HAND_OVER     u8 2, then for each session u8 endpoint, u8 1 if it waits for a reset (else 0), and its descriptor
 *   DISCONNECTED  u8 3: the connection to vtpmd is gone; the keeper answers with another as soon as there is one
 *                 (untrusted/wire/pass.h: KEEPER_DAEMON and the descriptor)
 *
 * The keeper takes a worker to be hostile: a message is parsed whole or refused.
 */
#pragma once

#include "base/err.h"
#include "untrusted/front/front.h"

enum keeper_message_kind { KEEPER_GONE, KEEPER_READY, KEEPER_HAND_OVER, KEEPER_DISCONNECTED };

#define KEEPER_DAEMON 1u

struct keeper_message {
    enum keeper_message_kind kind; /* KEEPER_GONE: the worker has closed its end */
    size_t session_count;          /* HAND_OVER; the descriptors are the receiver's */
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
};

/* ERR_SYSTEM */
struct err keeper_send_ready(int fd);
struct err keeper_send_disconnected(int fd);
/* The descriptors stay the caller's. ERR_SYSTEM */
struct err keeper_send_hand_over(int fd, const struct front_session *sessions, size_t count);

/* Waits for a message. ERR_BAD_VALUE for one that is malformed; its descriptors are closed. ERR_SYSTEM */
struct err keeper_receive(int fd, struct keeper_message *out_message);
