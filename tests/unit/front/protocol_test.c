/* The parsers of the client protocols: bytes in, one message out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "untrusted/front/protocol.h"

static const struct channel at_locality_2 = {.locality = 2};

static struct message parse(const struct protocol *protocol, const void *bytes, size_t size)
{
    struct message message;
    protocol->parse(span_of(bytes, size), &at_locality_2, true, &message);
    return message;
}

/* Every shorter beginning must ask for more bytes; the whole is returned. */
static struct message parse_whole(const struct protocol *protocol, const uint8_t *bytes, size_t size)
{
    for (size_t cut = 1; cut < size; cut++)
        assert_int_equal(parse(protocol, bytes, cut).size, 0);
    return parse(protocol, bytes, size);
}

static void assert_answer(const struct message *message, const void *bytes, size_t size)
{
    assert_int_equal(message->answer_size, size);
    assert_memory_equal(message->answer, bytes, size);
}

static const uint8_t get_random[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8};

static void stream_command(void **state)
{
    (void)state;
    struct message message = parse_whole(&protocol_stream, get_random, sizeof get_random);
    assert_int_equal(message.size, sizeof get_random);
    assert_int_equal(message.verb, FRONT_COMMAND);
    assert_int_equal(message.locality, 2);
    assert_false(message.framed);
    assert_false(message.close);
    assert_memory_equal(message.command.data, get_random, sizeof get_random);
}

static void stream_takes_only_its_own_bytes(void **state)
{
    (void)state;
    uint8_t two[2 * sizeof get_random];
    memcpy(two, get_random, sizeof get_random);
    memcpy(two + sizeof get_random, get_random, sizeof get_random);
    struct message message = parse(&protocol_stream, two, sizeof two);
    assert_int_equal(message.size, sizeof get_random);
    assert_int_equal(message.command.size, sizeof get_random);
}

static void stream_leaves_an_unknown_tag_to_the_tpm(void **state)
{
    (void)state;
    const uint8_t command[] = {0x00, 0xc1, 0, 0, 0, 10, 0, 0, 0, 0x99};
    assert_int_equal(parse_whole(&protocol_stream, command, sizeof command).verb, FRONT_COMMAND);
}

static void stream_refuses_impossible_sizes(void **state)
{
    (void)state;
    const uint8_t refusal[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x42};
    const uint32_t sizes[] = {0, 1, 9, 4097, 0x80000000, 0xffffffff};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const uint8_t command[] = {0x80,
                                   0x01,
                                   (uint8_t)(sizes[i] >> 24),
                                   (uint8_t)(sizes[i] >> 16),
                                   (uint8_t)(sizes[i] >> 8),
                                   (uint8_t)sizes[i]};
        struct message message = parse(&protocol_stream, command, sizeof command);
        assert_int_equal(message.verb, FRONT_NOTHING);
        assert_true(message.close);
        assert_answer(&message, refusal, sizeof refusal);
    }
}

static void stream_largest_command(void **state)
{
    (void)state;
    uint8_t command[TPM_MESSAGE_MAX] = {0x80, 0x01, 0, 0, 0x10, 0x00};
    assert_int_equal(parse(&protocol_stream, command, sizeof command - 1).size, 0);
    assert_int_equal(parse(&protocol_stream, command, sizeof command).size, sizeof command);
}

static const uint8_t framed_command[] = {0, 0, 0, 8, 3, 0, 0, 0, 10, 0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81};

static void stream_framed_command_sets_the_locality(void **state)
{
    (void)state;
    struct message message = parse_whole(&protocol_stream, framed_command, sizeof framed_command);
    assert_int_equal(message.size, sizeof framed_command);
    assert_int_equal(message.verb, FRONT_COMMAND);
    assert_true(message.framed);
    assert_true(message.sets_locality);
    assert_int_equal(message.locality, 3);
    assert_int_equal(message.command.size, 10);
}

static void framed_command_at_no_locality_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[sizeof framed_command];
    const uint8_t refusal[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x07};
    memcpy(bytes, framed_command, sizeof bytes);
    bytes[4] = 5;
    struct message message = parse(&protocol_stream, bytes, sizeof bytes);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_false(message.sets_locality);
    assert_false(message.close);
    assert_answer(&message, refusal, sizeof refusal);
}

