#include "tests/unit/manager/rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"
#include "tests/fakes/program.h"
#include "tests/fakes/runtime.h"

#define ARENA_SIZE (4u * 1024u * 1024u)

struct rig_shared {
    uint32_t number;
    uint64_t host_time;
    size_t body_size;
    uint16_t code;
    size_t out_size;
    uint8_t body[CALL_BODY_MAX];
    uint8_t out[CALL_OUTPUT_MAX];

    /* the host's own: the effects of one call, the store that waits */
    uint8_t arena[ARENA_SIZE];
    uint8_t held[CALL_OUTPUT_MAX];
    size_t held_size;
};

struct manager_image rig_image = {.security_version = 1};
static uint8_t manager_mrenclave[SGX_HASH_SIZE];
static uint8_t instance_mrenclave[SGX_HASH_SIZE];

const struct manager_image *manager_image(void)
{
    return &rig_image;
}

static void set_identity(uint8_t out[SGX_HASH_SIZE], const char *text)
{
    memset(out, 0, SGX_HASH_SIZE);
    memcpy(out, text, strlen(text));
}

void rig_identities(const char *manager, const char *instance)
{
    set_identity(manager_mrenclave, manager);
    set_identity(instance_mrenclave, instance);
    memcpy(rig_image.instance, instance_mrenclave, SGX_HASH_SIZE);
    memcpy(fake_processor.MRENCLAVE, instance_mrenclave, SGX_HASH_SIZE);
    fake_processor.ISVPRODID = PRODID_INSTANCE;
}

_Noreturn static void live(int line, struct rig_shared *shared)
{
    uint8_t byte = 0;
    memcpy(fake_processor.MRENCLAVE, manager_mrenclave, SGX_HASH_SIZE);
    fake_processor.ISVPRODID = PRODID_MANAGER;
    while (read(line, &byte, 1) == 1) {
        shared->code = program_call(shared->number, shared->host_time, span_of(shared->body, shared->body_size),
                                    shared->out, &shared->out_size)
                           .code;
        if (write(line, &byte, 1) != 1) break;
    }
    _exit(0);
}

void rig_boot(struct rig *rig)
{
    int line[2];
    rig_end(rig);
    if (!rig->shared) {
        void *memory = mmap(NULL, sizeof *rig->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(memory != MAP_FAILED);
        rig->shared = memory;
    }
    rig->requests = 0;
    rig->held_store = 0;
    rig->held_exchange = false;
    if (rig->enter) return;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line), 0);
    fflush(NULL);
    rig->pid = fork();
    assert_true(rig->pid >= 0);
    if (rig->pid == 0) {
        close(line[0]);
        live(line[1], rig->shared);
    }
    close(line[1]);
    rig->line = line[0];
}

void rig_end(struct rig *rig)
{
    link_close(&rig->k1);
    if (!rig->pid) return;
    close(rig->line);
    kill(rig->pid, SIGKILL); /* another rig's child may hold a copy of the line */
    assert_int_equal(waitpid(rig->pid, NULL, 0), rig->pid);
    rig->pid = 0;
}

void rig_forget(struct rig *rig)
{
    rig_end(rig);
    struct rig_shared *shared = rig->shared;
    memset(rig, 0, sizeof *rig);
    rig->shared = shared;
}

/* ---- effects ---- */

static uint8_t *take_arena(struct rig *rig, size_t size)
{
    assert_true(rig->arena_used + size <= sizeof rig->shared->arena);
    uint8_t *place = rig->shared->arena + rig->arena_used;
    rig->arena_used += size;
    return place;
}

static void keep_blob(struct reader *r, struct rig_blob *out)
{
    uint32_t size = 0;
    assert_ok(read_u32(r, &size));
    if (size == 0) return; /* unchanged */
    assert_true(size <= sizeof out->bytes);
    assert_ok(read_bytes(r, out->bytes, size));
    out->size = size;
}

