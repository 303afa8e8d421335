/*
 * front.sock: where a front-end in a process of its own brings its records (untrusted/wire/wire.h).
 *
 * Guarantees: there is one front-end at a time, the next one is told so and closed; one that leaves before its first
 * record was answered leaves nothing behind; afterwards its going is the link's end. What it sends is not understood
 * here: the enclave says whether it is a record of the session.
 */
#pragma once

#include <systemd/sd-event.h>

#include "untrusted/instance/service.h"

struct gate;

/* listen_fd stays the caller's; nobody is accepted before the enclave's end of K2 is known. ERR_NO_MEMORY, ERR_SYSTEM.
 */
struct err gate_open(sd_event *event, int listen_fd, struct gate **out_gate);
/* The front of the service's options. */
struct service_front gate_front(struct gate *gate);
/* Before the loop runs. */
void gate_attach(struct gate *gate, struct service *service);
void gate_close(struct gate **gate);
