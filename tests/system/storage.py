#!/usr/bin/python3
"""S11: the disk is full, read-only, broken or slow under the real process, made with real file systems.

All instances of a host share vtpmd's store, so what is asked for is that nothing is answered which is not durable, that
service recovers with the disk, and that what commits nothing does not wait for it. Everything is mounted in a mount
namespace of this script's own, so nothing of it is left behind. A disk that fails for a while is an ext4 on a loop device
whose sparse backing file cannot grow: fdatasync then fails. One that breaks for good is an ext4 that is shut down under
the process: everything is EIO from then on. A slow one is frozen.
"""

import atexit
import ctypes
import fcntl
import os
import struct
import subprocess
import threading
import time

from harness import AdminError, Daemon, control, end_processes, need_root, new_directory
from tap import LONG, Skip, require, run, test
from tpm import RC_FAILURE, TpmError

CLONE_NEWNS, EXT4_IOC_SHUTDOWN = 0x20000, 0x8004587D
SLOW = 10.0 if LONG else 2.0
INDEX = 0x01800040
CMD_GET_CAPABILITY = 1
libc = ctypes.CDLL(None, use_errno=True)


def command(*arguments):
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Skip(f"{arguments[0]}: {result.stderr.strip()}")
    return result.stdout


_namespace, _mounts = [], []


def unmount():
    end_processes()
    for mount_point in reversed(_mounts):
        subprocess.run(["umount", "--lazy", mount_point], check=False, capture_output=True)


def own_mounts():
    need_root()
    if not _namespace:
        if libc.unshare(CLONE_NEWNS) != 0:
            raise Skip("no mount namespace here")
        command("mount", "--make-rprivate", "/")
        _namespace.append(True)
        atexit.register(unmount)


class Disk:
    """A mounted file system with a state directory in it."""

    def __init__(self, directory, name):
        self.mount_point = os.path.join(directory, name)
        os.mkdir(self.mount_point)
        self.filler = os.path.join(self.mount_point, "filler")

    def prepare(self):
        self.state = os.path.join(self.mount_point, "state")
        os.mkdir(self.state, 0o700)
        return self

    def fill(self):
        with open(self.filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def free(self):
        os.unlink(self.filler)


def mount(mount_point, *arguments):
    command("mount", *arguments, mount_point)
    _mounts.append(mount_point)


def tmpfs(directory, name, size):
    disk = Disk(directory, name)
    mount(disk.mount_point, "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs")
    return disk


def ext4_on_loop(directory, backing):
    """An ext4 without a journal, whose blocks are those of a sparse file on the tmpfs `backing`."""
    disk = Disk(directory, "disk")
    disk.image = os.path.join(backing.mount_point, "image")
    with open(disk.image, "wb") as file:
        file.truncate(32 << 20)
    command("mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0", disk.image)
    mount(disk.mount_point, "-o", "loop", disk.image)
    return disk.prepare()


class Pending(threading.Thread):
    """Something that is expected to wait."""

    def __init__(self, action):
        super().__init__(daemon=True)
        self.action, self.failure = action, None
        self.start()

    def run(self):
        try:
            self.action()
        except Exception as failure:
            self.failure = failure

    def require_waiting(self, seconds):
        self.join(seconds)
        require(self.is_alive(), f"it was answered although the disk is not usable: {self.failure or 'success'}")

    def require_answered(self, seconds):
        self.join(seconds)
        require(not self.is_alive(), "it is not answered although the disk is usable again")
        if self.failure:
            raise self.failure


class Scene:
    """A host whose store is on the disk, with one instance."""

    def __init__(self, disk, settings=None):
        self.daemon = Daemon(state=disk.state, settings=settings)
        self.instance = self.daemon.create("stored")
        self.client = self.instance.connect(60)
        self.client.startup()

    def again(self):
        """A client of the same TPM after everything was stopped and started."""
        self.client.close()
        self.instance.stop()
        self.daemon.restart()
        self.instance.start()
        return connected(self.instance)


def connected(instance):
    client = instance.connect()
    client.startup()
    return client


def define_and_write(client, numbers):
    for number in numbers:
        client.nv_define(INDEX + number, 1500)
        client.nv_write(INDEX + number, bytes([number]) * 700)


def require_written(client, numbers):
    for number in numbers:
        require(client.nv_read(INDEX + number, 700) == bytes([number]) * 700, f"index {number} is not what was written")


def small_disk():
    return tmpfs(new_directory(), "full", "16m").prepare()


@test
def on_a_full_disk_a_command_waits_and_goes_on_when_there_is_room():
    own_mounts()
    disk = small_disk()
    scene = Scene(disk)
    define_and_write(scene.client, range(1))
    disk.fill()
    pending = Pending(lambda: define_and_write(scene.client, range(1, 6)))
    pending.require_waiting(1.5)
    disk.free()
    pending.require_answered(15)
    require_written(scene.again(), range(6))


def answers_failure(client):
    try:
        client.get_random(8)
    except TpmError as error:
        return error.code == RC_FAILURE
    return False


@test
def past_the_commit_timeout_the_tpm_fails_until_the_client_resets_it():
    own_mounts()
    disk = small_disk()
    scene = Scene(disk, {"commit-timeout": 1})
    define_and_write(scene.client, range(1))
    disk.fill()
    try:
        define_and_write(scene.client, range(1, 6))
        raise AssertionError("it was answered although nothing could be stored")
    except TpmError as error:
        require(error.code == RC_FAILURE, f"it answers 0x{error.code:03x}")
    require(answers_failure(scene.client), "the TPM goes on although its last answer was a failure")
    disk.free()
    require(answers_failure(scene.client), "the TPM came back under a client that has not reset it")
    scene.instance.reset()
    client = scene.instance.recover()
    require_written(client, range(1))
    define_and_write(client, range(6, 8))


@test
def on_a_full_disk_nothing_is_created_before_there_is_room():
    own_mounts()
    disk = small_disk()
    scene = Scene(disk)
    disk.fill()
    outcome = []

    def create():
        try:
            while True:
                outcome.append(scene.daemon.call("create", label=f"late{len(outcome)}", start=False)["label"])
        except AdminError as error:
            outcome.append(error.name)

    begun = time.monotonic()
    pending = Pending(create)
    pending.join(2)
    before = len(outcome)
    pending.join(max(0.0, 2.0 - (time.monotonic() - begun)))
    require(not pending.is_alive() or len(outcome) == before, "instances are created on a full disk without end")
    disk.free()
    scene.daemon.call("create", label="in-time", start=False)
    labels = [shown["label"] for shown in scene.daemon.call("list")["instances"]]
    require("in-time" in labels and "stored" in labels, f"only {labels} are there")
    require(set(outcome[:before]) - {"STORE_IO"} <= set(labels), f"{outcome} was answered, and {labels} are there")
    define_and_write(scene.client, range(1))


@test
def on_a_read_only_disk_vtpmd_is_refused_and_its_store_kept():
    own_mounts()
    disk = small_disk()
    scene = Scene(disk)
    define_and_write(scene.client, range(1))
    scene.client.close()
    scene.instance.stop()
    scene.daemon.stop()
    with open(scene.daemon.database, "rb") as file:
        before = file.read()
    command("mount", "-o", "remount,ro", disk.mount_point)
    scene.daemon.start(wait=False)
    require(scene.daemon.process.wait(60) > 0, "it started on a read-only disk")
    require("store" in scene.daemon.log(), f"it says: {scene.daemon.log()}")
    with open(scene.daemon.database, "rb") as file:
        require(file.read() == before, "the store was changed")
    command("mount", "-o", "remount,rw", disk.mount_point)
    scene.daemon.start()
    scene.instance.start()
    require_written(connected(scene.instance), range(1))


@test
def when_flushing_fails_a_command_waits_and_goes_on_when_the_disk_does():
    own_mounts()
    directory = new_directory()
    backing = tmpfs(directory, "backing", "40m")
    scene = Scene(ext4_on_loop(directory, backing))
    define_and_write(scene.client, range(1))
    os.sync()  # the file system's own blocks are in the backing file: what fails now is data alone
    backing.fill()
    pending = Pending(lambda: define_and_write(scene.client, range(1, 6)))
    pending.require_waiting(1.5)
    require("could not be" in scene.daemon.log(), f"it does not say why it waits: {scene.daemon.log()[-2000:]}")
    backing.free()
    pending.require_answered(15)
    require_written(scene.again(), range(6))


def shut_down(mount_point):
    """The file system fails from now on as if its disk had gone (EXT4_IOC_SHUTDOWN, without flushing its journal)."""
    descriptor = os.open(mount_point, os.O_RDONLY)
    fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))
    os.close(descriptor)