static void keep_store(struct rig_disk *disk, struct span store)
{
    struct reader r = reader_of(store);
    uint64_t number = 0;
    uint32_t count = 0;
    uint32_t zero = 0;
    assert_ok(read_u64(&r, &number));
    assert_ok(read_u32(&r, &count));
    assert_ok(read_u32(&r, &zero));
    keep_blob(&r, &disk->head);
    keep_blob(&r, &disk->master);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = 0;
        assert_ok(read_u32(&r, &slot));
        assert_true(slot <= disk->row_count && slot < RIG_ROWS_MAX);
        if (slot == disk->row_count) disk->row_count++;
        assert_ok(read_bytes(&r, disk->rows[slot].id.bytes, INSTANCE_ID_SIZE));
        assert_ok(read_u64(&r, &disk->rows[slot].version));
        keep_blob(&r, &disk->rows[slot].blob);
    }
    assert_ok(reader_end(&r));
}

/* What a record carried; FINISH carries nothing. */
static struct span open_record(struct rig *rig, struct span record)
{
    uint8_t *plaintext = take_arena(rig, record.size);
    enum link_event event;
    size_t size = 0;
    assert_ok(link_receive(&rig->k1, record, &event, plaintext, &size));
    return span_of(plaintext, event == LINK_DATA ? size : 0);
}

static void take_effects(struct rig *rig, struct span bytes)
{
    struct reader r = reader_of(bytes);
    while (r.left > 0) {
        struct rig_effect *effect = &rig->effects[rig->effect_count];
        uint32_t size = 0;
        struct span padding;
        assert_true(rig->effect_count < RIG_EFFECTS_MAX);
        assert_ok(read_u32(&r, &effect->kind));
        assert_ok(read_u32(&r, &size));
        assert_ok(read_span(&r, size, &effect->bytes));
        assert_ok(read_span(&r, (CALL_ALIGNMENT - size % CALL_ALIGNMENT) % CALL_ALIGNMENT, &padding));
        if (effect->kind == MANAGER_EFFECT_RECORD && rig->k1.records.open)
            effect->bytes = open_record(rig, effect->bytes);
        rig->effect_count++;
    }
}

static void hold_store(struct rig *rig, struct span bytes)
{
    struct reader r = reader_of(bytes);
    assert_int_equal(rig->held_store, 0);
    assert_ok(read_u64(&r, &rig->held_store));
    assert_true(bytes.size <= sizeof rig->shared->held);
    memcpy(rig->shared->held, bytes.data, bytes.size);
    rig->shared->held_size = bytes.size;
}

/* It comes behind the store of its number, if there is one. */
static void hold_exchange(struct rig *rig, struct span bytes)
{
    struct reader r = reader_of(bytes);
    uint64_t kind = 0;
    assert_false(rig->held_exchange);
    assert_ok(read_u64(&r, &rig->held_number));
    assert_ok(read_u64(&r, &kind)); /* u8, u8[7] 0 */
    assert_ok(read_bytes(&r, rig->held_request, sizeof rig->held_request));
    assert_ok(reader_end(&r));
    assert_int_equal(kind, ANCHOR_FILE);
    assert_true(!rig->held_store || rig->held_store == rig->held_number);
    rig->held_exchange = true;
}

/* Remembers what waits among the effects from the given one on; at most one of each is ever under way. */
static void hold(struct rig *rig, size_t from)
{
    for (size_t i = from; i < rig->effect_count; i++) {
        if (rig->effects[i].kind == MANAGER_EFFECT_STORE) hold_store(rig, rig->effects[i].bytes);
        if (rig->effects[i].kind == MANAGER_EFFECT_ANCHOR) hold_exchange(rig, rig->effects[i].bytes);
    }
    assert_true(!rig->held_store || rig->held_exchange);
}