static void framed_command_of_impossible_size_is_refused(void **state)
{
    (void)state;
    const uint8_t large[] = {0, 0, 0, 8, 0, 0, 0, 0x10, 0x01};
    const uint8_t small[] = {0, 0, 0, 8, 0, 0, 0, 0, 9};
    struct message message = parse(&protocol_mssim_command, large, sizeof large);
    assert_true(message.close && message.framed);
    assert_int_equal(message.verb, FRONT_NOTHING);
    message = parse(&protocol_mssim_command, small, sizeof small);
    assert_true(message.close && message.framed);
}

/* --- the control channel --- */

static void control_capabilities_are_the_rows(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 1};
    const uint8_t answer[] = {0, 0, 0, 0, 0, 1, 0xff, 0xff}; /* all there are in swtpm 0.10 */
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_answer(&message, answer, sizeof answer);
}

static void control_init_is_a_reset(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 2, 0, 0, 0, 1};
    const uint8_t success[] = {0, 0, 0, 0};
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_RESET);
    assert_int_equal(message.failure, TPM_RC_FAILURE);
    assert_answer(&message, success, sizeof success);
}

static void control_init_with_unknown_flags_is_refused(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 2, 0, 0, 0, 2};
    const uint8_t answer[] = {0, 0, 0, 3};
    struct message message = parse(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_answer(&message, answer, sizeof answer);
}

static void control_surplus_is_a_bad_parameter(void **state)
{
    (void)state;
    const uint8_t answer[] = {0, 0, 0, 3};
    const uint8_t numbers[] = {0x03, 0x09, 0x0e, 0x0f};
    for (size_t i = 0; i < sizeof numbers; i++) {
        const uint8_t request[] = {0, 0, 0, numbers[i], 0};
        struct message message = parse(&protocol_control, request, sizeof request);
        assert_int_equal(message.verb, FRONT_NOTHING);
        assert_answer(&message, answer, sizeof answer);
    }
}

static void control_locality_in_both_forms(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 5, 4, 0, 0, 0};
    struct message message = parse_whole(&protocol_control, request, 5);
    assert_true(message.sets_locality);
    assert_int_equal(message.locality, 4);
    message = parse(&protocol_control, request, sizeof request);
    assert_true(message.sets_locality);
    assert_int_equal(message.size, sizeof request);
}

static void control_locality_above_4_is_refused(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 5, 5};
    const uint8_t answer[] = {0, 0, 0, 0x3d};
    struct message message = parse(&protocol_control, request, sizeof request);
    assert_false(message.sets_locality);
    assert_answer(&message, answer, sizeof answer);
}

/* The outcome of a message, as the front has it. */
static struct span finish(struct message *message, uint16_t code, const void *response, size_t size)
{
    struct span tail = span_empty();
    assert_non_null(message->finish);
    message->finish(message, (struct err){code}, span_of(response, size), &tail);
    return tail;
}

static void control_buffersize_is_the_tpms(void **state)
{
    (void)state;
    const uint8_t query[] = {0, 0, 0, 0x11, 0, 0, 0x0f, 0x80};
    const uint8_t sizes[] = {0x80, 0x0f, 0, 0, 0xf8, 0x0a, 0, 0, 0, 0x10, 0, 0};
    const uint8_t answer[] = {0, 0, 0, 0, 0, 0, 0x0f, 0x80, 0, 0, 0x0a, 0xf8, 0, 0, 0x10, 0};
    const uint8_t failed[] = {0, 0, 0x01, 0x01};
    struct message message;
    protocol_control.parse(span_of(query, sizeof query), &at_locality_2, false, &message);
    assert_int_equal(message.verb, FRONT_BUFFER_SIZE);
    assert_int_equal(message.number, 0xf80);
    assert_int_equal(finish(&message, ERR_NONE, sizes, sizeof sizes).size, 0);
    assert_answer(&message, answer, sizeof answer);
    (void)finish(&message, ERR_NONE, sizes, sizeof sizes - 1);
    assert_answer(&message, failed, sizeof failed);
    (void)finish(&message, ERR_LINK_CLOSED, NULL, 0);
    assert_answer(&message, failed, sizeof failed);
}

