#include "trusted/manager/members.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/aead.h"
#include "trusted/manager/lifecycle.h"
#include "trusted/manager/manager.h"
#include "trusted/runtime/sgx.h"
#include "trusted/session/report.h"

/* What this manager wants to know about an instance of another one, and what it was told. */
struct visitor {
    struct visitor *next;
    struct instance_id id; /* zeros: JOIN */
    enum member_act asked; /* 0: what was asked is answered */
    struct x25519_key own; /* for the answer */
    uint8_t question[MEMBER_ASKED_SIZE];
    bool known; /* the row */
    struct ledger_row row;
    uint64_t channel; /* of the candidate that takes over; 0: none */
};

/* A question before its REPORT, parsed */
struct question {
    uint8_t what;
    uint8_t takes_over;
    uint8_t anchor;
    struct instance_id domain;
    struct instance_id asker;
    struct instance_id id;
    uint64_t epoch;
    uint64_t start;
    uint64_t version;
    struct side side;
};

enum role { ROLE_ASKER = 1, ROLE_ANSWERER = 2 };

/* What is sealed in an answer */
#define SEALED_MAX ROW_SEALED_SIZE

struct sealed {
    uint8_t bytes[SEALED_MAX + AEAD_TAG_SIZE];
};

static void sealed_wipe(struct sealed *sealed)
{
    wipe(sealed, sizeof *sealed);
}

static void wipe_key(struct x25519_key *key)
{
    wipe(key, sizeof *key);
}

/* ---- what both ends agree on ---- */

static struct err write_question(const struct question *question, struct writer *out)
{
    uint8_t *padding = NULL;
    TRY(write_u8(out, question->what));
    TRY(write_u8(out, question->takes_over));
    TRY(write_u8(out, question->anchor));
    TRY(write_zeros(out, 5, &padding));
    TRY(write_bytes(out, question->domain.bytes, sizeof question->domain.bytes));
    TRY(write_bytes(out, question->asker.bytes, sizeof question->asker.bytes));
    TRY(write_bytes(out, question->id.bytes, sizeof question->id.bytes));
    TRY(write_u64(out, question->epoch));
    TRY(write_u64(out, question->start));
    TRY(write_u64(out, question->version));
    return side_write(&question->side, out);
}

static struct err read_question(struct reader *r, struct question *out)
{
    static const uint8_t zeros[5];
    struct span padding;
    TRY(read_u8(r, &out->what));
    TRY(read_u8(r, &out->takes_over));
    TRY(read_u8(r, &out->anchor));
    TRY(read_span(r, sizeof zeros, &padding));
    TRY(read_bytes(r, out->domain.bytes, sizeof out->domain.bytes));
    TRY(read_bytes(r, out->asker.bytes, sizeof out->asker.bytes));
    TRY(read_bytes(r, out->id.bytes, sizeof out->id.bytes));
    TRY(read_u64(r, &out->epoch));
    TRY(read_u64(r, &out->start));
    TRY(read_u64(r, &out->version));
    TRY(side_read(r, &out->side));
    ENSURE(out->what >= MEMBER_JOIN && out->what <= MEMBER_CONFIRM && out->takes_over <= 1, BAD_VALUE);
    ENSURE(memcmp(padding.data, zeros, sizeof zeros) == 0, BAD_VALUE);
    return OK;
}

/* REPORTDATA of a question, or (answerer not NULL) of its answer. Whoever joins has no domain key yet. */
static struct err make_transcript(const struct manager *manager, struct span asked, const struct side *answerer,
                                  uint8_t out[SGX_REPORTDATA_SIZE])
{
    static const uint8_t none[DOMAIN_KEY_SIZE];
    const uint8_t role = answerer ? ROLE_ANSWERER : ROLE_ASKER;
    const bool joins = asked.data[0] == MEMBER_JOIN;
    const struct span parts[] = {
        span_of(MEMBER_LABEL, sizeof MEMBER_LABEL - 1),
        span_of(&role, 1),
        span_of(joins ? none : manager->ledger.domain_key, DOMAIN_KEY_SIZE),
        asked,
        answerer ? span_of(answerer, sizeof *answerer) : span_empty(),
    };
    return hash_sha512(&manager->crypto, parts, sizeof parts / sizeof *parts, out);
}

/* A member is an enclave of this very image. */
static struct err check_report(const struct manager *manager, struct span bytes, const uint8_t *transcript,
                               struct sgx_report *out)
{
    const struct report_expected expected = {
        .MRENCLAVE = manager->own.MRENCLAVE, .ISVPRODID = PRODID_MANAGER, .reportdata = transcript};
    return report_verify(&manager->crypto, bytes, &expected, out);
}

/* ---- visitors ---- */