static void call_child(struct rig *rig, uint32_t number, struct span body)
{
    struct rig_shared *shared = rig->shared;
    uint8_t byte = 0;
    shared->number = number;
    shared->host_time = rig->time;
    shared->body_size = body.size;
    if (body.size) memcpy(shared->body, body.data, body.size);
    assert_int_equal(write(rig->line, &byte, 1), 1);
    assert_int_equal(read(rig->line, &byte, 1), 1); /* it lives */
}

static uint16_t call(struct rig *rig, uint32_t number, struct span body)
{
    struct rig_shared *shared = rig->shared;
    assert_true(body.size <= sizeof shared->body);
    shared->out_size = 0;
    if (rig->enter)
        shared->code = rig->enter(rig->enter_ctx, number, rig->time, body, shared->out, &shared->out_size);
    else
        call_child(rig, number, body);
    if (shared->code) return shared->code;
    uint8_t *copy = take_arena(rig, shared->out_size);
    memcpy(copy, shared->out, shared->out_size);
    take_effects(rig, span_of(copy, shared->out_size));
    return ERR_NONE;
}

void rig_keep(struct rig *rig)
{
    if (rig->held_store) keep_store(&rig->disk, span_of(rig->shared->held, rig->shared->held_size));
    rig->held_store = 0;
}

static void move_anchor(struct rig *rig)
{
    const uint8_t *from = rig->held_request + 8;
    const uint8_t *to = from + ANCHOR_VALUE_SIZE;
    if (rig->held_request[0] != ANCHOR_FILE_MOVE || rig->anchor_stuck) return;
    if (memcmp(from, rig->anchor, ANCHOR_VALUE_SIZE) == 0) memcpy(rig->anchor, to, ANCHOR_VALUE_SIZE);
}

/* Keeps the store that waits, carries the exchange that waits; what was waiting for it adds to the effects. */
static uint16_t confirm(struct rig *rig)
{
    size_t before = rig->effect_count;
    uint8_t body[sizeof(uint64_t) + ANCHOR_VALUE_SIZE];
    struct writer w = writer_of(body, sizeof body);
    rig_keep(rig);
    assert_true(rig->held_exchange);
    move_anchor(rig);
    assert_ok(write_u64(&w, rig->held_number));
    assert_ok(write_bytes(&w, rig->anchor, sizeof rig->anchor));
    rig->held_exchange = false;
    uint16_t code = call(rig, MANAGER_ANCHORED, writer_span(&w));
    hold(rig, before);
    return code;
}

static void begin_effects(struct rig *rig)
{
    rig->effect_count = 0;
    rig->arena_used = 0;
}

static uint16_t confirm_all(struct rig *rig)
{
    uint16_t code = ERR_NONE;
    while (code == ERR_NONE && rig->held_exchange && !rig->hold_stores)
        code = confirm(rig);
    return code;
}

uint16_t rig_call(struct rig *rig, uint32_t number, struct span body)
{
    begin_effects(rig);
    uint16_t code = call(rig, number, body);
    hold(rig, 0);
    /* The effects of the first call are read before anything else is called: LINK is among them. */
    return code || number == MANAGER_START ? code : confirm_all(rig);
}

uint16_t rig_exchange(struct rig *rig)
{
    begin_effects(rig);
    uint16_t code = confirm(rig);
    return code ? code : confirm_all(rig);
}

void rig_store(struct rig *rig)
{
    assert_int_equal(rig_exchange(rig), ERR_NONE);
}

uint16_t rig_loaded(struct rig *rig)
{
    return rig_call(rig, MANAGER_LOADED, span_empty());
}

struct span rig_effect(const struct rig *rig, uint32_t kind, size_t nth)
{
    for (size_t i = 0; i < rig->effect_count; i++)
        if (rig->effects[i].kind == kind && nth-- == 0) return rig->effects[i].bytes;
    fail_msg("no effect of kind %u", kind);
    return span_empty();
}

size_t rig_count(const struct rig *rig, uint32_t kind)
{
    size_t count = 0;
    for (size_t i = 0; i < rig->effect_count; i++)
        count += rig->effects[i].kind == kind;
    return count;
}

/* ---- lives ---- */