static void control_buffersize_is_not_set_while_running(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 0x11, 0, 0, 0x0f, 0x80};
    const uint8_t query[] = {0, 0, 0, 0x11, 0, 0, 0, 0};
    const uint8_t refused[] = {0, 0, 0, 0x0a};
    struct message message = parse(&protocol_control, request, sizeof request);
    assert_answer(&message, refused, sizeof refused);
    assert_int_equal(message.verb, FRONT_NOTHING);
    message = parse_whole(&protocol_control, query, sizeof query);
    assert_int_equal(message.verb, FRONT_BUFFER_SIZE);
}

static void control_needs_a_running_tpm_for_these(void **state)
{
    (void)state;
    static const struct {
        uint8_t number;
        enum front_verb verb;
    } rows[] = {{0x06, FRONT_HASH_START}, {0x08, FRONT_HASH_END}, {0x0a, FRONT_STORE_VOLATILE}};
    const uint8_t off[] = {0, 0, 0, 0x0a};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const uint8_t request[] = {0, 0, 0, rows[i].number};
        struct message message = parse_whole(&protocol_control, request, sizeof request);
        assert_int_equal(message.verb, rows[i].verb);
        protocol_control.parse(span_of(request, sizeof request), &at_locality_2, false, &message);
        assert_int_equal(message.verb, FRONT_NOTHING);
        assert_answer(&message, off, sizeof off);
    }
}

static void control_lock_is_asked_of_whoever_holds_the_state(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 0x13, 0, 0, 1, 0x2c};
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_LOCK);
    assert_int_equal(message.failure, TPM_FAIL);
}

static void control_hashed_bytes_follow(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 0x07, 0, 1, 0, 0, 0xaa};
    const uint8_t off[] = {0, 0, 0, 0x0a};
    struct message message = parse_whole(&protocol_control, request, 8);
    assert_int_equal(message.follows, FOLLOWS_HASHED);
    assert_int_equal(message.follow_size, 0x10000);
    assert_int_equal(parse(&protocol_control, request, sizeof request).size, 8);
    protocol_control.parse(span_of(request, sizeof request), &at_locality_2, false, &message);
    assert_int_equal(message.follows, FOLLOWS_NOTHING);
    assert_answer(&message, off, sizeof off);
}

static void control_info_is_answered_in_pieces(void **state)
{
    (void)state;
    uint8_t request[20] = {0, 0, 0, 0x12, 0, 0, 0, 0, 0, 0, 0, 5};
    const uint8_t first[] = {0, 0, 0, 0, 0, 0, 0x0f, 0xa0, 0, 0, 0x0c, 0};
    const uint8_t rest[] = {0, 0, 0, 0, 0, 0, 0x0f, 0xa0, 0, 0, 0x03, 0xa0};
    const uint8_t behind[] = {0, 0, 0, 3};
    static const char text[4000] = "{";
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_INFO);
    assert_int_equal(message.number, 5);
    struct span tail = finish(&message, ERR_NONE, text, sizeof text);
    assert_answer(&message, first, sizeof first);
    assert_int_equal(tail.size, 3072);
    assert_ptr_equal(tail.data, text);
    request[14] = 0x0c; /* offset 3072 */
    message = parse(&protocol_control, request, sizeof request);
    tail = finish(&message, ERR_NONE, text, sizeof text);
    assert_answer(&message, rest, sizeof rest);
    assert_ptr_equal(tail.data, text + 3072);
    request[14] = 0x0f, request[15] = 0x9f; /* of the NUL */
    message = parse(&protocol_control, request, sizeof request);
    assert_int_equal(finish(&message, ERR_NONE, text, sizeof text).size, 0);
    assert_answer(&message, behind, sizeof behind);
}

static const uint8_t export[] = {3, 0, 0, 0, 'a', 'b', 'c', 'd', 'e'};

