/*
 * Shamir's secret sharing (CACM 22, 1979), each byte of the secret by itself over GF(2^8) with the polynomial
 * x^8 + x^4 + x^3 + x + 1.
 *
 * Guarantees: fewer than threshold shares are independent of the secret; what is done does not depend on secret bytes in
 * time or in the memory it reads. It does not guarantee that shares are right: wrong ones give a wrong secret.
 */
#pragma once

#include "link/recovery.h"

/* rule->count shares, with indices from 1. The caller wipes out. */
void shamir_split(const struct recovery_rule *rule, const uint8_t secret[RECOVERY_SECRET_SIZE],
                  struct recovery_share *out_shares);
/* From as many shares as the threshold, with different indices. The caller wipes out. */
void shamir_join(const struct recovery_share *shares, uint8_t threshold, uint8_t out_secret[RECOVERY_SECRET_SIZE]);
