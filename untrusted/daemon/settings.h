/*
 * What vtpmd notes about an instance beside the ledger: where it is served, whether its operator wants it to run, and
 * in which boot of the host its last holder was lost.
 *
 * Guarantees: what is noted is durable before anything that the manager is asked for afterwards. Settings that are
 * missing or damaged have defaults, and nothing of the enclaves' depends on them.
 */
#pragma once

#include "untrusted/daemon/instance.h"

/* As JSON text, malloc'ed. NULL: out of memory. */
char *settings_text(const struct instance *instance);
/* text: NULL if there is none. The row is known. */
void settings_apply(struct instance *instance, const char *text);

/* saved: NULL if nobody waits. */
void settings_save(struct instance *instance, void (*saved)(struct instance *instance, struct err result));
/* The operator said start, or stop. */
void settings_want(struct instance *instance, bool wanted);
/* Its holder is about to be declared dead; or its last start ended in order. */
void settings_lost(struct instance *instance);
void settings_ended(struct instance *instance);
/* A holder was lost since the host's boot, so a machine may still run that knew the TPM before. */
bool settings_rebuilt(const struct instance *instance);
void settings_forget(struct instance *instance);
