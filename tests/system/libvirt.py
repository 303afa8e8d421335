#!/usr/bin/python3
"""A libvirt that was told nothing but where to find swtpm: its daemon, with this project's three commands first in its
PATH, defines, starts, resets, destroys, saves and restores a machine with <tpm>, and the machine has one TPM all the time.

libvirtd is started by the test, in a mount namespace of its own, so that no service and no directory of the host's is
touched. Live migration needs a second libvirtd on another host: swtpm_command.py does by hand what the two would do.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess

from harness import BUILD, Daemon, Process, connect_unix, ctl, need_root, new_directory, wait_for
from machine import COMMAND_LINE, SMALL_FIRMWARE, Guest, extensions_in, initramfs, kernel, require_extensions, tools
from tap import Skip, require, run, test

UUID = "5d0c1a52-2f0f-4a53-9a63-6f0f6f1c7e21"
NAME = "vtpm-libvirt-test"
QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT = 120.0
VARIABLES = "/usr/share/OVMF/OVMF_VARS.fd"
SAVED = f"/var/lib/libvirt/qemu/save/{NAME}.save"
PRIVATE = ["/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/etc/libvirt",
           "/var/log/swtpm", "/var/lib/swtpm-localca"]
SWTPM_USER = "tss"  # as Debian's libvirt has it; vtpmd's admin socket is this group's

# Debian's libvirt looks its default user up before it reads which one is meant.
USERS = {"passwd": "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false", "group": "libvirt-qemu:x:64055:"}

QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
swtpm_user = "tss"
swtpm_group = "tss"
"""

DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>256</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>{firmware}</loader>
    <nvram template='{variables}'>{directory}/nvram.fd</nvram>
    {boot}
  </os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>{qemu}</emulator>
    <serial type='file'><source path='{directory}/serial' append='on'/></serial>
    {devices}
    <tpm model='{model}'><backend type='emulator' version='{version}'/></tpm>
    <memballoon model='none'/>
  </devices>
