#!/usr/bin/python3
"""What an instance needs of its surroundings: little locked memory, no privilege, and its own processor."""

import os
import pwd
import resource
import shutil
import socket

from attack import SYS_PIDFD_GETFD, libc
from harness import (AS_ROOT, IMAGE, USER, Cpu, Instance, need_root, need_secret_memory, new_directory,
                     program)
from tap import require, run, test

FOUR_MIB = 4 << 20
NV_INDEX = 0x01800050


def lower_memlock(size):
    def lower():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, size))
    return lower


@test
def an_unprivileged_instance_fits_into_4_mib_of_locked_memory():
    need_secret_memory()
    directory = new_directory()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path, before_exec=lower_memlock(FOUR_MIB))
    client = instance.connect()
    client.startup()
    require(len(client.get_random(32)) == 32, "no random bytes")
    statuses = [status_of(pid) for pid in instance.family()]
    locked = max(int(status["VmLck"].split()[0]) for status in statuses)
    require(0 < locked <= 4096, f"VmLck is {locked} KiB")
    for status in statuses:
        require("0" not in status["Uid"].split(), "the instance runs as root")
        require(int(status["CapEff"], 16) == 0, "the instance has capabilities")


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return dict(line.split(":", 1) for line in file)


@test
def too_little_locked_memory_is_refused_with_the_cure():
    need_secret_memory()
    directory = new_directory()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path, before_exec=lower_memlock(1 << 16), wait=False)
    require(instance.wait() > 0, "it started with 64 KiB of locked memory")
    require("RLIMIT_MEMLOCK" in instance.log(), f"it says: {instance.log()}")


@test
def an_instance_refuses_to_stay_root():
    need_root()
    directory = new_directory()
    cpu = Cpu(directory)
    state = os.path.join(directory, "root-state")
    os.mkdir(state, 0o700)
    instance = Instance(directory, cpu.path, state_directory=state, user=False, wait=False)
    require(instance.wait() > 0, "it runs as root")
    require("root" in instance.log(), f"it says: {instance.log()}")


def become_user():
    entry = pwd.getpwnam(USER)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


@test
def started_by_an_unprivileged_user_it_is_not_dumpable():
    """Whoever changes its user is not dumpable anyway; here nobody changes it."""
    directory = new_directory()
    cpu = Cpu(directory)
    copy = os.path.join(directory, "vtpm-instance.copy")  # that user may not reach the build directory
    shutil.copy(program("vtpm-instance"), copy)
    shutil.copy(IMAGE, os.path.join(directory, "image"))
    instance = Instance(directory, cpu.path, image=os.path.join(directory, "image"), executable=copy, user=False,
                        before_exec=become_user if AS_ROOT else None)
    for pid in instance.family():
        require(status_of(pid)["Uid"].split()[0] != "0", "it runs as root")
        require(os.stat(f"/proc/{pid}/mem").st_uid == 0, "its own user may read its memory")


@test
def without_vtpm_cpu_an_instance_says_so():
    directory = new_directory()
    instance = Instance(directory, f"{directory}/nobody-here", wait=False)
    require(instance.wait() > 0, "it started without a processor")
    require("vtpm-cpu" in instance.log(), f"it says: {instance.log()}")


@test
def whoever_reads_foreign_bytes_is_confined():
    directory = new_directory()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path)
    for pid in cpu.family() + instance.family()[1:]:
        status = status_of(pid)
        require(status["NoNewPrivs"].strip() == "1", f"{status['Name'].strip()} may gain privileges")
        require(status["Seccomp"].strip() == "2", f"{status['Name'].strip()} has no system call filter")


def peers(pid):
    """The names of what a process's sockets are connected to."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(name), 0)
            if copy < 0:
                continue
            try:
                peer = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with peer:
                try:
                    yield peer.getpeername()
                except OSError:
                    continue
    finally:
        os.close(pidfd)


@test
def once_it_serves_a_worker_cannot_reach_the_processor():
    """Every enclave of one image may derive every other's key: one that is taken over later must not be able to ask."""
    need_root()
    directory = new_directory()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path)
    instance.connect().startup()
    keeper, worker = instance.family()
    require(cpu.path in list(peers(keeper)), "the keeper's spare connections are not seen, so this test sees nothing")
    require(cpu.path not in list(peers(worker)), "the worker holds a connection to vtpm-cpu")


@test
def both_programs_end_cleanly_on_sigterm():
    directory = new_directory()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path)
    require(instance.stop() == 0, f"vtpm-instance: {instance.popen.returncode}, {instance.log()}")
    require(not os.path.exists(instance.path), "the instance leaves its socket")
    require(cpu.stop() == 0, f"vtpm-cpu: {cpu.popen.returncode}, {cpu.log()}")


@test
def vtpm_cpu_starts_again_after_it_was_killed():
    directory = new_directory()
    Cpu(directory).kill()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path)
    require(instance.connect().exchange(bytes.fromhex("80010000000a00000181")), "no answer")


@test
def an_instance_goes_on_while_vtpm_cpu_is_gone():
    """The processor is start-up work: its death costs no running TPM anything."""
    directory = new_directory()
    cpu = Cpu(directory)
    instance = Instance(directory, cpu.path)
    client = instance.connect()
    client.startup()
    cpu.kill()
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, b"whatever")
    require(client.nv_read(NV_INDEX, 8) == b"whatever", "it reads something else")


if __name__ == "__main__":
    run()