static void write_priming(struct writer *w, const struct x25519_key *own)
{
    uint8_t *zeros = NULL;
    assert_ok(write_zeros(w, CAPABILITY_HINTS_SIZE + HOST_ENTROPY_SIZE, &zeros));
    assert_ok(write_bytes(w, own->public, sizeof own->public));
}

static void open_k1(struct rig *rig, const struct x25519_key *own)
{
    struct span told = rig_effect(rig, MANAGER_EFFECT_LINK, 0);
    struct link_binding binding = {.kind = LINK_K1};
    struct link_keys keys = {.own = own, .peer = told.data};
    assert_int_equal(told.size, X25519_SIZE + SGX_HASH_SIZE);
    memcpy(rig->MRENCLAVE, told.data + X25519_SIZE, SGX_HASH_SIZE);
    memcpy(binding.manager, rig->MRENCLAVE, SGX_HASH_SIZE);
    assert_ok(link_open(fake_instance_crypto(), LINK_HOST, &binding, &keys, &rig->k1));
    open_record(rig, rig_effect(rig, MANAGER_EFFECT_RECORD, 0));
}

static void write_blob(struct writer *w, const void *bytes, size_t size)
{
    assert_ok(write_u32(w, (uint32_t)size));
    assert_ok(write_bytes(w, bytes, size));
}

static void write_holders(struct rig *rig, struct writer *w)
{
    assert_ok(write_u32(w, rig->recovery.threshold));
    assert_ok(write_u32(w, rig->recovery.count));
    for (uint8_t i = 0; i < rig->recovery.count; i++) {
        assert_ok(x25519_generate(fake_instance_crypto(), &rig->holders[i]));
        assert_ok(write_bytes(w, rig->holders[i].public, X25519_SIZE));
    }
}

static void take_message(struct rig *rig, uint32_t mode)
{
    if (!rig_count(rig, MANAGER_EFFECT_MESSAGE)) return;
    const struct span message = rig_effect(rig, MANAGER_EFFECT_MESSAGE, 0);
    if (mode == MANAGER_START_RECOVER) {
        assert_int_equal(message.size, sizeof rig->request);
        memcpy(rig->request, message.data, message.size);
        return;
    }
    rig->record_size = message.size;
    memcpy(rig->record, message.data, message.size);
}

static uint16_t start(struct rig *rig, uint32_t mode)
{
    static uint8_t body[CALL_BODY_MAX];
    struct x25519_key own;
    struct writer w = writer_of(body, sizeof body);
    assert_ok(x25519_generate(fake_instance_crypto(), &own));
    assert_ok(write_u32(&w, mode));
    write_priming(&w, &own);
    if (mode == MANAGER_START_OPEN) {
        write_blob(&w, rig->disk.master.bytes, rig->disk.master.size);
        write_blob(&w, rig->disk.head.bytes, rig->disk.head.size);
    } else {
        assert_ok(write_u32(&w, ANCHOR_FILE));
        assert_ok(write_u32(&w, 0)); /* no NV index, */
        assert_ok(write_u32(&w, 0)); /* no authValue */
    }
    if (mode == MANAGER_START_NEW) write_holders(rig, &w);
    if (mode == MANAGER_START_RECOVER) {
        write_blob(&w, rig->record, rig->record_size);
        write_blob(&w, rig->disk.head.bytes, rig->disk.head.size);
    }
    uint16_t code = rig_call(rig, MANAGER_START, writer_span(&w));
    if (code == ERR_NONE) open_k1(rig, &own);
    if (code == ERR_NONE) take_message(rig, mode);
    return code;
}

void rig_finish_k1(struct rig *rig)
{
    uint8_t record[RECORD_MAX];
    struct writer w = writer_of(record, sizeof record);
    assert_ok(link_finish(&rig->k1, &w));
    if (rig->held_exchange && !rig->hold_stores) rig_store(rig);
    assert_int_equal(rig_call(rig, MANAGER_RECORD, writer_span(&w)), ERR_NONE);
}