static void control_blobs_are_the_parts_of_an_export(void **state)
{
    (void)state;
    uint8_t request[16] = {0, 0, 0, 0x0c, 0, 0, 0, 1, 0, 0, 0, 1};
    const uint8_t permanent[16] = {[11] = 3, [15] = 3};
    const uint8_t volatile_state[16] = {[11] = 1, [15] = 1};
    const uint8_t failed[16] = {[3] = 9};
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_EXPORT);
    struct span tail = finish(&message, ERR_NONE, export, sizeof export);
    assert_answer(&message, permanent, sizeof permanent); /* with flags 0: it is sealed all the same */
    assert_int_equal(tail.size, 3);
    assert_memory_equal(tail.data, "abc", 3);
    request[11] = 2, request[15] = 1; /* the volatile one, from offset 1 on */
    message = parse(&protocol_control, request, sizeof request);
    tail = finish(&message, ERR_NONE, export, sizeof export);
    assert_answer(&message, volatile_state, sizeof volatile_state);
    assert_int_equal(tail.size, 1);
    assert_memory_equal(tail.data, "e", 1);
    request[15] = 200;
    message = parse(&protocol_control, request, sizeof request);
    assert_int_equal(finish(&message, ERR_NONE, export, sizeof export).size, 0);
    assert_int_equal(finish(&message, ERR_TPM_FAILED, NULL, 0).size, 0);
    assert_answer(&message, failed, sizeof failed);
    assert_int_equal(finish(&message, ERR_NONE, export, 6).size, 0); /* cut */
    assert_answer(&message, failed, sizeof failed);
}

static void control_blobs_that_are_not_there(void **state)
{
    (void)state;
    uint8_t request[16] = {0, 0, 0, 0x0c, [11] = 3};
    const uint8_t none[16] = {[2] = 8};
    const uint8_t bad[16] = {[3] = 3};
    const uint8_t off[16] = {[3] = 0x0a};
    struct message message = parse(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_answer(&message, none, sizeof none);
    request[11] = 4;
    message = parse(&protocol_control, request, sizeof request);
    assert_answer(&message, bad, sizeof bad);
    request[11] = 1;
    protocol_control.parse(span_of(request, sizeof request), &at_locality_2, false, &message);
    assert_answer(&message, off, sizeof off);
}

static void control_blobs_follow(void **state)
{
    (void)state;
    uint8_t request[17] = {0, 0, 0, 0x0d, [11] = 2, [14] = 1};
    const uint8_t running[] = {0, 0, 0, 0x0a};
    const uint8_t bad[] = {0, 0, 0, 3};
    struct message message = parse(&protocol_control, request, sizeof request);
    assert_answer(&message, running, sizeof running);
    protocol_control.parse(span_of(request, sizeof request), &at_locality_2, false, &message);
    assert_int_equal(message.size, 16);
    assert_int_equal(message.follows, FOLLOWS_BLOB);
    assert_int_equal(message.follow_size, 256);
    assert_int_equal(message.blob, 1);
    request[12] = 1; /* 16 MiB */
    protocol_control.parse(span_of(request, sizeof request), &at_locality_2, false, &message);
    assert_answer(&message, bad, sizeof bad);
    assert_int_equal(message.follows, FOLLOWS_NOTHING);
    request[12] = 0, request[11] = 3; /* of which there is none */
    protocol_control.parse(span_of(request, sizeof request), &at_locality_2, false, &message);
    assert_answer(&message, bad, sizeof bad);
}

static void control_cancel_has_an_answer_and_no_effect(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 9};
    const uint8_t success[] = {0, 0, 0, 0};
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_answer(&message, success, sizeof success);
}

static void control_unknown_commands_are_bad_ordinals(void **state)
{
    (void)state;
    const uint32_t numbers[] = {0, 0x14, 0x100, 0xffffffff};
    const uint8_t refused[] = {0, 0, 0, 0x0a};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uint8_t request[20] = {(uint8_t)(numbers[i] >> 24), (uint8_t)(numbers[i] >> 16), (uint8_t)(numbers[i] >> 8),
                               (uint8_t)numbers[i]};
        struct message message = parse(&protocol_control, request, sizeof request);
        assert_int_equal(message.size, sizeof request);
        assert_int_equal(message.verb, FRONT_NOTHING);
        assert_false(message.close);
        assert_answer(&message, refused, sizeof refused);
    }
}

static void control_may_be_told_to_reject_locality_4(void **state)
{
    (void)state;
    const struct channel channel = {.locality = 1, .rejects_locality_4 = true};
    const uint8_t four[] = {0, 0, 0, 5, 4, 0, 0, 0};
    const uint8_t three[] = {0, 0, 0, 5, 3, 0, 0, 0};
    const uint8_t refused[] = {0, 0, 0, 0x3d};
    struct message message;
    protocol_control.parse(span_of(four, sizeof four), &channel, true, &message);
    assert_false(message.sets_locality);
    assert_answer(&message, refused, sizeof refused);
    protocol_control.parse(span_of(three, sizeof three), &channel, true, &message);
    assert_true(message.sets_locality);
}

