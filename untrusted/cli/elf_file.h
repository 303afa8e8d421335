/*
 * The linked enclave, as enclave/enclave.ld describes it, read into a layout.
 *
 *   PT_LOAD         R-X or R: measured, public. RW: measured.
 *   PT_GNU_RELRO    whole pages of a RW PT_LOAD: RW, measured, public.
 *   .enclave.stub   begins the R-X page with the ENCLU stub
 *   .enclave.heap   RW, not measured      } outside every PT_LOAD,
 *   .enclave.stack  RW, measured zero     } whole pages;
 *   .enclave.ssa    RW, measured zero     } their content in the
 *   .enclave.tls    one page as above     } ELF file is not looked at
 *   .enclave.tcs    one page, made here   }
 */
#pragma once

#include "base/err.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"
#include "untrusted/cli/layout.h"

/*
 * Reads an ELF file; path is only for the explanation. The caller ends the layout with layout_close.
 * ERR_ELF_UNUSABLE, and the explanation names what is in the way.
 */
struct err elf_file_read(struct span file, const char *path, struct layout *out_layout, struct explanation *why);
