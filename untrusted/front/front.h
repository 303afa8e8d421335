/*
 * The front: sockets, connections and whose turn it is. What is behind it, the TPM, is one function that it calls.
 *
 * Guarantees: at most one request is with the owner at any time, the others wait in the order in which they came, at
 * most one for each connection; commands and responses lie in the memory that the owner gave and are wiped once used; a
 * client that stops in the middle of a message, or does not take its response, is closed after FRONT_STALL_USEC, and
 * earlier when its place or its buffer is wanted, the one that stalled longest first; while a machine has the TPM (it
 * passed a data descriptor over its control connection, and both last), no other client of that address switches it off
 * or on; a client that vanishes leaves nothing behind, and the response to it goes nowhere. It does not guarantee who
 * the client is: that is the socket's owner and mode.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/err.h"
#include "untrusted/front/pool.h"
#include "untrusted/front/protocol.h"

#define FRONT_CONNECTIONS_MAX 64u
#define FRONT_ENDPOINTS_MAX   32u
#define FRONT_STALL_USEC      UINT64_C(5000000)
#define FRONT_LEASE_USEC      UINT64_C(500000) /* below what Linux gives a command of medium length, 750 ms */

struct front;

struct front_request {
    enum front_verb verb; /* never FRONT_NOTHING */
    uint8_t locality;     /* FRONT_COMMAND, FRONT_RESET_ESTABLISHED: 0 to 4; else 0 */
    /*
     * FRONT_COMMAND: 10 to 4096 bytes; FRONT_HASH_DATA: 1 to PART_MAX; both valid until perform returns. FRONT_RESET:
     * an export to go on from, or nothing; valid until front_done.
     */
    struct span command;
    uint64_t number; /* FRONT_BUFFER_SIZE: wanted, 0: none; FRONT_INFO: flags */
};

struct front_owner {
    void *ctx;
    /* Ends in exactly one front_done, before it returns or later. */
    void (*perform)(void *ctx, const struct front_request *request);
};

/*
 * memory: POOL_MEMORY_SIZE zeroed bytes, the caller's, until front_close. The TPM counts as powered on. event is
 * referenced. ERR_NO_MEMORY.
 */
struct err front_open(sd_event *event, const struct front_owner *owner, void *memory, struct front **out_front);
/* What a user of swtpm may ask for on its command line; zeros are what everybody else gets. */
struct front_manners {
    bool off;                /* the TPM counts as off until it is initialised over a control channel */
    bool terminates;         /* the end of a data connection that has spoken ends the process */
    bool disconnects;        /* a data connection is closed after each response */
    bool rejects_locality_4; /* on all control channels */
    bool starts_up;          /* the first command of all is TPM2_Startup, or TPM_Startup of a TPM 1.2 */
    bool from_saved;         /* with the argument that goes on from what was saved */
    bool of_12;
};

/* Before the first front_listen. */
void front_behave(struct front *front, const struct front_manners *manners);

/*
 * Serves protocol on listen_fd, which is taken over; -1: nobody is listened for, and connections are passed. Endpoints
 * with the same channel number share a locality. ERR_TOO_LARGE above FRONT_ENDPOINTS_MAX, ERR_SYSTEM.
 */
struct err front_listen(struct front *front, const struct protocol *protocol, unsigned channel, int listen_fd);

/*
 * Serves a client who is connected already, at an endpoint for it alone: the end of the connection ends the process. fd
 * is taken over; -1: the connection comes by front_adopt, or has ended. ERR_TOO_LARGE, ERR_SYSTEM.
 */
struct err front_connected(struct front *front, const struct protocol *protocol, unsigned channel, int fd);

/*
 * The outcome of the request that perform was given. response is the TPM's to a FRONT_COMMAND, 10 to 4096 bytes, valid
 * until front_done returns; when result is an error, the client is told TPM_RC_FAILURE. For FRONT_ESTABLISHED it is one
 * byte; for FRONT_BUFFER_SIZE u32 size, smallest and largest, for FRONT_INFO a text with its NUL, for FRONT_EXPORT u32
 * size of the permanent part and then both parts, integers little-endian; for the other verbs empty. A command that is
 * refused with ERR_LEASE is asked for again, for FRONT_LEASE_USEC; then the client is told TPM_RC_RETRY (Part 2, 6.6:
 * the TPM was not able to start the command).
 */
void front_done(struct front *front, struct err result, struct span response);

/*
 * Hand-over to another process that goes on with the same endpoints, in the same order. Connections that have nothing
 * pending are handed out, the one whose request is with the owner is marked, all others are closed; and so are those of
 * control channels if an export was given on one, which is not handed over. The descriptors
 * are the caller's then. Returns the number of sessions, at most FRONT_CONNECTIONS_MAX.
 */
struct front_session {
    int fd;
    uint8_t endpoint;
    bool waits; /* for the outcome of a verb that is not a command */
};
size_t front_hand_over(struct front *front, struct front_session out_sessions[FRONT_CONNECTIONS_MAX]);

/*
 * The other side. fd is taken over, also on error. One session at most may wait: it is answered by the next front_done.
 * ERR_BAD_VALUE, ERR_SYSTEM.
 */
struct err front_adopt(struct front *front, const struct front_session *session);

/* Ends all connections, wipes their buffers, closes the listening sockets. *front is NULL afterwards. */
void front_close(struct front **front);
