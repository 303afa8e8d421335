#include "tests/unit/manager/upgrade.h"

#include <string.h>

#include "tests/fakes/assertions.h"

void upgrade_open(struct upgrade *upgrade)
{
    memset(upgrade, 0, sizeof *upgrade);
    assert_ok(ed25519_generate(fake_instance_crypto(), &upgrade->release));
    const struct span key = span_of(upgrade->release.public, sizeof upgrade->release.public);
    assert_ok(hash_sha256(fake_instance_crypto(), &key, 1, rig_image.release_key));
}

static void write_mrenclave(struct writer *w, const char *text)
{
    uint8_t mrenclave[SGX_HASH_SIZE] = {0};
    memcpy(mrenclave, text, strlen(text));
    assert_ok(write_bytes(w, mrenclave, sizeof mrenclave));
}

void upgrade_sign(struct upgrade *upgrade, const char *old, const char *new, uint32_t security_version)
{
    static const char label[16] = MANIFEST_LABEL;
    struct writer w = writer_of(upgrade->manifest, sizeof upgrade->manifest);
    assert_ok(write_bytes(&w, label, sizeof label));
    write_mrenclave(&w, old);
    write_mrenclave(&w, new);
    assert_ok(write_u32(&w, security_version));
    assert_ok(write_u32(&w, 0));
    assert_ok(write_bytes(&w, upgrade->release.public, sizeof upgrade->release.public));
    assert_ok(ed25519_sign(fake_instance_crypto(), &upgrade->release, writer_span(&w), upgrade->manifest + w.size));
}

void upgrade_greet(struct upgrade *upgrade, struct rig *old, struct rig *new)
{
    uint8_t target[128];
    assert_int_equal(rig_call(old, MANAGER_WHO, span_empty()), ERR_NONE);
    struct span who = rig_effect(old, MANAGER_EFFECT_MESSAGE, 0);
    assert_int_equal(who.size, sizeof target);
    memcpy(target, who.data, sizeof target);
    assert_int_equal(rig_greet(new, target), ERR_NONE);
    struct span message = rig_effect(new, MANAGER_EFFECT_MESSAGE, 0);
    memcpy(upgrade->greeting, message.data, message.size);
    upgrade->greeting_size = message.size;
}

uint16_t upgrade_give(struct upgrade *upgrade, struct rig *old)
{
    uint8_t body[MANIFEST_SIZE + PEER_MESSAGE_MAX];
    struct writer w = writer_of(body, sizeof body);
    assert_ok(write_bytes(&w, upgrade->manifest, sizeof upgrade->manifest));
    assert_ok(write_bytes(&w, upgrade->greeting, upgrade->greeting_size));
    uint16_t code = rig_call(old, MANAGER_GIVE, writer_span(&w));
    if (code) return code;
    struct span message = rig_effect(old, MANAGER_EFFECT_MESSAGE, 0);
    memcpy(upgrade->gift, message.data, message.size);
    upgrade->gift_size = message.size;
    return ERR_NONE;
}

uint16_t upgrade_take(struct upgrade *upgrade, const struct rig *old, struct rig *new)
{
    uint8_t body[MANIFEST_SIZE + 8 + PEER_MESSAGE_MAX + RIG_BLOB_MAX];
    struct writer w = writer_of(body, sizeof body);
    new->disk = old->disk;
    memcpy(new->anchor, old->anchor, sizeof new->anchor);
    assert_ok(write_bytes(&w, upgrade->manifest, sizeof upgrade->manifest));
    assert_ok(write_u32(&w, (uint32_t)upgrade->gift_size));
    assert_ok(write_bytes(&w, upgrade->gift, upgrade->gift_size));
    assert_ok(write_u32(&w, (uint32_t) new->disk.head.size));
    assert_ok(write_bytes(&w, new->disk.head.bytes, new->disk.head.size));
    return rig_call(new, MANAGER_TAKE, writer_span(&w));
}
