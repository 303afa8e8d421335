/* Both ends of a link in one process, with fixed keys. */
#pragma once

#include "link/link.h"

struct link_pair {
    struct crypto crypto;
    struct link_binding binding;
    struct x25519_key host_key, enclave_key, enrolled;
    struct link host, enclave;
};

/* The keys and the binding of kind; both links are closed. Aborts the test program if libcrypto fails. */
void link_pair_init(struct link_pair *pair, enum link_kind kind);
/* Opens this end, told that the other has this share. */
struct err link_pair_open_host(struct link_pair *pair, const uint8_t enclave_share[X25519_SIZE]);
struct err link_pair_open_enclave(struct link_pair *pair, const uint8_t host_share[X25519_SIZE]);
/* Opens both and exchanges FINISH. */
void link_pair_establish(struct link_pair *pair);
void link_pair_close(struct link_pair *pair);

/* One record of data from one end. Aborts if it cannot be sent. */
struct span link_pair_say(struct link *from, struct span plaintext, uint8_t out[RECORD_MAX]);
/* Hands a record to an end. */
struct err link_pair_hear(struct link *to, struct span record, enum link_event *out_event, struct span *out_plaintext);