static void control_establishment_is_asked_of_the_tpm(void **state)
{
    (void)state;
    const uint8_t get[] = {0, 0, 0, 4};
    const uint8_t reset[] = {0, 0, 0, 0x0b, 3, 0, 0, 0};
    const uint8_t answer[8] = {[4] = 1};
    const uint8_t failed[8] = {[2] = 1, [3] = 1};
    const uint8_t off[] = {0, 0, 0, 0x0a};
    const uint8_t bad_locality[] = {0, 0, 0, 0x3d};
    struct message message = parse_whole(&protocol_control, get, sizeof get);
    assert_int_equal(message.verb, FRONT_ESTABLISHED);
    (void)finish(&message, ERR_NONE, &(const uint8_t){1}, 1);
    assert_answer(&message, answer, 8);
    (void)finish(&message, ERR_LINK_CLOSED, NULL, 0);
    assert_answer(&message, failed, 8);
    message = parse_whole(&protocol_control, reset, 5);
    assert_int_equal(message.verb, FRONT_RESET_ESTABLISHED);
    assert_int_equal(message.locality, 3);
    assert_int_equal(message.refusal, 0x3d);
    assert_false(message.sets_locality);
    assert_int_equal(parse(&protocol_control, reset, sizeof reset).size, sizeof reset);
    protocol_control.parse(span_of(get, sizeof get), &at_locality_2, false, &message);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_answer(&message, off, sizeof off);
    const uint8_t fifth[] = {0, 0, 0, 0x0b, 5};
    message = parse(&protocol_control, fifth, sizeof fifth);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_answer(&message, bad_locality, sizeof bad_locality);
}

static void control_datafd_adopts(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 0x10};
    struct message message = parse_whole(&protocol_control, request, sizeof request);
    assert_true(message.adopts);
    assert_int_equal(message.verb, FRONT_NOTHING);
}

static void control_verbs(void **state)
{
    (void)state;
    const uint8_t shutdown[] = {0, 0, 0, 3};
    const uint8_t stop[] = {0, 0, 0, 0x0e};
    assert_int_equal(parse_whole(&protocol_control, shutdown, 4).verb, FRONT_SHUTDOWN);
    assert_int_equal(parse_whole(&protocol_control, stop, 4).verb, FRONT_POWER_OFF);
}

/* --- the simulator's ports --- */

static void mssim_command_carries_its_locality(void **state)
{
    (void)state;
    struct message message = parse_whole(&protocol_mssim_command, framed_command, sizeof framed_command);
    assert_int_equal(message.verb, FRONT_COMMAND);
    assert_int_equal(message.locality, 3);
    assert_true(message.framed);
    assert_false(message.sets_locality);
}

static void mssim_handshake(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 15, 0, 0, 0, 1};
    const uint8_t answer[] = {0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0};
    struct message message = parse_whole(&protocol_mssim_command, request, sizeof request);
    assert_int_equal(message.size, sizeof request);
    assert_answer(&message, answer, sizeof answer);
}

static void mssim_handshake_of_version_0_closes(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 15, 0, 0, 0, 0};
    struct message message = parse(&protocol_mssim_command, request, sizeof request);
    assert_true(message.close);
    assert_int_equal(message.answer_size, 0);
}

static void mssim_session_end_closes_without_an_answer(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 20};
    struct message message = parse_whole(&protocol_mssim_command, request, sizeof request);
    assert_true(message.close);
    assert_int_equal(message.answer_size, 0);
    message = parse_whole(&protocol_mssim_platform, request, sizeof request);
    assert_true(message.close);
    assert_int_equal(message.answer_size, 0);
}

static void mssim_unknown_command_closes(void **state)
{
    (void)state;
    const uint8_t numbers[] = {0, 1, 5, 6, 7, 16, 17, 22, 255};
    for (size_t i = 0; i < sizeof numbers; i++) {
        const uint8_t request[] = {0, 0, 0, numbers[i]};
        struct message message = parse(&protocol_mssim_command, request, sizeof request);
        assert_true(message.close);
        assert_int_equal(message.verb, FRONT_NOTHING);
        assert_int_equal(message.answer_size, 0);
    }
}

