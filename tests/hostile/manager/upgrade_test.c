/*
 * The host would like a manager's secrets in another image than the release key allows (U1). Each try ends with the old
 * manager running as before.
 */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fakes/runtime.h"
#include "tests/unit/manager/upgrade.h"

#define OLD "the old manager"
#define NEW "the new manager"

static struct rig old;
static struct rig new;
static struct upgrade upgrade;
static struct ledger_row row;

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    upgrade_open(&upgrade);
    rig_identities(OLD, "the instance image");
    rig_image.security_version = 1;
    rig_open(&old);
    assert_int_equal(rig_create(&old, "web1", NULL, NULL, &row), ERR_NONE);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_forget(&old);
    rig_forget(&new);
    return 0;
}

static void greet(const char *name, uint32_t security_version)
{
    rig_identities(name, "the instance image");
    rig_image.security_version = security_version;
    rig_boot(&new);
    upgrade_greet(&upgrade, &old, &new);
}

static void expect_not_given(uint16_t code)
{
    assert_int_equal(upgrade_give(&upgrade, &old), code);
    assert_int_equal(rig_count(&old, MANAGER_EFFECT_MESSAGE), 0);
    assert_int_equal(rig_row(&old, &row.id).state, MANAGER_PROVISIONED);
}

static void the_honest_upgrade_works(void **state)
{
    (void)state;
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
    assert_int_equal(upgrade_take(&upgrade, &old, &new), ERR_NONE);
}

static void a_manifest_of_another_key_is_refused(void **state)
{
    (void)state;
    greet(NEW, 2);
    assert_ok(ed25519_generate(fake_instance_crypto(), &upgrade.release));
    upgrade_sign(&upgrade, OLD, NEW, 2);
    expect_not_given(ERR_MANIFEST);
}

static void a_manifest_with_the_key_and_another_ones_signature_is_refused(void **state)
{
    (void)state;
    struct upgrade forged = upgrade;
    greet(NEW, 2);
    assert_ok(ed25519_generate(fake_instance_crypto(), &forged.release));
    memcpy(forged.release.public, upgrade.release.public, sizeof forged.release.public);
    upgrade_sign(&forged, OLD, NEW, 2);
    memcpy(upgrade.manifest, forged.manifest, sizeof upgrade.manifest);
    expect_not_given(ERR_MANIFEST);
}

static void each_changed_byte_of_a_manifest_is_refused(void **state)
{
    (void)state;
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    for (size_t i = 0; i < sizeof upgrade.manifest; i++) {
        upgrade.manifest[i] ^= 1;
        expect_not_given(ERR_MANIFEST);
        upgrade.manifest[i] ^= 1;
    }
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
}

static void a_manifest_about_other_images_is_refused(void **state)
{
    (void)state;
    greet(NEW, 2);
    upgrade_sign(&upgrade, "an older manager", NEW, 2);
    expect_not_given(ERR_MANIFEST);
    upgrade_sign(&upgrade, OLD, "another new manager", 2);
    expect_not_given(ERR_PEER_IDENTITY);
}

static void an_image_that_the_manifest_does_not_name_is_refused(void **state)
{
    (void)state;
    greet("a manager that prints its keys", 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    expect_not_given(ERR_PEER_IDENTITY);
}

static void an_instance_image_is_refused_as_a_successor(void **state)
{
    (void)state;
    struct sgx_report report = {.ATTRIBUTES = {.FLAGS = SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT, .XFRM = SGX_XFRM_LEGACY},
                                .ISVPRODID = PRODID_INSTANCE};
    struct sgx_targetinfo target = {.ATTRIBUTES = report.ATTRIBUTES};
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    /* the same words, with a REPORT that says another product */
    uint8_t *place = upgrade.greeting + upgrade.greeting_size - SGX_REPORT_SIZE;
    memcpy(&report, place, SGX_REPORT_SIZE);
    report.ISVPRODID = PRODID_INSTANCE;
    memcpy(target.MRENCLAVE, OLD, strlen(OLD));
    fake_report_mac(&target, &report);
    memcpy(place, &report, SGX_REPORT_SIZE);
    expect_not_given(ERR_PEER_IDENTITY);
}

static void each_changed_byte_of_a_greeting_is_refused(void **state)
{
    (void)state;
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    for (size_t i = 0; i < upgrade.greeting_size; i++) {
        upgrade.greeting[i] ^= 1;
        assert_int_not_equal(upgrade_give(&upgrade, &old), ERR_NONE);
        upgrade.greeting[i] ^= 1;
    }
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
}

/* U1: back to an image with a known fault. */
static void a_lower_security_version_is_refused(void **state)
{
    (void)state;
    rig_forget(&old);
    rig_identities(OLD, "the instance image");
    rig_image.security_version = 3;
    rig_open(&old);
    assert_int_equal(rig_create(&old, "web1", NULL, NULL, &row), ERR_NONE);
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    expect_not_given(ERR_DOWNGRADE);
}

/* The manifest says more than the image is. */
static void an_image_with_another_security_version_than_the_manifests_does_not_take(void **state)
{
    (void)state;
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 3);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
    assert_int_equal(upgrade_take(&upgrade, &old, &new), ERR_DOWNGRADE);
}

