#include "untrusted/cli/ctl_act.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/bytes.h"
#include "base/id.h"
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

static struct err build(const json_t *instance, const json_t *status, const json_t *challenge, struct writer *w)
{
    struct instance_id id, domain;
    uint8_t nonce[32], manager[32], nothing[32], *label = NULL;
    const json_t *epoch = json_object_get(instance, "epoch");
    ENSURE(json_is_integer(epoch) && json_integer_value(epoch) >= 0, PROTOCOL);
    TRY(id_member(instance, "id", &id));
    TRY(id_member(status, "domain", &domain));
    TRY(hex_member(json_object_get(status, "manager"), "mrenclave", sizeof manager, manager));
    TRY(hex_member(challenge, "nonce", sizeof nonce, nonce));
    ENSURE(EVP_Digest("", 0, nothing, NULL, EVP_sha256(), NULL) == 1, CRYPTO);
    TRY(write_zeros(w, 16, &label));
    memcpy(label, OWNER_ACT_LABEL, strlen(OWNER_ACT_LABEL));
    TRY(write_u16(w, MANAGER_DELETE));
    TRY(write_u16(w, 0));
    TRY(write_u32(w, 0));
    TRY(write_bytes(w, domain.bytes, sizeof domain.bytes));
    TRY(write_bytes(w, id.bytes, sizeof id.bytes));
    TRY(write_u64(w, (uint64_t)json_integer_value(epoch)));
    TRY(write_bytes(w, nonce, sizeof nonce));
    TRY(write_bytes(w, manager, sizeof manager));
    return write_bytes(w, nothing, sizeof nothing);
}

struct err ctl_act_delete(const json_t *instance, const json_t *status, const json_t *challenge,
                          uint8_t out_message[OWNER_ACT_SIZE], struct explanation *why)
{
    uint8_t asked[OWNER_ACT_SIZE];
    struct writer w = writer_of(out_message, OWNER_ACT_SIZE);
    struct err err = build(instance, status, challenge, &w);
    if (!err.code) err = hex_member(challenge, "message", sizeof asked, asked);
    if (err.code == ERR_PROTOCOL || (!err.code && memcmp(asked, out_message, sizeof asked) != 0))
        return explain(why, FAIL(PROTOCOL),
                       "nothing was signed: vtpmd asks for a signature over something else than the deletion of this "
                       "instance at its present epoch (if it was just restarted, try again)");
    return err;
}
