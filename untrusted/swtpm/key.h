/*
 * Keys and passphrases for the state, which swtpm's users give and which are not needed here: the state is always sealed.
 *
 * Guarantees: they are read to the end, so that whoever writes them into a pipe can go on, kept nowhere and wiped.
 */
#pragma once

#include "untrusted/swtpm/options.h"

extern const char key_sentence[]; /* for the log, once */

/* ERR_SYSTEM. */
struct err key_drain(const struct swtpm_key *key, struct explanation *why);
