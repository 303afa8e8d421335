/* The tunnel with an enclave's end of K2 that the test holds. Link with --wrap=front_done. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "untrusted/front/tunnel.h"

static struct crypto crypto;
static struct tunnel tunnel;
static struct link enclave;
static struct x25519_key enclave_share;
static struct x25519_key owner_key;
static struct link_told told;

/* What the tunnel sent last, and what the front was told. */
static uint8_t sent[TUNNEL_RECORD_MAX];
static size_t sent_size;
static uint8_t sent_verb;
static unsigned linked_count;
static unsigned relink_count;
static unsigned shutdown_count;
static unsigned done_count;
static struct err done_result;
static uint8_t done_response[3 * TPM_MESSAGE_MAX];
static size_t done_size;

void __wrap_front_done(struct front *front, struct err result, struct span response);

void __wrap_front_done(struct front *front, struct err result, struct span response)
{
    (void)front;
    done_count++;
    done_result = result;
    done_size = response.size;
    if (response.size) memcpy(done_response, response.data, response.size);
}

static void on_send(void *ctx, uint8_t verb, struct span record)
{
    (void)ctx;
    memcpy(sent, record.data, record.size);
    sent_size = record.size;
    sent_verb = verb;
}

static void on_linked(void *ctx)
{
    (void)ctx;
    linked_count++;
}

static void on_relink(void *ctx)
{
    (void)ctx;
    relink_count++;
}

static void on_shutdown(void *ctx)
{
    (void)ctx;
    shutdown_count++;
}

static void open_tunnel(const uint8_t *enrolled)
{
    const struct tunnel_options options = {
        .crypto = &crypto,
        .transport = {NULL, on_send, on_linked, on_relink, on_shutdown},
        .instance = {"0123456789abcde"},
        .enrolled = enrolled,
    };
    assert_ok(tunnel_open(&options, &tunnel));
    told = (struct link_told){.binding = {.kind = enrolled ? LINK_K2_ENROLLED : LINK_K2_NAMED,
                                          .instance = {"0123456789abcde"},
                                          .epoch = 1,
                                          .start = 2}};
    assert_ok(x25519_generate(&crypto, &enclave_share));
    memcpy(told.enclave_share, enclave_share.public, sizeof told.enclave_share);
    sent_size = linked_count = relink_count = shutdown_count = done_count = 0;
}

