#include "untrusted/daemon/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi/blob.h"
#include "untrusted/daemon/commit.h"
#include "untrusted/daemon/program.h"
#include "untrusted/host/log.h"

#define PATH_SIZE 4096u

/* The manager that gives. It starts as ever, so the ledger has a start record of it first. */
struct giver {
    const struct upgrade *upgrade;
    struct program *program;
    struct enclave *enclave;
    struct manager *manager;
};

static const uint8_t *sealer_of(struct span head)
{
    return head.data + BLOB_OFFSET_MRENCLAVE;
}

bool upgrade_is_needed(struct span head, const uint8_t mrenclave[LINK_MRENCLAVE_SIZE])
{
    return head.size >= BLOB_HEADER_SIZE && memcmp(sealer_of(head), mrenclave, LINK_MRENCLAVE_SIZE) != 0;
}

static struct err read_manifest(const char *path, uint8_t out_manifest[MANIFEST_SIZE])
{
    uint8_t bytes[MANIFEST_SIZE + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ENSURE(fd >= 0, SYSTEM);
    ssize_t got = read(fd, bytes, sizeof bytes);
    close(fd);
    ENSURE(got == (ssize_t)MANIFEST_SIZE, MANIFEST);
    memcpy(out_manifest, bytes, MANIFEST_SIZE);
    return OK;
}

static void close_giver(struct giver *giver)
{
    manager_close(&giver->manager);
    enclave_close(&giver->enclave);
    program_close(&giver->program);
}

static struct err call_enclave(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    return enclave_call(ctx, input, output, capacity, out_size);
}

static struct err on_anchor(void *ctx, const struct manager_exchange *exchange)
{
    const struct giver *giver = ctx;
    return commit_now(giver->manager, giver->upgrade->store, giver->upgrade->anchor, exchange);
}

static void on_failed(void *ctx, struct err why)
{
    (void)ctx;
    log_line(LOG_LEVEL_ERROR, "the manager enclave that hands over: %s", err_sentence(why));
}

static struct err add_row(void *ctx, const struct store_row *row)
{
    return manager_add_row(ctx, row->blob);
}

static struct err open_giver(const struct upgrade *upgrade, const char *image, struct giver *giver)
{
    const struct config *config = upgrade->config;
    const struct manager_listener listener = {.ctx = giver, .anchor = on_anchor, .failed = on_failed};
    struct program_device device;
    TRY(program_open(image, config, &giver->program));
    TRY(program_load(giver->program, config, &giver->enclave, &device));
    const struct manager_door door = {.ctx = giver->enclave, .call = call_enclave};
    TRY(manager_open(upgrade->crypto, &door, program_mrenclave(giver->program), &listener, &giver->manager));
    TRY(manager_start_open(giver->manager, upgrade->master, upgrade->head));
    TRY(store_each_row(upgrade->store, giver->manager, add_row));
    return manager_loaded(giver->manager);
}

static void free_bytes(uint8_t **bytes)
{
    free(*bytes);
}

static struct err hand_over(const struct upgrade *upgrade, struct span manifest, struct manager *giver,
                            struct manager *successor)
{
    uint8_t *head DEFER(free_bytes) = NULL; /* that of the giver's start */
    size_t head_size = 0;
    struct manager_message target;
    struct manager_message greeting;
    struct manager_message gift;
    TRY(manager_who(giver, &target));
    TRY(manager_greet(successor, span_of(target.bytes, target.size), &greeting));
    TRY(manager_give(giver, manifest, span_of(greeting.bytes, greeting.size), &gift));
    TRY(store_read_head(upgrade->store, &head, &head_size));
    return manager_take(successor, manifest, span_of(gift.bytes, gift.size), span_of(head, head_size));
}

static void hex(const uint8_t *bytes, char out_text[2 * LINK_MRENCLAVE_SIZE + 1])
{
    for (size_t i = 0; i < LINK_MRENCLAVE_SIZE; i++)
        (void)snprintf(out_text + 2 * i, 3, "%02x", bytes[i]);
}

struct err upgrade_run(const struct upgrade *upgrade, struct manager *successor)
{
    struct giver giver DEFER(close_giver) = {.upgrade = upgrade};
    uint8_t manifest[MANIFEST_SIZE];
    char mrenclave[2 * LINK_MRENCLAVE_SIZE + 1];
    char image[PATH_SIZE];
    char path[PATH_SIZE];
    hex(sealer_of(upgrade->head), mrenclave);
    (void)snprintf(image, sizeof image, "%s/images/%s.sgx", upgrade->config->state_dir, mrenclave);
    (void)snprintf(path, sizeof path, "%s.manifest", upgrade->config->manager_image);
    log_line(LOG_LEVEL_NOTICE, "the ledger was sealed by the manager of MRENCLAVE %s: it has to hand over", mrenclave);
    if (access(image, R_OK) != 0) {
        log_line(LOG_LEVEL_ERROR, "its image is missing: %s (%s)", image, strerror(errno));
        return FAIL(LEDGER_OTHER_IMAGE);
    }
    struct err result = read_manifest(path, manifest);
    if (result.code) {
        log_line(LOG_LEVEL_ERROR,
                 "the manifest of the upgrade, signed with the release key, is missing or damaged: %s (%s); "
                 "vtpm-sign manifest makes one; or configure the former image again: %s",
                 path, result.code == ERR_SYSTEM ? strerror(errno) : err_sentence(result), image);
        return FAIL(LEDGER_OTHER_IMAGE);
    }
    TRY(open_giver(upgrade, image, &giver));
    TRY(hand_over(upgrade, span_of(manifest, sizeof manifest), giver.manager, successor));
    log_line(LOG_LEVEL_NOTICE, "the manager of MRENCLAVE %s has handed over", mrenclave);
    return OK;
}
