#!/usr/bin/python3
"""S11: the disk is full, read-only, broken or slow under the real process, made with real file systems.

Everything is mounted in a mount namespace of this script's own, so nothing of it is left behind. A disk that fails for
a while is an ext4 on a loop device whose sparse backing file cannot grow: fdatasync then fails. One that breaks for good
is an ext4 that is shut down under the process: everything is EIO from then on. A slow one is frozen.
"""

import atexit
import ctypes
import fcntl
import os
import re
import struct
import subprocess
import threading
import time

from harness import Cpu, Instance, connect_unix, control, end_processes, give_to_user, need_root, new_directory
from tap import LONG, Skip, require, run, test
from tpm import RC_FAILURE, Tpm, TpmError

CLONE_NEWNS, EXT4_IOC_SHUTDOWN = 0x20000, 0x8004587D
SLOW = 10.0 if LONG else 2.0
INDEX = 0x01800040
CMD_INIT = 2
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
    """A mounted file system with a state directory of the unprivileged user in it."""

    def __init__(self, directory, name):
        self.mount_point = os.path.join(directory, name)
        os.mkdir(self.mount_point)
        self.filler = os.path.join(self.mount_point, "filler")

    def prepare(self):
        self.state = os.path.join(self.mount_point, "state")
        os.mkdir(self.state, 0o700)
        give_to_user(self.state)
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
        file.truncate(8 << 20)
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
    def __init__(self, state_directory, more=()):
        self.directory = new_directory()
        self.cpu = Cpu(self.directory)
        self.state_directory = state_directory
        self.instance = Instance(self.directory, self.cpu.path, state_directory=state_directory, more=more)
        self.client = self.instance.connect(60)
        self.client.startup()

    def again(self):
        self.client.close()
        require(self.instance.stop() == 0, f"it did not end cleanly: {self.instance.log()}")
        self.instance = Instance(self.directory, self.cpu.path, self.instance.identity,
                                 state_directory=self.state_directory)


def define_and_write(client, numbers):
    for number in numbers:
        client.nv_define(INDEX + number, 1500)
        client.nv_write(INDEX + number, bytes([number]) * 700)


@test
def on_a_full_disk_a_command_waits_and_goes_on_when_there_is_room():
    own_mounts()
    disk = tmpfs(new_directory(), "full", "1m").prepare()
    scene = Scene(disk.state)
    define_and_write(scene.client, range(1))
    disk.fill()
    pending = Pending(lambda: define_and_write(scene.client, range(1, 6)))
    pending.require_waiting(1.5)
    disk.free()
    pending.require_answered(15)
    scene.again()
    client = scene.instance.connect()
    client.startup()
    for number in range(6):
        require(client.nv_read(INDEX + number, 700) == bytes([number]) * 700, f"index {number} is not what was written")


def answers_failure(client):
    try:
        client.get_random(8)
    except TpmError as error:
        return error.code == RC_FAILURE
    return False


@test
def past_the_commit_timeout_the_tpm_fails_until_the_client_resets_it():
    own_mounts()
    disk = tmpfs(new_directory(), "full", "1m").prepare()
    scene = Scene(disk.state, ["--commit-timeout", "1"])
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
    require(control(scene.instance.path + ".ctrl", CMD_INIT, bytes(4)) == bytes(4), "the reset is refused")
    client = scene.instance.connect()
    client.startup()
    require(client.nv_read(INDEX, 700) == bytes(700), "what was answered before is not there")
    define_and_write(client, range(6, 8))


@test
def a_new_instance_is_refused_on_a_full_disk_and_leaves_no_state():
    own_mounts()
    disk = tmpfs(new_directory(), "full", "1m").prepare()
    disk.fill()
    directory = new_directory()
    instance = Instance(directory, Cpu(directory).path, state_directory=disk.state, wait=False)
    require(instance.wait(60) > 0, "it started")
    require("could not be read or written" in instance.log(), f"it says: {instance.log()}")
    require(not [name for name in os.listdir(disk.state) if name.endswith(".vtpm")], "it left a state")


@test
def on_a_read_only_disk_an_instance_is_refused_and_its_state_kept():
    own_mounts()
    disk = tmpfs(new_directory(), "read-only", "1m").prepare()
    scene = Scene(disk.state)
    define_and_write(scene.client, range(1))
    scene.client.close()
    require(scene.instance.stop() == 0, "it did not end cleanly")
    with open(scene.instance.state_path(), "rb") as file:
        before = file.read()
    command("mount", "-o", "remount,ro", disk.mount_point)
    refused = Instance(scene.directory, scene.cpu.path, scene.instance.identity, state_directory=disk.state, wait=False)
    require(refused.wait(60) > 0, "it started on a read-only disk")
    require("could not be read or written" in refused.log(), f"it says: {refused.log()}")
    with open(scene.instance.state_path(), "rb") as file:
        require(file.read() == before, "the state was changed")
    command("mount", "-o", "remount,rw", disk.mount_point)
    again = Instance(scene.directory, scene.cpu.path, scene.instance.identity, state_directory=disk.state)
    client = again.connect()
    client.startup()
    require(client.nv_read(INDEX, 700) == bytes(700), "the state is not what it was")


