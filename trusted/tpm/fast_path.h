/*
 * What the linker puts between libtpms and libcrypto (--wrap, tpm_wrap_link_args in trusted/meson.build): RSA with the
 * Chinese remainder theorem and keys that stay imported, and named groups instead of generic ones for NIST's curves.
 *
 * Guarantees: the results are those of libtpms without it; what is secret in it dies with fast_path_forget.
 */
#pragma once

/* Drops and wipes every private key that is kept ready. For power off and reset. */
void fast_path_forget(void);
