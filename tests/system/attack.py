"""What root can read of a process: every way in is a function that yields (place, bytes).

An interface that refuses yields nothing for that place: that is the answer the attack gets. A way in that reads
nothing at all of a process raises, because then it has shown nothing; the one that must be silent is said so.
Not tried here: kernel memory (/proc/kcore, kdump), perf, BPF, kprobes, code injection, the hypervisor.
"""

import ctypes
import glob
import mmap
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.syscall.restype = ctypes.c_long
PTRACE_PEEKDATA, PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 2, 0x4206, 0x4207, 17
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
CHUNK = 1 << 20


class Mapping:
    def __init__(self, line):
        fields = line.split(None, 5)
        self.start, self.end = (int(part, 16) for part in fields[0].split("-"))
        self.flags = fields[1]
        self.name = fields[5].strip() if len(fields) > 5 else ""
        self.span = fields[0]

    def readable_by_kernel(self):
        return self.name not in ("[vvar]", "[vsyscall]", "[vvar_vclock]")


def mappings(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        return [mapping for mapping in map(Mapping, file) if mapping.readable_by_kernel()]


def proc_mem(pid):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for mapping in mappings(pid):
            for start in range(mapping.start, mapping.end, CHUNK):
                try:
                    # 256 bytes more than the chunk, so that nothing hides on an edge
                    yield f"{mapping.span} {mapping.name}", os.pread(
                        memory.fileno(), min(CHUNK + 256, mapping.end - start), start)
                except OSError:
                    pass


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def vm_readv(pid):
    buffer = ctypes.create_string_buffer(CHUNK + 256)
    for mapping in mappings(pid):
        for start in range(mapping.start, mapping.end, CHUNK):
            local = Iovec(ctypes.addressof(buffer), min(CHUNK + 256, mapping.end - start))
            remote = Iovec(start, local.length)
            count = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
            if count > 0:
                yield f"{mapping.span} {mapping.name}", buffer.raw[:count]


def peek(pid):
    """PTRACE_PEEKDATA of everything that is writable: a word at a time is too slow for megabytes of code."""
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) != 0:
        return
    try:
        libc.ptrace(PTRACE_INTERRUPT, pid, None, None)
        os.waitpid(pid, 0x40000000)  # __WALL
        for mapping in mappings(pid):
            if "w" in mapping.flags:
                yield f"{mapping.span} {mapping.name}", peek_mapping(pid, mapping)
    finally:
        libc.ptrace(PTRACE_DETACH, pid, None, None)


def peek_mapping(pid, mapping):
    words = bytearray()
    peek_word, set_errno, get_errno = libc.ptrace, ctypes.set_errno, ctypes.get_errno
    address = mapping.start
    while address < mapping.end:
        set_errno(0)
        word = peek_word(PTRACE_PEEKDATA, pid, address, None)
        if word == -1 and get_errno():
            address = (address | 4095) + 1
            continue
        words += struct.pack("<q", word)
        address += 8
    return bytes(words)


def read_descriptor(descriptor):
    """Everything that a descriptor gives: by pread, by a mapping, and what waits in a socket."""
    mode = os.fstat(descriptor)
    if stat.S_ISSOCK(mode.st_mode):
        with socket.socket(fileno=os.dup(descriptor)) as stream:
            try:
                return stream.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except OSError:
                return b""
    try:
        data = os.pread(descriptor, 64 << 20, 0)
        if data:
            return data
    except OSError:
        pass
    try:
        with mmap.mmap(descriptor, mode.st_size or 1 << 20, prot=mmap.PROT_READ) as window:
            return window[:]
    except (OSError, ValueError):
        return b""


def descriptors(pid):
    """pidfd_getfd of every descriptor, and a second opening through /proc/PID/fd."""
    pidfd = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
    if pidfd < 0:
        return
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(name), 0)
            if copy >= 0:
                yield f"pidfd_getfd {name}", read_descriptor(copy)
                os.close(copy)
            yield from reopened(f"/proc/{pid}/fd/{name}")
    finally:
        os.close(pidfd)


def reopened(path):
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        yield f"open {path}", read_descriptor(descriptor)
    finally:
        os.close(descriptor)


