#!/usr/bin/python3
"""What the programs need of their surroundings: little locked memory, no privilege, and their own processor."""

import os
import pwd
import resource
import shutil
import socket
import subprocess

from attack import SYS_PIDFD_GETFD, libc
from harness import (AS_ROOT, BUILD, USER, Daemon, children_of, need_root, need_secret_memory, new_directory, program,
                     wait_for)
from tap import Skip, require, run, test

EIGHT_MIB = 8 << 20  # what Debian gives a service that asks for nothing
NV_INDEX = 0x01800050


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return dict(line.split(":", 1) for line in file)


def family_of(instance):
    return [instance.keeper(), instance.worker()]


def lower_memlock(size):
    def lower():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, size))
    return lower


def become_user():
    entry = pwd.getpwnam(USER)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def unprivileged_daemon(limit=None):
    """A host on which nothing but the processor was started by root; that user may not reach the build directory."""
    directory = new_directory()
    copies = {}
    for path in (program("vtpmd"), program("vtpm-instance"), os.path.join(BUILD, "enclave", "manager.sgx"),
                 os.path.join(BUILD, "enclave", "instance.sgx")):
        copies[os.path.basename(path)] = shutil.copy(path, os.path.join(directory, os.path.basename(path) + ".copy"))

    def before_exec():
        if limit:
            lower_memlock(limit)()
        if AS_ROOT:
            become_user()

    for name in ("state", "run"):
        path = os.path.join(directory, name)
        os.mkdir(path, 0o700)
        if AS_ROOT:
            entry = pwd.getpwnam(USER)
            os.chown(path, entry.pw_uid, entry.pw_gid)
    daemon = Daemon(directory, init=False, before_exec=before_exec, executable=copies["vtpmd"],
                    instance_program=copies["vtpm-instance"], instance_image=copies["instance.sgx"])
    daemon.arguments[daemon.arguments.index("--manager-image") + 1] = copies["manager.sgx"]
    daemon.init()
    daemon.start()
    return daemon