uint16_t rig_start_new(struct rig *rig)
{
    uint16_t code = start(rig, MANAGER_START_NEW);
    if (code == ERR_NONE) rig_finish_k1(rig);
    return code;
}

uint16_t rig_start_open(struct rig *rig)
{
    return start(rig, MANAGER_START_OPEN);
}

uint16_t rig_start_recover(struct rig *rig)
{
    memset(rig->anchor, 0, sizeof rig->anchor);
    return start(rig, MANAGER_START_RECOVER);
}

uint16_t rig_share(struct rig *rig, size_t holder)
{
    uint8_t answer[RECOVERY_ANSWER_SIZE];
    struct writer w = writer_of(answer, sizeof answer);
    struct recovery_record record;
    assert_ok(recovery_parse(span_of(rig->record, rig->record_size), &record));
    assert_ok(recovery_answer(fake_instance_crypto(), &record, &rig->holders[holder],
                              span_of(rig->request, sizeof rig->request), &w));
    return rig_call(rig, MANAGER_SHARE, writer_span(&w));
}

uint16_t rig_greet(struct rig *rig, const uint8_t target[128])
{
    uint8_t body[512];
    struct x25519_key own;
    struct writer w = writer_of(body, sizeof body);
    assert_ok(x25519_generate(fake_instance_crypto(), &own));
    write_priming(&w, &own);
    assert_ok(write_bytes(&w, target, 128));
    uint16_t code = rig_call(rig, MANAGER_GREET, writer_span(&w));
    if (code == ERR_NONE) open_k1(rig, &own);
    return code;
}

uint16_t rig_rows(struct rig *rig)
{
    static uint8_t body[CALL_BODY_MAX];
    for (uint32_t slot = 0; slot < rig->disk.row_count;) {
        struct writer w = writer_of(body, sizeof body);
        uint32_t count = rig->disk.row_count - slot < 64 ? rig->disk.row_count - slot : 64;
        assert_ok(write_u32(&w, count));
        for (uint32_t end = slot + count; slot < end; slot++) {
            assert_ok(write_u32(&w, (uint32_t)rig->disk.rows[slot].blob.size));
            assert_ok(write_bytes(&w, rig->disk.rows[slot].blob.bytes, rig->disk.rows[slot].blob.size));
        }
        uint16_t code = rig_call(rig, MANAGER_ROWS, writer_span(&w));
        if (code) return code;
    }
    return ERR_NONE;
}

void rig_open(struct rig *rig)
{
    rig_boot(rig);
    assert_int_equal(rig_start_new(rig), ERR_NONE);
}

void rig_reopen(struct rig *rig)
{
    rig_boot(rig);
    assert_int_equal(rig_start_open(rig), ERR_NONE);
    assert_int_equal(rig_rows(rig), ERR_NONE);
    assert_int_equal(rig_loaded(rig), ERR_NONE);
    rig_finish_k1(rig);
}

/* ---- K1 ---- */

uint16_t rig_answer(struct rig *rig, struct span *results)
{
    for (size_t i = 0; i < rig->effect_count; i++) {
        struct reader r = reader_of(rig->effects[i].bytes);
        uint16_t verb = 0;
        uint16_t code = 0;
        uint32_t zero = 0;
        uint64_t number = 0;
        if (rig->effects[i].kind != MANAGER_EFFECT_RECORD || r.left == 0) continue;
        assert_ok(read_u16(&r, &verb));
        assert_ok(read_u16(&r, &code));
        assert_ok(read_u32(&r, &zero));
        assert_ok(read_u64(&r, &number));
        if (number != rig->requests) continue;
        if (results) *results = span_of(r.next, r.left);
        return code;
    }
    return RIG_NOT_ANSWERED;
}