static int set_up(void **state)
{
    (void)state;
    if (!crypto.aes_256_gcm) assert_ok(crypto_init(&crypto));
    open_tunnel(NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    link_close(&enclave);
    tunnel_close(&tunnel);
    const uint8_t *bytes = (const uint8_t *)&tunnel;
    for (size_t i = 0; i < sizeof tunnel; i++)
        if (bytes[i]) return -1;
    return 0;
}

/* The enclave takes FINISH and answers it. */
static struct err answer_finish(const uint8_t *enrolled)
{
    const struct link_keys keys = {.own = &enclave_share, .peer = tunnel.own.public, .enrolled = enrolled};
    enum link_event event = LINK_DATA;
    uint8_t bytes[TUNNEL_RECORD_MAX];
    size_t size = 0;
    struct writer record = writer_of(bytes, sizeof bytes);
    assert_ok(link_open(&crypto, LINK_ENCLAVE, &told.binding, &keys, &enclave));
    TRY(link_receive(&enclave, span_of(sent, sent_size), &event, bytes, &size));
    assert_int_equal(event, LINK_FINISHED);
    TRY(link_finish(&enclave, &record));
    tunnel_receive(&tunnel, writer_span(&record));
    return OK;
}

static void link_up(void)
{
    assert_ok(tunnel_bind(&tunnel, &told));
    assert_int_equal(sent_verb, 0);
    assert_ok(answer_finish(NULL));
    assert_int_equal(linked_count, 1);
    assert_int_equal(tunnel.step, TUNNEL_LINKED);
}

static void ask_with(enum front_verb verb, struct span command, uint64_t number)
{
    const struct front_request request = {.verb = verb, .locality = 2, .command = command, .number = number};
    const struct front_owner owner = tunnel_owner(&tunnel);
    sent_size = 0;
    owner.perform(owner.ctx, &request);
}

static void ask(enum front_verb verb)
{
    const struct front_request request = {
        .verb = verb, .locality = 2, .command = verb == FRONT_COMMAND ? span_of("a command", 9) : span_empty()};
    const struct front_owner owner = tunnel_owner(&tunnel);
    sent_size = 0;
    owner.perform(owner.ctx, &request);
}

static size_t open_request(uint8_t *out_plaintext)
{
    enum link_event event = LINK_FINISHED;
    size_t size = 0;
    assert_ok(link_receive(&enclave, span_of(sent, sent_size), &event, out_plaintext, &size));
    assert_int_equal(event, LINK_DATA);
    return size;
}

static void respond(uint16_t code, const void *response, size_t size)
{
    uint8_t plaintext[K2_MESSAGE_MAX] = {(uint8_t)code, (uint8_t)(code >> 8)};
    uint8_t bytes[TUNNEL_RECORD_MAX];
    struct writer record = writer_of(bytes, sizeof bytes);
    if (size) memcpy(plaintext + 4, response, size);
    assert_ok(link_send(&enclave, span_of(plaintext, 4 + size), &record));
    tunnel_receive(&tunnel, writer_span(&record));
}

static void a_command_crosses_and_its_response(void **state)
{
    (void)state;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask(FRONT_COMMAND);
    assert_int_equal(sent_verb, K2_COMMAND);
    assert_int_equal(open_request(plaintext), 4 + 9);
    assert_int_equal(plaintext[0], K2_COMMAND);
    assert_int_equal(plaintext[1], 2);
    assert_memory_equal(plaintext + 4, "a command", 9);
    assert_int_equal(done_count, 0);
    respond(0, "a response", 10);
    assert_int_equal(done_count, 1);
    assert_ok(done_result);
    assert_int_equal(done_size, 10);
    assert_memory_equal(done_response, "a response", 10);
}

static void verbs_of_one_request_carry_what_they_need(void **state)
{
    (void)state;
    static const struct {
        enum front_verb verb;
        enum k2_verb sent;
        size_t size; /* bytes behind the head */
        uint8_t locality;
    } rows[] = {
        {FRONT_HASH_START, K2_HASH_START, 0, 0},
        {FRONT_HASH_DATA, K2_HASH_DATA, 4, 0},
        {FRONT_HASH_END, K2_HASH_END, 0, 0},
        {FRONT_INFO, K2_INFO, 4, 0},
        {FRONT_STORE_VOLATILE, K2_STORE_VOLATILE, 0, 0},
        {FRONT_LOCK, K2_LOCK, 0, 0},
        {FRONT_ESTABLISHED, K2_ESTABLISHED, 0, 0},
        {FRONT_RESET_ESTABLISHED, K2_RESET_ESTABLISHED, 0, 2},
    };
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ask_with(rows[i].verb, span_of("\x05\0\0\0", 4), 5);
        assert_int_equal(sent_verb, rows[i].sent);
        assert_int_equal(open_request(plaintext), 4 + rows[i].size);
        assert_int_equal(plaintext[0], rows[i].sent);
        assert_int_equal(plaintext[1], rows[i].locality);
        if (rows[i].size) assert_memory_equal(plaintext + 4, "\x05\0\0\0", 4);
        respond(0, NULL, 0);
        assert_int_equal(done_count, i + 1);
    }
}

