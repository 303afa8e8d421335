/*
 * The sealed state of one instance in a directory.
 *
 *   UUID.vtpm    the state
 *   UUID.spare   where the next one is written; its content means nothing
 *   UUID.lock    held by the process that serves the instance
 *   UUID.probe   only at a start: whether this file system exchanges names
 *
 * Guarantees: at every moment UUID.vtpm is a whole state, the last that was committed or the one whose commit is under
 * way, through a crash of this process or of the machine at any instruction (as far as the file system and the disk
 * keep what fsync promises); a commit that succeeded is durable; of two processes one is refused; a state that is
 * missing stays missing, and one that exists is not overwritten by a new instance. Not guaranteed: that the state is
 * the newest there ever was. Whoever can write to the directory can put an old file back.
 *
 * A commit writes over the spare in place, makes it durable, exchanges the two names, and makes that durable. Until the
 * exchange is durable the spare's blocks may still be the state on disk, so nothing writes to it before.
 */
#pragma once

#include <stdbool.h>

#include "abi/call.h"
#include "base/err.h"
#include "base/span.h"
#include "untrusted/instance/id.h"

struct store;

/*
 * The first state of a new instance, durable on success; then as store_open. directory_fd stays the caller's and open.
 * ERR_STATE_EXISTS, ERR_STATE_LOCKED, ERR_STATE_IO (errno says why).
 */
struct err store_create(int directory_fd, const struct instance_id *id, struct span state, struct store **out_store);

/*
 * Locks the instance, reads its state and makes durable what it read; a directory in which no file can be created shows
 * itself now. The lock is waited for, one second at most. ERR_STATE_MISSING, ERR_STATE_LOCKED, ERR_STATE_CUT (empty or
 * larger than any state), ERR_STATE_IO.
 */
struct err store_open(int directory_fd, const struct instance_id *id, struct store **out_store);

/* The state as it was read or committed last. */
struct span store_state(const struct store *store);

/*
 * True if the file system cannot exchange two names: every commit then creates a file, and the process must be allowed
 * to.
 */
bool store_creates_files(const struct store *store);

/*
 * Replaces the state; durable on success. After ERR_STATE_IO (errno says why) the one thing to do is to call it again
 * with the same state. state: at most STATE_MAX bytes.
 */
struct err store_commit(struct store *store, struct span state);

/* Gives the lock back. *store is NULL afterwards. */
void store_close(struct store **store);
