/*
 * Guarantees: the generator is never left with host bytes alone. Not guaranteed: anything about libcrypto's own
 * seeding, which draws from getrandom (trusted/runtime).
 */
#include "trusted/crypto/seed.h"

#include <openssl/rand.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "crypto/hkdf.h"
#include "trusted/runtime/entropy.h"

#define PROCESSOR_ENTROPY_SIZE 64u
#define SEED_SIZE              48u /* what CTR_DRBG with AES-256 takes in (SP 800-90A, table 3) */
#define HOST_ENTROPY_MAX       64u

struct seed {
    uint8_t bytes[SEED_SIZE];
};

struct seed_input {
    uint8_t bytes[2 * PROCESSOR_ENTROPY_SIZE + HOST_ENTROPY_MAX];
};

static void wipe_seed(struct seed *seed)
{
    wipe(seed, sizeof *seed);
}

static void wipe_seed_input(struct seed_input *input)
{
    wipe(input, sizeof *input);
}

struct err crypto_seed(const struct crypto *crypto, struct span host_entropy)
{
    static const char label[] = "vtpm entropy";
    struct seed_input input DEFER(wipe_seed_input) = {0};
    entropy_fill(input.bytes, PROCESSOR_ENTROPY_SIZE);
    size_t size = PROCESSOR_ENTROPY_SIZE + entropy_seed(input.bytes + PROCESSOR_ENTROPY_SIZE, PROCESSOR_ENTROPY_SIZE);
    struct writer host = writer_of(input.bytes + size, HOST_ENTROPY_MAX);
    TRY(write_span(&host, host_entropy));
    size += host.size;

    struct seed seed DEFER(wipe_seed) = {0};
    TRY(hkdf_sha256(crypto, span_of(input.bytes, size), span_empty(), span_of(label, sizeof label - 1), seed.bytes,
                    sizeof seed.bytes));
    /* Each reseeding draws from getrandom besides; the private and public generators follow the primary one. */
    RAND_add(seed.bytes, sizeof seed.bytes, sizeof seed.bytes);
    ENSURE(RAND_status() == 1, CRYPTO);
    return OK;
}
