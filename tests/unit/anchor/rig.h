/* A swtpm in the place of the chip, the wire to it, and a host on the wire that may lie. */
#pragma once

#include "tests/fakes/assertions.h"

#include <stdbool.h>
#include <sys/types.h>

#include "trusted/anchor/anchor.h"

#define RIG_NV_INDEX UINT32_C(0x01800123)
#define NOWHERE      SIZE_MAX

struct chip {
    char directory[64];
    pid_t pid;
    int wire;
};

void chip_make(struct chip *chip);
void chip_start(struct chip *chip);
/* Its state stays; chip_start is then a TPM reset. */
void chip_stop(struct chip *chip);
void chip_remove(struct chip *chip);
/* Runs a shell command with TPM2TOOLS_TCTI for this chip; its output is in out with a NUL. Its exit status. */
int chip_tool(struct chip *chip, const char *command, char *out, size_t size);

struct exchange {
    uint8_t request[ANCHOR_EXCHANGE_MAX], answer[ANCHOR_EXCHANGE_MAX];
    size_t request_size, answer_size;
};

/* What the host does to the answer of exchange number at of an operation (from 0). */
struct lie {
    size_t at;         /* NOWHERE: it is honest */
    size_t flipped;    /* this byte is changed, unless NOWHERE */
    size_t cut_to;     /* the answer ends here, unless NOWHERE */
    bool refuse;       /* an error is answered instead, after the TPM has done it */
    bool reset_before; /* the TPM is reset, and then the request carried */
    bool reset_after;  /* the request is carried, the TPM reset, and the request carried again */
};

extern const struct lie honest;

struct run {
    struct exchange exchanges[24]; /* those of the last operation, with honest answers */
    size_t count;
    struct anchor_state there;
};

void carry(struct chip *chip, struct span request, struct exchange *out);
/* Sends the bytes of a command and wants success. */
void chip_command(struct chip *chip, const void *bytes, size_t size, uint32_t expected_code);
/* Goes on from the request in first until the operation is over. */
struct err operate(struct chip *chip, struct anchor *anchor, const struct writer *first, const struct lie *lie,
                   struct run *run);
/* Sessions and keys that runs have left in the chip. */
void chip_flush(struct chip *chip);

bool is_authenticated(const struct exchange *exchange);
