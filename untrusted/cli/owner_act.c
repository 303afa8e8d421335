#include "untrusted/cli/owner_act.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "abi/manager.h"
#include "base/bytes.h"
#include "crypto/hash.h"
#include "untrusted/cli/ctl_key.h"
#include "untrusted/cli/file.h"

/* OWNER_ACT, and what follows it; they point into the file. */
struct fields {
    uint16_t verb;
    struct instance_id domain, id;
    uint64_t epoch;
    struct span manager, hash, arguments;
};

static const struct verb {
    enum manager_verb verb;
    const char *words;
    size_t size; /* of its arguments */
} verbs[] = {
    {MANAGER_DELETE, "delete the instance; its keys are gone for good", 0},
    {MANAGER_REVERT, "put an older state back", 8 + SHA256_SIZE + SGX_HASH_SIZE},
    {MANAGER_SET_OWNER, "give the instance to another owner", ED25519_PUBLIC_SIZE},
    {MANAGER_CLONE, "make another instance after this one", MANAGER_LABEL_SIZE},
};

static const struct verb *verb_of(uint16_t number)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (verbs[i].verb == number) return &verbs[i];
    return NULL;
}

static struct err parse(const struct owner_act *act, struct fields *out)
{
    static const char label[16] = OWNER_ACT_LABEL;
    struct reader r = reader_of(span_of(act->bytes, act->size));
    struct span head, nonce;
    uint16_t zero = 0;
    uint32_t more = 0;
    TRY(read_span(&r, sizeof label, &head));
    ENSURE(memcmp(head.data, label, sizeof label) == 0, BAD_VALUE);
    TRY(read_u16(&r, &out->verb));
    TRY(read_u16(&r, &zero));
    TRY(read_u32(&r, &more));
    ENSURE(zero == 0 && more == 0, BAD_VALUE);
    TRY(read_bytes(&r, out->domain.bytes, sizeof out->domain.bytes));
    TRY(read_bytes(&r, out->id.bytes, sizeof out->id.bytes));
    TRY(read_u64(&r, &out->epoch));
    TRY(read_span(&r, 32, &nonce));
    TRY(read_span(&r, SGX_HASH_SIZE, &out->manager));
    TRY(read_span(&r, SHA256_SIZE, &out->hash));
    return read_span(&r, r.left, &out->arguments);
}

static bool is_label(struct span bytes)
{
    const size_t size = strnlen((const char *)bytes.data, bytes.size);
    if (size == 0 || size == bytes.size) return false;
    for (size_t i = 0; i < bytes.size; i++)
        if (i < size ? !isgraph(bytes.data[i]) : bytes.data[i] != 0) return false;
    return true;
}

static struct err check(const struct owner_act *act)
{
    struct fields fields = {0};
    uint8_t hash[SHA256_SIZE];
    TRY(parse(act, &fields));
    const struct verb *verb = verb_of(fields.verb);
    ENSURE(verb && fields.arguments.size == verb->size, BAD_VALUE);
    ENSURE(EVP_Digest(fields.arguments.data, fields.arguments.size, hash, NULL, EVP_sha256(), NULL) == 1, CRYPTO);
    ENSURE(memcmp(hash, fields.hash.data, sizeof hash) == 0, BAD_VALUE);
    ENSURE(verb->verb != MANAGER_CLONE || is_label(fields.arguments), BAD_VALUE);
    return OK;
}

struct err owner_act_read(const char *path, struct owner_act *out_act, struct explanation *why)
{
    struct file file = {0};
    TRY(file_read(path, OWNER_ACT_SIZE + OWNER_ARGUMENTS_MAX, &file, why));
    *out_act = (struct owner_act){file.data, file.size};
    struct err err = check(out_act);
    if (!err.code) return OK;
    owner_act_close(out_act);
    return explain(why, FAIL(BAD_VALUE),
                   "%s: nothing was signed: this is no act that vtpmctl challenge wrote, or it was "
                   "altered",
                   path);
}

/* --- in words ------------------------------------------------------------------------------------------------------
 */

static void tell(FILE *out, const char *caption, const char *text)
{
    (void)fprintf(out, "%-20s %s\n", caption, text);
}

static void tell_id(FILE *out, const char *caption, const struct instance_id *id)
{
    char text[ID_TEXT_SIZE];
    id_format(id, text);
    tell(out, caption, text);
}

static void tell_hex(FILE *out, const char *caption, const uint8_t *bytes, size_t size)
{
    char text[CTL_HEX_SIZE(OWNER_ARGUMENTS_MAX)];
    ctl_hex(bytes, size, text);
    tell(out, caption, text);
}

static void tell_arguments(const struct fields *fields, FILE *out)
{
    static const uint8_t nobody[ED25519_PUBLIC_SIZE];
    const uint8_t *arguments = fields->arguments.data;
    uint64_t version = 0;
    switch (fields->verb) {
    case MANAGER_REVERT:
        memcpy(&version, arguments, sizeof version);
        (void)fprintf(out, "%-20s %" PRIu64 "\n", "as version", version);
        tell_hex(out, "state's SHA-256", arguments + sizeof version, SHA256_SIZE);
        tell_hex(out, "sealed under manager", arguments + sizeof version + SHA256_SIZE, SGX_HASH_SIZE);
        break;
    case MANAGER_SET_OWNER:
        if (memcmp(arguments, nobody, sizeof nobody) == 0)
            tell(out, "new owner", "the operator: no signature is asked for any more");
        else
            tell_hex(out, "new owner", arguments, ED25519_PUBLIC_SIZE);
        break;
    case MANAGER_CLONE:
        tell(out, "new label", (const char *)arguments);
        break;
    default:
        break;
    }
}

void owner_act_tell(const struct owner_act *act, FILE *out)
{
    struct fields fields = {0};
    if (parse(act, &fields).code) return; /* it was checked when it was read */
    tell(out, "act", verb_of(fields.verb)->words);
    tell_id(out, "instance", &fields.id);
    (void)fprintf(out, "%-20s %" PRIu64 "\n", "at its epoch", fields.epoch);
    tell_arguments(&fields, out);
    tell_id(out, "trust domain", &fields.domain);
    tell_hex(out, "manager MRENCLAVE", fields.manager.data, fields.manager.size);
}

/* --- signing -------------------------------------------------------------------------------------------------------
 */

static void key_close(struct ctl_owner *owner)
{
    ctl_owner_close(owner);
}

struct err owner_act_sign(const struct owner_act *act, const char *key_path,
                          uint8_t out_signature[ED25519_SIGNATURE_SIZE], struct explanation *why)
{
    struct ctl_owner owner DEFER(key_close) = {0};
    TRY(ctl_owner_open(key_path, &owner, why));
    return ctl_owner_sign(&owner, span_of(act->bytes, OWNER_ACT_SIZE), out_signature);
}

void owner_act_close(struct owner_act *act)
{
    free(act->bytes);
    *act = (struct owner_act){0};
}
