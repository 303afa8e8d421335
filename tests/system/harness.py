"""What the system tests share: a temporary directory, processes that are ended whatever happens, and the programs
under test beside Debian's swtpm, started the same way. Where the kernel gives no secret memory, they run in ordinary
memory, and the tests of what only secret memory protects are skipped.

BUILD_DIR names the build directory. As root, vtpm-cpu and the instances give root up for `nobody`, which owns the
directory; vtpmd stays what it was started as.
"""

import atexit
import contextlib
import ctypes
import json
import os
import pwd
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import tempfile
import time

from attack import alive
from tap import Skip, require
from tpm import Tpm

BUILD = os.environ.get("BUILD_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")
IMAGE = os.path.join(BUILD, "enclave", "instance.sgx")
MANAGER_IMAGE = os.path.join(BUILD, "enclave", "manager.sgx")
CMD_INIT = 2  # of swtpm's control channel
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

    def __init__(self, directory, core=False, flags="not-need-init"):
        state = os.path.join(directory, "swtpm-state")
        os.makedirs(state, exist_ok=True)
        self.state_directory = state
        self.path = os.path.join(directory, "swtpm.sock")
        super().__init__("swtpm", [
            "swtpm", "socket", "--tpm2", "--server", f"type=unixio,path={self.path}",
            "--ctrl", f"type=unixio,path={self.path}.ctrl", "--tpmstate", f"dir={state}", "--flags", flags],
            directory, core=core)
        self.wait_until(lambda: os.path.exists(self.path) and os.path.exists(self.path + ".ctrl"), "its sockets exist")

    def connect(self):
        return Tpm(connect_unix(self.path))


class Cpu(Process):
    """vtpm-cpu, the software device's processor, with its secret in a file or under a passphrase."""

    def __init__(self, directory, passphrase=None, core=False, executable=None):
        self.path = os.path.join(directory, "cpu.sock")
        executable = executable or program("vtpm-cpu")
        self.secret_path = os.path.join(directory, "device-secret")
        memory = [] if SECRET_MEMORY else ["--ordinary-memory"]
        if not os.path.exists(self.secret_path):
            with secret_place(self.secret_path, passphrase) as (secret, descriptors):
                subprocess.run([executable, "--init", "--secret", secret, *memory], check=True, pass_fds=descriptors,
                               capture_output=True)
        with secret_place(self.secret_path, passphrase) as (secret, descriptors):
            arguments = [executable, "--listen", self.path, "--secret", secret, *memory]
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


