/*
 * A small signed image and the key that signs it, for tests of everything that reads images.
 *
 *   page 0   code: stub, entry point at 0x40        segment 0
 *        1   constants                              segment 1
 *        2   relocated constants, public            segment 2
 *        3   data                                   segment 3
 *        5   heap, not measured                     segment 4
 *      7-10  stack, two SSA frames, thread's page   segment 5
 *       12   TCS                                    segment 6
 *
 * The key is public: its primes were grown from hash streams, and stand in sample.c.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

#include "abi/sgx.h"

#define SAMPLE_SIZE       0x9000u  /* bytes of the file */
#define SAMPLE_ELRANGE    0x10000u /* SECS.SIZE */
#define SAMPLE_SIGNATURES 3u
#define SAMPLE_SEGMENTS   7u
#define SAMPLE_CODE_FILE  0x4000u
#define SAMPLE_DATA_FILE  0x7000u
#define SAMPLE_TCS_FILE   0x8000u
#define SAMPLE_TCS_OFFSET 0xC000u

/* The test key; the caller frees it. Fails the test when something goes wrong, like all here. */
EVP_PKEY *sample_key(void);
/* A key as above whose modulus is a byte too short for SGX, with another second prime every time. */
EVP_PKEY *sample_short_key(void);

/* Writes the image; it is signed for XFRM 0x3, 0x7 and 0xE7. */
void sample_image(uint8_t out_file[SAMPLE_SIZE]);

/* content[i] = k * i + 31 * (i >> 8) + c: every chunk differs, so that measuring the wrong one is noticed. */
void sample_page(unsigned k, unsigned c, uint8_t out_page[SGX_PAGE_SIZE]);
