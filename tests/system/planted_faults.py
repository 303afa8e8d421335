#!/usr/bin/python3
"""tools/check-image notices what it is there to notice: faults are planted in a copy of the linked enclaves."""

import os
import struct
import subprocess
import sys

from harness import new_directory
from tap import require, run, test

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
ENCLAVES = os.path.join(os.environ.get("BUILD_DIR", os.path.join(ROOT, "build")), "enclave")
ELF = os.path.join(ENCLAVES, "instance.elf")
MANAGER_ELF = os.path.join(ENCLAVES, "manager.elf")

# Name of a function that gets the bytes at its start, the bytes, and what check-image has to say of it.
PLANTED_CODE = [
    ("heap_free", "0fa2", "'cpuid' at"),
    ("heap_size", "0f05", "'syscall' at"),
    ("clock_advance", "0f31", "'rdtsc' at"),
    ("clock_now", "cd80", "'int    $0x80' at"),
    ("host_copy_in", "0f01d7", "ENCLU at"),
    ("host_copy_out", "64488b042500000000", "only the canary at FS:0x28"),
    ("entropy_fill", "65488b042528000000", "only the canary at FS:0x28"),
    ("sgx_egetkey", "0f01c1", "'vmcall' at"),
    ("cpuid_set_hints", "8ed8", "%ds' at"),
    ("hkdf_sha256", "f4", "'hlt' at"),
]


def read_elf(path=ELF):
    with open(path, "rb") as file:
        return bytearray(file.read())


def headers(data):
    return struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]


def file_offset(data, address):
    start, count = headers(data)
    for place in range(start, start + 56 * count, 56):
        kind, _, offset, vaddr, _, size = struct.unpack_from("<IIQQQQ", data, place)
        if kind == 1 and vaddr <= address < vaddr + size:
            return offset + address - vaddr
    raise AssertionError(f"{address:#x} has no content")


def addresses(path=ELF):
    output = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    return {fields[2]: int(fields[0], 16) for fields in map(str.split, output.splitlines()) if len(fields) == 3}


def check(data):
    path = os.path.join(new_directory(), "planted.elf")
    with open(path, "wb") as file:
        file.write(data)
    result = subprocess.run([os.path.join(ROOT, "tools", "check-image"), path], capture_output=True, text=True, check=False)
    return result.returncode, result.stderr


def require_planted_code_is_found(path):
    data, places = read_elf(path), addresses(path)
    for function, code, _ in PLANTED_CODE:
        offset = file_offset(data, places[function])
        data[offset:offset + len(code) // 2] = bytes.fromhex(code)
    status, output = check(data)
    require(status == 1, output)
    for function, _, sentence in PLANTED_CODE:
        require(any(sentence in line and function in line for line in output.splitlines()), f"{function}: {output}")


@test
def instructions_that_fault_inside_the_instance_are_found():
    require_planted_code_is_found(ELF)


@test
def instructions_that_fault_inside_the_manager_are_found():
    require_planted_code_is_found(MANAGER_ELF)


@test
def a_call_of_what_is_never_reached_is_found():
    data, places = read_elf(), addresses()
    offset = file_offset(data, places["heap_free"])
    data[offset:offset + 5] = b"\xe8" + struct.pack("<i", places["OPENSSL_rdtsc"] - places["heap_free"] - 5)
    status, output = check(data)
    require(status == 1 and "heap_free calls OPENSSL_rdtsc" in output, output)


@test
def a_segment_writable_and_executable_is_found():
    data = read_elf()
    start, count = headers(data)
    for place in range(start, start + 56 * count, 56):
        kind, flags = struct.unpack_from("<II", data, place)
        if kind == 1 and flags & 1:
            struct.pack_into("<I", data, place + 4, flags | 2)
    status, output = check(data)
    require(status == 1 and "writable and executable" in output, output)


@test
def thread_local_storage_is_found():
    data = read_elf()
    start, count = headers(data)
    for place in range(start, start + 56 * count, 56):
        if struct.unpack_from("<I", data, place)[0] == 0x6474E551:  # PT_GNU_STACK
            struct.pack_into("<I", data, place, 7)
    status, output = check(data)
    require(status == 1 and "thread-local storage" in output, output)


@test
def a_stub_that_differs_is_found():
    data = read_elf()
    offset = file_offset(data, addresses()["enclave_stub"])
    data[offset + 20] ^= 1
    status, output = check(data)
    require(status == 1 and "ENCLU stub" in output, output)


@test
def an_entry_that_does_not_clear_df_first_is_found():
    data = read_elf()
    offset = file_offset(data, addresses()["enclave_entry"])
    data[offset] = 0x90
    status, output = check(data)
    require(status == 1 and "not CLD" in output, output)


@test
def the_threat_model_names_tests_that_exist():
    with open(os.path.join(ROOT, "docs", "threat-model.md"), encoding="utf-8") as file:
        words = file.read().replace("`", " ").replace(",", " ").split()
    named = {word for word in words if word.startswith(("tests/", "fuzz/", "tools/"))}
    require(len(named) > 10, f"only {len(named)} are named")
    for path in sorted(named):
        require(os.path.exists(os.path.join(ROOT, path)), path)


if __name__ == "__main__":
    run()