static void an_export_is_read_to_its_end(void **state)
{
    (void)state;
    static uint8_t parts[5000];
    const uint8_t sizes[8] = {0x88, 0x13, [4] = 0}; /* 5000 and 0 */
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    memset(parts, 'x', sizeof parts);
    link_up();
    ask(FRONT_EXPORT);
    open_request(plaintext);
    respond(0, sizes, sizeof sizes);
    assert_int_equal(sent_verb, K2_EXPORT_READ);
    assert_int_equal(open_request(plaintext), 8);
    respond(0, parts, 4092);
    assert_int_equal(done_count, 0);
    assert_int_equal(open_request(plaintext), 8);
    assert_memory_equal(plaintext + 4, "\xfc\x0f\0\0", 4); /* offset 4092 */
    respond(0, parts + 4092, 5000 - 4092);
    assert_int_equal(done_count, 1);
    assert_ok(done_result);
    assert_int_equal(done_size, 4 + 5000);
    assert_memory_equal(done_response, sizes, 4);
    assert_memory_equal(done_response + 4, parts, 5000);
}

static void an_export_that_breaks_off_is_none(void **state)
{
    (void)state;
    const uint8_t sizes[8] = {100};
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask(FRONT_EXPORT);
    open_request(plaintext);
    respond(0, sizes, sizeof sizes);
    open_request(plaintext);
    respond(ERR_STATE_MISSING, NULL, 0);
    assert_int_equal(done_result.code, ERR_STATE_MISSING);
    assert_int_equal(done_size, 0);
    ask(FRONT_EXPORT);
    open_request(plaintext);
    respond(0, sizes, sizeof sizes);
    open_request(plaintext);
    respond(0, plaintext, 101); /* more than there is */
    assert_int_equal(done_result.code, ERR_LINK_ORDER);
    assert_int_equal(done_count, 2);
}

static void what_a_client_gave_goes_in_before_the_reset(void **state)
{
    (void)state;
    static uint8_t bundle[K2_PART_MAX + 10];
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask_with(FRONT_RESET, span_of(bundle, sizeof bundle), 0);
    assert_int_equal(sent_verb, K2_BUNDLE);
    assert_int_equal(open_request(plaintext), 4 + 8 + K2_PART_MAX);
    respond(0, NULL, 0);
    assert_int_equal(sent_verb, K2_BUNDLE);
    assert_int_equal(open_request(plaintext), 4 + 8 + 10);
    respond(0, NULL, 0);
    assert_int_equal(sent_verb, K2_RESET);
    open_request(plaintext);
    assert_int_equal(done_count, 0);
    respond(ERR_STATE_OLD, NULL, 0);
    assert_int_equal(done_result.code, ERR_STATE_OLD);
}

static void a_part_that_is_refused_ends_the_reset(void **state)
{
    (void)state;
    static uint8_t bundle[2 * K2_PART_MAX];
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask_with(FRONT_RESET, span_of(bundle, sizeof bundle), 0);
    open_request(plaintext);
    respond(ERR_VERB_STATE, NULL, 0);
    assert_int_equal(done_count, 1);
    assert_int_equal(done_result.code, ERR_VERB_STATE);
}

/* QEMU asks before the reset that may bring the TPM back. */
static void the_buffer_size_is_told_without_a_link_too(void **state)
{
    (void)state;
    const uint8_t first[12] = {0, 0x10, [5] = 0x10, [9] = 0x10};
    const uint8_t later[12] = {0x80, 0x0f, [4] = 0xf8, 0x0a, [9] = 0x10};
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    ask_with(FRONT_BUFFER_SIZE, span_empty(), 0);
    assert_ok(done_result);
    assert_int_equal(done_size, sizeof first);
    assert_memory_equal(done_response, first, sizeof first);
    link_up();
    ask_with(FRONT_BUFFER_SIZE, span_empty(), 0xf80);
    assert_int_equal(sent_verb, K2_POWER_OFF); /* it is on inside, where it takes no other size then */
    open_request(plaintext);
    respond(0, NULL, 0);
    assert_int_equal(sent_verb, K2_BUFFER_SIZE);
    open_request(plaintext);
    assert_memory_equal(plaintext + 4, "\x80\x0f\0\0", 4);
    respond(0, later, sizeof later);
    ask_with(FRONT_BUFFER_SIZE, span_empty(), 0xf80);
    assert_int_equal(sent_verb, K2_BUFFER_SIZE);
    open_request(plaintext);
    respond(0, later, sizeof later);
    tunnel_fail(&tunnel, FAIL(PEER_CLOSED));
    ask_with(FRONT_BUFFER_SIZE, span_empty(), 0);
    assert_ok(done_result);
    assert_memory_equal(done_response, later, sizeof later);
}