struct span rig_event(const struct rig *rig, uint16_t event, uint16_t *code)
{
    for (size_t i = 0; i < rig->effect_count; i++) {
        struct reader r = reader_of(rig->effects[i].bytes);
        uint16_t word = 0;
        if (rig->effects[i].kind != MANAGER_EFFECT_RECORD || r.left == 0) continue;
        assert_ok(read_u16(&r, &word));
        if (word != event) continue;
        assert_ok(read_u16(&r, code));
        return span_of(rig->effects[i].bytes.data + MANAGER_K1_HEADER_SIZE,
                       rig->effects[i].bytes.size - MANAGER_K1_HEADER_SIZE);
    }
    fail_msg("no event %u", event);
    return span_empty();
}

uint16_t rig_ask(struct rig *rig, uint16_t verb, struct span arguments, struct span *results)
{
    uint8_t plaintext[RECORD_PLAINTEXT_MAX];
    uint8_t record[RECORD_MAX];
    struct writer w = writer_of(plaintext, sizeof plaintext);
    struct writer sealed = writer_of(record, sizeof record);
    assert_ok(write_u16(&w, verb));
    assert_ok(write_u16(&w, 0));
    assert_ok(write_u32(&w, 0));
    assert_ok(write_u64(&w, ++rig->requests));
    assert_ok(write_span(&w, arguments));
    assert_ok(link_send(&rig->k1, writer_span(&w), &sealed));
    assert_int_equal(rig_call(rig, MANAGER_RECORD, writer_span(&sealed)), ERR_NONE);
    return rig_answer(rig, results);
}

void rig_parse_row(struct span row, struct ledger_row *out)
{
    uint8_t sealed[ROW_SEALED_SIZE] = {0};
    assert_int_equal(row.size, MANAGER_ROW_SIZE);
    memcpy(sealed, row.data, row.size);
    assert_ok(row_parse_sealed(span_of(sealed, sizeof sealed), out));
}

static uint16_t ask_row(struct rig *rig, uint16_t verb, struct span arguments, struct ledger_row *out)
{
    struct span results = {0};
    uint16_t code = rig_ask(rig, verb, arguments, &results);
    if (code == ERR_NONE && out) rig_parse_row(results, out);
    return code;
}

uint16_t rig_on(struct rig *rig, uint16_t verb, const struct instance_id *id, struct ledger_row *out)
{
    return ask_row(rig, verb, span_of(id->bytes, sizeof id->bytes), out);
}

uint16_t rig_create(struct rig *rig, const char *label, const uint8_t *owner, const uint8_t *front_key,
                    struct ledger_row *out)
{
    uint8_t arguments[MANAGER_LABEL_SIZE + 72] = {0};
    memcpy(arguments, label, strlen(label));
    arguments[MANAGER_LABEL_SIZE + 64] = rig->imports ? MANAGER_ORIGIN_IMPORTED : MANAGER_ORIGIN_HERE;
    arguments[MANAGER_LABEL_SIZE + 65] = PEER_LOCKOUT_TIME;
    arguments[MANAGER_LABEL_SIZE + 66] = rig->family;
    arguments[MANAGER_LABEL_SIZE + 67] = rig->snapshots;
    if (owner) memcpy(arguments + MANAGER_LABEL_SIZE, owner, 32);
    if (front_key) memcpy(arguments + MANAGER_LABEL_SIZE + 32, front_key, 32);
    return ask_row(rig, MANAGER_CREATE, span_of(arguments, sizeof arguments), out);
}

uint16_t rig_delete(struct rig *rig, const struct instance_id *id, const uint8_t *signature)
{
    uint8_t arguments[INSTANCE_ID_SIZE + ED25519_SIGNATURE_SIZE] = {0};
    memcpy(arguments, id->bytes, INSTANCE_ID_SIZE);
    if (signature) memcpy(arguments + INSTANCE_ID_SIZE, signature, ED25519_SIGNATURE_SIZE);
    return rig_ask(rig, MANAGER_DELETE, span_of(arguments, sizeof arguments), NULL);
}