</domain>
"""

GUEST_BOOT = "<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{line}</cmdline>"
GUEST_DEVICES = """<serial type='unix'><source mode='bind' path='{directory}/shell'/></serial>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{tools}'/><target dev='vda' bus='virtio'/><readonly/>
    </disk>"""


class Libvirt:
    """libvirtd of this test, and virsh over its socket. It finds swtpm's commands where it is told, or else these."""

    def __init__(self, daemon, commands=os.path.join(BUILD, "bin")):
        need_root()
        for needed in ("libvirtd", "virsh", QEMU, "swtpm_localca"):
            if not shutil.which(needed):
                raise Skip(f"{needed} is not installed")
        self.daemon, self.directory = daemon, new_directory()
        os.chmod(self.directory, 0o755)
        self.serial = os.path.join(self.directory, "serial")
        self.state = os.path.join("/var/lib/libvirt/swtpm", UUID, "tpm2")
        self.write("libvirtd.conf", f'unix_sock_dir = "{self.directory}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
                                    'unix_sock_group = "root"\nlisten_tls = 0\nlisten_tcp = 0\n')
        self.write("qemu.conf", QEMU_CONF)
        self.write("begin", "#!/bin/sh\nset -e\n" + "".join(f"mkdir -p {one}; mount -t tmpfs tmpfs {one}\n" for one in PRIVATE)
                   + "".join(f"(cat /etc/{name}; echo '{line}') >{self.directory}/{name}\n"
                             f"mount --bind {self.directory}/{name} /etc/{name}\n" for name, line in USERS.items())
                   + f"cp {self.directory}/qemu.conf /etc/libvirt/qemu.conf\nmkdir -p /var/lib/libvirt/swtpm\n"
                   + f"chown {SWTPM_USER} /var/lib/swtpm-localca\n"
                   + f"exec libvirtd --config {self.directory}/libvirtd.conf --pid-file {self.directory}/pid\n")
        os.environ.update(PATH=commands + ":" + os.environ["PATH"], VTPM_SOCKET=daemon.socket)
        os.environ.pop("TMPDIR", None)  # the test's own may be closed to SWTPM_USER
        user = pwd.getpwnam(SWTPM_USER)
        os.chmod(daemon.directory, 0o711)
        os.chown(daemon.socket, -1, user.pw_gid)
        self.process = Process("libvirtd", ["unshare", "--mount", "--propagation", "private", "sh",
                                            os.path.join(self.directory, "begin")], self.directory)
        self.process.wait_until(lambda: os.path.exists(os.path.join(self.directory, "libvirt-sock")), "its socket exists")

    def define(self, with_guest=False, model="tpm-crb", version="2.0"):
        boot = devices = ""
        if with_guest:
            boot = GUEST_BOOT.format(kernel=kernel(), initrd=initramfs(), line=COMMAND_LINE)
            devices = GUEST_DEVICES.format(directory=self.directory, tools=tools())
        xml = DOMAIN.format(name=NAME, uuid=UUID, directory=self.directory, qemu=shutil.which(QEMU), boot=boot, model=model,
                            version=version, firmware=SMALL_FIRMWARE, variables=VARIABLES, devices=devices)
        self.virsh("define", self.write("domain.xml", xml))

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def virsh(self, *words, good=True):
        result = subprocess.run(["virsh", "-c", f"qemu:///system?socket={self.directory}/libvirt-sock", *words],
                                capture_output=True, text=True, timeout=120, check=False)
        require(not good or result.returncode == 0,
                f"virsh {words}: {result.stderr}\n{self.process.log()[-1500:]}\n{self.daemon.log()[-1500:]}")
        return result.stdout if result.returncode == 0 else result.stderr

    def inside(self, *words):
        """What a program says that looks at libvirt's directories."""
        return subprocess.run(["nsenter", "--mount", "--target", str(self.process.pid), *words], capture_output=True,
                              text=True, timeout=60, check=False).stdout

    def swtpm_log(self):
        return self.inside("sh", "-c", "cat /var/log/swtpm/libvirt/qemu/*.log")

    def booted(self, times):
        def shells():
            with open(self.serial, "rb") as file:
                return file.read().count(b"UEFI Interactive Shell")
        wait_for(lambda: os.path.exists(self.serial) and shells() >= times, "the firmware does not come to its shell",
                 BOOT_TIMEOUT)

    # What a Guest asks of its machine.

    def console(self):
        with open(self.serial, "rb") as file:
            return file.read()

    def require_running(self):
        require("running" in self.virsh("domstate", NAME), f"the machine does not run: {self.daemon.log()[-1500:]}")

    def guest(self):
        return Guest(self, connect_unix(os.path.join(self.directory, "shell"), BOOT_TIMEOUT))

    def wait_extended(self, more=2):
        before = len(extensions_in(self.console()))
        wait_for(lambda: len(extensions_in(self.console())) >= before + more, "the guest does not go on extending",
                 BOOT_TIMEOUT)

    def end(self):
        self.virsh("destroy", NAME, good=False)
        self.process.stop()


def the_instance(daemon):
    instances = daemon.call("list")["instances"]
    require(len(instances) == 1, f"{instances}")
    return instances[0]


def stopped(daemon, sentence):
    wait_for(lambda: the_instance(daemon)["state"] == "stopped", sentence)


def with_libvirt(what):
    daemon = Daemon()
    libvirt = Libvirt(daemon)
    try:
        what(daemon, libvirt)
    finally:
        libvirt.end()


@test
def a_machine_of_libvirts_has_its_tpm_from_start_to_end():
    with_libvirt(goes_through_its_life)