static void nothing_is_left_in_the_clear(void **state)
{
    (void)state;
    const uint8_t zeros[sizeof tunnel.plaintext] = {0};
    link_up();
    ask(FRONT_COMMAND);
    assert_memory_equal(tunnel.plaintext, zeros, sizeof zeros);
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    open_request(plaintext);
    respond(0, "a response", 10);
    assert_memory_equal(tunnel.plaintext, zeros, sizeof zeros);
}

static void a_code_of_the_enclave_is_a_failure(void **state)
{
    (void)state;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask(FRONT_COMMAND);
    open_request(plaintext);
    respond(ERR_LEASE, NULL, 0);
    assert_int_equal(done_result.code, ERR_LEASE);
    assert_int_equal(tunnel.step, TUNNEL_LINKED);
}

static void without_a_link_commands_fail_and_a_reset_waits_for_one(void **state)
{
    (void)state;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    ask(FRONT_COMMAND);
    assert_int_equal(done_result.code, ERR_LINK_CLOSED);
    ask(FRONT_RESET);
    assert_int_equal(done_count, 1);
    assert_int_equal(relink_count, 1);
    link_up();
    assert_int_equal(sent_verb, K2_RESET);
    open_request(plaintext);
    respond(0, NULL, 0);
    assert_int_equal(done_count, 2);
    assert_ok(done_result);
}

static void after_a_lost_link_commands_fail_until_the_reset(void **state)
{
    (void)state;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask(FRONT_COMMAND);
    tunnel_fail(&tunnel, FAIL(PEER_CLOSED));
    assert_int_equal(done_result.code, ERR_PEER_CLOSED);
    assert_ok(tunnel_renew(&tunnel));
    linked_count = 0;
    link_close(&enclave);
    link_up();
    ask(FRONT_COMMAND);
    assert_int_equal(sent_size, 0);
    assert_int_equal(done_result.code, ERR_LINK_CLOSED);
    ask(FRONT_POWER_ON); /* of a TPM that is not the one that was on */
    assert_int_equal(sent_verb, K2_RESET);
    open_request(plaintext);
    respond(0, NULL, 0);
    ask(FRONT_COMMAND);
    assert_int_equal(sent_verb, K2_COMMAND);
}

static void a_new_link_has_a_new_share(void **state)
{
    (void)state;
    const struct x25519_key first = tunnel.own;
    link_up();
    assert_ok(tunnel_renew(&tunnel));
    assert_memory_not_equal(first.public, tunnel.own.public, X25519_SIZE);
}

static void an_altered_record_ends_the_link(void **state)
{
    (void)state;
    uint8_t bytes[TUNNEL_RECORD_MAX];
    struct writer record = writer_of(bytes, sizeof bytes);
    const uint8_t plaintext[4] = {0};
    link_up();
    ask(FRONT_COMMAND);
    open_request(bytes);
    assert_ok(link_send(&enclave, span_of(plaintext, sizeof plaintext), &record));
    bytes[record.size - 1] ^= 1;
    tunnel_receive(&tunnel, writer_span(&record));
    assert_int_equal(done_result.code, ERR_LINK_RECORD);
    assert_int_equal(tunnel.step, TUNNEL_LOST);
}

static void a_response_that_nobody_asked_for_ends_the_link(void **state)
{
    (void)state;
    link_up();
    respond(0, "a response", 10);
    assert_int_equal(done_count, 0);
    assert_int_equal(tunnel.step, TUNNEL_LOST);
}

