/*
 * The admin API's parser: any line. What it takes has every member in its bounds; what it refuses has a sentence.
 */
#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/request.h"

static void check(bool holds)
{
    if (!holds) abort();
}

/* Reads what a handler would read. */
static void use(const struct request *request)
{
    volatile size_t sum = 0;
    check(request->execute != NULL);
    if (request->instance) sum += strlen(request->instance);
    if (request->label) sum += strlen(request->label);
    if (request->act) sum += strlen(request->act);
    if (request->listen) sum += json_array_size(request->listen);
    for (size_t i = 0; i < sizeof request->signature; i++)
        sum += request->signature[i];
    (void)sum;
    check(!request->label == (request->verb != REQUEST_CREATE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct request request;
    char reason[REQUEST_REASON_SIZE] = "";
    if (size > REQUEST_SIZE_MAX) return 0;
    struct err result = request_parse(span_of(data, size), &request, reason);
    if (result.code) {
        check(reason[0] && memchr(reason, 0, sizeof reason));
        check(request.root || !request.id);
    } else {
        use(&request);
    }
    request_free(&request);
    check(!request.root);
    return 0;
}