static struct visitor **find(struct members *members, const struct instance_id *id)
{
    struct visitor **place = &members->first;
    while (*place && memcmp(&(*place)->id, id, sizeof *id) != 0)
        place = &(*place)->next;
    return place;
}

static void forget(struct visitor **place)
{
    struct visitor *visitor = *place;
    *place = visitor->next;
    wipe(visitor, sizeof *visitor);
    free(visitor);
}

/* A new one in the place of what was known of the instance. */
static struct err meet(struct members *members, const struct instance_id *id, struct visitor **out)
{
    struct visitor **place = find(members, id);
    size_t count = 0;
    if (*place) forget(place);
    struct visitor *visitor = calloc(1, sizeof *visitor);
    ENSURE(visitor, NO_MEMORY);
    visitor->id = *id;
    visitor->next = members->first;
    members->first = visitor;
    for (place = &members->first; *place && count < VISITORS_MAX; count++)
        place = &(*place)->next;
    if (*place) forget(place);
    *out = visitor;
    return OK;
}

void members_close(struct members *members)
{
    while (members->first)
        forget(&members->first);
}

struct err members_read_visitor(const struct members *members, struct reader *id, struct ledger_row *out_row)
{
    struct instance_id wanted;
    TRY(read_bytes(id, wanted.bytes, sizeof wanted.bytes));
    for (const struct visitor *visitor = members->first; visitor; visitor = visitor->next) {
        if (!visitor->known || memcmp(&visitor->id, &wanted, sizeof wanted) != 0) continue;
        *out_row = visitor->row;
        return OK;
    }
    return FAIL(NO_INSTANCE);
}

struct err members_redeem(struct manager *manager, const struct ledger_row *told, uint64_t channel, uint64_t version)
{
    struct visitor *visitor = *find(&manager->members, &told->id);
    ENSURE(visitor && visitor->known && !visitor->channel, FENCED);
    ENSURE(visitor->row.epoch == told->epoch && visitor->row.start == told->start, FENCED);
    visitor->channel = channel;
    visitor->row.version = version;
    return OK;
}

/* ---- asking ---- */

/* What the question is about, besides what every question says. */
static struct err ask_about(struct manager *manager, struct question *question, struct visitor **out_visitor,
                            uint64_t *out_store)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    struct visitor *visitor = NULL;
    switch ((enum member_act)question->what) {
    case MEMBER_JOIN:
        TRY(ledger_check_join(&manager->ledger));
        question->domain = (struct instance_id){0};
        return meet(&manager->members, &question->id, out_visitor);
    case MEMBER_LOOK:
        return meet(&manager->members, &question->id, out_visitor);
    case MEMBER_MOVE:
        visitor = *find(&manager->members, &question->id);
        ENSURE(visitor && visitor->known, VERB_STATE);
        question->takes_over = visitor->channel != 0;
        question->epoch = visitor->row.epoch;
        question->start = visitor->row.start;
        question->version = visitor->row.version;
        *out_visitor = visitor;
        return OK;
    case MEMBER_CONFIRM:
        TRY(ledger_find(&manager->ledger, &question->id, &row));
        question->start = row.start;
        *out_store = row.store;
        return OK;
    }
    return FAIL(BAD_VALUE);
}

struct err members_ask(struct manager *manager, enum member_act what, const struct instance_id *id, struct writer *out,
                       uint64_t *out_store)
{
    struct question question = {.what = (uint8_t)what,
                                .anchor = (uint8_t)manager->ledger.anchor.kind,
                                .domain = manager->ledger.domain,
                                .asker = manager->ledger.member,
                                .id = *id};
    struct x25519_key own DEFER(wipe_key) = {0};
    struct visitor *visitor = NULL;
    uint8_t transcript[SGX_REPORTDATA_SIZE];
    struct sgx_targetinfo target;
    struct sgx_report report;
    uint8_t asked[MEMBER_ASKED_SIZE];
    struct writer w = writer_of(asked, sizeof asked);
    TRY(ask_about(manager, &question, &visitor, out_store));
    TRY(side_draw(&manager->crypto, &own, &question.side));
    TRY(write_question(&question, &w));
    TRY(make_transcript(manager, writer_span(&w), NULL, transcript));
    report_own_target(&target);
    sgx_ereport(&target, transcript, &report);
    if (visitor) {
        visitor->asked = what;
        visitor->own = own;
        memcpy(visitor->question, asked, sizeof asked);
    }
    TRY(write_span(out, writer_span(&w)));
    return write_bytes(out, &report, SGX_REPORT_SIZE);
}

/* ---- answering ---- */

static bool is_with(const struct ledger_row *row, const struct question *question)
{
    return row->state == MANAGER_MOVED && memcmp(row->holder, question->asker.bytes, INSTANCE_ID_SIZE) == 0;
}