static void mssim_platform_verbs(void **state)
{
    (void)state;
    const struct {
        uint8_t number;
        enum front_verb verb;
    } rows[] = {{1, FRONT_POWER_ON}, {2, FRONT_POWER_OFF}, {17, FRONT_RESET},
                {9, FRONT_NOTHING},  {10, FRONT_NOTHING},  {11, FRONT_NOTHING}};
    const uint8_t acknowledgement[] = {0, 0, 0, 0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const uint8_t request[] = {0, 0, 0, rows[i].number};
        struct message message = parse_whole(&protocol_mssim_platform, request, sizeof request);
        assert_int_equal(message.verb, rows[i].verb);
        assert_int_equal(message.size, 4);
        assert_false(message.close);
        assert_answer(&message, acknowledgement, sizeof acknowledgement);
    }
}

static void mssim_stop_is_a_shutdown_without_an_answer(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 21};
    struct message message = parse_whole(&protocol_mssim_platform, request, sizeof request);
    assert_int_equal(message.verb, FRONT_SHUTDOWN);
    assert_int_equal(message.answer_size, 0);
    assert_int_equal(parse(&protocol_mssim_command, request, sizeof request).verb, FRONT_SHUTDOWN);
}

static void mssim_platform_refuses_what_it_does_not_know(void **state)
{
    (void)state;
    const uint8_t numbers[] = {0, 3, 4, 8, 12, 13, 14, 15, 18, 25, 26, 30, 255};
    const uint8_t refusal[] = {0, 0, 0, 1};
    for (size_t i = 0; i < sizeof numbers; i++) {
        const uint8_t request[] = {0, 0, 0, numbers[i]};
        struct message message = parse(&protocol_mssim_platform, request, sizeof request);
        assert_true(message.close);
        assert_int_equal(message.verb, FRONT_NOTHING);
        assert_answer(&message, refusal, sizeof refusal);
    }
}

/* --- before a TPM 1.2 --- */

static const uint8_t get_random_12[] = {0, 0xc1, 0, 0, 0, 14, 0, 0, 0, 0x46, 0, 0, 0, 8};

static void a_tpm_12s_command_has_its_own_bytes(void **state)
{
    (void)state;
    struct message message = parse_whole(&protocol_stream_12, get_random_12, sizeof get_random_12);
    assert_int_equal(message.verb, FRONT_COMMAND);
    assert_int_equal(message.locality, 2);
    assert_int_equal(message.size, sizeof get_random_12);
    assert_memory_equal(message.command.data, get_random_12, sizeof get_random_12);
}

/* What would be a frame before a TPM 2.0 has a size that no command has. */
static void a_tpm_12_takes_no_framed_command(void **state)
{
    (void)state;
    const uint8_t framed[] = {0, 0, 0, 8, 3, 0, 0, 0, 10};
    const uint8_t refusal[] = {0, 0xc4, 0, 0, 0, 10, 0, 0, 0, 0x19};
    struct message message = parse(&protocol_stream_12, framed, sizeof framed);
    assert_int_equal(message.verb, FRONT_NOTHING);
    assert_true(message.close);
    assert_false(message.framed || message.sets_locality);
    assert_answer(&message, refusal, sizeof refusal);
}

static void a_tpm_12s_control_channel_is_the_same_without_frames(void **state)
{
    (void)state;
    const uint8_t request[] = {0, 0, 0, 1};
    const uint8_t init[] = {0, 0, 0, 2, 0, 0, 0, 0};
    const uint8_t unknown[] = {0, 0, 0, 0x77};
    uint8_t answer[8];
    struct message message = parse(&protocol_control, request, sizeof request);
    memcpy(answer, message.answer, sizeof answer);
    answer[6] ^= 0x80;
    message = parse_whole(&protocol_control_12, request, sizeof request);
    assert_answer(&message, answer, sizeof answer);
    message = parse_whole(&protocol_control_12, init, sizeof init);
    assert_int_equal(message.verb, FRONT_RESET);
    assert_int_equal(message.failure, 9);
    assert_int_equal(parse(&protocol_control_12, unknown, sizeof unknown).answer[3], 0x0a);
}