def ends_with(*arguments):
    """What vtpmd says that was started by itself, and its exit status."""
    daemon = Daemon(init=False)
    line = [word for word in daemon.arguments if word not in ("--device", "software")]
    result = subprocess.run([*line, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, result.stderr


@test
def sgx_is_not_replaced_by_software_where_it_was_asked_for():
    if os.path.exists("/dev/sgx_enclave"):
        raise Skip("this machine has an SGX device")
    status, said = ends_with("--init", "--device", "sgx")
    require(status == 1, f"it ended with {status}")
    require("the SGX device /dev/sgx_enclave: there is no SGX device" in said, f"it says: {said}")
    status, said = ends_with("--init", "--device", "hardware")
    require(status == 2 and "this wants auto, sgx or software, not: hardware" in said, f"it says: {said}")


@test
def an_instance_is_told_the_device_of_its_manager():
    instance = Daemon().create("told")
    with open(f"/proc/{instance.keeper()}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    require(words[words.index(b"--device") + 1] == b"software", f"it was started with {words}")


@test
def auto_takes_the_software_device_where_there_is_no_sgx_and_says_so():
    if os.path.exists("/dev/sgx_enclave"):
        raise Skip("this machine has an SGX device")
    status, said = ends_with("--init")
    require(status == 0, f"it ended with {status}: {said}")
    require("device: software, as sgx does not work here: there is no SGX device" in said, f"it says: {said}")


@test
def an_unprivileged_instance_fits_into_4_mib_of_locked_memory_and_vtpmd_into_8():
    need_secret_memory()
    daemon = unprivileged_daemon(EIGHT_MIB)
    instance = daemon.create("small")
    client = instance.connect()
    client.startup()
    require(len(client.get_random(32)) == 32, "no random bytes")
    for pid in [daemon.process.pid, *family_of(instance)]:
        status = status_of(pid)
        name = status["Name"].strip()
        most = 8192 if pid == daemon.process.pid else 4096
        require(int(status["VmLck"].split()[0]) <= most, f"{name}: VmLck is {status['VmLck'].strip()}")
        require("0" not in status["Uid"].split(), f"{name} runs as root")
        require(int(status["CapEff"], 16) == 0, f"{name} has capabilities")
    require(int(status_of(instance.worker())["VmLck"].split()[0]) > 0, "the worker has no secret memory")


@test
def too_little_locked_memory_is_refused_with_the_cure():
    need_secret_memory()
    try:
        unprivileged_daemon(1 << 16)
    except AssertionError as failure:
        require("RLIMIT_MEMLOCK" in str(failure), f"it says: {failure}")
        return
    raise AssertionError("it started with 64 KiB of locked memory")


@test
def instances_of_a_root_vtpmd_are_not_root():
    need_root()
    instance = Daemon().create("dropped")
    for pid in family_of(instance):
        status = status_of(pid)
        require("0" not in status["Uid"].split() + status["Gid"].split(), "an instance runs as root")
        require(int(status["CapEff"], 16) == 0, "an instance has capabilities")
        require(not status["Groups"].split() or "0" not in status["Groups"].split(), "an instance is in root's group")


@test
def nothing_is_dumpable():
    daemon = unprivileged_daemon()
    instance = daemon.create("undumpable")
    for pid in [daemon.process.pid, *family_of(instance)]:
        require(os.stat(f"/proc/{pid}/mem").st_uid == 0, f"the user of {pid} may read its memory")


@test
def without_vtpm_cpu_vtpmd_says_so():
    daemon = Daemon()
    daemon.stop()
    daemon.cpu.kill()
    daemon.start(wait=False)
    require(daemon.process.wait() > 0, "it started without a processor")
    require("vtpm-cpu" in daemon.log(), f"it says: {daemon.log()}")


@test
def without_init_there_is_no_store():
    daemon = Daemon(init=False)
    daemon.start(wait=False)
    require(daemon.process.wait() > 0, "it started without a store")
    require("vtpmd --init" in daemon.log(), f"it says: {daemon.log()}")
    require(not os.path.exists(daemon.database), "it made a store")


@test
def a_second_vtpmd_on_one_store_is_refused():
    first = Daemon()
    second = Daemon(new_directory(), init=False, state=first.state)
    second.start(wait=False)
    require(second.process.wait() > 0, "two of them serve one store")
    require("in use by another process" in second.log(), f"it says: {second.log()}")
    require(first.call("version")["api"] == 1, "the first one stopped serving")


@test
def whoever_reads_foreign_bytes_is_confined():
    daemon = Daemon()
    instance = daemon.create("confined")
    for pid in daemon.cpu.family() + [instance.worker()]:
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
    """One that is taken over later must not be able to ask for reports and keys of its identity."""
    need_root()
    daemon = Daemon()
    instance = daemon.create("quiet")
    instance.connect().startup()
    require(daemon.cpu.path in list(peers(daemon.process.pid)),
            "the connection of vtpmd's own enclave is not seen, so this test sees nothing")
    require(daemon.cpu.path not in list(peers(instance.keeper())), "the keeper holds a connection to vtpm-cpu")
    require(daemon.cpu.path not in list(peers(instance.worker())), "the worker holds a connection to vtpm-cpu")


@test
def no_worker_holds_a_file_of_the_store():
    need_root()
    daemon = Daemon()
    instance = daemon.create("no-files")
    for pid in family_of(instance):
        opened = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        require(not [path for path in opened if path.startswith(daemon.state)], f"{pid} holds {opened}")


@test
def the_programs_end_cleanly_on_sigterm():
    daemon = Daemon()
    instance = daemon.create("clean")
    family = family_of(instance)
    instance.stop()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in family), "its processes live on")
    require(not os.path.exists(instance.path), "the instance leaves its socket")
    require(daemon.stop() == 0, f"vtpmd: {daemon.process.popen.returncode}, {daemon.log()}")
    require(daemon.cpu.stop() == 0, f"vtpm-cpu: {daemon.cpu.popen.returncode}, {daemon.cpu.log()}")


@test
def a_new_instance_starts_after_vtpm_cpu_was_killed_and_started_again():
    """Stopped first, so that its start asks the new processor for everything."""
    daemon = Daemon()
    instance = daemon.create("again")
    instance.stop()
    daemon.cpu.kill()
    daemon.cpu = type(daemon.cpu)(daemon.directory)
    daemon.restart()
    instance.start()
    instance.connect().startup()


@test
def instances_go_on_while_vtpm_cpu_is_gone():
    """The processor is start-up work: its death costs no running TPM anything."""
    daemon = Daemon()
    instance = daemon.create("goes-on")
    client = instance.connect()
    client.startup()
    daemon.cpu.kill()
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, b"whatever")
    require(client.nv_read(NV_INDEX, 8) == b"whatever", "it reads something else")
    require(children_of(instance.keeper()), "the worker is gone")


if __name__ == "__main__":
    run()
