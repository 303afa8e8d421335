#include "untrusted/daemon/owner_act.h"

#include <stdio.h>
#include <string.h>

#include "untrusted/daemon/supervisor.h"

static struct owner_act act_over(enum manager_verb verb, const void *arguments, size_t size)
{
    struct owner_act act = {.verb = verb, .size = size};
    if (size) memcpy(act.arguments, arguments, size);
    return act;
}

struct owner_act owner_act_delete(void)
{
    return act_over(MANAGER_DELETE, NULL, 0);
}

struct owner_act owner_act_revert(const struct instance *instance, const struct snapshot *snapshot)
{
    const uint64_t version = instance->recorded + 1;
    struct owner_act act = act_over(MANAGER_REVERT, &version, sizeof version);
    memcpy(act.arguments + act.size, snapshot->digest, sizeof snapshot->digest);
    act.size += sizeof snapshot->digest;
    memcpy(act.arguments + act.size, snapshot->manager, sizeof snapshot->manager);
    act.size += sizeof snapshot->manager;
    return act;
}

struct owner_act owner_act_set_owner(const uint8_t owner[ED25519_PUBLIC_SIZE])
{
    return act_over(MANAGER_SET_OWNER, owner, ED25519_PUBLIC_SIZE);
}

struct owner_act owner_act_clone(const char label[MANAGER_LABEL_SIZE])
{
    return act_over(MANAGER_CLONE, label, MANAGER_LABEL_SIZE);
}

struct err owner_act_ask(const struct instance *instance, const struct owner_act *act,
                         const uint8_t signature[ED25519_SIGNATURE_SIZE], manager_done *done, void *ctx)
{
    uint8_t bytes[INSTANCE_ID_SIZE + ED25519_SIGNATURE_SIZE + OWNER_ARGUMENTS_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_bytes(&w, instance->row.id.bytes, INSTANCE_ID_SIZE));
    TRY(write_bytes(&w, signature, ED25519_SIGNATURE_SIZE));
    TRY(write_bytes(&w, act->arguments, act->size));
    return manager_ask(instance->supervisor->manager, act->verb, writer_span(&w), done, ctx);
}

struct err owner_act_message(const struct instance *instance, const struct owner_act *act,
                             const struct manager_status *status, struct span nonce,
                             uint8_t out_message[OWNER_ACT_SIZE])
{
    static const char label[16] = OWNER_ACT_LABEL;
    const struct span arguments = span_of(act->arguments, act->size);
    uint8_t hash[SHA256_SIZE];
    struct writer w = writer_of(out_message, OWNER_ACT_SIZE);
    TRY(hash_sha256(instance->supervisor->crypto, &arguments, 1, hash));
    TRY(write_bytes(&w, label, sizeof label));
    TRY(write_u16(&w, act->verb));
    TRY(write_u16(&w, 0));
    TRY(write_u32(&w, 0));
    TRY(write_bytes(&w, status->domain.bytes, INSTANCE_ID_SIZE));
    TRY(write_bytes(&w, instance->row.id.bytes, INSTANCE_ID_SIZE));
    TRY(write_u64(&w, instance->row.epoch));
    TRY(write_span(&w, nonce));
    TRY(write_bytes(&w, status->manager, sizeof status->manager));
    return write_bytes(&w, hash, sizeof hash);
}
