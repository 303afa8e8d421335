/*
 * What happened, for whoever subscribes: the last EVENTS_KEPT of them, numbered from 1 since vtpmd started. It is the
 * host's account; evidence is only what the ledger holds.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"

#define EVENTS_KEPT 1024u

struct events;

/* told: of each new event, a line with its newline; NULL: nobody. ERR_NO_MEMORY. */
struct err events_open(void *ctx, void (*told)(void *ctx, const char *line, size_t size), struct events **out_events);
void events_close(struct events **events);

/* Takes data (an object, or NULL for an empty one) over. */
void events_add(struct events *events, const char *name, json_t *data);

/* Calls each with those kept from number on, in order. */
void events_since(const struct events *events, uint64_t number, void *ctx,
                  void (*each)(void *ctx, const char *line, size_t size));
