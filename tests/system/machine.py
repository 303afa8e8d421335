"""A real machine: QEMU with its emulator back-end at a TPM's control socket, and OVMF, which measures what it runs. With a
kernel it is a guest that tests talk to: Debian's cloud kernel, unchanged, and an initramfs that is made here of Debian's
programs. It says on its second serial port that it is ready and then takes shell commands there.

Nothing runs in the guest but what a test asks for: no systemd, no udev, no network.
"""

import array
import atexit
import base64
import functools
import gzip
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time

from harness import Daemon, IMAGE, MANAGER_IMAGE, Process, connect_unix, listens, new_directory, program, wait_for
from tap import randomness, require

FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
SMALL_FIRMWARE = "/usr/share/OVMF/OVMF_CODE.fd"  # measures less of itself, which takes a third off the time of a boot
QEMU = "qemu-system-x86_64"
GUEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "guest")
BOOT_TIMEOUT = 120.0

READY = b"the guest is ready\n"
SECRET_MEMORY = " secretmem.enable=1"  # Debian's kernel gives none without it
COMMAND_LINE = "console=ttyS0 quiet" + SECRET_MEMORY
# In the order in which they need each other.
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "dm-mod",
           "dm-crypt", "gf128mul", "ecb", "xts"]
PROGRAMS = ["tpm2", "cryptsetup", "systemd-cryptenroll", "mkfs.ext4"]
OURS = ["vtpmctl", "vtpmd", "vtpm-cpu", "vtpm-instance"]
# What the programs load while they run, which ldd does not name.
PLUGINS = ["libtss2-tcti-device.so.0", "libtss2-esys.so.0", "libtss2-mu.so.0", "libtss2-rc.so.0",
           "cryptsetup/libcryptsetup-token-systemd-tpm2.so"]
LIBRARIES = "/usr/lib/x86_64-linux-gnu"

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t securityfs securityfs /sys/kernel/security
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
dmesg -n 1
for module in {" ".join(MODULES)}; do insmod /modules/$module.ko; done
mount -o ro /dev/vda /tools
export PATH=/bin:/tools/bin:/tools/build/bin TPM2TOOLS_TCTI=device:/dev/tpmrm0 DM_DISABLE_UDEV=1 HOME=/tmp TERM=dumb
cd /tmp
exec <>/dev/ttyS1 >&0 2>&1
stty raw -echo
echo {READY.decode().strip()}
# With a file for a script it does not take the terminal for a person.
while :; do sh /dev/ttyS1; done
"""

# Goes on for ever: extends a PCR, reckons by itself what it then has to be, and says on the console that it is that.
EXTENDING_PCR = 16
EXTENDING = f"""
value=$(printf %064d 0)
count=0
while :; do
    count=$((count + 1))
    digest=$(echo -n $count | sha256sum | cut -c1-64)
    value=$(echo -n $value$digest | xxd -r -p | sha256sum | cut -c1-64)
    tpm2 pcrextend {EXTENDING_PCR}:sha256=$digest || break
    found=$(tpm2 pcrread sha256:{EXTENDING_PCR} | sed -n 's/.*0x//p' | tr A-F a-f)
    [ "$found" = $value ] || break
    echo extended $count $value
