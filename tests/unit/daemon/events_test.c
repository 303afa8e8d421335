#include "tests/fakes/assertions.h"

#include <string.h>

#include "untrusted/daemon/events.h"

struct seen {
    unsigned count;
    json_int_t first;
    json_int_t last;
    char name[32];
};

static void see(void *ctx, const char *line, size_t size)
{
    struct seen *seen = ctx;
    assert_int_equal(size, strlen(line));
    assert_int_equal(line[size - 1], '\n');
    json_t *event = json_loads(line, 0, NULL);
    assert_non_null(event);
    seen->last = json_integer_value(json_object_get(event, "number"));
    if (!seen->count++) seen->first = seen->last;
    strcpy(seen->name, json_string_value(json_object_get(event, "event")));
    assert_true(json_is_object(json_object_get(event, "data")));
    assert_true(json_is_real(json_object_get(event, "time")));
    json_decref(event);
}

static void each_is_told_when_it_happens(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct events *events = NULL;
    assert_ok(events_open(&seen, see, &events));
    events_add(events, "started", json_pack("{s:s}", "id", "x"));
    events_add(events, "stopped", NULL);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.first, 1);
    assert_int_equal(seen.last, 2);
    assert_string_equal(seen.name, "stopped");
    events_close(&events);
}

static void those_since_a_number_come_in_order(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct events *events = NULL;
    assert_ok(events_open(NULL, NULL, &events));
    for (unsigned i = 0; i < 10; i++)
        events_add(events, "e", NULL);
    events_since(events, 4, &seen, see);
    assert_int_equal(seen.count, 7);
    assert_int_equal(seen.first, 4);
    assert_int_equal(seen.last, 10);
    struct seen none = {0};
    events_since(events, 11, &none, see);
    assert_int_equal(none.count, 0);
    events_close(&events);
}

static void only_the_last_ones_are_kept(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct events *events = NULL;
    assert_ok(events_open(NULL, NULL, &events));
    for (unsigned i = 0; i < EVENTS_KEPT + 10; i++)
        events_add(events, "e", NULL);
    events_since(events, 0, &seen, see);
    assert_int_equal(seen.count, EVENTS_KEPT);
    assert_int_equal(seen.first, 11);
    assert_int_equal(seen.last, EVENTS_KEPT + 10);
    events_close(&events);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_told_when_it_happens),
        cmocka_unit_test(those_since_a_number_come_in_order),
        cmocka_unit_test(only_the_last_ones_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