def map_files(pid):
    for name in os.listdir(f"/proc/{pid}/map_files"):
        yield from reopened(f"/proc/{pid}/map_files/{name}")


def gcore(pid, directory):
    """A core as a debugger writes it: of every mapping, also of those that ask not to be dumped."""
    prefix = os.path.join(directory, "gcore")
    subprocess.run(["gcore", "-a", "-o", prefix, str(pid)], check=False, capture_output=True, timeout=120)
    yield from file_content(f"{prefix}.{pid}", remove=True)


def abort_core(pid, directory):
    """The core that the kernel writes into the process' directory; the process ends by it."""
    os.kill(pid, signal.SIGABRT)
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    for path in glob.glob(os.path.join(directory, "core*")):
        yield from file_content(path, remove=True)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kernel_writes_core_files():
    with open("/proc/sys/kernel/core_pattern", encoding="utf-8") as file:
        return re.fullmatch(r"core\S*", file.read().strip()) is not None


def file_content(path, remove=False):
    try:
        with open(path, "rb") as file:
            yield path, file.read()
    except OSError:
        return
    if remove:
        os.unlink(path)


def files_below(*directories):
    for directory in directories:
        for folder, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    yield from file_content(path)


class Search:
    """Looks for pieces of 16 bytes of each secret, as written and in the limb order of libcrypto's BIGNUMs."""

    def __init__(self, values):
        self.pieces = {}
        for name, value in values.items():
            middle = len(value) // 2
            for order in (value, value[::-1]):
                for piece in (order[:16], order[middle - 8:middle + 8], order[-16:]):
                    self.pieces[piece] = name

    def found(self, places):
        """{name of a secret: the first place it was found in} and how many bytes were read."""
        found, size = {}, 0
        for place, data in places:
            size += len(data)
            for piece, name in self.pieces.items():
                if name not in found and piece in data:
                    found[name] = place
        return found, size


def factor_in(places, modulus):
    """Without knowing any secret: a 1024-bit number at an 8-byte boundary that divides the modulus."""
    for place, data in places:
        for offset in range(0, len(data) - 127, 8):
            limb = data[offset:offset + 128]
            if limb[0] & 1 and limb[127] & 0x80 and modulus % int.from_bytes(limb, "little") == 0:
                return place
    return None


def substitution():
    """AES' S-box (FIPS 197, 5.1.1), made from powers of 3 and their inverses."""
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value ^= value << 1 ^ (0x11B if value & 0x80 else 0)
    box = [0x63] * 256
    for exponent, number in enumerate(powers):
        inverse = powers[-exponent % 255]
        box[number] = (inverse ^ sum(1 << bit for bit in range(8) if sum(inverse >> (bit - turn) % 8 for turn in range(1, 5)) & 1)
                       ^ 0x63)
    return box


SUBSTITUTION = substitution()


def expand(key):
    """All round keys of AES-128 or AES-256, one after the other (FIPS 197, 5.2)."""
    words, size, constant = [key[place:place + 4] for place in range(0, len(key), 4)], len(key) // 4, 1
    for number in range(size, 4 * (size + 7)):
        word = words[-1]
        if number % size == 0:
            word = bytes(SUBSTITUTION[byte] for byte in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = constant << 1 ^ (0x11B if constant & 0x80 else 0)
        elif size == 8 and number % size == 4:
            word = bytes(SUBSTITUTION[byte] for byte in word)
        words.append(bytes(a ^ b for a, b in zip(words[-size], word)))
    return b"".join(words)


def expanded_keys(places):
    """Without knowing any secret: (place, key) of AES keys with all their round keys behind them, as libcrypto keeps them
    for the processor's AES instructions, at a 16-byte boundary.
    """
    for place, data in places:
        for size in (16, 32):
            # One byte of the first derived word sorts nearly everything out.
            for offset in range(0, len(data) - 240, 16):
                if data[offset + size + 1] == data[offset + 1] ^ SUBSTITUTION[data[offset + size - 2]]:
                    schedule = expand(data[offset:offset + size])
                    if data[offset:offset + len(schedule)] == schedule:
                        yield place, data[offset:offset + size]