done
echo extending failed at $count with \"$found\" and not $value
"""


def extensions_in(console):
    """[(count, value)] of what the guest has said there while it goes on extending."""
    failure = re.search(rb"extending failed.*", console)
    require(not failure, f"in the guest, {failure and failure[0].decode()}; its console: {console[-2000:]}")
    return [(int(count), value.decode()) for count, value in re.findall(rb"extended (\d+) ([0-9a-f]{64})\r?\n", console)]


def expected_extension(count):
    """What the PCR then has, by a second reckoning."""
    value = bytes(32)
    for number in range(1, count + 1):
        value = hashlib.sha256(value + hashlib.sha256(str(number).encode()).digest()).digest()
    return value.hex()


def require_extensions(said):
    """Nothing was lost, nothing was extended twice."""
    counts = [count for count, _ in said]
    require(counts == list(range(counts[0], counts[0] + len(counts))), f"the guest has counted {counts}")
    require(said[-1][1] == expected_extension(counts[-1]), f"after {counts[-1]} extensions the PCR is {said[-1][1]}")


def control_call(stream, number, body=b"", size=4, descriptors=()):
    """The answer, of that size, to a command of swtpm's control channel."""
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    stream.sendmsg([struct.pack(">I", number) + body], control)
    answer = b""
    while len(answer) < size:
        part = stream.recv(size - len(answer))
        require(part, f"the answer to {number:#x} ends after {answer.hex()}")
        answer += part
    return answer


# --- a TPM's state, as QEMU asks for it and gives it ---------------------------------------------------------------------

CMD_INIT, CMD_GET_STATEBLOB, CMD_SET_STATEBLOB, CMD_STOP = 0x02, 0x0C, 0x0D, 0x0E
CMD_SHUTDOWN, CMD_HASH_START, CMD_HASH_END = 0x03, 0x06, 0x08
PERMANENT, VOLATILE, SAVESTATE = 1, 2, 3
NO_BLOB = 0x800


def get_blob(control, kind, flags=1):
    head = control_call(control, CMD_GET_STATEBLOB, struct.pack(">III", flags, kind, 0), 16)
    code, out_flags, whole, size = struct.unpack(">IIII", head)
    require(out_flags == 0 and whole == size, f"flags {out_flags}, {size} of {whole} bytes")
    blob = b""
    while len(blob) < size:
        blob += control.recv(size - len(blob))
    return code, blob


def exported(instance):
    """(permanent, volatile) of the instance as it is now."""
    with connect_unix(instance.path + ".ctrl") as control:
        blobs = [get_blob(control, kind) for kind in (PERMANENT, VOLATILE)]
        require(get_blob(control, SAVESTATE) == (NO_BLOB, b""), "a TPM 2.0 has a savestate")
    require(all(code == 0 and blob for code, blob in blobs), f"{[code for code, _ in blobs]}")
    return tuple(blob for _, blob in blobs)


def give(control, blobs):
    """STOP, SET_STATEBLOB and INIT; the result of INIT."""
    require(control_call(control, CMD_STOP) == bytes(4), "STOP is refused")
    for kind, blob in zip((PERMANENT, VOLATILE), blobs):
        require(control_call(control, CMD_SET_STATEBLOB, struct.pack(">III", 0, kind, len(blob)) + blob) == bytes(4),
                "a blob is refused")
    return struct.unpack(">I", control_call(control, CMD_INIT, struct.pack(">I", 1)))[0]