def punch_out(disk, path):
    """Frees the blocks of a file in the loop device's backing file, so that they have to be allocated anew."""
    extents = command("filefrag", "-v", "-b4096", path)
    found = re.findall(r"^\s*\d+:\s+\d+\.\.\s*\d+:\s+(\d+)\.\.\s*(\d+):", extents, re.MULTILINE)
    require(found, f"no extents: {extents}")
    for first, last in found:
        command("fallocate", "--punch-hole", "--offset", str(int(first) * 4096),
                "--length", str((int(last) - int(first) + 1) * 4096), disk.image)


@test
def when_flushing_fails_a_command_waits_and_goes_on_when_the_disk_does():
    own_mounts()
    directory = new_directory()
    backing = tmpfs(directory, "backing", "12m")
    disk = ext4_on_loop(directory, backing)
    scene = Scene(disk.state)
    define_and_write(scene.client, range(1))
    scene.client.nv_write(INDEX, b"\x01" * 700)
    command("sync", "-f", disk.mount_point)
    punch_out(disk, os.path.join(disk.state, f"{scene.instance.identity}.spare"))
    backing.fill()
    pending = Pending(lambda: scene.client.nv_write(INDEX, b"\x02" * 700))
    pending.require_waiting(1.5)
    require("could not be" in scene.instance.log(), f"it does not say why it waits: {scene.instance.log()}")
    backing.free()
    pending.require_answered(15)
    scene.again()
    client = scene.instance.connect()
    client.startup()
    require(client.nv_read(INDEX, 700) == b"\x02" * 700, "the answered write is not there")


def shut_down(mount_point):
    """The file system fails from now on as if its disk had gone (EXT4_IOC_SHUTDOWN, without flushing its journal)."""
    descriptor = os.open(mount_point, os.O_RDONLY)
    fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))
    os.close(descriptor)


@test
def on_eio_the_tpm_fails_and_everything_answered_is_there_on_the_next_mount():
    own_mounts()
    directory = new_directory()
    disk = ext4_on_loop(directory, tmpfs(directory, "backing", "12m"))
    scene = Scene(disk.state, ["--commit-timeout", "1"])
    define_and_write(scene.client, range(1))
    scene.client.nv_write(INDEX, b"\x05" * 700)
    shut_down(disk.mount_point)
    try:
        scene.client.nv_write(INDEX, b"\x06" * 700)
        raise AssertionError("it was answered although nothing could be stored")
    except TpmError as error:
        require(error.code == RC_FAILURE, f"it answers 0x{error.code:03x}")
    scene.client.close()
    require(scene.instance.stop() != 0, "it ends as if everything had been stored")
    command("umount", disk.mount_point)
    command("mount", "-o", "loop", disk.image, disk.mount_point)
    again = Instance(scene.directory, scene.cpu.path, scene.instance.identity, state_directory=disk.state)
    client = again.connect()
    client.startup()
    require(client.nv_read(INDEX, 700) in (b"\x05" * 700, b"\x06" * 700), "what was answered is not there")


@test
def on_a_slow_disk_a_command_waits_and_the_control_channel_answers():
    own_mounts()
    directory = new_directory()
    disk = ext4_on_loop(directory, tmpfs(directory, "backing", "12m"))
    scene = Scene(disk.state)
    define_and_write(scene.client, range(1))
    command("fsfreeze", "--freeze", disk.mount_point)
    try:
        pending = Pending(lambda: scene.client.nv_write(INDEX, b"\x03" * 700))
        pending.require_waiting(SLOW / 2)
        begin = time.monotonic()
        answer = control(scene.instance.path + ".ctrl", 1, answer_size=8)
        require(len(answer) == 8, "GET_CAPABILITY is not answered")
        require(time.monotonic() - begin < 0.5, "the control channel waits for the disk")
        pending.require_waiting(SLOW / 2)
    finally:
        command("fsfreeze", "--unfreeze", disk.mount_point)
    pending.require_answered(10)
    require(scene.client.nv_read(INDEX, 700) == b"\x03" * 700, "the write is not there")


@test
def on_a_slow_disk_other_instances_are_not_slowed():
    own_mounts()
    directory = new_directory()
    disk = ext4_on_loop(directory, tmpfs(directory, "backing", "12m"))
    scene = Scene(disk.state)
    define_and_write(scene.client, range(1))
    other = Instance(scene.directory, scene.cpu.path, name="other")
    client = Tpm(connect_unix(other.path))
    client.startup()
    command("fsfreeze", "--freeze", disk.mount_point)
    try:
        pending = Pending(lambda: scene.client.nv_write(INDEX, b"\x04" * 700))
        pending.require_waiting(0.2)
        begin = time.monotonic()
        for _ in range(200):
            client.get_random(8)
        require(time.monotonic() - begin < 1.0, "another instance waits for this one's disk")
        pending.require_waiting(0.2)
    finally:
        command("fsfreeze", "--unfreeze", disk.mount_point)
    pending.require_answered(10)


if __name__ == "__main__":
    run()