static bool has_root_key(const struct ledger_row *row)
{
    static const uint8_t none[BLOB_ROOT_SIZE];
    return memcmp(row->root_key, none, sizeof none) != 0;
}

static struct err tell_domain(struct manager *manager, struct writer *out)
{
    TRY(write_bytes(out, manager->ledger.domain.bytes, INSTANCE_ID_SIZE));
    return write_bytes(out, manager->ledger.domain_key, DOMAIN_KEY_SIZE);
}

static struct err tell_row(struct manager *manager, const struct question *question, struct ledger_row *row,
                           struct writer *out)
{
    uint8_t root[BLOB_ROOT_SIZE];
    if (!is_with(row, question)) TRY(lifecycle_check(row, ACT_LOOK));
    ENSURE(has_root_key(row), MOVED);
    TRY(blob_export_root(&manager->crypto, row->root_key, row->provisioned_by, root));
    memcpy(row->root_key, root, sizeof root);
    wipe(root, sizeof root);
    return row_write_sealed(row, out);
}

/* Recorded before it is told: the answer waits for the row's store. */
static struct err give_row(struct manager *manager, const struct question *question, struct ledger_row *row,
                           struct writer *out, struct writer *effects)
{
    const enum act act = question->takes_over ? ACT_MOVE_ON : ACT_MOVE;
    ENSURE(question->epoch == row->epoch && question->start == row->start && question->version == row->version, FENCED);
    if (is_with(row, question)) {
        ENSURE(has_root_key(row), MOVED);
        return row_write_sealed(row, out);
    }
    TRY(lifecycle_check(row, act));
    lifecycle_step(row, act);
    memset(row->holder, 0, sizeof row->holder);
    memcpy(row->holder, question->asker.bytes, INSTANCE_ID_SIZE);
    TRY(row_write_sealed(row, out));
    TRY(ledger_change(&manager->ledger, row));
    return channels_end(manager, row, ERR_FENCED, effects);
}

static struct err erase_row(struct manager *manager, const struct question *question, struct ledger_row *row)
{
    ENSURE(is_with(row, question) && question->start > row->start, MOVED);
    if (!has_root_key(row)) return OK;
    row->version = 0; /* the store removes the states */
    row->reverted = false;
    memset(row->digest, 0, sizeof row->digest);
    memset(row->suspended, 0, sizeof row->suspended);
    memset(row->floors, 0, sizeof row->floors);
    wipe(row->root_key, sizeof row->root_key);
    return ledger_change(&manager->ledger, row);
}

static struct err answer_question(struct manager *manager, const struct question *question, struct writer *out,
                                  uint64_t *out_store, struct writer *effects)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    if (question->what == MEMBER_JOIN) return tell_domain(manager, out);
    TRY(ledger_find(&manager->ledger, &question->id, &row));
    if (question->what == MEMBER_LOOK)
        TRY(tell_row(manager, question, &row, out));
    else if (question->what == MEMBER_MOVE)
        TRY(give_row(manager, question, &row, out, effects));
    else
        TRY(erase_row(manager, question, &row));
    *out_store = row.store;
    return OK;
}

/* Of this domain, which whoever joins is not yet, and beside an anchor that gives no less. */
static struct err check_asker(const struct manager *manager, const struct question *question)
{
    const struct ledger *ledger = &manager->ledger;
    const bool joins = question->what == MEMBER_JOIN;
    ENSURE(joins || memcmp(&question->domain, &ledger->domain, sizeof ledger->domain) == 0, OTHER_DOMAIN);
    ENSURE(memcmp(&question->asker, &ledger->member, sizeof ledger->member) != 0, BAD_VALUE);
    ENSURE(question->what == MEMBER_CONFIRM || question->anchor >= ledger->anchor.kind, WEAKER_ANCHOR);
    return OK;
}
_Static_assert(ANCHOR_FILE < ANCHOR_TPM, "kinds are in the order of what they give");

struct err members_answer(struct manager *manager, struct span bytes, struct writer *out, uint64_t *out_store,
                          struct writer *effects)
{
    struct reader r = reader_of(bytes);
    const struct span asked = span_of(bytes.data, MEMBER_ASKED_SIZE);
    struct question question = {0};
    struct x25519_key own DEFER(wipe_key) = {0};
    struct sealed plaintext DEFER(sealed_wipe) = {0};
    struct writer w = writer_of(plaintext.bytes, SEALED_MAX);
    struct span theirs;
    uint8_t transcript[SGX_REPORTDATA_SIZE];
    struct sgx_report report;
    struct sgx_targetinfo target;
    struct side side;
    TRY(read_question(&r, &question));
    TRY(read_span(&r, SGX_REPORT_SIZE, &theirs));
    TRY(reader_end(&r));
    TRY(check_asker(manager, &question));
    TRY(make_transcript(manager, asked, NULL, transcript));
    TRY(check_report(manager, theirs, transcript, &report));
    report_target_of(&report, &target);