static void without_a_release_key_nothing_is_given(void **state)
{
    (void)state;
    rig_forget(&old);
    memset(rig_image.release_key, 0, sizeof rig_image.release_key);
    rig_identities(OLD, "the instance image");
    rig_image.security_version = 1;
    rig_open(&old);
    assert_int_equal(rig_create(&old, "web1", NULL, NULL, &row), ERR_NONE);
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    expect_not_given(ERR_NO_RELEASE_KEY);
}

static void what_was_given_is_nothing_to_another_enclave_of_the_same_image(void **state)
{
    (void)state;
    static struct rig twin;
    static struct rig other;
    uint8_t gift[PEER_MESSAGE_MAX];
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
    const size_t size = upgrade.gift_size;
    memcpy(gift, upgrade.gift, size);
    rig_identities(OLD, "the instance image");
    rig_image.security_version = 1;
    rig_open(&other);
    rig_identities(NEW, "the instance image");
    rig_image.security_version = 2;
    rig_boot(&twin);
    upgrade_greet(&upgrade, &other, &twin);
    memcpy(upgrade.gift, gift, size);
    upgrade.gift_size = size;
    assert_int_equal(upgrade_take(&upgrade, &old, &twin), ERR_PEER_TRANSCRIPT);
    rig_end(&twin);
    rig_end(&other);
}

/* Each needs two enclaves of its own: only with CHECK_LONG=1 each byte. */
static void changed_bytes_of_the_gift_are_refused(void **state)
{
    const char *is_long = getenv("CHECK_LONG");
    const size_t step = is_long && *is_long == '1' ? 1 : 29;
    size_t size = 1;
    for (size_t i = 0; i < size; i += step) {
        finish(state);
        begin(state);
        greet(NEW, 2);
        upgrade_sign(&upgrade, OLD, NEW, 2);
        assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
        size = upgrade.gift_size;
        upgrade.gift[i] ^= 1;
        if (upgrade_take(&upgrade, &old, &new) == ERR_NONE) fail_msg("byte %zu of the gift", i);
        assert_int_equal(rig_call(&new, MANAGER_LOADED, span_empty()), ERR_ENCLAVE_DEAD);
    }
}

/* The host hands an older ledger to the new one than the old one had. */
static void an_older_head_than_the_old_ones_newest_is_refused(void **state)
{
    (void)state;
    static struct rig_disk before;
    before = old.disk;
    assert_int_equal(rig_create(&old, "web2", NULL, NULL, NULL), ERR_NONE);
    greet(NEW, 2);
    upgrade_sign(&upgrade, OLD, NEW, 2);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
    old.disk = before;
    assert_int_equal(upgrade_take(&upgrade, &old, &new), ERR_LEDGER_ROOT);
}

int main(void)
{
#define UPGRADE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        UPGRADE_TEST(the_honest_upgrade_works),
        UPGRADE_TEST(a_manifest_of_another_key_is_refused),
        UPGRADE_TEST(a_manifest_with_the_key_and_another_ones_signature_is_refused),
        UPGRADE_TEST(each_changed_byte_of_a_manifest_is_refused),
        UPGRADE_TEST(a_manifest_about_other_images_is_refused),
        UPGRADE_TEST(an_image_that_the_manifest_does_not_name_is_refused),
        UPGRADE_TEST(an_instance_image_is_refused_as_a_successor),
        UPGRADE_TEST(each_changed_byte_of_a_greeting_is_refused),
        UPGRADE_TEST(a_lower_security_version_is_refused),
        UPGRADE_TEST(an_image_with_another_security_version_than_the_manifests_does_not_take),
        UPGRADE_TEST(without_a_release_key_nothing_is_given),
        UPGRADE_TEST(what_was_given_is_nothing_to_another_enclave_of_the_same_image),
        UPGRADE_TEST(changed_bytes_of_the_gift_are_refused),
        UPGRADE_TEST(an_older_head_than_the_old_ones_newest_is_refused),
    };
    return cmocka_run_group_tests_name("upgrade", tests, NULL, NULL);
}
