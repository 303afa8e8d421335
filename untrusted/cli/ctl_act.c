#include "untrusted/cli/ctl_act.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/bytes.h"
#include "base/id.h"
#include "crypto/hash.h"
#include "untrusted/cli/ctl_key.h"

static struct err hex_member(const json_t *object, const char *name, size_t size, uint8_t *out_bytes)
{
    const char *text = json_string_value(json_object_get(object, name));
    ENSURE(text, PROTOCOL);
    ENSURE(!ctl_parse_hex(text, size, out_bytes).code, PROTOCOL);
    return OK;
}

static struct err id_member(const json_t *object, const char *name, struct instance_id *out_id)
{
    const char *text = json_string_value(json_object_get(object, name));
    ENSURE(text, PROTOCOL);
    ENSURE(!id_parse(text, out_id).code, PROTOCOL);
    return OK;
}

static struct err number_member(const json_t *object, const char *name, uint64_t *out_number)
{
    const json_t *value = json_object_get(object, name);
    ENSURE(json_is_integer(value) && json_integer_value(value) >= 0, PROTOCOL);
    *out_number = (uint64_t)json_integer_value(value);
    return OK;
}

struct ctl_act ctl_act_delete(void)
{
    return (struct ctl_act){.verb = MANAGER_DELETE};
}

struct err ctl_act_revert(const json_t *instance, const json_t *snapshot, struct ctl_act *out_act)
{
    struct ctl_act act = {.verb = MANAGER_REVERT};
    struct writer w = writer_of(act.arguments, sizeof act.arguments);
    uint8_t digest[SHA256_SIZE], manager[SGX_HASH_SIZE];
    uint64_t version = 0;
    TRY(number_member(instance, "version", &version));
    TRY(hex_member(snapshot, "digest", sizeof digest, digest));
    TRY(hex_member(snapshot, "manager", sizeof manager, manager));
    TRY(write_u64(&w, version + 1));
    TRY(write_bytes(&w, digest, sizeof digest));
    TRY(write_bytes(&w, manager, sizeof manager));
    act.size = w.size;
    *out_act = act;
    return OK;
}

struct err ctl_act_set_owner(const char *owner_hex, struct ctl_act *out_act)
{
    *out_act = (struct ctl_act){.verb = MANAGER_SET_OWNER, .size = ED25519_PUBLIC_SIZE};
    return owner_hex ? ctl_parse_hex(owner_hex, ED25519_PUBLIC_SIZE, out_act->arguments) : OK;
}

struct err ctl_act_clone(const char *label, struct ctl_act *out_act)
{
    *out_act = (struct ctl_act){.verb = MANAGER_CLONE, .size = MANAGER_LABEL_SIZE};
    ENSURE(strlen(label) < MANAGER_LABEL_SIZE, LABEL_BAD);
    memcpy(out_act->arguments, label, strlen(label));
    return OK;
}

static struct err build(const struct ctl_act *act, const json_t *instance, const json_t *status,
                        const json_t *challenge, struct writer *w)
{
    struct instance_id id, domain;
    uint8_t nonce[32], manager[SGX_HASH_SIZE], hash[SHA256_SIZE], *label = NULL;
    uint64_t epoch = 0;
    TRY(number_member(instance, "epoch", &epoch));
    TRY(id_member(instance, "id", &id));
    TRY(id_member(status, "domain", &domain));
    TRY(hex_member(json_object_get(status, "manager"), "mrenclave", sizeof manager, manager));
    TRY(hex_member(challenge, "nonce", sizeof nonce, nonce));
    ENSURE(EVP_Digest(act->arguments, act->size, hash, NULL, EVP_sha256(), NULL) == 1, CRYPTO);
    TRY(write_zeros(w, 16, &label));
    memcpy(label, OWNER_ACT_LABEL, strlen(OWNER_ACT_LABEL));
    TRY(write_u16(w, act->verb));
    TRY(write_u16(w, 0));
    TRY(write_u32(w, 0));
    TRY(write_bytes(w, domain.bytes, sizeof domain.bytes));
    TRY(write_bytes(w, id.bytes, sizeof id.bytes));
    TRY(write_u64(w, epoch));
    TRY(write_bytes(w, nonce, sizeof nonce));
    TRY(write_bytes(w, manager, sizeof manager));
    return write_bytes(w, hash, sizeof hash);
}

struct err ctl_act_build(const struct ctl_act *act, const json_t *instance, const json_t *status,
                         const json_t *challenge, uint8_t out_message[OWNER_ACT_SIZE], struct explanation *why)
{
    uint8_t asked[OWNER_ACT_SIZE];
    struct writer w = writer_of(out_message, OWNER_ACT_SIZE);
    struct err err = build(act, instance, status, challenge, &w);
    if (!err.code) err = hex_member(challenge, "message", sizeof asked, asked);
    if (err.code == ERR_PROTOCOL || (!err.code && memcmp(asked, out_message, sizeof asked) != 0))
        return explain(why, FAIL(PROTOCOL),
                       "nothing was signed: vtpmd asks for a signature over something else than this act on this "
                       "instance at its present epoch (if it was just restarted, try again)");
    return err;
}

struct err ctl_act_write(const json_t *challenge, uint8_t out_file[CTL_ACT_FILE_MAX], size_t *out_size)
{
    const char *arguments = json_string_value(json_object_get(challenge, "arguments"));
    ENSURE(arguments && strlen(arguments) / 2 <= OWNER_ARGUMENTS_MAX, PROTOCOL);
    TRY(hex_member(challenge, "message", OWNER_ACT_SIZE, out_file));
    TRY(hex_member(challenge, "arguments", strlen(arguments) / 2, out_file + OWNER_ACT_SIZE));
    *out_size = OWNER_ACT_SIZE + strlen(arguments) / 2;
    return OK;
}