def goes_through_its_life(daemon, libvirt):
    libvirt.define()
    libvirt.virsh("start", NAME)
    libvirt.booted(1)
    first = the_instance(daemon)
    require((first["label"], first["state"], first["health"], first["held"]) == (UUID, "running", "serving", True),
            f"{first}")
    require(libvirt.inside("cat", f"{libvirt.state}/vtpm-instance").strip() == first["id"], "the marker is another")
    log = libvirt.swtpm_log()
    for sentence in ("RSA 2048 EK with handle 0x81010001", "NVRAM area 0x1c00002", "NVRAM area 0x1c08000",
                     "ECC EK with handle 0x81010016", "PCR banks sha256"):
        require(sentence in log, f"swtpm_setup did not say \"{sentence}\": {log}")

    libvirt.virsh("reset", NAME)
    libvirt.booted(2)
    libvirt.virsh("destroy", NAME)
    stopped(daemon, "after destroy the TPM goes on")

    libvirt.virsh("start", NAME)
    again = the_instance(daemon)
    require(again["id"] == first["id"] and again["start"] == first["start"] + 1, f"{first} {again}")

    pid = int(libvirt.inside("cat", f"/run/libvirt/qemu/{NAME}.pid"))
    os.kill(pid, signal.SIGKILL)
    stopped(daemon, "after QEMU was killed the TPM goes on")
    wait_for(lambda: "shut off" in libvirt.virsh("domstate", NAME), "libvirt does not see that QEMU is gone")
    libvirt.virsh("start", NAME)
    libvirt.virsh("destroy", NAME)
    stopped(daemon, "after the last destroy the TPM goes on")

    # libvirt removes its directory and asks nobody: whoever wants the TPM gone too says so to vtpmd.
    libvirt.virsh("undefine", "--nvram", NAME)
    require(libvirt.inside("sh", "-c", f"ls -A {libvirt.state} 2>/dev/null") == "", "the directory is left")
    require(the_instance(daemon)["id"] == first["id"], "the TPM is gone")
    daemon.call("delete", instance=first["id"])


@test
def a_machine_that_libvirt_saves_goes_on_with_its_tpm():
    with_libvirt(is_saved_and_goes_on)


def is_saved_and_goes_on(daemon, libvirt):
    libvirt.define(with_guest=True)
    libvirt.virsh("start", NAME)
    guest = libvirt.guest()
    guest.wait_ready()
    guest.run("tpm2 createprimary -Q -G ecc -c parent && echo -n a secret | "
              "tpm2 create -Q -C parent -i - -u public -r private")
    guest.go_on_extending()
    libvirt.wait_extended()
    first = the_instance(daemon)
    for turn in range(1, 3):
        guest.stream.close()
        libvirt.virsh("managedsave", NAME)
        stopped(daemon, "after managedsave the TPM goes on")
        libvirt.virsh("start", NAME)
        require(the_instance(daemon)["start"] == first["start"] + turn, f"{the_instance(daemon)}")
        libvirt.wait_extended()
        require_extensions(extensions_in(libvirt.console()))
        guest = libvirt.guest()
        # The context of the parent is no good after a TPM2_Startup, nor is what the kernel keeps of its own.
        guest.run("tpm2 load -Q -C parent -u public -r private -c blob")
        require(guest.run("tpm2 unseal -c blob") == "a secret", "what was sealed before is another secret now")

    # Who starts the machine without what was saved has left it. A copy of it brings no TPM of yesterday back.
    guest.stream.close()
    libvirt.virsh("managedsave", NAME)
    libvirt.inside("cp", SAVED, f"{libvirt.directory}/kept")
    saved = the_instance(daemon)["version"]
    libvirt.virsh("start", "--force-boot", NAME)
    wait_for(lambda: the_instance(daemon)["version"] > saved, "the firmware does not use the TPM")
    libvirt.virsh("destroy", NAME)
    stopped(daemon, "after destroy the TPM goes on")
    said = libvirt.virsh("restore", f"{libvirt.directory}/kept", good=False)
    require("rror" in said and "running" not in libvirt.virsh("domstate", NAME), f"it was restored: {said}")
    require("older than the newest one" in daemon.log(), f"the log does not say why: {said} {daemon.log()[-1500:]}")
    stopped(daemon, "after a restore that was refused the TPM goes on")
    libvirt.virsh("start", NAME)
    libvirt.virsh("save", NAME, f"{libvirt.directory}/saved")
    libvirt.virsh("restore", f"{libvirt.directory}/saved")
    libvirt.require_running()
    libvirt.virsh("destroy", NAME)
    stopped(daemon, "after the last destroy the TPM goes on")
    libvirt.virsh("undefine", "--nvram", NAME)


@contextlib.contextmanager
def snapshots_allowed():
    os.environ["VTPM_SNAPSHOTS"] = "allowed"
    try:
        yield
    finally:
        del os.environ["VTPM_SNAPSHOTS"]


