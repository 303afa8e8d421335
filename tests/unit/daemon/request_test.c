#include "tests/fakes/assertions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/request.h"

static char reason[REQUEST_REASON_SIZE];

static struct err parse(const char *text, struct request *request)
{
    return request_parse(span_of(text, strlen(text)), request, reason);
}

static void assert_refused(const char *text, uint16_t code, const char *word)
{
    struct request request;
    assert_int_equal(parse(text, &request).code, code);
    assert_non_null(strstr(reason, word));
    request_free(&request);
}

#define DIGITS_64                                                                                                      \
    "0123456789abcdef0123456789abcdef"                                                                                 \
    "0123456789abcdef0123456789abcdef"

static void a_create_has_its_arguments(void **state)
{
    (void)state;
    struct request request;
    assert_ok(parse("{\"execute\":\"create\",\"id\":[1,\"x\"],\"arguments\":{\"label\":\"web1\",\"owner\":\"" DIGITS_64
                    "\",\"listen\":[\"front\"],\"start\":false,\"import\":true}}",
                    &request));
    assert_int_equal(request.verb, REQUEST_CREATE);
    assert_string_equal(request.label, "web1");
    assert_int_equal(request.owner[0], 0x01);
    assert_int_equal(request.owner[31], 0xef);
    assert_int_equal(json_array_size(request.listen), 1);
    assert_false(request.start);
    assert_true(request.import);
    assert_int_equal(json_array_size(request.id), 2);
    request_free(&request);
}

static void what_is_left_out_has_its_default(void **state)
{
    (void)state;
    struct request request;
    assert_ok(parse("{\"execute\":\"create\",\"arguments\":{\"label\":\"web1\"}}", &request));
    assert_true(request.start);
    assert_false(request.import);
    assert_null(request.id);
    request_free(&request);
    assert_ok(parse("{\"execute\":\"start\",\"arguments\":{\"instance\":\"web1\"}}", &request));
    assert_true(request.wait);
    assert_false(request.declare_dead);
    request_free(&request);
    assert_ok(parse("{\"execute\":\"list\"}", &request));
    assert_false(request.deleted);
    request_free(&request);
}

static void every_verb_is_there(void **state)
{
    (void)state;
    static const char *const texts[] = {
        [REQUEST_LIST] = "{\"execute\":\"list\",\"arguments\":{\"deleted\":true}}",
        [REQUEST_SHOW] = "{\"execute\":\"show\",\"arguments\":{\"instance\":\"a\"}}",
        [REQUEST_START] = "{\"execute\":\"start\",\"arguments\":{\"instance\":\"a\",\"declare-dead\":true}}",
        [REQUEST_STOP] = "{\"execute\":\"stop\",\"arguments\":{\"instance\":\"a\"}}",
        [REQUEST_DECLARE_DEAD] = "{\"execute\":\"declare-dead\",\"arguments\":{\"instance\":\"a\"}}",
        [REQUEST_SUSPEND] = "{\"execute\":\"suspend\",\"arguments\":{\"instance\":\"a\"}}",
        [REQUEST_CLONE] = "{\"execute\":\"clone\",\"arguments\":{\"instance\":\"a\",\"label\":\"b\",\"start\":false}}",
        [REQUEST_SNAPSHOT] = "{\"execute\":\"snapshot\",\"arguments\":{\"instance\":\"a\",\"name\":\"b\"}}",
        [REQUEST_SNAPSHOTS] = "{\"execute\":\"snapshots\",\"arguments\":{\"instance\":\"a\"}}",
        [REQUEST_SNAPSHOT_DELETE] =
            "{\"execute\":\"snapshot-delete\",\"arguments\":{\"instance\":\"a\",\"name\":\"b\"}}",
        [REQUEST_REVERT] = "{\"execute\":\"revert\",\"arguments\":{\"instance\":\"a\",\"snapshot\":\"b\"}}",
        [REQUEST_SET_OWNER] = "{\"execute\":\"set-owner\",\"arguments\":{\"instance\":\"a\",\"owner\":null}}",
        [REQUEST_CHALLENGE] = "{\"execute\":\"challenge\",\"arguments\":{\"instance\":\"a\",\"verb\":\"delete\"}}",
        [REQUEST_DELETE] =
            "{\"execute\":\"delete\",\"arguments\":{\"instance\":\"a\",\"force\":true,\"signature\":\"" DIGITS_64
                DIGITS_64 "\"}}",
        [REQUEST_SUBSCRIBE] = "{\"execute\":\"subscribe\",\"arguments\":{\"since\":12}}",
        [REQUEST_STATUS] = "{\"execute\":\"status\"}",
        [REQUEST_VERSION] = "{\"execute\":\"version\",\"arguments\":{}}",
        [REQUEST_STORE_CHECK] = "{\"execute\":\"store-check\"}",
        [REQUEST_STORE_BACKUP] = "{\"execute\":\"store-backup\",\"arguments\":{\"progress\":true}}",
        [REQUEST_HOLD] = "{\"execute\":\"hold\",\"arguments\":{\"instance\":\"a\",\"swtpm\":{}}}",
        [REQUEST_AWAIT] = "{\"execute\":\"await\",\"arguments\":{\"instance\":\"a\",\"version\":3}}",
        [REQUEST_STATE] = "{\"execute\":\"state\",\"arguments\":{\"instance\":\"a\"}}",
    };
    for (size_t i = REQUEST_LIST; i < sizeof texts / sizeof texts[0]; i++) {
        struct request request;
        assert_ok(parse(texts[i], &request));
        assert_int_equal(request.verb, i);
        request_free(&request);
    }
}