@test
def on_eio_the_tpm_fails_and_everything_answered_is_there_on_the_next_mount():
    own_mounts()
    directory = new_directory()
    disk = ext4_on_loop(directory, tmpfs(directory, "backing", "40m"))
    scene = Scene(disk, {"commit-timeout": 1})
    define_and_write(scene.client, range(1))
    scene.client.nv_write(INDEX, b"\x05" * 700)
    shut_down(disk.mount_point)
    try:
        scene.client.nv_write(INDEX, b"\x06" * 700)
        raise AssertionError("it was answered although nothing could be stored")
    except TpmError as error:
        require(error.code == RC_FAILURE, f"it answers 0x{error.code:03x}")
    scene.client.close()
    scene.daemon.end()
    command("umount", disk.mount_point)
    command("mount", "-o", "loop", disk.image, disk.mount_point)
    scene.daemon.power_on()
    client = scene.instance.recover()
    require(client.nv_read(INDEX, 700) in (b"\x05" * 700, b"\x06" * 700), "what was answered is not there")


@test
def on_a_slow_disk_a_command_waits_and_what_commits_nothing_does_not():
    own_mounts()
    directory = new_directory()
    disk = ext4_on_loop(directory, tmpfs(directory, "backing", "40m"))
    scene = Scene(disk)
    other = connected(scene.daemon.create("other"))
    define_and_write(scene.client, range(1))
    command("fsfreeze", "--freeze", disk.mount_point)
    try:
        pending = Pending(lambda: scene.client.nv_write(INDEX, b"\x03" * 700))
        pending.require_waiting(SLOW / 2)
        begin = time.monotonic()
        answer = control(scene.instance.path + ".ctrl", CMD_GET_CAPABILITY, answer_size=8)
        require(len(answer) == 8, "GET_CAPABILITY is not answered")
        for _ in range(200):
            other.get_random(8)
        require(len(scene.daemon.call("list")["instances"]) == 2, "the list is not answered")
        require(scene.instance.show()["state"] == "running", "show is not answered")
        require(time.monotonic() - begin < 5.0, "control channel, another instance or vtpmd wait for the disk")
        pending.require_waiting(SLOW / 2)
    finally:
        command("fsfreeze", "--unfreeze", disk.mount_point)
    pending.require_answered(10)
    require(scene.client.nv_read(INDEX, 700) == b"\x03" * 700, "the write is not there")


if __name__ == "__main__":
    run()
