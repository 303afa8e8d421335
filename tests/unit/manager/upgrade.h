/* The upgrade as the host drives it, for tests: an old manager, a new one, and the manifest between them. */
#pragma once

#include "tests/unit/manager/rig.h"

struct upgrade {
    struct ed25519_key release;
    uint8_t manifest[MANIFEST_SIZE];
    uint8_t greeting[PEER_MESSAGE_MAX];
    size_t greeting_size;
    uint8_t gift[PEER_MESSAGE_MAX];
    size_t gift_size;
};

/* A release key, whose hash lives from now on hold. */
void upgrade_open(struct upgrade *upgrade);
/* Signs a manifest from old to new. */
void upgrade_sign(struct upgrade *upgrade, const char *old, const char *new, uint32_t security_version);

/* WHO of the old, GREET of the new, which has to be BLANK. */
void upgrade_greet(struct upgrade *upgrade, struct rig *old, struct rig *new);
/* GIVE; the err code. */
uint16_t upgrade_give(struct upgrade *upgrade, struct rig *old);
/* TAKE with the head on the old one's disk; the err code. The disk becomes the new one's. */
uint16_t upgrade_take(struct upgrade *upgrade, const struct rig *old, struct rig *new);