static void a_tpm_12_says_nothing_but_a_code_in_its_own_form(void **state)
{
    (void)state;
    const uint8_t retry[] = {0, 0xc4, 0, 0, 0, 10, 0, 0, 8, 0};
    uint8_t response[TPM_HEADER_SIZE];
    tpm_error_response(&dialect_12, dialect_12.retry, response);
    assert_memory_equal(response, retry, sizeof retry);
    assert_int_equal(dialect_12.failure, 9);
    assert_int_equal(protocol_stream_12.response_when_off, 9);
}

/* What the connection relies on: it never has to wait for more bytes than it has room for. */
static void a_full_buffer_is_always_a_message(void **state)
{
    (void)state;
    const struct protocol *protocols[] = {&protocol_stream,         &protocol_control,   &protocol_mssim_command,
                                          &protocol_mssim_platform, &protocol_stream_12, &protocol_control_12};
    static uint8_t bytes[RECEIVE_MAX];
    for (unsigned first = 0; first < 256; first++) {
        for (unsigned size = 0; size < 256; size += 15) {
            memset(bytes, 0, sizeof bytes);
            bytes[3] = (uint8_t)first;
            bytes[4] = bytes[7] = (uint8_t)size;
            for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++) {
                struct message message = parse(protocols[i], bytes, sizeof bytes);
                assert_true(message.size > 0 && message.size <= sizeof bytes);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stream_command),
        cmocka_unit_test(stream_takes_only_its_own_bytes),
        cmocka_unit_test(stream_leaves_an_unknown_tag_to_the_tpm),
        cmocka_unit_test(stream_refuses_impossible_sizes),
        cmocka_unit_test(stream_largest_command),
        cmocka_unit_test(stream_framed_command_sets_the_locality),
        cmocka_unit_test(framed_command_at_no_locality_is_refused),
        cmocka_unit_test(framed_command_of_impossible_size_is_refused),
        cmocka_unit_test(control_capabilities_are_the_rows),
        cmocka_unit_test(control_may_be_told_to_reject_locality_4),
        cmocka_unit_test(control_init_is_a_reset),
        cmocka_unit_test(control_init_with_unknown_flags_is_refused),
        cmocka_unit_test(control_surplus_is_a_bad_parameter),
        cmocka_unit_test(control_locality_in_both_forms),
        cmocka_unit_test(control_locality_above_4_is_refused),
        cmocka_unit_test(control_buffersize_is_the_tpms),
        cmocka_unit_test(control_needs_a_running_tpm_for_these),
        cmocka_unit_test(control_lock_is_asked_of_whoever_holds_the_state),
        cmocka_unit_test(control_hashed_bytes_follow),
        cmocka_unit_test(control_info_is_answered_in_pieces),
        cmocka_unit_test(control_blobs_are_the_parts_of_an_export),
        cmocka_unit_test(control_blobs_that_are_not_there),
        cmocka_unit_test(control_blobs_follow),
        cmocka_unit_test(control_buffersize_is_not_set_while_running),
        cmocka_unit_test(control_cancel_has_an_answer_and_no_effect),
        cmocka_unit_test(control_unknown_commands_are_bad_ordinals),
        cmocka_unit_test(control_establishment_is_asked_of_the_tpm),
        cmocka_unit_test(control_datafd_adopts),
        cmocka_unit_test(control_verbs),
        cmocka_unit_test(mssim_command_carries_its_locality),
        cmocka_unit_test(mssim_handshake),
        cmocka_unit_test(mssim_handshake_of_version_0_closes),
        cmocka_unit_test(mssim_session_end_closes_without_an_answer),
        cmocka_unit_test(mssim_unknown_command_closes),
        cmocka_unit_test(mssim_platform_verbs),
        cmocka_unit_test(mssim_stop_is_a_shutdown_without_an_answer),
        cmocka_unit_test(mssim_platform_refuses_what_it_does_not_know),
        cmocka_unit_test(a_tpm_12s_command_has_its_own_bytes),
        cmocka_unit_test(a_tpm_12_takes_no_framed_command),
        cmocka_unit_test(a_tpm_12s_control_channel_is_the_same_without_frames),
        cmocka_unit_test(a_tpm_12_says_nothing_but_a_code_in_its_own_form),
        cmocka_unit_test(a_full_buffer_is_always_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
