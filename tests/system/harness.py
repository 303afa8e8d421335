"""What the system tests share: a temporary directory, processes that are ended whatever happens, and the programs
under test beside Debian's swtpm, started the same way. Where the kernel gives no secret memory, they run in ordinary
memory, and the tests of what only secret memory protects are skipped.

BUILD_DIR names the build directory. As root, the programs give root up for `nobody`, which owns the directory.
"""

import atexit
import contextlib
import ctypes
import os
import pwd
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

from tap import Skip, require
from tpm import Tpm

BUILD = os.environ.get("BUILD_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")
IMAGE = os.path.join(BUILD, "enclave", "instance.sgx")
USER = "nobody"
START_TIMEOUT = 20.0
SYS_MEMFD_SECRET = 447

AS_ROOT = os.geteuid() == 0
_processes = []
_directories = []


def program(name):
    path = os.path.join(BUILD, "bin", name)
    require(os.access(path, os.X_OK), f"{path} was not built")
    return path


def kernel_has_secret_memory():
    descriptor = ctypes.CDLL(None).syscall(SYS_MEMFD_SECRET, 0)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


SECRET_MEMORY = kernel_has_secret_memory()


def need_secret_memory():
    if not SECRET_MEMORY:
        raise Skip("this kernel gives no secret memory: secrets in memory are NOT protected here")


def need_root():
    if not AS_ROOT:
        raise Skip("needs root")


def give_to_user(path):
    """To whom the programs run as."""
    if AS_ROOT:
        entry = pwd.getpwnam(USER)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def new_directory(prefix="vtpm-test-"):
    """A directory of 0700 that the unprivileged user owns and that is removed at the end."""
    path = tempfile.mkdtemp(prefix=prefix)
    _directories.append(path)
    give_to_user(path)
    return path


def wait_for(condition, sentence, timeout=START_TIMEOUT):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.005)
    raise AssertionError(f"{sentence} (waited {timeout} s)")


def connect_unix(path, timeout=30.0):
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A connect that does not block fails at once when the queue is full (unix(7)); this one waits in it.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), 0))
    stream.connect(path)
    stream.settimeout(timeout)
    return stream


