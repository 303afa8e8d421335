#!/usr/bin/python3
"""vtpm-cpu as a program: where its secret comes from, its socket, and what of it root can read.

    cpu_test.py VTPM_CPU
"""

import functools
import hashlib
import hmac
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "system"))
import tap  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])


def test(function):
    """Registers a test that gets a Place of its own."""

    @functools.wraps(function)
    def run():
        place = Place()
        try:
            function(place)
        finally:
            place.close()

    return tap.test(run)


class Place:
    """A directory of the test's own and the processes started in it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="vtpm-cpu-test-")
        self.running = []

    def path(self, name):
        return os.path.join(self.directory, name)

    def run(self, *arguments, **options):
        return subprocess.run([PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, timeout=30, **options)

    def make_secret(self, content=bytes(range(32)), mode=0o600):
        path = self.path("secret")
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return "file:" + path

    def start(self, *arguments, **options):
        arguments = [PROGRAM, "--listen", self.path("cpu.sock"), *arguments]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, **options)
        self.running.append(process)
        for _ in range(500):
            if self.can_connect():
                return process
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        raise AssertionError("vtpm-cpu does not listen")

    def can_connect(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            return client.connect_ex(self.path("cpu.sock")) == 0

    def close(self):
        for process in self.running:
            process.kill()
            process.wait()
            process.stderr.close()
        shutil.rmtree(self.directory)


@test
def missing_secret_is_refused_with_the_cure(place):
    result = place.run("--secret", "file:" + place.path("none"), "--listen", place.path("cpu.sock"))
    assert result.returncode == 1
    assert "the device secret is missing" in result.stderr
    assert "vtpm-cpu --init --secret file:" + place.path("none") in result.stderr
    assert not os.path.exists(place.path("none")) and not os.path.exists(place.path("cpu.sock"))


@test
def init_makes_a_secret_once(place):
    name = "file:" + place.path("secret")
    assert place.run("--init", "--secret", name).returncode == 0
    first = open(place.path("secret"), "rb").read()
    assert len(first) == 32 and first != bytes(32)
    assert stat.S_IMODE(os.stat(place.path("secret")).st_mode) == 0o600
    second = place.run("--init", "--secret", name)
    assert second.returncode == 1 and "there is a device secret already" in second.stderr
    assert open(place.path("secret"), "rb").read() == first


@test
def readable_or_cut_secret_is_refused(place):
    for content, mode in ((bytes(32), 0o640), (bytes(32), 0o604), (bytes(31), 0o600), (bytes(33), 0o600)):
        result = place.run("--secret", place.make_secret(content, mode), "--listen", place.path("cpu.sock"))
        assert result.returncode == 1 and "cannot be used" in result.stderr, (mode, result.stderr)


@test
def secret_through_a_link_is_refused(place):
    place.make_secret()
    os.symlink(place.path("secret"), place.path("link"))
    result = place.run("--secret", "file:" + place.path("link"))
    assert result.returncode == 1 and "cannot be used" in result.stderr


@test
def secret_of_another_user_is_refused(place):
    if os.geteuid() != 0:
        raise tap.Skip("needs root")
    name = place.make_secret()
    os.chown(place.path("secret"), 65534, 65534)
    result = place.run("--secret", name)
    assert result.returncode == 1 and "cannot be used" in result.stderr


@test
def credential_comes_from_systemd(place):
    with open(place.path("device"), "wb") as file:
        file.write(bytes(range(32)))
    os.chmod(place.path("device"), 0o400)
    environment = {**os.environ, "CREDENTIALS_DIRECTORY": place.directory}
    place.start("--secret", "credential:device", env=environment)
    del environment["CREDENTIALS_DIRECTORY"]
    result = place.run("--secret", "credential:device", env=environment)
    assert result.returncode == 1 and "systemd-creds" in result.stderr
    assert place.run("--secret", "credential:../device").returncode == 2


def with_passphrase(place, action, passphrase, *arguments):
    reading, writing = os.pipe()
    os.write(writing, passphrase)
    os.close(writing)
    name = f"passphrase:{reading},salt={place.path('salt')}"
    result = action(*arguments, "--secret", name, pass_fds=(reading,))
    os.close(reading)
    return result


@test
def passphrase_must_be_the_one_of_init(place):
    assert with_passphrase(place, place.run, b"correct horse\n", "--init").returncode == 0
    wrong = with_passphrase(place, place.run, b"correct hors\n")
    assert wrong.returncode == 1 and "passphrase is not the one" in wrong.stderr
    with_passphrase(place, place.start, b"correct horse")


@test
def unknown_places_and_options_show_the_usage(place):
    for arguments in (("--secret", "paper:x"), ("--secret", "file:"), ("--secret", "passphrase:x,salt=y"),
                      ("--secret", "passphrase:3"), ("--wrong",), ("extra",)):
        result = place.run(*arguments)
        assert result.returncode == 2 and "usage:" in result.stderr, arguments


@test
def socket_is_for_owner_and_group(place):
    place.start("--secret", place.make_secret())
    assert stat.S_IMODE(os.stat(place.path("cpu.sock")).st_mode) == 0o660


@test
def second_vtpm_cpu_on_one_socket_is_refused(place):
    place.start("--secret", place.make_secret())
    result = place.run("--secret", place.make_secret(), "--listen", place.path("cpu.sock"))
    assert result.returncode == 1
    assert place.can_connect()


@test
def socket_of_a_killed_one_is_replaced(place):
    process = place.start("--secret", place.make_secret())
    process.kill()
    process.wait()
    assert os.path.exists(place.path("cpu.sock"))
    place.start("--secret", place.make_secret())


@test
def terminates_cleanly(place):
    process = place.start("--secret", place.make_secret())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


@test
def says_what_the_device_and_the_secret_are(place):
    process = place.start("--secret", place.make_secret())
    process.terminate()
    process.wait(timeout=10)
    said = process.stderr.read()
    assert "not from root who debugs" in said
    assert "whoever copies this host's disk or a full backup of it can open every sealed state" in said


@test
def socket_can_come_from_systemd(place):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(place.path("cpu.sock"))
    listener.listen()
    script = 'exec 3<&"$1"; export LISTEN_PID=$$ LISTEN_FDS=1; shift; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", script, "-", str(listener.fileno()), PROGRAM, "--secret", place.make_secret()],
        stderr=subprocess.PIPE, text=True, pass_fds=(listener.fileno(),))
    place.running.append(process)
    listener.close()
    assert "software device" in process.stderr.readline()
    assert place.can_connect()


@test
def readiness_is_told(place):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(place.path("notify"))
    notify.settimeout(10)
    place.start("--secret", place.make_secret(), env={**os.environ, "NOTIFY_SOCKET": place.path("notify")})
    assert notify.recv(100) == b"READY=1"
    notify.close()


@test
def loader_variables_are_cleaned(place):
    environment = {**os.environ, "LD_BIND_NOW": "1", "LD_LIBRARY_PATH": "/nonexistent", "KEPT": "1"}
    process = place.start("--secret", place.make_secret(), env=environment)
    seen = open(f"/proc/{process.pid}/environ", "rb").read()
    assert b"LD_" not in seen and b"KEPT=1" in seen


@test
def help_is_no_mistake(_place):
    asked = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=False)
    assert asked.returncode == 0 and asked.stdout.startswith("usage: vtpm-cpu") and not asked.stderr
    mistaken = subprocess.run([PROGRAM, "--hlp"], capture_output=True, text=True, check=False)
    assert mistaken.returncode == 2 and "usage: vtpm-cpu" in mistaken.stderr and not mistaken.stdout


@test
def drops_root_when_asked(place):
    if os.geteuid() != 0:
        raise tap.Skip("needs root")
    os.chmod(place.directory, 0o755)
    process = place.start("--secret", place.make_secret(), "--user", "nobody")
    for _ in range(500):  # it listens before it gives up what it was
        status = open(f"/proc/{process.pid}/status").read()
        if re.search(r"^Seccomp:\t2$", status, re.M):
            break
        time.sleep(0.01)
    assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.M)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M) and re.search(r"^Seccomp:\t2$", status, re.M)
    assert os.stat(f"/proc/{process.pid}/mem").st_uid == 0  # not dumpable


def readable_memory(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue


@test
def secret_and_fuses_are_in_no_readable_memory(place):
    if os.geteuid() != 0:
        raise tap.Skip("needs root")
    secret = hashlib.sha256(b"test secret").digest()
    fuses = hmac.new(secret, b"vtpm-cpu seal fuses 1\0", hashlib.sha256).digest()
    process = place.start("--secret", place.make_secret(secret))
    everything = b"".join(readable_memory(process.pid))
    assert place.path("secret").encode() in everything  # the search does find what is there
    assert secret not in everything and secret[:16] not in everything
    assert fuses not in everything and fuses[:16] not in everything
    inner = bytes(byte ^ 0x36 for byte in secret)
    outer = bytes(byte ^ 0x5C for byte in secret)
    assert inner not in everything and outer not in everything  # HMAC's own forms of the key


tap.run()
