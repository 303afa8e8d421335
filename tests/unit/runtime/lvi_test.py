#!/usr/bin/python3
"""
The level lvi of mitigations (CVE-2020-0551): in code compiled for it no load's value is used before an LFENCE, and no return
and no indirect branch takes its address from a load that was not waited for. The stub stays what it is.

    lvi_test.py ARCHIVE
"""

import re
import subprocess
import sys

STUB = ["enclu", "ret"]
LOADS = re.compile(r"^mov\w*\s+-?(0x)?[0-9a-f]*\(%(?!rip)")


def functions(archive):
    """(name, instructions) of every function."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", archive], check=True, capture_output=True, text=True).stdout
    for block in re.split(r"\n(?=[0-9a-f]{16} <)", text):
        name = re.match(r"[0-9a-f]{16} <(\S+)>:", block)
        if name:
            yield name.group(1), re.findall(r"^\s+[0-9a-f]+:\t(.*?)\s*(?:#.*)?$", block, re.M)


def faults(name, code):
    if name == "enclave_stub":
        return [] if code[:2] == STUB else [f"{name}: {code[:2]}"]
    found = []
    for i, instruction in enumerate(code):
        before = code[i - 1] if i else ""
        after = code[i + 1] if i + 1 < len(code) else ""
        if instruction.startswith("ret") and before != "lfence":
            found.append(f"{name}: a return that is not waited for")
        if re.match(r"(call|jmp)\s+\*.*\(", instruction) and before != "lfence":
            found.append(f"{name}: {instruction} is not waited for")
        if LOADS.match(instruction) and after != "lfence":
            found.append(f"{name}: {instruction} is not waited for")
    return found


def main():
    every = list(functions(sys.argv[1]))
    found = [fault for name, code in every for fault in faults(name, code)]
    print("\n".join(found) or f"{len(every)} functions, {sum(code.count('lfence') for _, code in every)} LFENCE")
    return 1 if found or not any(name == "enclave_entry" for name, _ in every) else 0


if __name__ == "__main__":
    sys.exit(main())