    const struct side_session session = {&manager->crypto, &own, question.side.share, transcript, MEMBER_LABEL};
    TRY(side_draw(&manager->crypto, &own, &side));
    TRY(make_transcript(manager, asked, &side, transcript));
    sgx_ereport(&target, transcript, &report);
    TRY(answer_question(manager, &question, &w, out_store, effects));
    /* What was recorded is asked for again if this fails. */
    TRY(side_write(&side, out));
    TRY(write_bytes(out, &report, SGX_REPORT_SIZE));
    return side_seal(&session, writer_span(&w), out);
}

/* ---- taking ---- */

/* Authenticated: of a member, and to what was asked last. */
static struct err open_answer(struct manager *manager, const struct visitor *visitor, struct span answer,
                              struct sealed *out, size_t *out_size)
{
    struct reader r = reader_of(answer);
    const struct span asked = span_of(visitor->question, sizeof visitor->question);
    struct span theirs;
    struct span sealed;
    struct side side;
    struct sgx_report report;
    uint8_t transcript[SGX_REPORTDATA_SIZE];
    TRY(side_read(&r, &side));
    TRY(read_span(&r, SGX_REPORT_SIZE, &theirs));
    TRY(read_span(&r, r.left, &sealed));
    ENSURE(sealed.size <= sizeof out->bytes, TRAILING);
    TRY(make_transcript(manager, asked, &side, transcript));
    TRY(check_report(manager, theirs, transcript, &report));
    const struct side_session session = {&manager->crypto, &visitor->own, side.share, transcript, MEMBER_LABEL};
    return side_open(&session, sealed, out->bytes, out_size);
}

static struct err take_domain(struct manager *manager, struct span told, struct ledger_row *out_row)
{
    struct reader r = reader_of(told);
    struct instance_id domain;
    struct span key;
    TRY(read_bytes(&r, domain.bytes, sizeof domain.bytes));
    TRY(read_span(&r, DOMAIN_KEY_SIZE, &key));
    TRY(reader_end(&r));
    TRY(ledger_join(&manager->ledger, &domain, key.data));
    out_row->store = ledger_ask_record(&manager->ledger);
    return OK;
}

static struct err take_look(struct manager *manager, struct visitor *visitor, const struct ledger_row *row)
{
    TRY(ledger_check_arrival(&manager->ledger, row));
    visitor->row = *row;
    visitor->row.slot = LEDGER_ELSEWHERE;
    visitor->row.store = 0;
    visitor->known = true;
    return OK;
}

/* As a start that the candidate holds; or, if there is none, or not any more, as one that has ended. */
static struct err take_row(struct manager *manager, const struct visitor *visitor, struct ledger_row *row,
                           struct writer *effects)
{
    const uint8_t *holder = visitor->channel ? channel_redeeming(manager, visitor->channel, row->start) : NULL;
    row->state = holder ? MANAGER_HELD : row->version ? MANAGER_STOPPED_STATE : MANAGER_PROVISIONED;
    memset(row->holder, 0, sizeof row->holder);
    if (holder) {
        memcpy(row->holder, holder, sizeof row->holder);
        memcpy(row->provisioned_by, manager->own.MRENCLAVE, sizeof row->provisioned_by);
        memset(row->suspended, 0, sizeof row->suspended);
    }
    TRY(ledger_take_arrival(&manager->ledger, row));
    return holder ? channel_arrived(manager, visitor->channel, row, effects) : OK;
}

struct err members_take(struct manager *manager, const struct instance_id *id, struct span answer,
                        struct ledger_row *out_row, struct writer *effects)
{
    struct visitor **place = find(&manager->members, id);
    struct visitor *visitor = *place;
    struct sealed sealed DEFER(sealed_wipe) = {0};
    struct ledger_row row DEFER(row_wipe) = {0};
    size_t size = 0;
    ENSURE(visitor && visitor->asked, VERB_STATE);
    TRY(open_answer(manager, visitor, answer, &sealed, &size));
    const enum member_act asked = visitor->asked;
    visitor->asked = 0;
    wipe(&visitor->own, sizeof visitor->own);
    const struct span told = span_of(sealed.bytes, size);
    if (asked == MEMBER_JOIN) {
        forget(place);
        return take_domain(manager, told, out_row);
    }
    TRY(row_parse_sealed(told, &row));
    ENSURE(memcmp(&row.id, id, sizeof *id) == 0, BAD_VALUE);
    if (asked == MEMBER_LOOK) {
        TRY(take_look(manager, visitor, &row));
    } else {
        TRY(take_row(manager, visitor, &row, effects));
        forget(find(&manager->members, id));
    }
    *out_row = row;
    return OK;
}
