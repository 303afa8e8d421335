/*
 * The two kinds of anchor behind anchor_host.h, which says what they guarantee.
 */
#pragma once

#include "untrusted/anchor/anchor_host.h"

#define ANCHOR_REASON_SIZE 160u

/* reason: room for ANCHOR_REASON_SIZE bytes, written with ERR_ANCHOR_IO. */
struct anchor_file;
struct err anchor_file_open(const char *path, char *reason, struct anchor_file **out_file);
void anchor_file_close(struct anchor_file **file);
struct err anchor_file_exchange(struct anchor_file *file, struct span request, char *reason, uint8_t *out_answer,
                                size_t *out_size);

struct anchor_tpm;
struct err anchor_tpm_open(const char *tcti, struct anchor_tpm **out_tpm);
void anchor_tpm_close(struct anchor_tpm **tpm);
struct err anchor_tpm_exchange(struct anchor_tpm *tpm, struct span request, char *reason, uint8_t *out_answer,
                               size_t *out_size);
