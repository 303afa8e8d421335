/* When a hand-over is needed, and what is missing for one. The hand-over itself: tests/unit/manager/handover_test.c. */
#include "tests/fakes/assertions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/blob.h"
#include "abi/manager.h"
#include "untrusted/daemon/upgrade.h"

static char directory[64];
static char image[128];
static struct config config;
static uint8_t head[BLOB_HEADER_SIZE + 64];

static void put(const char *path, size_t size)
{
    static const uint8_t bytes[MANIFEST_SIZE + 1];
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The store was sealed by the manager 0101...; its image is kept if wanted, and the manifest has so many bytes. */
static struct err run_upgrade(bool with_image, size_t manifest_size)
{
    char path[256];
    char hex[2 * LINK_MRENCLAVE_SIZE + 1] = "";
    struct err result;
    const struct upgrade upgrade = {.config = &config, .master = span_of(head, 1), .head = span_of(head, sizeof head)};
    (void)snprintf(directory, sizeof directory, "/tmp/vtpm-upgrade-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(image, sizeof image, "%s/manager.sgx", directory);
    config = (struct config){.state_dir = directory, .manager_image = image, .cpu = directory};
    for (size_t i = 0; i < LINK_MRENCLAVE_SIZE; i++)
        memcpy(hex + 2 * i, "01", 2);
    (void)snprintf(path, sizeof path, "%s/images", directory);
    assert_int_equal(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof path, "%s/images/%s.sgx", directory, hex);
    if (with_image) put(path, 100);
    (void)snprintf(path, sizeof path, "%s.manifest", image);
    if (manifest_size) put(path, manifest_size);
    result = upgrade_run(&upgrade, NULL);
    (void)snprintf(path, sizeof path, "rm -r %s", directory);
    assert_int_equal(system(path), 0);
    return result;
}

static int make_head(void **state)
{
    (void)state;
    memset(head + BLOB_OFFSET_MRENCLAVE, 1, LINK_MRENCLAVE_SIZE);
    return 0;
}

static void it_is_needed_when_another_manager_sealed_the_head(void **state)
{
    (void)state;
    uint8_t mrenclave[LINK_MRENCLAVE_SIZE];
    memset(mrenclave, 1, sizeof mrenclave);
    assert_false(upgrade_is_needed(span_of(head, sizeof head), mrenclave));
    mrenclave[sizeof mrenclave - 1] = 2;
    assert_true(upgrade_is_needed(span_of(head, sizeof head), mrenclave));
    assert_false(upgrade_is_needed(span_of(head, BLOB_HEADER_SIZE - 1), mrenclave)); /* the manager says what it is */
}

static void without_the_former_image_nothing_is_handed_over(void **state)
{
    (void)state;
    assert_err(run_upgrade(false, MANIFEST_SIZE), LEDGER_OTHER_IMAGE);
}

static void without_a_manifest_nothing_is_handed_over(void **state)
{
    (void)state;
    assert_err(run_upgrade(true, 0), LEDGER_OTHER_IMAGE);
}

static void a_manifest_of_another_size_is_none(void **state)
{
    (void)state;
    assert_err(run_upgrade(true, MANIFEST_SIZE - 1), LEDGER_OTHER_IMAGE);
    assert_err(run_upgrade(true, MANIFEST_SIZE + 1), LEDGER_OTHER_IMAGE);
}

/* What is in the file that is kept decides next, and it is no image here. */
static void a_kept_file_that_is_no_image_is_refused(void **state)
{
    (void)state;
    struct err result = run_upgrade(true, MANIFEST_SIZE);
    assert_int_not_equal(result.code, ERR_NONE);
    assert_int_not_equal(result.code, ERR_LEDGER_OTHER_IMAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_needed_when_another_manager_sealed_the_head),
        cmocka_unit_test(without_the_former_image_nothing_is_handed_over),
        cmocka_unit_test(without_a_manifest_nothing_is_handed_over),
        cmocka_unit_test(a_manifest_of_another_size_is_none),
        cmocka_unit_test(a_kept_file_that_is_no_image_is_refused),
    };
    return cmocka_run_group_tests_name("upgrade", tests, make_head, NULL);
}
