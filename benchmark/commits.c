/*
 * How long a command takes that changes non-volatile state, while other TPMs of the same host commit too: one client in
 * a thread of its own for each socket, each writing to an NV index without a pause.
 *
 *     commits SAMPLES SOCKET...
 *
 * Prints "p50 TAB p99 TAB commits per second", microseconds, over all clients.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "benchmark/commands.h"
#include "benchmark/sample.h"
#include "benchmark/target.h"

#define TPM_RC_INIT UINT32_C(0x100)
#define CLIENTS_MAX 128u

struct client {
    pthread_t thread;
    struct target target;
    size_t samples;
    double *us;
};

static uint32_t run(struct client *client, struct err (*build)(struct writer *w))
{
    uint8_t bytes[COMMAND_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    if (build(&w).code) die("a command does not fit into its buffer");
    return target_exchange(&client->target, bytes, w.size);
}

static void *write_on(void *ctx)
{
    struct client *client = ctx;
    for (size_t i = 0; i < client->samples; i++) {
        uint8_t bytes[COMMAND_MAX];
        struct writer w = writer_of(bytes, sizeof bytes);
        if (command_nv_write(&w, (uint32_t)i + 1).code) die("a command does not fit into its buffer");
        double start = now_us();
        uint32_t status = target_exchange(&client->target, bytes, w.size);
        client->us[i] = now_us() - start;
        if (status) die("%s: TPM2_NV_Write: response code 0x%03x", client->target.name, status);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct client clients[CLIENTS_MAX];
    size_t count = argc > 2 ? (size_t)argc - 2 : 0;
    size_t samples = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
    if (samples == 0 || count > CLIENTS_MAX) die("usage: commits SAMPLES SOCKET...");
    double *us = calloc(count * samples, sizeof *us);
    if (!us) die("out of memory");
    for (size_t i = 0; i < count; i++) {
        clients[i].samples = samples;
        clients[i].us = us + i * samples;
        target_connect(&clients[i].target, argv[i + 2], argv[i + 2]);
        uint32_t status = run(&clients[i], command_startup);
        if (status && status != TPM_RC_INIT) die("%s: TPM2_Startup: response code 0x%03x", argv[i + 2], status);
        status = run(&clients[i], command_nv_define);
        if (status) die("%s: TPM2_NV_DefineSpace: response code 0x%03x", argv[i + 2], status);
    }
    double start = now_us();
    for (size_t i = 0; i < count; i++)
        if (pthread_create(&clients[i].thread, NULL, write_on, &clients[i]) != 0) die("no thread");
    for (size_t i = 0; i < count; i++)
        pthread_join(clients[i].thread, NULL);
    double took = now_us() - start;
    for (size_t i = 0; i < count; i++) {
        (void)run(&clients[i], command_nv_undefine);
        target_close(&clients[i].target);
    }
    qsort(us, count * samples, sizeof *us, sample_compare);
    printf("%.1f\t%.1f\t%.0f\n", us[count * samples / 2], us[count * samples * 99 / 100],
           (double)(count * samples) / took * 1e6);
    free(us);
    return 0;
}
