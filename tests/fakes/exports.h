/*
 * What a front-end does with an export: it reads one from an enclave, and gives it to another one of the same instance
 * that is to take over. What should work and does not fails the test.
 */
#pragma once

#include "tests/fakes/instance_client.h"

struct bundle {
    uint32_t permanent_size;
    size_t size;
    uint8_t bytes[STATE_MAX];
};

/* As the body of a request. */
struct span u32_of(uint32_t value, uint8_t out[4]);

/* EXPORT alone: the sizes. Returns the code of the response. */
uint16_t exports_begin(struct client *c, struct bundle *out);
/* All of it. */
void exports_read(struct client *c, struct bundle *out);

/* An enclave beside the one of holder, of the same instance and manager, that is linked and waits for an export. */
void exports_open_candidate(const struct client *holder, struct client *out);

/* One part of size bytes in all, at offset. Returns the code of the response. */
uint16_t exports_give_part(struct client *c, uint32_t size, uint32_t offset, struct span part);
/* All of it, in parts. */
void exports_give(struct client *c, const struct bundle *bundle);
/* INIT over what came. Returns the code of the response. */
uint16_t exports_check(struct client *c);
