/*
 * Prints what a link of each kind, a peer session and a resumed one come to with fixed keys: "name hex" on each line.
 * key_schedules_test.py says the same from the description alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/link_pair.h"
#include "tests/fakes/peer_pair.h"

int __wrap_RAND_bytes(unsigned char *out, int size);
int __wrap_RAND_priv_bytes(unsigned char *out, int size);

/* Draw n has the bytes 16 n, 16 n + 1 and so on. */
int __wrap_RAND_bytes(unsigned char *out, int size)
{
    static unsigned draw;
    for (int i = 0; i < size; i++)
        out[i] = (unsigned char)(16 * draw + (unsigned)i);
    draw++;
    return 1;
}

int __wrap_RAND_priv_bytes(unsigned char *out, int size)
{
    return __wrap_RAND_bytes(out, size);
}

static void must(struct err err)
{
    if (err.code) abort();
}

static void show(const char *group, const char *name, struct span bytes)
{
    printf("%s.%s ", group, name);
    for (size_t i = 0; i < bytes.size; i++)
        printf("%02x", bytes.data[i]);
    putchar('\n');
}

static uint8_t record[RECORD_MAX];

/* FINISH in one direction. */
static void show_finish(const char *group, const char *name, struct link *from, struct link *to)
{
    struct writer w = writer_of(record, sizeof record);
    enum link_event event;
    struct span none;
    must(link_finish(from, &w));
    show(group, name, writer_span(&w));
    must(link_pair_hear(to, writer_span(&w), &event, &none));
}

static void show_link(const char *group, enum link_kind kind)
{
    struct link_pair pair;
    link_pair_init(&pair, kind);
    must(link_pair_open_host(&pair, pair.enclave_key.public));
    must(link_pair_open_enclave(&pair, pair.host_key.public));
    show(group, "h", span_of(pair.host.h, sizeof pair.host.h));
    show_finish(group, "host.finish", &pair.host, &pair.enclave);
    show_finish(group, "enclave.finish", &pair.enclave, &pair.host);
    show(group, "host.data", link_pair_say(&pair.host, span_of("from the host", 13), record));
    show(group, "enclave.data", link_pair_say(&pair.enclave, span_of("from the enclave", 16), record));
    struct writer w = writer_of(record, sizeof record);
    must(link_send_final(&pair.host, &w));
    show(group, "host.final", writer_span(&w));
    link_pair_close(&pair);
}

static void show_words(const char *group, struct peer_pair *pair)
{
    struct writer w = writer_of(record, sizeof record);
    must(peer_send(&pair->manager, PEER_PROVISION, span_of("from the manager", 16), &w));
    show(group, "manager.word", writer_span(&w));
    w.size = 0;
    must(peer_send(&pair->instance, PEER_READY, span_of("from the instance", 17), &w));
    show(group, "instance.word", writer_span(&w));
}

/* A message that ends with a REPORT: what is before it, and its REPORTDATA. */
static void show_with_report(const char *name, const struct writer *message)
{
    size_t head = message->size - SGX_REPORT_SIZE;
    char reportdata[32];
    (void)snprintf(reportdata, sizeof reportdata, "%s.reportdata", name);
    show("peer", name, span_of(message->start, head));
    show("peer", reportdata,
         span_of(message->start + head + offsetof(struct sgx_report, REPORTDATA), SGX_REPORTDATA_SIZE));
}

int main(void)
{
    struct peer_pair pair;
    show_link("k1", LINK_K1);
    show_link("k2-named", LINK_K2_NAMED);
    show_link("k2-enrolled", LINK_K2_ENROLLED);
    peer_pair_init(&pair);
    peer_pair_establish(&pair);
    show("peer", "challenge", writer_span(&pair.challenge));
    show_with_report("proof", &pair.proof);
    show_with_report("admit", &pair.admit);
    show_words("peer", &pair);
    peer_pair_reestablish(&pair);
    show("resume", "resume", writer_span(&pair.resume));
    show("resume", "accept", writer_span(&pair.accept));
    show("resume", "confirm", writer_span(&pair.confirm));
    show_words("resume", &pair);
    peer_pair_close(&pair);
    return 0;
}
