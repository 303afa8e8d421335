#include "trusted/manager/lifecycle.h"

#include "trusted/runtime/panic.h"

#define STATE_COUNT (MANAGER_MOVED + 1)

struct rule {
    uint16_t next;    /* enum manager_instance_state; 0: refused, */
    uint16_t refusal; /* with this */
};

#define TO(state)                                                                                                      \
    {                                                                                                                  \
        .next = MANAGER_##state                                                                                        \
    }
#define REFUSE(name)                                                                                                   \
    {                                                                                                                  \
        .refusal = ERR_##name                                                                                          \
    }

/* A second start of an instance in ALLOWED asks for its enclave again: there is still one admission. */
static const struct rule rules[ACT_COUNT][STATE_COUNT] =
    {
        [ACT_START] =
            {
                [MANAGER_PROVISIONED] = TO(ALLOWED),
                [MANAGER_STOPPED_STATE] = TO(ALLOWED),
                [MANAGER_ALLOWED] = TO(ALLOWED),
                [MANAGER_HELD] = REFUSE(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_ATTACH] =
            {
                [MANAGER_PROVISIONED] = REFUSE(VERB_STATE),
                [MANAGER_STOPPED_STATE] = REFUSE(VERB_STATE),
                [MANAGER_ALLOWED] = TO(ALLOWED),
                [MANAGER_HELD] = REFUSE(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_ADMIT] =
            {
                [MANAGER_PROVISIONED] = REFUSE(VERB_STATE),
                [MANAGER_STOPPED_STATE] = REFUSE(VERB_STATE),
                [MANAGER_ALLOWED] = TO(HELD),
                [MANAGER_HELD] = REFUSE(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_SERVE] =
            {
                [MANAGER_PROVISIONED] = REFUSE(FENCED),
                [MANAGER_STOPPED_STATE] = REFUSE(FENCED),
                [MANAGER_ALLOWED] = REFUSE(FENCED),
                [MANAGER_HELD] = TO(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_STOPPED] =
            {
                [MANAGER_PROVISIONED] = REFUSE(VERB_STATE),
                [MANAGER_STOPPED_STATE] = REFUSE(VERB_STATE),
                [MANAGER_ALLOWED] = REFUSE(VERB_STATE),
                [MANAGER_HELD] = TO(STOPPED_STATE),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_DECLARE_DEAD] =
            {
                [MANAGER_PROVISIONED] = REFUSE(VERB_STATE),
                [MANAGER_STOPPED_STATE] = REFUSE(VERB_STATE),
                [MANAGER_ALLOWED] = TO(STOPPED_STATE),
                [MANAGER_HELD] = TO(STOPPED_STATE),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_CHALLENGE] =
            {
                [MANAGER_PROVISIONED] = TO(PROVISIONED),
                [MANAGER_STOPPED_STATE] = TO(STOPPED_STATE),
                [MANAGER_ALLOWED] = TO(ALLOWED),
                [MANAGER_HELD] = TO(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_DELETE] =
            {
                [MANAGER_PROVISIONED] = TO(DELETED),
                [MANAGER_STOPPED_STATE] =
                    TO(DELETED),
                [MANAGER_ALLOWED] = TO(DELETED),
                [MANAGER_HELD] = REFUSE(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_CLONE] =
            {
                [MANAGER_PROVISIONED] = TO(PROVISIONED),
                [MANAGER_STOPPED_STATE] = TO(STOPPED_STATE),
                [MANAGER_ALLOWED] = TO(ALLOWED),
                [MANAGER_HELD] = TO(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_CHANGE] =
            {
                [MANAGER_PROVISIONED] = TO(PROVISIONED),
                [MANAGER_STOPPED_STATE] = TO(STOPPED_STATE),
                [MANAGER_ALLOWED] = REFUSE(VERB_STATE),
                [MANAGER_HELD] = REFUSE(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_TAKE_OVER] =
            {
                [MANAGER_PROVISIONED] = REFUSE(VERB_STATE),
                [MANAGER_STOPPED_STATE] = TO(HELD),
                [MANAGER_ALLOWED] = REFUSE(VERB_STATE),
                [MANAGER_HELD] = TO(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_LOOK] =
            {
                [MANAGER_PROVISIONED] = TO(PROVISIONED),
                [MANAGER_STOPPED_STATE] = TO(STOPPED_STATE),
                [MANAGER_ALLOWED] = REFUSE(VERB_STATE),
                [MANAGER_HELD] = TO(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_MOVE] =
            {
                [MANAGER_PROVISIONED] = TO(MOVED),
                [MANAGER_STOPPED_STATE] = TO(MOVED),
                [MANAGER_ALLOWED] = REFUSE(VERB_STATE),
                [MANAGER_HELD] = REFUSE(HELD),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
        [ACT_MOVE_ON] =
            {
                [MANAGER_PROVISIONED] = REFUSE(VERB_STATE),
                [MANAGER_STOPPED_STATE] = TO(MOVED),
                [MANAGER_ALLOWED] = REFUSE(VERB_STATE),
                [MANAGER_HELD] = TO(MOVED),
                [MANAGER_DELETED] = REFUSE(DELETED),
                [MANAGER_MOVED] = REFUSE(MOVED),
            },
};

struct err lifecycle_check(const struct ledger_row *row, enum act act)
{
    const struct rule *rule = &rules[act][row->state];
    return rule->next ? OK : (struct err){rule->refusal ? rule->refusal : ERR_VERB_STATE};
}

void lifecycle_step(struct ledger_row *row, enum act act)
{
    uint16_t next = rules[act][row->state].next;
    if (!next) panic(PANIC_INVARIANT);
    row->state = next;
}