static uint16_t attach_as(struct rig *rig, uint16_t verb, const struct instance_id *id, uint64_t channel)
{
    uint8_t arguments[INSTANCE_ID_SIZE + sizeof channel + X25519_SIZE];
    static const uint8_t share[X25519_SIZE] = "the share of the front-end";
    struct writer w = writer_of(arguments, sizeof arguments);
    assert_ok(write_bytes(&w, id->bytes, INSTANCE_ID_SIZE));
    assert_ok(write_u64(&w, channel));
    assert_ok(write_bytes(&w, share, sizeof share));
    return rig_ask(rig, verb, writer_span(&w), NULL);
}

uint16_t rig_attach(struct rig *rig, const struct instance_id *id, uint64_t channel)
{
    return attach_as(rig, MANAGER_ATTACH, id, channel);
}

uint16_t rig_attach_incoming(struct rig *rig, const struct instance_id *id, uint64_t channel)
{
    return attach_as(rig, MANAGER_ATTACH_INCOMING, id, channel);
}

uint16_t rig_reattach(struct rig *rig, const struct instance_id *id, uint64_t channel)
{
    uint8_t arguments[sizeof channel + INSTANCE_ID_SIZE];
    struct writer w = writer_of(arguments, sizeof arguments);
    assert_ok(write_u64(&w, channel));
    assert_ok(write_bytes(&w, id->bytes, INSTANCE_ID_SIZE));
    return rig_ask(rig, MANAGER_REATTACH, writer_span(&w), NULL);
}

uint16_t rig_stopped(struct rig *rig, const uint8_t receipt[PEER_RECEIPT_SIZE])
{
    return rig_ask(rig, MANAGER_STOPPED, span_of(receipt, PEER_RECEIPT_SIZE), NULL);
}

struct ledger_row rig_row(struct rig *rig, const struct instance_id *id)
{
    struct ledger_row row;
    assert_int_equal(rig_on(rig, MANAGER_SHOW, id, &row), ERR_NONE);
    return row;
}

/* ---- instances ---- */

uint16_t rig_say(struct rig *rig, const struct fake_instance *fake, struct span message)
{
    uint8_t body[sizeof(uint64_t) + PEER_MESSAGE_MAX];
    struct writer w = writer_of(body, sizeof body);
    assert_ok(write_u64(&w, fake->channel));
    assert_ok(write_span(&w, message));
    return rig_call(rig, MANAGER_PEER, writer_span(&w));
}

static bool is_for(struct span bytes, const struct fake_instance *fake)
{
    struct reader r = reader_of(bytes);
    uint64_t channel = 0;
    assert_ok(read_u64(&r, &channel));
    return channel == fake->channel;
}

struct span rig_sent(const struct rig *rig, const struct fake_instance *fake, size_t nth)
{
    for (size_t i = 0; i < rig->effect_count; i++) {
        struct span bytes = rig->effects[i].bytes;
        if (rig->effects[i].kind != MANAGER_EFFECT_SEND || !is_for(bytes, fake) || nth-- > 0) continue;
        return span_of(bytes.data + sizeof(uint64_t), bytes.size - sizeof(uint64_t));
    }
    fail_msg("nothing was sent");
    return span_empty();
}

uint16_t rig_closed(const struct rig *rig, const struct fake_instance *fake)
{
    for (size_t i = 0; i < rig->effect_count; i++) {
        struct span bytes = rig->effects[i].bytes;
        if (rig->effects[i].kind != MANAGER_EFFECT_CLOSE || !is_for(bytes, fake)) continue;
        assert_int_equal(bytes.size, 16);
        return (uint16_t)(bytes.data[8] | bytes.data[9] << 8);
    }
    return 0;
}

struct span rig_challenged(struct rig *rig, const struct instance_id *id, uint64_t channel, struct fake_instance *out)
{
    fake_instance_open(out, id, channel);
    assert_int_equal(rig_attach(rig, id, channel), ERR_NONE);
    return fake_instance_prove(out, rig_sent(rig, out, 0));
}

