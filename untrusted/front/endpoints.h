/* Where clients are listened for: what --swtpm and --mssim say, and descriptors that this process was started with. */
#pragma once

#include "untrusted/front/address.h"
#include "untrusted/front/front.h"

/* One listening socket. An option makes two, which share a channel. */
struct endpoint_place {
    const struct protocol *protocol;
    unsigned channel;
    struct address address;
    bool inherited; /* the descriptor is there already, and address is nothing */
    bool connected; /* inherited: it is a client's, not one to listen with */
    int fd;         /* inherited; -1: a client passes one */
};

struct endpoints {
    size_t count;
    bool of_12; /* the TPM is a TPM 1.2 */
    struct endpoint_place places[FRONT_ENDPOINTS_MAX];
};

/* ERR_USAGE, after a line in the log that says what is wrong with text. */
struct err endpoints_add_swtpm(struct endpoints *endpoints, const char *text);
struct err endpoints_add_mssim(struct endpoints *endpoints, const char *text);
/* ROLE:FD, ROLE being data, control, data-client or control-client; data:none for what clients pass. All of them share a
 * channel. */
struct err endpoints_add_inherited(struct endpoints *endpoints, const char *text);
/* The process that serves has its own copies of clients' descriptors: these are closed, and -1 in fds. */
void endpoints_release_clients(const struct endpoints *endpoints, int fds[FRONT_ENDPOINTS_MAX]);

/* What --tpm says: 2.0 or 1.2. It may come before or behind the addresses. ERR_USAGE as above. */
struct err endpoints_take_family(struct endpoints *endpoints, const char *text);
/* Once all options were taken: at a TPM 1.2's addresses its own protocols are spoken. ERR_USAGE as above. */
struct err endpoints_settle(struct endpoints *endpoints);

/* Listens at all of them, for uid:gid. ERR_SYSTEM, after a line in the log. */
struct err endpoints_listen(const struct endpoints *endpoints, uid_t uid, gid_t gid, int out_fds[FRONT_ENDPOINTS_MAX]);
/* The front serves them; the descriptors are taken over. As front_listen. */
struct err endpoints_serve(const struct endpoints *endpoints, const int fds[FRONT_ENDPOINTS_MAX], struct front *front);
/* Removes the files of unix sockets, if the process may. */
void endpoints_remove(const struct endpoints *endpoints);
