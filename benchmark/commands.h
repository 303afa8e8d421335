/*
 * The TPM commands that the benchmark sends, as bytes (TPM 2.0 Library, Part 3). A client for measuring: password
 * sessions with empty authorisation only, SHA-256 names, every key without dictionary-attack protection, so that no
 * command is answered by TPM_RC_RETRY while a flag is written.
 */
#pragma once

#include "base/bytes.h"
#include "base/err.h"

#define COMMAND_MAX  4096u
#define NV_INDEX     0x01800020u
#define NV_SIZE      32u
#define MESSAGE_SIZE 1024u

/* Each writes one whole command, header included. ERR_NO_SPACE. */
struct err command_startup(struct writer *w);
struct err command_get_random(struct writer *w);
struct err command_pcr_read(struct writer *w);
struct err command_pcr_extend(struct writer *w);
struct err command_hash(struct writer *w);
struct err command_hmac(struct writer *w, uint32_t key);
struct err command_nv_define(struct writer *w);
struct err command_nv_undefine(struct writer *w);
struct err command_nv_read(struct writer *w);
struct err command_nv_write(struct writer *w, uint32_t number);
struct err command_sign_rsa(struct writer *w, uint32_t key);
struct err command_sign_ecc(struct writer *w, uint32_t key);
struct err command_flush(struct writer *w, uint32_t handle);
/* number goes into the template's unique field: another number is another key. */
struct err command_create_rsa(struct writer *w, uint32_t number);
struct err command_create_ecc(struct writer *w, uint32_t number);
struct err command_create_hmac_key(struct writer *w);
