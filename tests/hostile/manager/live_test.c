/*
 * The real manager images on the software device: that they start, open again, hold as much as they say, and hand over
 * to nobody but the image that a manifest of their release key names (U1).
 */
#include "tests/fakes/assertions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/hostile/manager/live_manager.h"
#include "tests/unit/manager/upgrade.h"

static struct live_cpu cpu;
static struct live_manager first;
static struct live_manager second;
static struct rig rig;
static struct rig next;
static struct upgrade upgrade;

static int set_up(void **state)
{
    (void)state;
    live_cpu_open(&cpu);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    live_cpu_close(&cpu);
    return 0;
}

static void open_new(const char *name)
{
    memset(&rig.disk, 0, sizeof rig.disk);
    live_manager_open(&cpu, name, &rig, &first);
    assert_int_equal(rig_start_new(&rig), ERR_NONE);
}

static uint16_t reopen(const char *name)
{
    live_manager_close(&first);
    live_manager_open(&cpu, name, &rig, &first);
    uint16_t code = rig_start_open(&rig);
    if (code) return code;
    assert_int_equal(rig_rows(&rig), ERR_NONE);
    assert_int_equal(rig_loaded(&rig), ERR_NONE);
    rig_finish_k1(&rig);
    return ERR_NONE;
}

static void what_was_stored_is_there_in_another_enclave(void **state)
{
    (void)state;
    struct ledger_row row, same;
    open_new("manager");
    assert_memory_equal(rig.MRENCLAVE, first.MRENCLAVE, SGX_HASH_SIZE);
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, &row), ERR_NONE);
    assert_int_equal(reopen("manager"), ERR_NONE);
    same = rig_row(&rig, &row.id);
    assert_memory_equal(&row, &same, sizeof row);
    live_manager_close(&first);
}

static void another_image_opens_nothing(void **state)
{
    (void)state;
    open_new("manager");
    assert_int_equal(reopen("manager-next"), ERR_LEDGER_OTHER_IMAGE);
    live_manager_close(&first);
}

/* Creates until it is refused or there are as many slots; each store takes many. */
static unsigned fill(unsigned from, unsigned to, const uint8_t *owner)
{
    uint16_t code = RIG_NOT_ANSWERED;
    rig.hold_stores = true;
    for (; from < to && code == RIG_NOT_ANSWERED; from++) {
        char label[MANAGER_LABEL_SIZE];
        (void)snprintf(label, sizeof label, "9a6bd0a5-0b9c-4b6f-9c8e-%012u", from);
        code = rig_create(&rig, label, owner, NULL, NULL);
        if (from % MANAGER_ROWS_PER_STORE != 0 && code == RIG_NOT_ANSWERED) continue;
        while (rig.held_exchange)
            rig_store(&rig);
    }
    while (rig.held_exchange)
        rig_store(&rig);
    rig.hold_stores = false;
    if (code != RIG_NOT_ANSWERED) assert_int_equal(code, ERR_LEDGER_FULL);
    return rig.disk.row_count;
}

/* Every channel beside all these rows; each can be changed. */
static void use(void)
{
    const struct instance_id id = rig.disk.rows[rig.disk.row_count - 1].id;
    const struct instance_id other = rig.disk.rows[rig.disk.row_count - 2].id;
    struct timespec before, after;
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    assert_int_equal(reopen("manager"), ERR_NONE);
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    print_message("# a start with %u rows: %lld ms\n", rig.disk.row_count,
                  (long long)(after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &id, NULL), ERR_NONE);
    for (uint64_t channel = 1; channel <= MANAGER_CHANNELS_MAX; channel++)
        assert_int_equal(rig_attach(&rig, &id, channel), ERR_NONE);
    assert_int_equal(rig_attach(&rig, &id, MANAGER_CHANNELS_MAX + 1), ERR_NO_MEMORY);
    assert_int_equal(rig_on(&rig, MANAGER_SHOW, &id, NULL), ERR_NONE);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &other, NULL), ERR_NONE);
}

/* What the heap has room for, and one more is refused before it runs out. */
static void it_holds_ten_thousand_instances(void **state)
{
    (void)state;
    static const uint8_t owner[32] = "an owner";
    open_new("manager");
    unsigned held = fill(0, MANAGER_INSTANCES_MAX, owner);
    assert_true(held >= 10000 && held < MANAGER_INSTANCES_MAX);
    print_message("# %u instances with UUIDs for labels, and owners\n", held);
    use();
    assert_int_equal(rig_create(&rig, "small", NULL, NULL, NULL), ERR_LEDGER_FULL);
    live_manager_close(&first);
}

