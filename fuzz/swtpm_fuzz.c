/*
 * The command lines of swtpm and swtpm_setup: words, one after the other, each ended by a NUL. What is refused has a
 * sentence; what is accepted hangs together.
 */
#include <stdlib.h>
#include <string.h>

#include "untrusted/swtpm/options.h"
#include "untrusted/swtpm/setup_options.h"

#define WORDS_MAX 24
#define INPUT_MAX 4096u

static void check(bool holds)
{
    if (!holds) abort();
}

static int split(char *text, size_t size, char *out_argv[WORDS_MAX + 1])
{
    int argc = 0;
    for (size_t at = 0; at < size && argc < WORDS_MAX; at += strlen(text + at) + 1)
        out_argv[argc++] = text + at;
    out_argv[argc] = NULL;
    return argc;
}

static void check_channel(const struct swtpm_channel *channel)
{
    if (!channel->given) return;
    check(channel->type != NULL);
    check(channel->fd < 0 || channel->client_fd < 0);
    check(channel->mode <= 07777 && channel->port <= 65535);
}

static void run_swtpm(char *text, size_t size)
{
    struct swtpm_options options;
    struct explanation why = {0};
    char *argv[WORDS_MAX + 1];
    const int argc = split(text, size, argv);
    if (swtpm_options_parse(argc, argv, &options, &why).code) {
        check(why.text[0]);
        return;
    }
    check(options.key_count <= SWTPM_KEYS_MAX);
    const bool informs = options.help || options.version || options.print_capabilities;
    if (informs) return;
    check(options.directory && options.interface != SWTPM_NONE);
    if (options.print_states) return;
    check_channel(&options.control);
    check_channel(&options.data);
}

static void run_setup(char *text, size_t size)
{
    struct setup_options options;
    struct explanation why = {0};
    char *argv[WORDS_MAX + 1];
    const int argc = split(text, size, argv);
    if (setup_options_parse(argc, argv, &options, &why).code) {
        check(why.text[0]);
        return;
    }
    const bool informs = options.help || options.version || options.print_capabilities || options.config_files;
    check(informs || options.directory);
    check(informs || options.rsa_bits == 2048 || (options.tpm2 && options.rsa_bits == 3072));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX) return 0;
    char *text = malloc(size + 1);
    check(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    run_swtpm(text, size);
    memcpy(text, data, size); /* the first took it apart */
    run_setup(text, size);
    free(text);
    return 0;
}
