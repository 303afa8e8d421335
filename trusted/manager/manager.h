/* The parts of the manager enclave's one root structure, for the files of its program. */
#pragma once

#include "link/link.h"
#include "trusted/ledger/ledger.h"
#include "trusted/manager/anchoring.h"
#include "trusted/manager/channels.h"
#include "trusted/manager/handover.h"
#include "trusted/manager/members.h"
#include "trusted/manager/outbox.h"
#include "trusted/manager/owner.h"
#include "trusted/manager/recovery.h"

enum manager_state {
    MANAGER_STATE_BLANK = 0,
    MANAGER_STATE_LOADING = 1,
    MANAGER_STATE_RUNNING = 2,
    MANAGER_STATE_SUCCESSOR = 3,
    MANAGER_STATE_HANDED_OVER = 4,
    MANAGER_STATE_FAILED = 5,
    MANAGER_STATE_ANCHORING = 6,
    MANAGER_STATE_RECOVERING = 7,
};

struct manager {
    enum manager_state state;
    struct crypto crypto;
    struct sgx_report own; /* of this enclave, for nobody */
    struct link k1;
    bool ready_said; /* the event MANAGER_READY */
    struct ledger ledger;
    struct anchoring anchoring;
    struct channels channels;
    struct members members;
    struct outbox outbox;
    struct owner_nonces nonces;
    struct handover handover;
    struct recovery recovery; /* while it is under way, the anchor too that follows it */
};

/* Our own words are in memory but not on the way to the host, or the reverse: nothing true can be said any more. */
static inline struct err manager_broken(struct manager *manager, struct err err)
{
    if (err.code) manager->state = MANAGER_STATE_FAILED;
    return err;
}
