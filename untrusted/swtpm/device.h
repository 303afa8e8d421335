/*
 * swtpm chardev: a character device whose driver asks commands, as /dev/vtpmx makes them and as tpm_vtpm_proxy's tests do.
 *
 * Guarantees: one read is one command and one write its response, as the driver wants it; the driver's own SetLocality
 * command (0x20001000) is answered here and sets the locality on the control channel. The relay costs each command two more
 * crossings of a socket: a character device cannot be served where the enclave is, whose process may only use sockets.
 */
#pragma once

#include "untrusted/swtpm/options.h"

/* The device: made by /dev/vtpmx, opened, or inherited. ERR_SYSTEM. */
struct err device_open(const struct swtpm_options *options, int *out_fd, struct explanation *why);

/* Relays until the device or the TPM has ended. allow_locality: --locality allow-set-locality. */
void device_relay(int device, int data, int control, bool allow_locality);