static void what_is_no_json_has_no_root(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "{", "{\"a\":1} x", "\xff\xfe", "{'a':1}", "{\"a\":1,\"a\":2}", "nul"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct request request;
        assert_err(parse(texts[i], &request), PROTOCOL);
        assert_null(request.root);
        request_free(&request);
    }
}

static void what_is_no_object_is_refused_and_not_the_end(void **state)
{
    (void)state;
    struct request request;
    assert_err(parse("[1]", &request), PROTOCOL);
    assert_non_null(request.root);
    request_free(&request);
    assert_refused("7", ERR_PROTOCOL, "an object");
}

static void unknown_members_are_named(void **state)
{
    (void)state;
    assert_refused("{\"execute\":\"list\",\"argument\":{}}", ERR_PROTOCOL, "argument");
    assert_refused("{\"execute\":\"list\",\"arguments\":{\"delete\":true}}", ERR_PROTOCOL, "delete");
    assert_refused("{\"execute\":\"show\",\"arguments\":{\"instance\":\"a\",\"force\":true}}", ERR_PROTOCOL, "force");
    assert_refused("{\"execute\":\"dance\"}", ERR_PROTOCOL, "dance");
    assert_refused("{\"execute\":3}", ERR_PROTOCOL, "execute");
    assert_refused("{\"execute\":\"list\",\"arguments\":[]}", ERR_PROTOCOL, "arguments");
}

static void missing_members_are_named(void **state)
{
    (void)state;
    assert_refused("{}", ERR_PROTOCOL, "execute");
    assert_refused("{\"execute\":\"create\"}", ERR_PROTOCOL, "label");
    assert_refused("{\"execute\":\"stop\",\"arguments\":{}}", ERR_PROTOCOL, "instance");
    assert_refused("{\"execute\":\"challenge\",\"arguments\":{\"instance\":\"a\"}}", ERR_PROTOCOL, "verb");
    assert_refused("{\"execute\":\"set-owner\",\"arguments\":{\"instance\":\"a\"}}", ERR_PROTOCOL, "owner");
    assert_refused("{\"execute\":\"revert\",\"arguments\":{\"instance\":\"a\"}}", ERR_PROTOCOL, "snapshot");
}

