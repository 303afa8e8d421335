#!/usr/bin/python3
"""M1 and M2: root looks for known secrets in everything it can read of a running TPM.

The same attack on Debian's swtpm must find them, and so must it find them in an instance that runs in ordinary memory;
otherwise it would prove nothing that it does not find them in ours.
"""

import mmap
import os
import struct
import time

import attack
from harness import (SYS_MEMFD_SECRET, Cpu, Instance, Swtpm, connect_unix, need_root, need_secret_memory,
                     new_directory)
from secrets_in_tpm import Secrets
from tap import Skip, note, require, run, test

MEMORY = {
    "/proc/PID/mem": attack.proc_mem,
    "process_vm_readv": attack.vm_readv,
    "PTRACE_PEEKDATA": attack.peek,
    "pidfd_getfd and /proc/PID/fd": attack.descriptors,
    "/proc/PID/map_files": attack.map_files,
}
IN_MEMORY = {"sealed data", "HMAC key", "NV data", "RSA prime p", "RSA prime q"}


class Scene:
    """One TPM that holds the secrets, with the processes and directories that make it up."""

    def __init__(self, kind, **options):
        self.directory = new_directory()
        self.cpu = None
        if kind == "swtpm":
            self.process = Swtpm(self.directory, core=True)
        else:
            self.cpu = Cpu(self.directory, core=True)
            self.process = Instance(self.directory, self.cpu.path, core=True, **options)
        self.secrets = Secrets()
        self.search = attack.Search(self.secrets.values)
        self.client = self.process.connect()
        self.secrets.put_into(self.client)

    def processes(self):
        """[(name, pid)] of everything that runs, an instance's worker included."""
        programs = [self.process] + ([self.cpu] if self.cpu else [])
        return [(f"{one.name} {pid}", pid) for one in programs for pid in one.family()]

    def found(self, places):
        return self.search.found(places)


_scenes = {}


def scene(kind):
    need_root()
    if kind not in _scenes:
        _scenes[kind] = Scene("swtpm") if kind == "swtpm" else Scene("ours")
    return _scenes[kind]


def require_found(way, expected):
    target = scene("swtpm")
    found, size = target.found(way(target.process.pid))
    note(f"swtpm: {size} bytes read, found: {', '.join(sorted(found))}")
    require(expected <= set(found), f"the attack did not find {sorted(expected - set(found))} in swtpm")


def require_hidden(way):
    need_secret_memory()
    target = scene("ours")
    for name, pid in target.processes():
        found, size = target.found(way(pid))
        note(f"{name}: {size} bytes read")
        require(not found, f"{name} gives away {found}")
        require(size > 0, f"the attack read nothing of {name}, so it showed nothing")


@test
def proc_mem_finds_every_secret_in_swtpm():
    require_found(attack.proc_mem, IN_MEMORY)


@test
def proc_mem_finds_nothing_in_ours():
    require_hidden(attack.proc_mem)


@test
def process_vm_readv_finds_every_secret_in_swtpm():
    require_found(attack.vm_readv, IN_MEMORY)


@test
def process_vm_readv_finds_nothing_in_ours():
    require_hidden(attack.vm_readv)


@test
def ptrace_peek_finds_every_secret_in_swtpm():
    require_found(attack.peek, IN_MEMORY)


@test
def ptrace_peek_finds_nothing_in_ours():
    require_hidden(attack.peek)


@test
def gcore_finds_every_secret_in_swtpm():
    require_found(lambda pid: attack.gcore(pid, scene("swtpm").directory), IN_MEMORY)


@test
def gcore_finds_nothing_in_ours():
    require_hidden(lambda pid: attack.gcore(pid, scene("ours").directory))


@test
def descriptors_give_nothing_in_ours():
    require_hidden(attack.descriptors)


@test
def map_files_give_nothing_in_ours():
    require_hidden(attack.map_files)


@test
def descriptors_give_a_secret_away_if_secret_memory_keeps_one_open():
    """Why the descriptor is closed right after mmap: this very process keeps one, and pidfd_getfd reads through it."""
    need_root()
    values = {"planted": os.urandom(32)}
    need_secret_memory()
    descriptor = attack.libc.syscall(SYS_MEMFD_SECRET, 0)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    with mmap.mmap(descriptor, mmap.PAGESIZE) as memory:
        memory[:32] = values["planted"]
        found, _ = attack.Search(values).found(attack.proc_mem(os.getpid()))
        in_memory = [place for name, place in found.items() if "secretmem" in place]
        found, _ = attack.Search(values).found(attack.descriptors(os.getpid()))
    os.close(descriptor)
    require(not in_memory, "/proc/PID/mem reads secret memory")
    require("planted" in found, "a secret behind an open descriptor was not found")