/* Slots of the deleted are not used again. */
static void it_holds_as_many_slots_as_it_says(void **state)
{
    (void)state;
    static const unsigned deleted = 13000;
    unsigned slot = 0;
    open_new("manager");
    while (slot < deleted) {
        unsigned end = fill(slot, slot + deleted / 2, NULL);
        for (; slot < end; slot++)
            assert_int_equal(rig_delete(&rig, &rig.disk.rows[slot].id, NULL), ERR_NONE);
    }
    assert_int_equal(fill(slot, MANAGER_INSTANCES_MAX, NULL), MANAGER_INSTANCES_MAX);
    assert_int_equal(rig_create(&rig, "one-more", NULL, NULL, NULL), ERR_LEDGER_FULL);
    use();
    live_manager_close(&first);
}

static void hex(const uint8_t hash[SGX_HASH_SIZE], char out[65])
{
    for (size_t i = 0; i < SGX_HASH_SIZE; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

/* By vtpm-sign, with the release key of the build directory. */
static void sign_manifest(const char *svn)
{
    const char *build = getenv("BUILD_DIR");
    char program[512], key[512], old[65], new[65], path[128];
    int status = 1;
    assert_non_null(build);
    hex(first.MRENCLAVE, old);
    hex(second.MRENCLAVE, new);
    (void)snprintf(program, sizeof program, "%s/bin/vtpm-sign", build);
    (void)snprintf(key, sizeof key, "%s/enclave/test-release-key.pem", build);
    (void)snprintf(path, sizeof path, "%s/manifest", cpu.directory);
    pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, "manifest", "--old", old, "--new", new, "--svn", svn, "--key", key, "--out", path,
              (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(upgrade.manifest, 1, sizeof upgrade.manifest, file), MANIFEST_SIZE);
    assert_int_equal(fgetc(file), EOF);
    (void)fclose(file);
    unlink(path);
}

static void the_release_key_lets_one_image_hand_over_to_another(void **state)
{
    (void)state;
    struct ledger_row row, same;
    open_new("manager-keyed");
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, &row), ERR_NONE);
    live_manager_open(&cpu, "manager-keyed-next", &next, &second);
    sign_manifest("2");
    upgrade_greet(&upgrade, &rig, &next);
    assert_int_equal(upgrade_give(&upgrade, &rig), ERR_NONE);
    assert_int_equal(upgrade_take(&upgrade, &rig, &next), ERR_NONE);
    assert_int_equal(rig_rows(&next), ERR_NONE);
    assert_int_equal(rig_loaded(&next), ERR_NONE);
    rig_finish_k1(&next);
    same = rig_row(&next, &row.id);
    assert_memory_equal(&row, &same, sizeof row);
    live_manager_close(&second);

    rig.disk = next.disk;
    assert_int_equal(reopen("manager-keyed"), ERR_LEDGER_OTHER_IMAGE);
    assert_int_equal(reopen("manager-keyed-next"), ERR_NONE);
    live_manager_close(&first);
}

static void an_image_that_is_not_named_gets_nothing(void **state)
{
    (void)state;
    open_new("manager-keyed");
    live_manager_open(&cpu, "manager-keyed-next", &next, &second);
    sign_manifest("2");
    live_manager_close(&second);
    live_manager_open(&cpu, "manager-next", &next, &second);
    upgrade_greet(&upgrade, &rig, &next);
    assert_int_equal(upgrade_give(&upgrade, &rig), ERR_PEER_IDENTITY);
    live_manager_close(&second);
    live_manager_close(&first);
}

static void the_image_without_a_release_key_hands_over_to_nobody(void **state)
{
    (void)state;
    open_new("manager");
    live_manager_open(&cpu, "manager-keyed-next", &next, &second);
    sign_manifest("2");
    upgrade_greet(&upgrade, &rig, &next);
    assert_int_equal(upgrade_give(&upgrade, &rig), ERR_NO_RELEASE_KEY);
    assert_int_equal(rig_create(&rig, "goes-on", NULL, NULL, NULL), ERR_NONE);
    live_manager_close(&second);
    live_manager_close(&first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_stored_is_there_in_another_enclave),
        cmocka_unit_test(another_image_opens_nothing),
        cmocka_unit_test(it_holds_ten_thousand_instances),
        cmocka_unit_test(it_holds_as_many_slots_as_it_says),
        cmocka_unit_test(the_release_key_lets_one_image_hand_over_to_another),
        cmocka_unit_test(an_image_that_is_not_named_gets_nothing),
        cmocka_unit_test(the_image_without_a_release_key_hands_over_to_nobody),
    };
    return cmocka_run_group_tests_name("live manager", tests, set_up, tear_down);
}