static void values_of_another_kind_are_named(void **state)
{
    (void)state;
    static const char *const owners[] = {"\"\"",
                                         "7",
                                         "\"0123\"",
                                         "\"" DIGITS_64 "0\"",
                                         "\"A123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"",
                                         "\"0000000000000000000000000000000000000000000000000000000000000000\""};
    for (size_t i = 0; i < sizeof owners / sizeof owners[0]; i++) {
        char text[256];
        (void)snprintf(text, sizeof text, "{\"execute\":\"create\",\"arguments\":{\"label\":\"a\",\"owner\":%s}}",
                       owners[i]);
        assert_refused(text, ERR_BAD_VALUE, "owner");
    }
    assert_refused("{\"execute\":\"create\",\"arguments\":{\"label\":[]}}", ERR_BAD_VALUE, "label");
    assert_refused("{\"execute\":\"create\",\"arguments\":{\"label\":\"a\",\"listen\":\"front\"}}", ERR_BAD_VALUE,
                   "listen");
    assert_refused("{\"execute\":\"subscribe\",\"arguments\":{\"since\":-1}}", ERR_BAD_VALUE, "since");
    assert_refused("{\"execute\":\"subscribe\",\"arguments\":{\"since\":1.5}}", ERR_BAD_VALUE, "since");
    assert_refused("{\"execute\":\"list\",\"arguments\":{\"deleted\":1}}", ERR_BAD_VALUE, "deleted");
}

static void nobody_is_an_owner_by_null(void **state)
{
    (void)state;
    static const uint8_t nobody[32];
    struct request request;
    assert_ok(parse("{\"execute\":\"set-owner\",\"arguments\":{\"instance\":\"a\",\"owner\":null}}", &request));
    assert_true(request.has_owner);
    assert_memory_equal(request.owner, nobody, sizeof nobody);
    request_free(&request);
    assert_ok(parse("{\"execute\":\"challenge\",\"arguments\":{\"instance\":\"a\",\"verb\":\"delete\"}}", &request));
    assert_false(request.has_owner);
    request_free(&request);
    assert_refused("{\"execute\":\"create\",\"arguments\":{\"label\":\"a\",\"owner\":null}}", ERR_BAD_VALUE, "owner");
}

static void a_text_with_a_nul_or_too_long_is_refused(void **state)
{
    (void)state;
    char text[400];
    char name[200];
    assert_refused("{\"execute\":\"show\",\"arguments\":{\"instance\":\"a\\u0000b\"}}", ERR_PROTOCOL, "no JSON");
    memset(name, 'a', sizeof name);
    name[129] = 0;
    (void)snprintf(text, sizeof text, "{\"execute\":\"show\",\"arguments\":{\"instance\":\"%s\"}}", name);
    assert_refused(text, ERR_BAD_VALUE, "instance");
}

/* The object itself is the first level. */
static void depth_ends_at_8(void **state)
{
    (void)state;
    struct request request;
    assert_ok(parse("{\"execute\":\"list\",\"id\":[[[[[[[1]]]]]]]}", &request));
    request_free(&request);
    assert_refused("{\"execute\":\"list\",\"id\":[[[[[[[[1]]]]]]]]}", ERR_TOO_LARGE, "8");
}

static void the_id_comes_back_from_a_bad_request(void **state)
{
    (void)state;
    struct request request;
    assert_err(parse("{\"execute\":\"dance\",\"id\":7}", &request), PROTOCOL);
    assert_int_equal(json_integer_value(request.id), 7);
    request_free(&request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_create_has_its_arguments),
        cmocka_unit_test(what_is_left_out_has_its_default),
        cmocka_unit_test(every_verb_is_there),
        cmocka_unit_test(what_is_no_json_has_no_root),
        cmocka_unit_test(what_is_no_object_is_refused_and_not_the_end),
        cmocka_unit_test(unknown_members_are_named),
        cmocka_unit_test(missing_members_are_named),
        cmocka_unit_test(values_of_another_kind_are_named),
        cmocka_unit_test(nobody_is_an_owner_by_null),
        cmocka_unit_test(a_text_with_a_nul_or_too_long_is_refused),
        cmocka_unit_test(depth_ends_at_8),
        cmocka_unit_test(the_id_comes_back_from_a_bad_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