void rig_serve(struct rig *rig, const struct instance_id *id, uint64_t channel, struct fake_instance *out)
{
    assert_int_equal(rig_on(rig, MANAGER_START_INSTANCE, id, NULL), ERR_NONE);
    struct span proof = rig_challenged(rig, id, channel, out);
    assert_int_equal(rig_say(rig, out, proof), ERR_NONE);
    assert_int_equal(rig_closed(rig, out), 0);
    fake_instance_admit(out, rig_sent(rig, out, 0), rig_sent(rig, out, 1));
    assert_int_equal(rig_say(rig, out, fake_instance_ready(out)), ERR_NONE);
    assert_int_equal(rig_closed(rig, out), 0);
}

void rig_commit(struct rig *rig, struct fake_instance *fake, uint64_t version, uint8_t fill)
{
    uint8_t digest[SHA256_SIZE];
    memset(digest, fill, sizeof digest);
    assert_int_equal(rig_say(rig, fake, fake_instance_commit(fake, version, digest)), ERR_NONE);
    assert_int_equal(rig_closed(rig, fake), 0);
    struct span fields = fake_instance_hear(fake, rig_sent(rig, fake, 0), PEER_ANCHORED);
    assert_int_equal(fields.size, sizeof version + SHA256_SIZE);
    assert_memory_equal(fields.data, &version, sizeof version);
    assert_memory_equal(fields.data + sizeof version, digest, SHA256_SIZE);
}

uint16_t rig_stop(struct rig *rig, const struct fake_instance *fake)
{
    uint8_t receipt[PEER_RECEIPT_SIZE];
    struct ledger_row row = rig_row(rig, &fake->id);
    fake_instance_receipt(fake, row.version, row.digest, receipt);
    return rig_stopped(rig, receipt);
}

/* ---- between two managers ---- */

static uint16_t ask_message(struct rig *rig, uint16_t verb, struct span arguments, struct rig_message *out)
{
    struct span results = {0};
    uint16_t code = rig_ask(rig, verb, arguments, &results);
    if (code != ERR_NONE || !out) return code;
    assert_true(results.size <= sizeof out->bytes);
    memcpy(out->bytes, results.data, results.size);
    out->size = results.size;
    return code;
}

uint16_t rig_member_ask(struct rig *rig, enum member_act what, const struct instance_id *id, struct rig_message *out)
{
    uint8_t arguments[8 + INSTANCE_ID_SIZE] = {(uint8_t)what};
    if (id) memcpy(arguments + 8, id->bytes, INSTANCE_ID_SIZE);
    return ask_message(rig, MANAGER_MEMBER_ASK, span_of(arguments, sizeof arguments), out);
}

uint16_t rig_member_answer(struct rig *rig, const struct rig_message *question, struct rig_message *out)
{
    return ask_message(rig, MANAGER_MEMBER_ANSWER, span_of(question->bytes, question->size), out);
}

uint16_t rig_member_take(struct rig *rig, const struct instance_id *id, const struct rig_message *answer,
                         struct ledger_row *row)
{
    uint8_t arguments[INSTANCE_ID_SIZE + PEER_MESSAGE_MAX] = {0};
    if (id) memcpy(arguments, id->bytes, INSTANCE_ID_SIZE);
    memcpy(arguments + INSTANCE_ID_SIZE, answer->bytes, answer->size);
    return ask_row(rig, MANAGER_MEMBER_TAKE, span_of(arguments, INSTANCE_ID_SIZE + answer->size), row);
}

uint16_t rig_member(struct rig *asker, struct rig *answerer, enum member_act what, const struct instance_id *id,
                    struct ledger_row *row)
{
    struct rig_message question = {0};
    struct rig_message answer = {0};
    uint16_t code = rig_member_ask(asker, what, id, &question);
    if (code == ERR_NONE) code = rig_member_answer(answerer, &question, &answer);
    if (code != ERR_NONE || what == MEMBER_CONFIRM) return code;
    return rig_member_take(asker, id, &answer, row);
}