@test
def what_libvirt_makes_may_go_back_where_its_environment_says_so():
    with snapshots_allowed():
        with_libvirt(makes_one_that_may_go_back)


def makes_one_that_may_go_back(daemon, libvirt):
    libvirt.define()
    libvirt.virsh("start", NAME)
    require(the_instance(daemon)["snapshots"] == "allowed", f"{the_instance(daemon)}")
    libvirt.virsh("destroy", NAME)


@test
def a_machine_that_may_go_back_is_restored_from_what_it_has_left():
    with_libvirt(goes_back)


def make_by_hand(libvirt):
    """As docs/libvirt.md has it."""
    directory = os.path.dirname(libvirt.state)
    with snapshots_allowed():
        said = libvirt.inside("sh", "-c", f"install -d -m 711 {directory} && install -d -o {SWTPM_USER} -g {SWTPM_USER} -m 700 "
                              f"{libvirt.state} && swtpm_setup --tpm2 --tpm-state {libvirt.state} --createek --create-ek-cert "
                              f"--create-platform-cert --lock-nvram --vmid {NAME}:{UUID} --runas {SWTPM_USER} 2>&1 && echo made")
    require(said.endswith("made\n"), said)


def goes_back(daemon, libvirt):
    libvirt.define(with_guest=True)
    make_by_hand(libvirt)
    made = the_instance(daemon)
    libvirt.virsh("start", NAME)
    require(the_instance(daemon)["id"] == made["id"] and "EK with handle" not in libvirt.swtpm_log(), "libvirt has made another one")
    require(the_instance(daemon)["snapshots"] == "allowed", f"{the_instance(daemon)}")
    guest = libvirt.guest()
    guest.wait_ready()
    guest.go_on_extending()
    libvirt.wait_extended()
    guest.stream.close()
    kept = f"{libvirt.directory}/kept"
    libvirt.virsh("save", NAME, kept)
    stopped(daemon, "after save the TPM goes on")
    saved = the_instance(daemon)["version"]
    libvirt.virsh("start", NAME)
    wait_for(lambda: the_instance(daemon)["version"] > saved, "the firmware does not use the TPM")
    libvirt.virsh("destroy", NAME)
    for loads in (1, 2):
        stopped(daemon, "after destroy the TPM goes on")
        libvirt.virsh("restore", kept)
        libvirt.wait_extended()
        require(the_instance(daemon)["snapshot-loads"] == loads, f"{the_instance(daemon)}")
        libvirt.virsh("destroy", NAME)
    # The second time it begins where the first one did. A line that it was about to say when it was saved may be torn.
    counts = [count for count, _ in extensions_in(libvirt.console())]
    steps = [later - count for count, later in zip(counts, counts[1:])]
    require(sum(step < 1 for step in steps) == 1 and max(steps) <= 2, f"the guest has counted {counts}")
    stopped(daemon, "after the last destroy the TPM goes on")
    libvirt.virsh("undefine", "--nvram", NAME)


@test
def a_machine_of_libvirts_may_have_a_tpm_12():
    with_libvirt(has_a_tpm_12)


def has_a_tpm_12(daemon, libvirt):
    libvirt.define(model="tpm-tis", version="1.2")
    libvirt.virsh("start", NAME)
    shown = the_instance(daemon)
    require((shown["label"], shown["state"], shown["tpm"]) == (UUID, "running", "1.2"), f"{shown}")
    require("Successfully locked NVRAM access." in libvirt.swtpm_log(), libvirt.swtpm_log())
    libvirt.virsh("managedsave", NAME)
    stopped(daemon, "after managedsave the TPM goes on")
    libvirt.virsh("start", NAME)
    libvirt.require_running()
    libvirt.virsh("destroy", NAME)
    stopped(daemon, "after destroy the TPM goes on")
    require(ctl(daemon, "list").count(libvirt.virsh("domuuid", NAME).strip()) == 1, ctl(daemon, "list"))
    libvirt.virsh("undefine", "--nvram", NAME)
    ctl(daemon, "delete", UUID)


if __name__ == "__main__":
    run()
