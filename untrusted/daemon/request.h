/*
 * A request of the admin API: one line of JSON, parsed into a typed structure (docs/admin-api.md).
 *
 * Guarantees: what is not an object, nested deeper than REQUEST_DEPTH_MAX, has a member twice, or a member that is
 * unknown, missing, of another type or out of bounds is an error with a sentence that names it. What the members mean
 * is for whoever acts on them.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "abi/peer.h"
#include "base/err.h"
#include "base/span.h"

#define REQUEST_SIZE_MAX    65536u /* bytes of a line, its newline included */
#define REQUEST_DEPTH_MAX   8u
#define REQUEST_REASON_SIZE 160u
#define REQUEST_TEXT_MAX    128u /* bytes of an instance's id or label: longer ones exist nowhere */

enum request_verb {
    REQUEST_CREATE,
    REQUEST_LIST,
    REQUEST_SHOW,
    REQUEST_START,
    REQUEST_STOP,
    REQUEST_DECLARE_DEAD,
    REQUEST_SUSPEND,
    REQUEST_CLONE,
    REQUEST_SNAPSHOT,
    REQUEST_SNAPSHOTS,
    REQUEST_SNAPSHOT_DELETE,
    REQUEST_REVERT,
    REQUEST_SET_OWNER,
    REQUEST_CHALLENGE,
    REQUEST_DELETE,
    REQUEST_SUBSCRIBE,
    REQUEST_STATUS,
    REQUEST_VERSION,
    REQUEST_STORE_CHECK,
    REQUEST_STORE_BACKUP,
    REQUEST_HOLD,
    REQUEST_AWAIT,
    REQUEST_STATE,
    REQUEST_JOIN,
    REQUEST_MOVE,
    REQUEST_MEMBER,
};

struct request {
    json_t *root; /* what the pointers point into */
    json_t *id;   /* to be given back, or NULL */
    const char *execute;
    enum request_verb verb;
    const char *instance;
    const char *label;
    const char *act;      /* the argument "verb" of challenge */
    const char *snapshot; /* "name" or "snapshot" */
    const char *lockout_heals;
    const char *tpm; /* the family */
    const char *snapshots;
    json_t *listen;
    json_t *swtpm; /* sockets that come with it; NULL: none */
    bool start;
    bool import;
    bool deleted;
    bool declare_dead;
    bool wait;
    bool incoming;
    bool from; /* another vtpmd, whose connection comes with it */
    bool force;
    bool progress;
    uint64_t since;
    bool has_version;
    uint64_t version; /* of a state */
    bool has_owner;
    uint8_t owner[32]; /* zeros: the operator */
    uint8_t front_key[32];
    uint8_t signature[64];
    size_t message_size;
    uint8_t message[PEER_MESSAGE_MAX]; /* of another manager */
};

/*
 * On an error root and id are set as far as the line has them, and out_reason says what is wrong. ERR_PROTOCOL with
 * root NULL: it is no JSON. ERR_PROTOCOL, ERR_BAD_VALUE, ERR_TOO_LARGE. request_free in any case.
 */
struct err request_parse(struct span line, struct request *out_request, char out_reason[REQUEST_REASON_SIZE]);
void request_free(struct request *request);

/* Lower-case hexadecimal digits. False: it is none, or of more bytes. */
bool request_take_hex(const json_t *value, uint8_t *bytes, size_t capacity, size_t *out_size);
