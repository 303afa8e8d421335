#include "untrusted/instance/start.h"

#include <errno.h>
#include <string.h>

struct err start_create(struct machine *machine, int directory_fd, struct instance_id *out_id, struct store **out_store)
{
    struct effects effects = {0};
    TRY(machine_create(machine, &effects));
    /* A new TPM whose seeds nobody wants kept is none. */
    ENSURE(effects.has_instance && effects.has_store && effects.reply.size == 0, BAD_VALUE);
    struct store *store = NULL;
    const struct instance_id id = effects.instance;
    const uint64_t number = effects.store_number;
    TRY(store_create(directory_fd, &id, effects.store, &store));
    struct err result = machine_stored(machine, number, &effects);
    if (result.code) {
        store_close(&store);
        return result;
    }
    machine_wipe(machine);
    *out_id = id;
    *out_store = store;
    return OK;
}

static struct err open_with(struct machine *machine, const struct instance_id *id, struct store *store)
{
    struct effects effects = {0};
    TRY(machine_open(machine, id, store_state(store), &effects));
    ENSURE(effects.has_instance && effects.reply.size == 0, BAD_VALUE);
    ENSURE(memcmp(effects.instance.bytes, id->bytes, sizeof id->bytes) == 0, STATE_OTHER_INSTANCE);
    if (effects.has_store) {
        const uint64_t number = effects.store_number;
        TRY(store_commit(store, effects.store));
        TRY(machine_stored(machine, number, &effects));
    }
    machine_wipe(machine);
    return OK;
}

struct err start_open(struct machine *machine, int directory_fd, const struct instance_id *id, struct store **out_store)
{
    struct store *store = NULL;
    TRY(store_open(directory_fd, id, &store));
    struct err result = open_with(machine, id, store);
    if (result.code) {
        int saved = errno;
        store_close(&store);
        errno = saved;
        return result;
    }
    *out_store = store;
    return OK;
}