class Qmp:
    """QEMU's machine protocol: an answer to each command; events in between are kept."""

    def __init__(self, path):
        self.stream = connect_unix(path, BOOT_TIMEOUT)
        self.lines = self.stream.makefile("rb")
        self.events = []
        json.loads(self.lines.readline())  # its greeting
        self.execute("qmp_capabilities")

    def execute(self, command, /, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.stream.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self.lines.readline()
            require(line, f"QEMU closed its monitor at {command}")
            answer = json.loads(line)
            if "event" in answer:
                self.events.append(answer["event"])
                continue
            require("return" in answer, f"QEMU refuses {command} {arguments}: {answer.get('error')}")
            return answer["return"]


class Machine:
    """With a command line it is a guest; without one the firmware ends in its shell, after everything was measured. Snapshots
    go to the file of that name; further arguments go to QEMU as they are."""

    def __init__(self, directory, control, model="tpm-crb", arguments=(), command_line=None, incoming=None, snapshots=None):
        self.directory = directory
        self.said_before = b""  # where the machine came from, maybe the beginning of a line
        self.serial = os.path.join(directory, "serial")
        shell, monitor = os.path.join(directory, "shell"), os.path.join(directory, "monitor")
        firmware = FIRMWARE if command_line is None else SMALL_FIRMWARE
        line = [QEMU, "-machine", "q35", "-m", "256", "-display", "none", "-nodefaults", "-no-user-config",
                "-serial", f"file:{self.serial}", "-qmp", f"unix:{monitor},server=on,wait=off",
                "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware}",
                "-chardev", f"socket,id=chrtpm,path={control}", "-tpmdev", "emulator,id=tpm0,chardev=chrtpm",
                "-device", f"{model},tpmdev=tpm0"]
        if command_line is not None:
            line += ["-kernel", kernel(), "-initrd", initramfs(), "-append", command_line,
                     "-drive", f"if=virtio,format=raw,readonly=on,file={tools()}",
                     "-chardev", f"socket,id=shell,path={shell},server=on,wait=off", "-serial", "chardev:shell"]
        if snapshots:
            line += ["-drive", f"if=none,id=snapshots,format=qcow2,file={snapshots}"]
        if incoming:
            line += ["-incoming", incoming]
        with open(os.path.join(directory, "qemu.log"), "wb") as log:
            self.popen = subprocess.Popen([*line, *arguments], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        atexit.register(self.kill)
        try:
            self.qmp = Qmp(self._socket(monitor))
        except (OSError, ValueError) as failure:
            raise AssertionError(f"QEMU does not greet: {failure}; ended with {self.popen.poll()}: {self.log()}") from failure
        self.guest = Guest(self, connect_unix(self._socket(shell), BOOT_TIMEOUT)) if command_line is not None else None

    def _socket(self, path):
        wait_for(lambda: listens(path) or self.require_running(), f"nobody listens at {path}")
        return path

    def require_running(self):
        require(self.popen.poll() is None, f"QEMU ended with {self.popen.poll()}: {self.log()}")

    def log(self):
        with open(os.path.join(self.directory, "qemu.log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def console(self):
        """What was written to the first serial port."""
        if not os.path.exists(self.serial):
            return b""
        with open(self.serial, "rb") as file:
            return file.read()

    def shells(self):
        """How often the firmware's shell began."""
        self.require_running()
        return self.console().count(b"UEFI Interactive Shell")

    def booted(self, times=1):
        wait_for(lambda: self.shells() >= times, "the firmware does not come to its shell", BOOT_TIMEOUT)

    def monitor(self, command):
        """What QEMU's monitor for people answers."""
        return self.qmp.execute("human-monitor-command", command_line=command)

    def save(self, name):
        """Keeps the whole machine, its TPM with it, in the file for snapshots."""
        said = self.monitor(f"savevm {name}")
        require(not said, f"the machine is not saved: {said}")

    def load(self, name):
        said = self.monitor(f"loadvm {name}")
        require(not said, f"the machine is not as it was saved: {said}")

    def go_back(self, name):
        """Loads what was saved before the last extension that was seen, and goes on from there."""
        later = self.extended()[-1][0]
        self.load(name)
        said = len(self.extended())
        self.wait_extended()
        after = self.extended()[said:]
        require_extensions(after)
        require(after[0][0] <= later, f"the machine has not gone back: it has counted to {later}, and now {after}")

    def extended(self):
        """[(count, value)] of what the guest says that it has extended, since it was told to go on extending."""
        return extensions_in(self.said_before + self.console())

    def wait_extended(self, more=2):
        """Until it has extended some more; returns the last count."""
        before = len(self.extended())

        def enough():
            self.require_running()
            said = self.extended()
            return said[-1][0] if len(said) >= before + more else None
        return wait_for(enough, "the guest does not go on extending", BOOT_TIMEOUT)

    def migrate(self, uri, other):
        """Until all of it goes on in the other machine, which waits for it there; this one then stands still. It may stand still
        for long: without KVM, QEMU 7.2 now and then loses what a guest writes while its memory is sent, with any TPM."""
        self.qmp.execute("migrate-set-parameters", downtime_limit=60000)
        self.qmp.execute("migrate", uri=uri)

        def done():
            status = self.qmp.execute("query-migrate")
            require(status.get("status") not in ("failed", "cancelled"), f"the migration failed: {status}; {self.log()}")
            return status.get("status") == "completed"
        wait_for(done, "the migration does not end", BOOT_TIMEOUT)
        other.said_before = self.said_before + self.console()
        wait_for(lambda: other.qmp.execute("query-status")["status"] == "running", "the machine does not go on", BOOT_TIMEOUT)

    def migrate_in_vain(self):
        """The stream breaks off, and this one goes on."""
        stream = os.path.join(new_directory(), "broken")
        with open(stream, "wb"):
            pass
        self.qmp.execute("migrate", uri=f"exec:head -c 1000000 >{stream}")
        wait_for(lambda: self.qmp.execute("query-migrate").get("status") == "failed", "the migration does not fail", BOOT_TIMEOUT)
        self.wait_extended()
        require_extensions(self.extended())

    def end(self):
        self.popen.terminate()
        require(self.popen.wait(30) == 0, f"QEMU ended with {self.popen.returncode}: {self.log()}")

    def kill(self):
        self.popen.kill()
        self.popen.wait()


class Guest:
    """The shell of the guest on the second serial port."""

    def __init__(self, machine, stream):
        self.machine, self.stream = machine, stream
        self.received = b""
        self.numbers = itertools.count(1)

    def _read_until(self, mark, what):
        while mark not in self.received:
            try:
                part = self.stream.recv(65536)
            except TimeoutError:
                part = b""
            if not part:
                self.machine.require_running()
                raise AssertionError(f"the guest does not answer {what}; it said {self.received[-2000:]}; its console: "
                                     f"{self.machine.console()[-4000:]}")
            self.received += part
        before, _, self.received = self.received.partition(mark)
        return before

    def wait_ready(self):
        """Until it has booted, for the first time or again."""
        self._read_until(READY, "at all")

    def run(self, command, fails=False):
        """The output of a shell command, whose status has to be as expected."""
        mark = f"--{next(self.numbers)}--"
        self.stream.sendall(f"( {command}\n) </dev/null 2>&1; echo {mark} $?\n".encode())
        output = self._read_until(mark.encode() + b" ", command).decode(errors="replace")
        status = int(self._read_until(b"\n", command))
        require((status != 0) == fails, f"in the guest, {command} ended with {status}: {output}")
        return output

    def put(self, path, data):
        text = base64.encodebytes(data).decode()
        self.run(f"base64 -d >{path} <<'END'\n{text}END")

    def go_on_extending(self):
        self.put("extending", EXTENDING.encode())
        self.run("sh extending >/dev/ttyS0 2>&1 &")

    def get(self, path):
        return base64.b64decode(self.run(f"base64 {path}"))


class Host:
    """An instance, on a host of its own or on that of another one, and machines on it, one after the other."""

    def __init__(self, label, daemon=None):
        self.daemon = daemon or Daemon()
        self.instance = self.daemon.create(label)
        self.machine = None

    def boot(self, model="tpm-crb", command_line=COMMAND_LINE, **arguments):
        """A machine anew; returns its guest, which is ready."""
        if self.machine:
            self.end()
            self.instance.start()
        self.machine = Machine(new_directory(), self.instance.path + ".ctrl", model, command_line=command_line, **arguments)
        self.machine.guest.wait_ready()
        return self.machine.guest

    def end(self):
        self.machine.end()
        self.instance.wait_for("its TPM goes on without the machine", state="stopped")


def libvirts_swtpm(executable="swtpm", state=None, more=("--flags", "not-need-init")):
    """A swtpm, Debian's unless another is named, as libvirt starts it: without a data channel of its own. Its control socket,
    and the process."""
    directory = new_directory()
    path = os.path.join(directory, "swtpm.ctrl")
    swtpm = Process("swtpm", [executable, "socket", "--tpm2", "--ctrl", f"type=unixio,path={path}", "--tpmstate",
                              f"dir={state or directory}", *more], directory)
    swtpm.wait_until(lambda: listens(path), "it listens")
    return path, swtpm


# --- a guest that moves --------------------------------------------------------------------------------------------------

def extending(control, snapshots=None):
    """A machine whose guest has sealed a secret and goes on extending."""
    machine = Machine(new_directory(), control, command_line=COMMAND_LINE, snapshots=snapshots)
    machine.guest.wait_ready()
    machine.guest.run("tpm2 createprimary -Q -G ecc -c parent && echo -n a secret | "
                      "tpm2 create -Q -C parent -i - -u public -r private")
    machine.guest.go_on_extending()
    machine.wait_extended()
    return machine


def waiting(control, stream, snapshots=None):
    """A machine that begins with what comes there."""
    return Machine(new_directory(), control, command_line=COMMAND_LINE, incoming=f"unix:{stream}", snapshots=snapshots)


def moved(first, control, snapshots=None):
    """The machine at another control socket that the first one, which then stands still, goes on as. What its guest has sealed
    before can be unsealed there."""
    stream = os.path.join(new_directory(), "stream")
    second = waiting(control, stream, snapshots)
    first.migrate(f"unix:{stream}", second)
    second.wait_extended()
    require_extensions(second.extended())
    second.guest.run("tpm2 load -Q -C parent -u public -r private -c blob")
    require(second.guest.run("tpm2 unseal -c blob") == "a secret", "what was sealed before is another secret now")
    return second


def moves(source, destination, source_snapshots=None, destination_snapshots=None):
    """Boots a guest at one control socket, moves it to the other one while it extends; returns the second machine."""
    first = extending(source, source_snapshots)
    second = moved(first, destination, destination_snapshots)
    first.kill()
    return second


# --- our command swtpm ---------------------------------------------------------------------------------------------------

INCOMING = ("--migration", "release-lock-outgoing,incoming")


def ask_and_leave(daemon, descriptors, *requests):
    """Asks for several things at once and does not wait for all answers."""
    admin = daemon.admin()
    lines = "".join(json.dumps({"execute": verb, "arguments": arguments}) + "\n" for verb, arguments in requests)
    socket.send_fds(admin.stream, [lines.encode()], descriptors)
    time.sleep(randomness.uniform(0, 0.3))
    admin.close()


class Commands:
    """A swtpm of ours that serves, and others of the same state directory."""

    def __init__(self, daemon=None):
        self.daemon = daemon or Daemon()
        self.state = new_directory()
        self.marker = os.path.join(self.state, "vtpm-instance")
        self.source, self.first = self.start("--terminate")
        wait_for(lambda: os.path.exists(self.marker), "it names no instance")
        wait_for(lambda: self.show()["state"] == "running", f"it does not serve: {self.first.log()}")

    def start(self, *more, daemon=None):
        os.environ["VTPM_SOCKET"] = (daemon or self.daemon).socket
        return libvirts_swtpm(program("swtpm"), self.state, more)

    def show(self, daemon=None):
        with open(self.marker, encoding="utf-8") as file:
            return (daemon or self.daemon).call("show", instance=file.read().strip())

    def start_incoming(self):
        path, process = self.start("--terminate", *INCOMING)
        wait_for(lambda: self.show()["incoming"] or not process.running(), "it does not start")
        require(process.running(), process.log())
        wait_for(lambda: self.show()["incoming"]["ready"], "it is not ready")
        return path, process

    def start_incoming_from(self, there, here):
        """Under another vtpmd, whose instance it is not yet."""
        os.environ["VTPM_INCOMING_FROM"] = there.socket
        try:
            return self.start("--terminate", *INCOMING, daemon=here)
        finally:
            del os.environ["VTPM_INCOMING_FROM"]

    def refuses_incoming(self, sentence, daemon=None):
        """Another one that is to take over does not wait for anything."""
        os.environ["VTPM_SOCKET"] = (daemon or self.daemon).socket
        said = subprocess.run([program("swtpm"), "socket", "--tpm2", "--ctrl", f"type=unixio,path={self.source}2", "--tpmstate",
                               f"dir={self.state}", *INCOMING], capture_output=True, text=True, timeout=30, check=False)
        require(said.returncode == 1 and sentence in said.stderr, f"{said}")

    def require_copies(self):
        """What lies in the directory is what one process after the other has put there."""
        names = sorted(os.listdir(self.state))
        require(names == ["tpm2-00.permall", "vtpm-copied", "vtpm-instance"], f"{names}")


# --- the kernel and the initramfs ----------------------------------------------------------------------------------------

def disk(path):
    """Arguments for QEMU: a writable disk, the second of the guest: /dev/vdb."""
    return ["-drive", f"if=virtio,format=raw,file={path}"]


def snapshots_file():
    """An empty disk in the only format into which QEMU saves a machine."""
    path = os.path.join(new_directory(), "snapshots.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    return path


def kernel():
    found = [name for name in os.listdir(os.path.join(GUEST, "boot")) if name.startswith("vmlinuz-")]
    return os.path.join(GUEST, "boot", found[0])


def module(name):
    for directory, _, names in os.walk(os.path.join(GUEST, "lib", "modules")):
        if f"{name}.ko" in names:
            return os.path.join(directory, f"{name}.ko")
    raise AssertionError(f"the kernel package has no module {name}")


def libraries_of(path):
    """What the dynamic linker loads for a program or a library."""
    lines = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout.splitlines()
    return {word for line in lines for word in line.split() if word.startswith("/")}


class Archive:
    """A cpio archive as the kernel unpacks it; all belongs to root, whoever makes it."""

    def __init__(self):
        self.data = bytearray()
        self.numbers = itertools.count(1)

    def add(self, path, mode, content=b""):
        fields = [next(self.numbers), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path) + 1, 0]
        for part in (b"070701" + b"".join(b"%08x" % field for field in fields) + path.encode() + b"\0", content):
            self.data += part
            self.data += bytes(-len(self.data) % 4)

    def end(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.data)


@functools.cache
def initramfs():
    """The path of a small one: the firmware measures every byte of it at each boot, so most programs are on a disk."""
    archive = Archive()
    for path in ("bin", "modules", "proc", "sys", "dev", "tmp", "run", "tools"):
        archive.add(path, 0o040755)
    files = {f"modules/{name}.ko": module(name) for name in MODULES} | {"bin/busybox": os.path.join(GUEST, "bin", "busybox")}
    for path, source in files.items():
        with open(source, "rb") as file:
            archive.add(path, 0o100755, file.read())
    archive.add("init", 0o100755, INIT.encode())
    for path in ("lib", "lib64", "usr"):
        archive.add(path, 0o120777, f"tools/{path}".encode())
    path = os.path.join(new_directory(), "initramfs")
    with open(path, "wb") as file:
        file.write(gzip.compress(archive.end(), 6))
    return path


@functools.cache
def tools():
    """The path of a file system with the programs and what they load."""
    root, path = (os.path.join(new_directory(), name) for name in ("root", "tools"))
    copied = {f"bin/{name}": shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") for name in PROGRAMS}
    for name in OURS:
        copied[f"build/bin/{name}"] = program(name)
    for name in PLUGINS:
        copied[f"lib/x86_64-linux-gnu/{name}"] = os.path.join(LIBRARIES, name)
    for source in list(copied.values()):
        for library in libraries_of(source):
            copied[library.lstrip("/")] = library
    copied |= {f"build/enclave/{os.path.basename(path)}": path for path in (MANAGER_IMAGE, IMAGE)}
    for target, source in copied.items():
        target = os.path.join(root, target)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-O", "^has_journal", "-d", root, path, "64M"], check=True,
                   capture_output=True)
    return path
