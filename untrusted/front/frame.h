/* Pieces of the parsers. */
#pragma once

#include "base/bytes.h"
#include "untrusted/front/protocol.h"

/* u32 8, u8 locality, u32 size, command. */
void frame_parse(struct span received, struct message *out_message);

/* Makes message an answer with a code and nothing else. */
void message_answer_code(struct message *message, uint32_t code);

/* Makes message, whose size is set, the answer to a command that does not reach the TPM. */
void message_refuse_command(struct message *message, const struct dialect *dialect, uint32_t code);

/* A command with nothing around it: as many bytes as its header says. */
void command_parse(struct span received, const struct dialect *dialect, struct message *out_message);