static void power(void **state)
{
    (void)state;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask(FRONT_POWER_ON);
    assert_int_equal(sent_size, 0);
    assert_int_equal(done_count, 1);
    ask(FRONT_POWER_OFF);
    assert_int_equal(sent_verb, K2_POWER_OFF);
    open_request(plaintext);
    respond(0, NULL, 0);
    ask(FRONT_POWER_OFF);
    assert_int_equal(sent_size, 0);
    assert_int_equal(done_count, 3);
    ask(FRONT_POWER_ON);
    assert_int_equal(sent_verb, K2_RESET);
}

static void an_end_is_answered_and_then_told(void **state)
{
    (void)state;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    link_up();
    ask(FRONT_SHUTDOWN);
    assert_int_equal(sent_verb, K2_POWER_OFF);
    assert_int_equal(shutdown_count, 0);
    open_request(plaintext);
    respond(0, NULL, 0);
    assert_ok(done_result);
    assert_int_equal(shutdown_count, 1);
    ask(FRONT_RESET);
    assert_int_equal(done_result.code, ERR_TPM_OFF);
}

static void who_is_named_must_be_the_right_one(void **state)
{
    (void)state;
    told.binding.instance.bytes[0] ^= 1;
    assert_err(tunnel_bind(&tunnel, &told), STATE_OTHER_INSTANCE);
    told.binding.instance.bytes[0] ^= 1;
    told.binding.kind = LINK_K2_ENROLLED;
    assert_err(tunnel_bind(&tunnel, &told), FRONT_ENROLLED);
    told.binding.kind = LINK_K2_NAMED;
    memset(told.enclave_share, 0, sizeof told.enclave_share);
    assert_err(tunnel_bind(&tunnel, &told), AUTHENTICATION);
    memcpy(told.enclave_share, enclave_share.public, sizeof told.enclave_share);
    link_up();
    assert_err(tunnel_bind(&tunnel, &told), LINK_ORDER);
}

static void an_enrolled_key_is_part_of_the_link(void **state)
{
    (void)state;
    assert_ok(x25519_generate(&crypto, &owner_key));
    tunnel_close(&tunnel);
    open_tunnel(owner_key.private);
    assert_ok(tunnel_bind(&tunnel, &told));
    assert_ok(answer_finish(owner_key.public));
    assert_int_equal(tunnel.step, TUNNEL_LINKED);
}

static void another_enrolled_key_does_not_link(void **state)
{
    (void)state;
    assert_ok(x25519_generate(&crypto, &owner_key));
    tunnel_close(&tunnel);
    open_tunnel(owner_key.private);
    assert_ok(tunnel_bind(&tunnel, &told));
    assert_int_not_equal(answer_finish(enclave_share.public).code, ERR_NONE);
    assert_int_equal(linked_count, 0);
}

#define TUNNEL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TUNNEL_TEST(a_command_crosses_and_its_response),
        TUNNEL_TEST(nothing_is_left_in_the_clear),
        TUNNEL_TEST(verbs_of_one_request_carry_what_they_need),
        TUNNEL_TEST(an_export_is_read_to_its_end),
        TUNNEL_TEST(an_export_that_breaks_off_is_none),
        TUNNEL_TEST(what_a_client_gave_goes_in_before_the_reset),
        TUNNEL_TEST(a_part_that_is_refused_ends_the_reset),
        TUNNEL_TEST(the_buffer_size_is_told_without_a_link_too),
        TUNNEL_TEST(a_code_of_the_enclave_is_a_failure),
        TUNNEL_TEST(without_a_link_commands_fail_and_a_reset_waits_for_one),
        TUNNEL_TEST(after_a_lost_link_commands_fail_until_the_reset),
        TUNNEL_TEST(a_new_link_has_a_new_share),
        TUNNEL_TEST(an_altered_record_ends_the_link),
        TUNNEL_TEST(a_response_that_nobody_asked_for_ends_the_link),
        TUNNEL_TEST(power),
        TUNNEL_TEST(an_end_is_answered_and_then_told),
        TUNNEL_TEST(who_is_named_must_be_the_right_one),
        TUNNEL_TEST(an_enrolled_key_is_part_of_the_link),
        TUNNEL_TEST(another_enrolled_key_does_not_link),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