@test
def blind_search_finds_the_rsa_factor_in_swtpm():
    target = scene("swtpm")
    place = attack.factor_in(writable(target.process.pid), target.secrets.modulus)
    note(f"swtpm: a factor of the modulus at {place}")
    require(place, "no factor was found in swtpm")


@test
def blind_search_finds_no_rsa_factor_in_ours():
    need_secret_memory()
    target = scene("ours")
    for name, pid in target.processes():
        place = attack.factor_in(writable(pid), target.secrets.modulus)
        require(place is None, f"{name}: a factor of the modulus at {place}")


def writable(pid):
    names = {f"{mapping.span} {mapping.name}" for mapping in attack.mappings(pid) if "w" in mapping.flags}
    return ((place, data) for place, data in attack.proc_mem(pid) if place in names)


@test
def device_secret_is_readable_in_no_process():
    need_secret_memory()
    target = scene("ours")
    with open(target.cpu.secret_path, "rb") as file:
        search = attack.Search({"device secret": file.read()[-32:]})
    for name, pid in target.processes():
        for interface, way in MEMORY.items():
            found, _ = search.found(way(pid))
            require(not found, f"{name} gives the device secret away to {interface}: {found}")


@test
def state_files_of_swtpm_hold_the_nv_data_and_the_persistent_key():
    target = scene("swtpm")
    found, _ = target.found(attack.files_below(target.directory))
    require({"NV data", "HMAC key", "NV password"} <= set(found), f"only {found} was found in swtpm's files")


@test
def state_files_logs_and_secrets_of_ours_hold_nothing():
    target = scene("ours")
    found, size = target.found(attack.files_below(target.directory))
    require(size > 640, "no state file was read")
    require(not found, f"files give away {found}")


@test
def sigabrt_core_of_swtpm_holds_the_secrets():
    require_core_files()
    target = scene("swtpm")
    found, size = target.found(attack.abort_core(target.process.pid, target.directory))
    require(size > 0, "swtpm left no core")
    require("sealed data" in found, f"the core of {size} bytes holds only {sorted(found)}")


@test
def sigabrt_leaves_no_core_of_ours():
    require_core_files()
    target = scene("ours")
    for name, pid in reversed(target.processes()):
        _, size = target.found(attack.abort_core(pid, target.directory))
        require(not attack.alive(pid), f"{name} lives on")
        require(size == 0, f"{name} left a core of {size} bytes")


def require_core_files():
    need_root()
    if not attack.kernel_writes_core_files():
        raise Skip("this kernel gives its cores to a program (kernel.core_pattern)")


def half_a_command_with(secret):
    """A TPM command that announces more than there is, so that the front-end has to keep what came."""
    return struct.pack(">HII", 0x8002, 400, 0x137) + bytes(64) + secret + bytes(32)


def found_half_way(target):
    """Where the bytes of a command are found that has not come to its end."""
    values = {"half a command": os.urandom(32)}
    stream = connect_unix(target.process.path)
    stream.sendall(half_a_command_with(values["half a command"]))
    time.sleep(0.3)
    search, found = attack.Search(values), {}
    for _, pid in target.processes():
        for way in MEMORY.values():
            found.update(search.found(way(pid))[0])
    stream.close()
    return found


@test
def half_a_command_is_readable_nowhere():
    need_root()
    need_secret_memory()
    found = found_half_way(Scene("ours"))
    require(not found, f"the front-end gives it away: {found}")


@test
def half_a_command_is_found_in_ordinary_memory():
    need_root()
    require(found_half_way(Scene("ours", ordinary_memory=True)), "the search does not see the front-end's buffers")


@test
def ordinary_memory_is_reported_and_does_give_the_secrets_away():
    """--ordinary-memory does not protect against M1, says so, and shows that the search sees into our process."""
    need_root()
    target = Scene("ours", ordinary_memory=True)
    found = set()
    for _, pid in target.processes():
        found |= set(target.found(attack.proc_mem(pid))[0])
    require("sealed data" in found, "the search does not see the enclave's ordinary memory")
    require("ordinary" in target.process.log() + target.process.output(), "the instance does not say so")


if __name__ == "__main__":
    run()