def free_port():
    """A port p with p and p + 1 free on the loopback address."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports beside each other")


class Process:
    """A program in a session of its own; its output goes to files in `directory`."""

    def __init__(self, name, arguments, directory, pass_fds=(), core=False, before_exec=None):
        self.name = name
        self.directory = directory
        self.output_path = os.path.join(directory, f"{name}.out")
        self.log_path = os.path.join(directory, f"{name}.log")

        def prepare():
            if core:
                resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if before_exec:
                before_exec()

        with open(self.output_path, "wb") as output, open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=log,
                                          pass_fds=pass_fds, start_new_session=True, preexec_fn=prepare)
        self.pid = self.popen.pid
        _processes.append(self)

    def output(self):
        with open(self.output_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def running(self):
        return self.popen.poll() is None

    def family(self):
        """The process and all that it has started, the first first."""
        family = [self.pid]
        for pid in family:
            try:
                with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
                    family += map(int, file.read().split())
            except OSError:
                pass  # it ended meanwhile
        return family

    def wait_until(self, condition, what):
        def done():
            if not self.running():
                raise AssertionError(f"{self.name} ended with {self.popen.returncode} before {what}: {self.log()}")
            return condition()
        return wait_for(done, f"{self.name}: {what} did not happen; it says: {self.log()}")

    def wait(self, timeout=START_TIMEOUT):
        return self.popen.wait(timeout)

    def stop(self, timeout=START_TIMEOUT):
        """Ends the program in order and returns its exit status."""
        if self.running():
            self.popen.send_signal(signal.SIGTERM)
        return self._ended(timeout)

    def kill(self):
        """Ends the program and all that it has started, at once."""
        os.killpg(self.pid, signal.SIGKILL)
        return self._ended(START_TIMEOUT)

    def _ended(self, timeout):
        status = self.popen.wait(timeout)
        if self in _processes:
            _processes.remove(self)
        return status


class Swtpm(Process):
    """Debian's swtpm over unix sockets, as tpm2-tools' own tests start it."""

    def __init__(self, directory, core=False):
        state = os.path.join(directory, "swtpm-state")
        os.makedirs(state, exist_ok=True)
        self.state_directory = state
        self.path = os.path.join(directory, "swtpm.sock")
        super().__init__("swtpm", [
            "swtpm", "socket", "--tpm2", "--server", f"type=unixio,path={self.path}",
            "--ctrl", f"type=unixio,path={self.path}.ctrl", "--tpmstate", f"dir={state}", "--flags", "not-need-init"],
            directory, core=core)
        self.wait_until(lambda: os.path.exists(self.path) and os.path.exists(self.path + ".ctrl"), "its sockets exist")

    def connect(self):
        return Tpm(connect_unix(self.path))


class Cpu(Process):
    """vtpm-cpu, the software device's processor, with its secret in a file or under a passphrase."""

    def __init__(self, directory, passphrase=None, core=False):
        self.path = os.path.join(directory, "cpu.sock")
        self.secret_path = os.path.join(directory, "device-secret")
        memory = [] if SECRET_MEMORY else ["--ordinary-memory"]
        if not os.path.exists(self.secret_path):
            with secret_place(self.secret_path, passphrase) as (secret, descriptors):
                subprocess.run([program("vtpm-cpu"), "--init", "--secret", secret, *memory], check=True,
                               pass_fds=descriptors, capture_output=True)
        with secret_place(self.secret_path, passphrase) as (secret, descriptors):
            arguments = [program("vtpm-cpu"), "--listen", self.path, "--secret", secret, *memory]
            arguments += ["--user", USER] if AS_ROOT else []
            super().__init__("vtpm-cpu", arguments, directory, pass_fds=descriptors, core=core)
        self.wait_until(self._listens, "it listens")
        give_to_user(self.path)

    def _listens(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stream:
            try:
                stream.connect(self.path)
            except OSError:
                return False
            return True


@contextlib.contextmanager
def secret_place(path, passphrase):
    """The argument of --secret, and the descriptors that it names."""
    if passphrase is None:
        yield f"file:{path}", ()
        return
    read_end, write_end = os.pipe()
    os.write(write_end, passphrase)
    os.close(write_end)
    yield f"passphrase:{read_end},salt={path}", (read_end,)
    os.close(read_end)


class Instance(Process):
    """vtpm-instance with one front-end on a unix socket, and `more` arguments."""

    def __init__(self, directory, cpu_path, identity=None, more=(), state_directory=None, name="vtpm-instance",
                 ordinary_memory=False, core=False, image=IMAGE, wait=True, before_exec=None, user=True,
                 executable=None):
        self.state_directory = state_directory or os.path.join(directory, "state")
        if not os.path.isdir(self.state_directory):
            os.mkdir(self.state_directory, 0o700)
            give_to_user(self.state_directory)
        self.path = os.path.join(directory, f"{name}.sock")
        arguments = [executable or program("vtpm-instance"), "--image", image, "--cpu", cpu_path,
                     "--state-dir", self.state_directory, "--swtpm", f"unix:{self.path}"]
        arguments += ["--create"] if identity is None else ["--id", identity]
        arguments += more
        if AS_ROOT and user:
            arguments += ["--user", USER]
        if ordinary_memory or not SECRET_MEMORY:
            arguments.append("--ordinary-memory")
        super().__init__(name, arguments, directory, core=core, before_exec=before_exec)
        self.identity = identity
        if wait:
            self.wait_ready()

    def wait_ready(self):
        self.wait_until(lambda: "ready\n" in self.output(), "it is ready")
        for line in self.output().splitlines():
            if line.startswith("instance "):
                self.identity = line.split()[1]

    def state_path(self):
        return os.path.join(self.state_directory, f"{self.identity}.vtpm")

    def connect(self, timeout=30.0):
        return Tpm(connect_unix(self.path, timeout))


def control(path, command, body=b"", answer_size=4):
    """One request on a swtpm control channel; returns the whole answer."""
    with connect_unix(path) as stream:
        stream.sendall(struct.pack(">I", command) + body)
        return stream.recv(answer_size)


def end_processes():
    for process in list(_processes):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.popen.wait()
    _processes.clear()


def clean_up():
    end_processes()
    for directory in _directories:
        shutil.rmtree(directory, ignore_errors=True)
    _directories.clear()


atexit.register(clean_up)
signal.signal(signal.SIGTERM, lambda *_: exit(1))
