/* A state directory: its marker, its label, the copies of the state. */
#include "tests/fakes/assertions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untrusted/swtpm/place.h"

#define ID   "0f0e0d0c-0b0a-4908-8706-050403020100"
#define UUID "5d0c1a52-2f0f-4a53-9a63-6f0f6f1c7e21"

static char directory[] = "/tmp/place-test-XXXXXX";
static char path[256];
static struct explanation why;

static const char *at(const char *name)
{
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen(at(name), "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int make(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/place-test-XXXXXX");
    return mkdtemp(directory) ? 0 : 1;
}

static int clear(void **state)
{
    (void)state;
    char command[300];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command);
}

static struct place opened(void)
{
    struct place place = {0};
    assert_ok(place_open(directory, 0640, false, &place, &why));
    return place;
}

static void an_empty_directory_names_nothing_until_it_is_marked(void **state)
{
    (void)state;
    struct place place = opened();
    assert_false(place.has_id);
    assert_ok(place_mark(&place, ID, &why));
    place = opened();
    assert_true(place.has_id);
    assert_string_equal(place.id, ID);
    place_forget(&place);
    assert_false(opened().has_id);
}

static void a_state_of_swtpms_is_never_taken_for_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"tpm2-00.permall", "tpm2-00.volatilestate", "tpm-00.permall"};
    struct place place;
    for (size_t i = 0; i < 6; i++) {
        const char *name = names[i % 3];
        put(name, "x");
        assert_err(place_open(directory, 0, i < 3, &place, &why), STATE_MISSING);
        assert_non_null(strstr(why.text, i % 3 < 2 ? "vtpmctl import" : "cannot be brought here"));
        assert_int_equal(unlink(at(name)), 0);
    }
    put("tpm2-00.permall", "x");
    put(PLACE_MARKER, ID "\n");
    assert_true(opened().has_id);
}

static void what_is_no_marker_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "\n", "web1\n", "0f0e0d0c-0b0a-4908-8706-0504030201\n", ID "0\n"};
    struct place place;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put(PLACE_MARKER, texts[i]);
        assert_err(place_open(directory, 0, false, &place, &why), BAD_VALUE);
    }
    assert_err(place_open("/nonexistent", 0, false, &place, &why), SYSTEM);
    assert_err(place_open("/dev/null", 0, false, &place, &why), USAGE);
}

static void a_label_is_the_uuid_or_the_last_names(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"/var/lib/libvirt/swtpm/" UUID "/tpm2", NULL, UUID},
        {"/" UUID "/" ID, NULL, ID},
        {"/var/lib/" UUID, "0badcafe", UUID "-0badcafe"},
        {"/srv/web 1/tpm/", NULL, "srv-web-1-tpm"},
        {"../..", NULL, "tpm"},
        {"..", "12345678", "tpm-12345678"},
        {"-_.a", NULL, "a"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char label[PLACE_LABEL_MAX];
        place_label(cases[i][0], cases[i][1], label);
        assert_string_equal(label, cases[i][2]);
    }
}

static void a_long_path_still_gives_a_label(void **state)
{
    (void)state;
    char name[400];
    char label[PLACE_LABEL_MAX];
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    place_label(name, "12345678", label);
    assert_int_equal(strlen(label), PLACE_LABEL_MAX - 1);
    assert_string_equal(label + PLACE_LABEL_MAX - 10, "-12345678");
    name[350] = '/';
    place_label(name, NULL, label);
    assert_true(strlen(label) < PLACE_LABEL_MAX && label[0] == 'a');
}

static size_t count_foreign(void)
{
    char command[300];
    char text[16] = "";
    (void)snprintf(command, sizeof command, "ls '%s' | grep -c foreign", directory);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(text, sizeof text, pipe));
    (void)pclose(pipe);
    return strtoul(text, NULL, 10);
}

static void copy(const struct place *place, const char *text, bool aside)
{
    char where[PATH_MAX];
    struct stat status;
    assert_ok(place_copy(place, span_of(text, strlen(text)), where, &why));
    assert_int_equal(*where != '\0', aside);
    assert_int_equal(place_copy_size(place), strlen(text));
    assert_int_equal(stat(at(PLACE_COPY), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
}

static void a_copy_that_somebody_changed_is_kept_aside(void **state)
{
    (void)state;
    const struct place place = opened();
    assert_int_equal(place_copy_size(&place), 0);
    copy(&place, "one", false);
    copy(&place, "one", false);
    copy(&place, "another", false);
    assert_int_equal(unlink(at(PLACE_COPY)), 0);
    copy(&place, "another", false);
    put(PLACE_COPY, "somebody's");
    assert_int_equal(count_foreign(), 0);
    copy(&place, "third", true);
    assert_int_equal(count_foreign(), 1);
    copy(&place, "fourth", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_empty_directory_names_nothing_until_it_is_marked, make, clear),
        cmocka_unit_test_setup_teardown(a_state_of_swtpms_is_never_taken_for_nothing, make, clear),
        cmocka_unit_test_setup_teardown(what_is_no_marker_is_refused, make, clear),
        cmocka_unit_test(a_label_is_the_uuid_or_the_last_names),
        cmocka_unit_test(a_long_path_still_gives_a_label),
        cmocka_unit_test_setup_teardown(a_copy_that_somebody_changed_is_kept_aside, make, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