class AdminError(Exception):
    """What vtpmd answers instead of a return (docs/admin-api.md)."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}" + (f" ({error['hint']})" if error.get("hint") else ""))
        self.name, self.code, self.desc = error["class"], error["code"], error["desc"]


class Admin:
    """One connection to the admin API: JSON objects, one in a line."""

    def __init__(self, path, timeout=60.0):
        self.stream = connect_unix(path, timeout)
        self.lines = self.stream.makefile("rb")
        self.greeting = self.read()

    def read(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("vtpmd closed the connection")
        return json.loads(line)

    def send(self, verb, /, **arguments):
        request = {"execute": verb, "arguments": {name.replace("_", "-"): value for name, value in arguments.items()}}
        self.stream.sendall(json.dumps(request).encode() + b"\n")

    def call(self, verb, /, **arguments):
        self.send(verb, **arguments)
        answer = self.read()
        if "error" in answer:
            raise AdminError(answer["error"])
        return answer["return"]

    def close(self):
        self.lines.close()
        self.stream.close()


class Daemon:
    """One host: vtpm-cpu and vtpmd over a directory, and whatever instances it runs."""

    def __init__(self, directory=None, passphrase=None, core=False, ordinary_memory=False, settings=None,
                 instance_program=None, instance_image=IMAGE, before_exec=None, init=True, wait=True, state=None,
                 executable=None, cpu=None, device="software"):
        self.directory = directory or new_directory()
        self.state = state or os.path.join(self.directory, "state")
        self.run = os.path.join(self.directory, "run")
        self.core, self.before_exec = core, before_exec
        for path, mode in ((self.state, 0o700), (self.run, 0o755)):
            if not os.path.isdir(path):
                os.mkdir(path, mode)
        self.cpu = cpu or Cpu(self.directory, passphrase, core=core)
        config = self.configure(settings)
        self.arguments = [
            executable or program("vtpmd"), "--config", config, "--state-dir", self.state, "--run-dir", self.run,
            "--device", device, "--cpu", self.cpu.path, "--manager-image", MANAGER_IMAGE, "--instance-image", instance_image,
            "--instance-program", instance_program or program("vtpm-instance")]
        self.arguments += ["--user", USER] if AS_ROOT and before_exec is None else []
        self.arguments += ["--ordinary-memory"] if ordinary_memory or not SECRET_MEMORY else []
        self.database = os.path.join(self.state, "vtpm.db")
        self.socket = os.path.join(self.run, "admin.sock")
        self.process = None
        if init and not os.path.exists(self.database):
            self.init()
        if init:
            self.start(wait)

    def configure(self, settings):
        """Writes vtpmd.conf, for the next start."""
        config = os.path.join(self.directory, "vtpmd.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.writelines(f"{key} = {value}\n" for key, value in (settings or {}).items())
        return config

    def init(self, *arguments):
        """vtpmd --init, which has to succeed."""
        result = subprocess.run([*self.arguments, "--init", *arguments], capture_output=True, text=True, timeout=60, check=False,
                                cwd=self.directory, stdin=subprocess.DEVNULL, preexec_fn=self.before_exec)
        require(result.returncode == 0, f"vtpmd --init: {result.returncode}, {result.stderr}")

    def start(self, wait=True):
        self.logged = len(self.log()) if self.process else 0
        self.process = Process("vtpmd", self.arguments, self.directory, core=self.core, before_exec=self.before_exec)
        if wait:
            self.process.wait_until(lambda: "ready\n" in self.process.output(), "it is ready")

    def refuses_to_start(self, *sentences):
        """vtpmd ends, and says why; what it was given is as it was."""
        self.start(wait=False)
        require(self.process.wait() > 0, "vtpmd started")
        require("ready" not in self.process.output(), "it said that it is ready")
        said = self.log()[self.logged:]
        for sentence in sentences:
            require(sentence in said, f"it was refused without \"{sentence}\": {said}")

    def restart(self):
        require(self.stop() == 0, f"vtpmd did not end cleanly: {self.log()}")
        self.start()

    def stop(self):
        """Ends vtpmd alone: instances go on."""
        return self.process.stop()

    def kill(self):
        """Kills vtpmd alone."""
        return self.process.kill()

    def log(self):
        return self.process.log()

    def end(self):
        """Ends vtpmd, all its instances and the processor, at once: as if the power had gone."""
        if self.process.running():
            self.process.kill()
        end_processes_of(self.run)
        if self.cpu.running():
            self.cpu.kill()

    def power_on(self):
        """After end(): everything anew over the same files."""
        self.cpu = Cpu(self.directory)
        self.start()

    def admin(self, timeout=60.0):
        return Admin(self.socket, timeout)

    def call(self, verb, /, **arguments):
        admin = self.admin()
        try:
            return admin.call(verb, **arguments)
        finally:
            admin.close()

    def create(self, label, **arguments):
        """A new instance; it serves when this returns, unless it was created without a start."""
        shown = self.call("create", label=label, **arguments)
        instance = Instance(self, shown)
        if arguments.get("start", True) and arguments.get("listen") is None:
            instance.wait_serving()
        return instance

    def create_for_front(self, label, **arguments):
        """A new instance that a separate front-end serves; it waits for one."""
        instance = Instance(self, self.call("create", label=label, listen=["front"], start=False, **arguments))
        instance.call("start", wait=False)
        wait_for(lambda: os.path.exists(instance.front_path), f"{label}: front.sock does not appear: {self.log()}")
        return instance

    def refuses(self, name, verb, /, **arguments):
        """Calls what has to be refused with the error of that name; returns the sentence."""
        try:
            self.call(verb, **arguments)
        except AdminError as error:
            require(error.name == name, f"{verb} was refused with {error}, not with {name}")
            return error.desc
        raise AssertionError(f"{verb} {arguments} was not refused")

    def processes(self):
        """[(name, pid)] of everything that runs for this directory."""
        return [(f"{name} {pid}", pid) for name, pid in processes_of(self.directory)]

    @contextlib.contextmanager
    def tables(self):
        """The database, opened as root may while vtpmd does not run; what is changed is written at the end."""
        require(not self.process.running(), "vtpmd holds the database")
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            yield connection


class Instance:
    """One instance of a daemon: its names, its socket, its processes."""

    def __init__(self, daemon, shown):
        self.daemon, self.identity, self.label = daemon, shown["id"], shown["label"]
        self.directory = os.path.join(daemon.run, "instances", self.label)
        self.path = os.path.join(self.directory, "tpm.sock")
        self.front_path = os.path.join(self.directory, "front.sock")

    def show(self):
        return self.daemon.call("show", instance=self.identity)

    def call(self, verb, /, **arguments):
        return self.daemon.call(verb, instance=self.identity, **arguments)

    def start(self, **arguments):
        self.call("start", **arguments)
        self.wait_serving()

    def stop(self):
        return self.call("stop")

    def wait_for(self, sentence, timeout=START_TIMEOUT, **expected):
        """Until show has the expected members; returns it."""
        def reached():
            shown = self.show()
            return shown if all(shown[name.replace("_", "-")] == value for name, value in expected.items()) else None
        try:
            return wait_for(reached, sentence, timeout)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; show: {self.show()}; vtpmd says: {self.daemon.log()[-4000:]}") from None

    def wait_serving(self, timeout=START_TIMEOUT):
        return self.wait_for(f"{self.label} does not serve", timeout, state="running", health="serving")

    def keeper(self):
        return self.show()["pid"]

    def worker(self):
        workers = children_of(self.keeper())
        require(len(workers) == 1, f"the keeper has the children {workers}")
        return workers[0]

    def connect(self, timeout=30.0):
        return Tpm(connect_unix(self.path, timeout))

    def recover(self, timeout=60.0):
        """Waits until vtpmd has rebuilt it, resets the machine if that is what it waits for; returns a new client."""
        def back():
            shown = self.show()
            return shown["state"] == "running" and shown["health"] in ("serving", "awaiting reset") and shown
        try:
            shown = wait_for(back, f"{self.label} does not come back", timeout)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; show: {self.show()}; vtpmd says: {self.daemon.log()[-4000:]}") from None
        if shown["health"] == "awaiting reset":
            self.reset()
        client = self.connect()
        client.startup()
        return client

    def key(self):
        """Its id as the database has it."""
        return bytes.fromhex(self.identity.replace("-", ""))

    def refused_start(self, *sentences, **arguments):
        """Starts what must not start: the answer, `show`, or the log since then has one of the sentences."""
        logged = len(self.daemon.log())
        try:
            self.call("start", **arguments)
            said = ""
        except AdminError as error:
            said = str(error)
        shown = self.show()
        lines = self.daemon.log()[logged:].splitlines()
        said += f" {shown['reason']} " + "\n".join(line for line in lines if ": device: " not in line)
        require(shown["state"] != "running", f"{self.label} runs: {shown}")
        require(any(sentence in said for sentence in sentences), f"{self.label} was refused with: {said}")

    def reset(self):
        """What QEMU does when the machine is reset."""
        answer = control(self.path + ".ctrl", CMD_INIT, bytes(4))
        require(answer == bytes(4), f"the reset is refused: {answer.hex()}")


def openssl(*arguments, stdin=None):
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


class Owner:
    """An Ed25519 key made by openssl, in files."""

    def __init__(self, directory, name="owner"):
        self.private, self.public_file = (os.path.join(directory, f"{name}.{kind}") for kind in ("key", "pub"))
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.private)
        openssl("pkey", "-in", self.private, "-pubout", "-out", self.public_file)
        self.public = openssl("pkey", "-in", self.private, "-pubout", "-outform", "DER")[-32:].hex()

    def sign(self, message):
        path = self.private + ".message"
        with open(path, "wb") as file:
            file.write(message)
        return openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.private, "-in", path).hex()


def ctl(daemon, *arguments, fails=False):
    result = subprocess.run([program("vtpmctl"), "--socket", daemon.socket, *arguments], capture_output=True, text=True,
                            timeout=60, check=False)
    require((result.returncode != 0) == fails, f"vtpmctl {' '.join(arguments)}: {result.returncode}, {result.stdout} "
                                               f"{result.stderr}")
    return result.stderr if fails else result.stdout


class Holder:
    """An X25519 key made by openssl, in files."""

    def __init__(self, directory, name):
        self.private, self.public = (os.path.join(directory, f"{name}.{kind}") for kind in ("key", "pub"))
        openssl("genpkey", "-algorithm", "x25519", "-out", self.private)
        openssl("pkey", "-in", self.private, "-pubout", "-out", self.public)

    def answer(self, state, out, record="recovery-record"):
        return subprocess.run([program("vtpm-sign"), "recovery-answer", "--key", self.private, "--record",
                               os.path.join(state, record), "--out", out, os.path.join(state, "recovery-request")],
                              capture_output=True, text=True, check=False)


class NewHouse:
    """Another processor, with the backup in its state directory. daemon: one that was not started; None: a new one."""

    def __init__(self, backup, daemon=None):
        self.daemon = daemon or Daemon(new_directory(), init=False)
        shutil.copy(backup, self.daemon.database)
        os.chmod(self.daemon.database, 0o600)

    def recover(self, answers):
        """vtpmd --recover. answers: makes the files, once the request is there; returns their paths."""
        process = subprocess.Popen([*self.daemon.arguments, "--recover"], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=self.daemon.directory)
        said = ""
        while "holders have to answer" not in said:
            line = process.stderr.readline()
            if not line:
                return process.wait(30), said
            said += line
        rest = process.communicate("".join(f"{path}\n" for path in answers(self.daemon.state)), timeout=60)[1]
        return process.returncode, said + rest


class Front(Process):
    """vtpm-front between its own client socket, an instance's front.sock and vtpmd; paths may be those of a relay."""

    def __init__(self, instance, directory=None, name="vtpm-front", daemon_path=None, front_path=None, key=None,
                 identity=None, tpm=None):
        self.path = os.path.join(directory or instance.daemon.directory, f"{name}.sock")
        arguments = [program("vtpm-front"), "--daemon", daemon_path or os.path.join(instance.daemon.run, "daemon.sock"),
                     "--id", identity or instance.identity, "--instance", f"unix:{front_path or instance.front_path}",
                     "--swtpm", f"unix:{self.path}"]
        arguments += ["--key", key] if key else []
        arguments += ["--tpm", tpm] if tpm else []
        arguments += [] if SECRET_MEMORY else ["--ordinary-memory"]
        super().__init__(name, arguments, directory or instance.daemon.directory)

    def wait_listening(self):
        self.wait_until(lambda: listens(self.path) and listens(self.path + ".ctrl"), "it listens")

    def connect(self, timeout=30.0):
        return Tpm(connect_unix(self.path, timeout))

    def reset(self):
        return control(self.path + ".ctrl", CMD_INIT, bytes(4))


def listens(path):
    """Whether somebody listens on a unix socket. Its name is there a moment before."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        return any(line.split()[3] == "00010000" and line.endswith(f" {path}\n") for line in file.readlines()[1:])


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
            return list(map(int, file.read().split()))
    except OSError:
        return []


def processes_of(directory):
    """[(name of the program, pid)] of the processes that have a path below the directory on their command line."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if any(directory.encode() in argument for argument in arguments) and alive(int(name)):
            yield os.path.basename(arguments[0].decode()), int(name)


def end_processes_of(directory):
    pids = [pid for _, pid in processes_of(directory) if pid != os.getpid()]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    wait_for(lambda: not any(map(alive, pids)), "killed processes live on")


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
    for directory in _directories:
        end_processes_of(directory)


def clean_up():
    end_processes()
    for directory in _directories:
        shutil.rmtree(directory, ignore_errors=True)
    _directories.clear()


atexit.register(clean_up)
signal.signal(signal.SIGTERM, lambda *_: exit(1))
