#!/usr/bin/python3
"""M1 and M2: root looks for known secrets in everything it can read of a running TPM.

The same attack on Debian's swtpm must find them, and so must it find them in an instance that runs in ordinary memory;
otherwise it would prove nothing that it does not find them in ours.
"""

import collections
import mmap
import os
import struct
import time

import attack
from harness import (SYS_MEMFD_SECRET, Daemon, Swtpm, connect_unix, need_root, need_secret_memory, new_directory)
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
    """One TPM that holds the secrets, with the processes and directories that make it up: of ours all, vtpmd too."""

    def __init__(self, kind, **options):
        if kind == "swtpm":
            self.directory = new_directory()
            self.process = Swtpm(self.directory, core=True)
            self.instance = self.process
        else:
            self.daemon = Daemon(core=True, **options)
            self.directory = self.daemon.directory
            self.instance = self.daemon.create("searched")
        self.secrets = Secrets()
        self.search = attack.Search(self.secrets.values)
        self.client = self.instance.connect()
        self.secrets.put_into(self.client)

    def processes(self):
        """[(name, pid)] of everything of ours that runs: processor, vtpmd, keeper, worker."""
        found = self.daemon.processes()
        require(len(found) == 4, f"there should be four processes, and there are {found}")
        return found

    def found(self, places):
        return self.search.found(places)


_scenes = {}


def scene(kind, of=None, **options):
    need_root()
    if kind not in _scenes:
        _scenes[kind] = Scene(of or kind, **options)
    return _scenes[kind]


def fresh_scene():
    """Another one of ours: the first has been ended by then, for its core."""
    return scene("fresh", "ours")


def ordinary_scene():
    return scene("ordinary", "ours", ordinary_memory=True)


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
    with open(target.daemon.cpu.secret_path, "rb") as file:
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
    names = [path for path, _ in attack.files_below(target.directory)]
    require(target.daemon.database in names and any(name.endswith("-wal") for name in names), f"only {names} was read")
    require(size > 32768, "no database was read")
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
    keeper, worker = target.instance.keeper(), target.instance.worker()
    # The keeper last: it would end its worker.
    for name, pid in sorted(target.processes(), key=lambda process: (process[1] == keeper, process[1] == worker)):
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


def searched_half_way(target, pid, way):
    """Where a process has the bytes of a command that has not come to its end. A front-end gives such a client up after
    five seconds and forgets what it sent, so each search has a command of its own, which it has to outlive.
    """
    values = {"half a command": os.urandom(32)}
    with connect_unix(target.instance.path) as stream:
        stream.sendall(half_a_command_with(values["half a command"]))
        time.sleep(0.1)
        found, _ = attack.Search(values).found(way(pid))
        stream.setblocking(False)
        try:
            stream.recv(1)
        except BlockingIOError:
            return found
    raise AssertionError("the front-end gave the client up before the search was through, so it showed nothing")


@test
def half_a_command_is_readable_nowhere():
    need_secret_memory()
    target = fresh_scene()
    for name, pid in target.processes():
        for interface, way in MEMORY.items():
            found = searched_half_way(target, pid, way)
            require(not found, f"{name} gives it away to {interface}: {found}")


@test
def half_a_command_is_found_in_ordinary_memory():
    target = ordinary_scene()
    require(searched_half_way(target, target.instance.worker(), attack.proc_mem), "the search does not see the buffers")


# --- keys that nobody told us -----------------------------------------------------------------------------------------

def link_keys(pid):
    """Where a process has expanded AES keys. Those of libcrypto's random generator are left out: it has each twice, or it
    is the constant of its derivation function (SP 800-90A, 10.3.2).
    """
    keys = list(attack.expanded_keys(writable(pid)))
    count = collections.Counter(key for _, key in keys)
    return [place for place, key in keys if count[key] == 1 and key != bytes(range(32))]


@test
def blind_search_finds_no_expanded_key_of_k2():
    """In the process that is K2's host end, and in the one that passes its records on."""
    need_secret_memory()
    instance = fresh_scene().instance
    for pid in (instance.keeper(), instance.worker()):
        places = link_keys(pid)
        require(not places, f"vtpm-instance {pid} gives keys away: {places}")


@test
def blind_search_finds_the_expanded_keys_of_k2_in_ordinary_memory():
    places = link_keys(ordinary_scene().instance.worker())
    require(len(places) >= 2, f"keys were found only at {places}, so the search shows nothing")


@test
def ordinary_memory_is_reported_and_does_give_the_secrets_away():
    """--ordinary-memory does not protect against M1, says so, and shows that the search sees into our process."""
    target = ordinary_scene()
    found = set()
    for _, pid in target.processes():
        found |= set(target.found(attack.proc_mem(pid))[0])
    require("sealed data" in found, "the search does not see the enclave's ordinary memory")
    require(target.daemon.call("status")["memory"] == "ordinary", "status does not say so")
    require("ordinary" in target.daemon.log(), "the log does not say so")


if __name__ == "__main__":
    run()
