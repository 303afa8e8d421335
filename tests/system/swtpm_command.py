#!/usr/bin/python3
"""swtpm's commands as this project has them: the same command line, sockets and words as Debian's, with TPMs of vtpmd's
behind them.
"""

import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import time

from harness import Daemon, Process, connect_unix, free_port, give_to_user, need_root, new_directory, program, wait_for
from tap import Skip, require, run, test
from tpm import Tpm
from tpm12_client import Tpm12, sha1

UUID = "0f5d9b6e-8a3c-4d7e-9f10-2b3c4d5e6f70"
CAPABILITIES = (
    '{{ "type": "swtpm", "features": [ "tpm-1.2", "tpm-2.0", "tpm-send-command-header", "flags-opt-startup", '
    '"ctrl-opt-terminate", "cmdarg-seccomp", "cmdarg-key-fd", "cmdarg-pwd-fd", "cmdarg-print-states", "cmdarg-chroot", '
    '"cmdarg-migration", "nvram-backend-dir"{} ], "version": "0.7.1" }}\n')
KEY_SIZES = ', "rsa-keysize-1024", "rsa-keysize-2048", "rsa-keysize-3072"'

_daemon = []


def daemon():
    if not _daemon:
        _daemon.append(Daemon())
        os.environ["VTPM_SOCKET"] = _daemon[0].socket  # for what the harness starts
    return _daemon[0]


def environment(**more):
    return dict(os.environ, VTPM_SOCKET=daemon().socket, **more)


def debians(name):
    path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if not path:
        raise Skip(f"Debian's {name} is not installed")
    return path


def execute(arguments, timeout=60, **more):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False,
                          **({"env": environment()} | more))


def new_state(name="state"):
    path = os.path.join(new_directory(), UUID if name == "uuid" else name)
    os.mkdir(path)
    return path


class Command(Process):
    """One swtpm, ours unless another is named, with its sockets beside its state directory."""

    def __init__(self, state, *more, executable=None, sockets=None, name="swtpm", ready=True,
                 family=("--tpm2",), **options):
        self.state = state
        self.directory = os.path.dirname(state)
        self.path = os.path.join(self.directory, f"{name}.sock")
        self.pid_path = os.path.join(self.directory, f"{name}.pid")
        if sockets is None:
            sockets = ["--server", f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,path={self.path}.ctrl"]
        daemon()
        super().__init__(name, [executable or program("swtpm"), "socket", *family, *sockets, "--tpmstate",
                                f"dir={state}", "--pid", f"file={self.pid_path}", *more], self.directory, **options)
        if ready:
            self.wait_until(lambda: os.path.exists(self.pid_path) and os.path.getsize(self.pid_path), "it is ready")

    def connect(self):
        return Tpm(connect_unix(self.path))

    def instance(self):
        return daemon().call("show", instance=self.marker())

    def marker(self):
        with open(os.path.join(self.state, "vtpm-instance"), encoding="ascii") as file:
            return file.read().strip()


def refused(sentence, *arguments, **more):
    result = execute([program("swtpm"), *arguments], **more)
    require(result.returncode == 1 and result.stderr.startswith("swtpm: ") and sentence in result.stderr,
            f"{arguments}: {result.returncode}, {result.stderr}")
    return result.stderr


# --- the command line --------------------------------------------------------------------------------------------------

@test
def what_it_can_do_is_one_line():
    for arguments, sizes in ((["socket", "--print-capabilities"], ""), (["socket", "--tpm2", "--print-capabilities"], KEY_SIZES),
                             (["chardev", "--tpm2", "--print-capabilities"], KEY_SIZES)):
        result = execute([program("swtpm"), *arguments])
        require((result.returncode, result.stdout) == (0, CAPABILITIES.format(sizes)), f"{arguments}: {result}")


@test
def what_cannot_be_honoured_is_refused_by_name():
    state = new_state()
    socket = ["--ctrl", f"type=unixio,path={state}/s"]
    refused("add --tpm2", "chardev", "--fd", "3", "--tpmstate", f"dir={state}")
    refused("use dir=DIRECTORY", "socket", "--tpm2", *socket, "--tpmstate", f"backend-uri=file://{state}/nvram")
    refused("nobody could reach the TPM", "socket", "--tpm2", "--tpmstate", f"dir={state}")
    refused("the state directory is missing", "socket", "--tpm2", *socket)
    refused("Unsupported TPM interface", "cuse", "--tpm2")
    refused("--profile", "socket", "--tpm2", *socket, "--tpmstate", f"dir={state}", "--profile", "name=null")
    refused("names no instance", "socket", "--tpm2", *socket, "--tpmstate", f"dir={state}", "--migration", "incoming")
    refused("leave --flags out", "socket", "--tpm2", *socket, "--tpmstate", f"dir={state}", "--migration", "incoming",
            "--flags", "not-need-init")
    require(os.listdir(state) == [], f"something was made: {os.listdir(state)}")


@test
def without_vtpmd_it_says_where_it_was_looked_for():
    state = new_state()
    said = refused("vtpmd does not run", "socket", "--tpm2", "--ctrl", f"type=unixio,path={state}/s", "--tpmstate",
                   f"dir={state}", env=dict(os.environ, VTPM_SOCKET="/nonexistent/admin.sock"))
    require("/nonexistent/admin.sock" in said and not os.path.exists(f"{state}/s"), said)


@test
def its_first_use_starts_vtpmd_where_systemd_holds_the_socket():
    host, old = Daemon(init=False), daemon().socket
    host.init()
    activation = Process("vtpmd", ["systemd-socket-activate", "--listen", host.socket, *host.arguments], host.directory)
    activation.wait_until(lambda: os.path.exists(host.socket), "systemd holds the socket")
    require("ready" not in activation.output(), "vtpmd runs already")
    os.environ["VTPM_SOCKET"] = host.socket
    try:
        command = Command(new_state(), "--flags", "not-need-init,startup-clear")
    finally:
        os.environ["VTPM_SOCKET"] = old
    require("ready" in activation.output(), activation.log())
    client = command.connect()
    require(len(client.get_random(8)) == 8, "the TPM does not answer")
    client.close()
    require(command.stop() == 0 and activation.stop() == 0, activation.log())


# --- which TPM ---------------------------------------------------------------------------------------------------------

@test
def a_directory_gets_a_tpm_and_has_it_again():
    state = new_state("uuid")
    first = Command(state, "--flags", "not-need-init,startup-clear")
    require(first.instance()["label"] == UUID, f"{first.instance()}")
    client = first.connect()
    client.pcr_read(0)
    client.close()
    identity = first.marker()
    require(first.stop() == 0, first.log())
    require(not os.path.exists(first.path) and not os.path.exists(first.pid_path), "its files are left")
    require(daemon().call("show", instance=identity)["state"] == "stopped", "it was not stopped in order")
    second = Command(state, "--flags", "not-need-init")
    require(second.marker() == identity and second.instance()["start"] == 2, f"{second.instance()}")
    second.stop()


@test
def two_directories_of_one_name_have_two_tpms():
    ones = [Command(new_state("uuid" if turn == 2 else "same"), "--flags", "not-need-init") for turn in range(2)]
    labels = [one.instance()["label"] for one in ones]
    require(len(set(labels)) == 2, f"{labels}")
    for one in ones:
        one.stop()


@test
def whether_a_tpm_goes_back_with_its_machine_is_said_once():
    def snapshots(state):
        with open(os.path.join(state, "vtpm-instance"), encoding="ascii") as file:
            return daemon().call("show", instance=file.read().strip())["snapshots"]

    def make(state, said):
        more = {} if said is None else {"VTPM_SNAPSHOTS": said}
        made(set_up(state, "--not-overwrite", env=environment(**more)), f"with {said}")
    for said, expected in ((None, "refused"), ("", "refused"), ("refused", "refused"), ("allowed", "allowed")):
        state = new_state()
        make(state, said)
        require(snapshots(state) == expected, f"with {said} it is {snapshots(state)}")
        make(state, "allowed")
        require(snapshots(state) == expected, f"it was {expected}, and is {snapshots(state)}")
    state = new_state()
    os.environ["VTPM_SNAPSHOTS"] = "allowed"
    try:
        Command(state, "--flags", "not-need-init").stop()
        Command(new_state(), "--flags", "not-need-init", family=()).stop()  # a TPM 1.2 has no such choice
    finally:
        del os.environ["VTPM_SNAPSHOTS"]
    require(snapshots(state) == "allowed", "the command that serves did not make it so")
    before, state = len(daemon().call("list")["instances"]), new_state()
    for wrong in ("yes", "allowed ", "\udcff"):
        refused("VTPM_SNAPSHOTS", "socket", "--tpm2", "--ctrl", f"type=unixio,path={state}.ctrl", "--tpmstate", f"dir={state}",
                env=environment(VTPM_SNAPSHOTS=wrong))
    require(len(daemon().call("list")["instances"]) == before, "an instance was made")


@test
def nothing_is_made_in_the_place_of_what_is_missing():
    state = new_state()
    line = ["socket", "--tpm2", "--ctrl", f"type=unixio,path={state}.ctrl", "--tpmstate", f"dir={state}"]
    before = len(daemon().call("list")["instances"])
    with open(os.path.join(state, "tpm2-00.permall"), "wb") as file:
        file.write(b"a state of swtpm's")
    refused("vtpmctl import", *line)
    os.unlink(os.path.join(state, "tpm2-00.permall"))
    for text, sentence in (("0f5d9b6e-8a3c-4d7e-9f10-000000000000\n", "does not have"), ("nonsense\n", "does not name")):
        with open(os.path.join(state, "vtpm-instance"), "w", encoding="ascii") as file:
            file.write(text)
        refused(sentence, *line)
    require(len(daemon().call("list")["instances"]) == before, "an instance was made")


@test
def one_directory_is_served_once():
    first = Command(new_state())
    said = refused("another process serves it", "socket", "--tpm2", "--ctrl", f"type=unixio,path={first.path}2",
                   "--tpmstate", f"dir={first.state}")
    require(first.running() and first.instance()["state"] == "running", said)
    first.stop()


# --- its life ----------------------------------------------------------------------------------------------------------

@test
def the_tpm_is_off_until_it_is_initialised():
    command = Command(new_state())
    client = command.connect()
    require(client.exchange(bytes.fromhex("80010000000c0000014400 00".replace(" ", ""))).hex() ==
            "80010000000a00000101", "it answered before CMD_INIT")
    require(execute([program("swtpm_ioctl"), "--unix", command.path + ".ctrl", "-i"]).returncode == 0, "CMD_INIT")
    client.startup()
    client.close()
    command.stop()


@test
def when_it_is_killed_the_tpm_is_stopped():
    command = Command(new_state())
    identity = command.marker()
    command.kill()
    wait_for(lambda: daemon().call("show", instance=identity)["state"] == "stopped", "the TPM goes on")
    Command(command.state).stop()


@test
def when_the_tpm_ends_it_ends():
    command = Command(new_state())
    require(execute([program("swtpm_ioctl"), "--unix", command.path + ".ctrl", "-s"]).returncode == 0, "CMD_SHUTDOWN")
    require(command.wait() == 0 and not os.path.exists(command.path), command.log())
    command = Command(command.state)
    daemon().call("stop", instance=command.marker())
    require(command.wait() == 0, command.log())


@test
def with_terminate_the_end_of_the_data_connection_is_its_end():
    command = Command(new_state(), "--terminate", "--flags", "not-need-init")
    connect_unix(command.path).close()
    client = command.connect()
    client.startup()
    client.close()
    require(command.wait() == 0, command.log())


@test
def in_the_background_it_returns_when_it_serves():
    command = Command(new_state(), "--daemon", "--flags", "not-need-init", ready=False)
    require(command.wait() == 0, command.log())
    client = command.connect()
    client.startup()
    with open(command.pid_path, encoding="ascii") as file:
        os.kill(int(file.read()), signal.SIGTERM)
    wait_for(lambda: not os.path.exists(command.pid_path) and not os.path.exists(command.path), "it does not end")


@test
def it_outlives_a_new_start_of_vtpmd():
    command = Command(new_state(), "--flags", "not-need-init")
    client = command.connect()
    client.startup()
    daemon().restart()
    wait_for(lambda: "is there again" in command.log(), f"it does not come back: {command.log()}")
    client.pcr_read(0)
    require(command.instance()["held"], f"{command.instance()}")
    require(command.stop() == 0, command.log())


@test
def after_the_power_has_gone_it_starts_as_ever():
    host = Daemon()
    state = new_state()
    line = [program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init", "--ctrl",
            f"type=unixio,path={state}.ctrl"]
    for _ in range(2):
        process = subprocess.Popen(line, env=dict(os.environ, VTPM_SOCKET=host.socket), stderr=subprocess.PIPE)
        wait_for(lambda: [one for one in host.call("list")["instances"] if one["state"] == "running"], "it does not start")
        host.end()
        process.kill()
        process.wait()
        host.power_on()
    instance = host.call("list")["instances"][0]
    wait_for(lambda: host.call("show", instance=instance["id"])["state"] == "stopped", "it was started by itself")
    require(host.call("show", instance=instance["id"])["wanted"] is False, "it is wanted")


@test
def a_dead_process_of_the_tpm_is_replaced_on_the_same_sockets():
    command = Command(new_state(), "--flags", "not-need-init")
    os.kill(command.instance()["pid"], signal.SIGKILL)
    wait_for(lambda: command.instance()["health"] == "awaiting reset", "it is not rebuilt")
    require(execute([program("swtpm_ioctl"), "--unix", command.path + ".ctrl", "-i"]).returncode == 0, "CMD_INIT")
    command.connect().startup()
    require(command.stop() == 0, command.log())


@test
def a_character_device_is_served_as_the_vtpm_proxy_driver_wants_it():
    daemon()
    state = new_state()
    driver, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = Process("chardev", [program("swtpm"), "chardev", "--tpm2", "--fd", str(device.fileno()), "--tpmstate",
                                  f"dir={state}", "--locality", "allow-set-locality"], os.path.dirname(state),
                      pass_fds=(device.fileno(),))
    device.close()
    driver.settimeout(20)

    def ask(text):
        driver.send(bytes.fromhex(text))
        return driver.recv(4096).hex()
    require(ask("80010000000b2000100003") == "80010000000a00000000", "SetLocality 3 was refused")
    require(ask("80010000000b2000100009") == "80010000000a00000107", "SetLocality 9 was not")
    require(ask("80010000000a20001000") == "80010000000a0000009a", "SetLocality without a locality was taken")
    require(ask("80010000000c0000017b0008")[:20] == "80010000001400000000", "the TPM was not started for the driver")
    driver.close()
    require(process.wait() == 0, process.log())
    identity = open(os.path.join(state, "vtpm-instance"), encoding="ascii").read().strip()
    wait_for(lambda: daemon().call("show", instance=identity)["state"] == "stopped", "the TPM goes on")


@test
def keys_are_read_and_not_needed():
    read_end, write_end = os.pipe()
    os.write(write_end, b"a passphrase")
    os.close(write_end)
    command = Command(new_state(), "--key", f"pwdfd={read_end},mode=aes-256-cbc", pass_fds=(read_end,))
    os.close(read_end)
    require("always sealed" in command.log(), command.log())
    command.stop()


@test
def whoever_holds_a_tpm_takes_no_place_of_the_daemons():
    commands = [Command(new_state(), name=f"place{turn}") for turn in range(3)]
    admins = [daemon().admin() for _ in range(60)]
    require(all(admin.greeting for admin in admins), "a client was turned away")
    for admin in admins:
        admin.close()
    for command in commands:
        require(command.stop() == 0, command.log())


# --- who may, and what vtpmd believes ----------------------------------------------------------------------------------

def as_user(name):
    entry = pwd.getpwnam(name)

    def become():
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    return become


@test
def a_user_of_the_admin_group_needs_to_be_nothing_else():
    need_root()
    group = pwd.getpwnam("nobody").pw_gid
    state = new_state()
    give_to_user(state)
    before = os.stat(daemon().socket)
    os.chown(daemon().socket, -1, group)
    try:
        command = Command(state, "--flags", "not-need-init", before_exec=as_user("nobody"))
        client = command.connect()
        client.startup()
        client.close()
        require(os.stat(command.path).st_uid == pwd.getpwnam("nobody").pw_uid, "whose socket is it?")
        require(command.stop() == 0, command.log())
    finally:
        os.chown(daemon().socket, -1, before.st_gid)
    said = execute([program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl",
                    f"type=unixio,path={state}.ctrl"], preexec_fn=as_user("nobody"))
    require(said.returncode == 1 and "no permission" in said.stderr, f"{said}")


@test
def run_as_another_user_it_still_ends_in_order():
    need_root()
    state = new_state()
    give_to_user(state)
    command = Command(state, "--runas", "nobody", "--flags", "not-need-init")
    with open(f"/proc/{command.pid}/status", encoding="ascii") as file:
        require(f"Uid:\t{pwd.getpwnam('nobody').pw_uid}\t" in file.read(), "it runs as another user")
    require(command.stop() == 0 and not os.path.exists(command.path), command.log())


class Handing:
    """The admin API with descriptors."""

    def __init__(self, where):
        self.admin = where.admin()

    def ask(self, verb, descriptors, **arguments):
        line = json.dumps({"execute": verb, "arguments": arguments}).encode() + b"\n"
        socket.send_fds(self.admin.stream, [line], descriptors)
        return self.admin.read()


@test
def what_is_handed_over_is_checked_and_never_kept():
    own = Daemon()
    label = own.call("create", label="handed", start=False)["label"]
    handing = Handing(own)
    ours, theirs = socket.socketpair()
    descriptors = f"/proc/{own.process.pid}/fd"
    handing.ask("version", [theirs.fileno()])
    handing.ask("version", [])  # what came with a request is closed behind its answer, and before the next one's
    before = len(os.listdir(descriptors))
    for swtpm, count in (({"sockets": ["data"]}, 0), ({"sockets": ["data", "control"]}, 1), ({"sockets": ["nonsense"]}, 1),
                         ({"sockets": ["data"] * 5}, 5), ({"sockets": "data"}, 1), ({"off": 1, "sockets": ["data"]}, 1),
                         ({"startup": "deactivated", "sockets": ["data"]}, 1)):
        answer = handing.ask("start", [theirs.fileno()] * count, instance=label, swtpm=swtpm)
        require(answer.get("error", {}).get("class") == "BAD_VALUE", f"{swtpm}: {answer}")
    answer = handing.ask("hold", [theirs.fileno()], instance=label, swtpm={"sockets": ["data"]})
    require(answer.get("error", {}).get("class") == "STATE_LOCKED", f"{answer}")
    for _ in range(20):
        handing.ask("version", [theirs.fileno()] * 4)
    require(handing.ask("await", [], instance=label)["return"]["held"] is False, "await waited")
    wait_for(lambda: len(os.listdir(descriptors)) == before, "descriptors were kept")
    require(own.call("show", instance=label)["state"] == "provisioned", "it was started")
    ours.close()
    theirs.close()
    handing.admin.close()


# --- what lies in the directory ----------------------------------------------------------------------------------------

@test
def a_copy_of_the_state_is_there_and_is_never_used():
    command = Command(new_state(), "--flags", "not-need-init,startup-clear")
    path = os.path.join(command.state, "tpm2-00.permall")

    def newest():
        with open(path, "rb") as file:
            return file.read()
    wait_for(lambda: os.path.exists(path), "there is no copy")
    require(os.stat(path).st_mode & 0o777 == 0o640, f"{os.stat(path)}")
    os.unlink(path)
    command.stop()
    with open(path, "rb") as file:
        good = file.read()
    with open(path, "wb") as file:
        file.write(b"another state")
    again = Command(command.state, "--flags", "not-need-init,startup-clear")
    wait_for(lambda: "it is kept as" in again.log(), f"it is not told: {again.log()}")
    wait_for(lambda: os.path.exists(path) and newest() != b"another state", "it is not written again")
    aside = [name for name in os.listdir(command.state) if ".foreign-" in name]
    require(len(aside) == 1 and len(good) > 1000, f"{os.listdir(command.state)}")
    again.stop()


# --- swtpm_ioctl -------------------------------------------------------------------------------------------------------

QUESTIONS = ["-c", "-b 0", "-b 3300", "-i", "-e", "-C", "-l 3", "-l 9", "-l x", "-g", "-r 3", "-r 1", "--info 7", "--info 3",
             "--info 0", "--info x", "--info 3x", "-b 0", "-b 3500", "-b x", "--stop", "-e", "-C", "-b 1", "-b 3500", "-b 1048576", "-z", "", "-c -g",
             "--save foo x", "--load volatile /nonexistent"]


def answers(executable, path, differ=()):
    said = []
    for question in QUESTIONS:
        result = execute([executable, "--unix", path, *question.split()])
        said.append((question, result.returncode, result.stdout, result.stderr.replace(executable, "swtpm_ioctl")))
    return [one for one in said if one[0] not in differ]


def capability(executable, server):
    return execute([executable, "--unix", server.path + ".ctrl", "-c"]).stdout


def both_ioctls_agree(family, theirs_can, ours_can):
    theirs, ours = debians("swtpm_ioctl"), program("swtpm_ioctl")
    servers = [Command(new_state("debian"), executable=debians("swtpm"), name="debian", family=family),
               Command(new_state("ours"), family=family)]
    for server in servers:
        one, other = answers(theirs, server.path + ".ctrl"), answers(ours, server.path + ".ctrl")
        require(one == other, f"{server.name}: " + "\n".join(f"{a} | {b}" for a, b in zip(one, other) if a != b))
    # What the sockets answer is what swtpm's answer. Which commands there are differs, ours are those of 0.8 and later; and
    # Debian's cancels no command of a TPM 1.2.
    differ = ("-c",) if family else ("-c", "-C")
    debian, mine = (answers(theirs, server.path + ".ctrl", differ) for server in servers)
    require(debian == mine, "\n".join(f"{a} | {b}" for a, b in zip(debian, mine) if a != b))
    found = [capability(ours, server) for server in servers]
    require(found == [f"ptm capability is {one}\n" for one in (theirs_can, ours_can)], f"{found}")
    for server in servers:
        require(execute([ours, "--unix", server.path + ".ctrl", "-s"]).returncode == 0, "CMD_SHUTDOWN")
        server.wait()


@test
def both_ioctls_say_the_same_of_both_swtpms():
    both_ioctls_agree(("--tpm2",), "0xffff", "0x1ffff")


@test
def both_ioctls_say_the_same_of_both_swtpms_of_a_tpm_12():
    both_ioctls_agree((), "0x7fff", "0x17fff")


@test
def our_ioctl_saves_and_loads_the_state_of_debians_swtpm():
    saved = []
    server = Command(new_state("debian"), executable=debians("swtpm"), name="debian")
    for executable in (debians("swtpm_ioctl"), program("swtpm_ioctl")):
        path = os.path.join(server.directory, os.path.basename(os.path.dirname(executable)) + ".blob")
        for words in (["-i"], ["--save", "permanent", path], ["--stop"], ["--load", "permanent", path], ["-i"],
                      ["-h", "abc"]):
            result = execute([executable, "--unix", server.path + ".ctrl", *words])
            require(result.returncode == 0, f"{executable} {words}: {result}")
        with open(path, "rb") as file:
            saved.append(file.read())
    require(len(saved[0]) > 1000 and len(saved[0]) == len(saved[1]), f"{[len(one) for one in saved]}")
    server.stop()


# --- the tools of others -----------------------------------------------------------------------------------------------

@test
def tpm2_tools_work_over_it():
    command = Command(new_state(), "--flags", "not-need-init")
    tools = environment(TPM2TOOLS_TCTI=f"swtpm:path={command.path}")
    for words in (["tpm2_startup", "-c"], ["tpm2_getrandom", "--hex", "8"], ["tpm2_createprimary", "-Q", "-c", "p"],
                  ["tpm2_nvdefine", "-Q", "0x1500000", "-s", "4"], ["tpm2_shutdown"]):
        result = execute(words, env=tools, cwd=command.directory)
        require(result.returncode == 0, f"{words}: {result.stderr}")
    command.stop()


@test
def tcp_ports_and_disconnect_serve_tpm2_tools():
    port = free_port()
    command = Command(new_state(), "--flags", "not-need-init",
                      sockets=["--server", f"port={port},disconnect", "--ctrl", f"type=tcp,port={port + 1}"])
    result = execute(["tpm2_startup", "-c", "-T", f"swtpm:port={port}"])
    require(result.returncode == 0, f"{result}")
    command.stop()


# --- swtpm_setup -------------------------------------------------------------------------------------------------------

BANKS = ("sha1", "sha256", "sha384", "sha512")
SETUP_LINES = {
    "libvirt": ["--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite", "--vmid",
                f"vm1:{UUID}"],
    "the storage key and all banks": ["--create-spk", "--pcr-banks", "-"],
    "an ECC storage key": ["--create-spk", "--ecc", "--pcr-banks", "sha1,sha384"],
    "keys that sign": ["--createek", "--allow-signing", "--create-ek-cert"],
    "keys that do both, of 3072 bits": ["--createek", "--allow-signing", "--decryption", "--rsa-keysize", "3072"],
}


def certificate_tools(directory):
    """A configuration whose certificates are made by Debian's swtpm_localca, with a CA of the test's own."""
    tool, config = debians("swtpm_localca"), os.path.join(directory, "setup.conf")
    with open(os.path.join(directory, "localca.conf"), "w", encoding="utf-8") as file:
        file.writelines(f"{key} = {directory}/{name}\n" for key, name in (
            ("statedir", "ca"), ("signingkey", "ca/signkey.pem"), ("issuercert", "ca/issuercert.pem"),
            ("certserial", "ca/certserial")))
    with open(os.path.join(directory, "localca.options"), "w", encoding="utf-8") as file:
        file.write("--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n")
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"create_certs_tool = {tool}\ncreate_certs_tool_config = {directory}/localca.conf\n"
                   f"create_certs_tool_options = {directory}/localca.options\nactive_pcr_banks = sha256\n")
    os.makedirs(os.path.join(directory, "ca"), exist_ok=True)
    return config


_authority = []


def authority():
    if not _authority:
        _authority.append(certificate_tools(new_directory()))
    return _authority[0]


def set_up(state, *arguments, executable=None, family=("--tpm2",), **more):
    return execute([executable or program("swtpm_setup"), *family, "--tpm-state", state, "--config", authority(),
                    *arguments], timeout=120, **more)


def made(result, what):
    require(result.returncode == 0, f"{what}: {result.returncode}, {result.stderr}")


class Looked:
    """What tpm2-tools see of a TPM: all that is persistent, and the banks."""

    def __init__(self, command):
        self.tools = environment(TPM2TOOLS_TCTI=f"swtpm:path={command.path}")
        self.directory = command.directory
        self.handles = self.ask("tpm2_getcap", "handles-persistent").split()
        self.keys = [self.without_key(self.ask("tpm2_readpublic", "-c", handle)) for handle in self.handles if handle != "-"]
        self.indices = [line for line in self.ask("tpm2_nvreadpublic").splitlines() if "size" not in line]
        self.banks = self.ask("tpm2_getcap", "pcrs")

    def ask(self, *words):
        result = execute(words, env=self.tools, cwd=self.directory)
        require(result.returncode == 0, f"{words}: {result.stderr}")
        return result.stdout

    @staticmethod
    def without_key(text):
        keep = []
        for line in text.splitlines():
            if line.split(":")[0].strip() not in ("name", "qualified name", "rsa", "x", "y"):
                keep.append(line)
        return keep

    def facts(self):
        return [self.handles, self.keys, self.indices, self.banks]


def looked(state, executable=None):
    command = Command(state, "--flags", "not-need-init,startup-clear", executable=executable, name="looked")
    result = Looked(command)
    command.stop()
    return result


@test
def what_setup_makes_is_what_debians_makes():
    for name, arguments in SETUP_LINES.items():
        theirs, ours = new_state("theirs"), new_state("ours")
        made(set_up(theirs, *arguments, executable=debians("swtpm_setup"), env=dict(os.environ)), f"{name}, Debian's")
        made(set_up(ours, *arguments), f"{name}, ours")
        expected, found = looked(theirs, debians("swtpm")).facts(), looked(ours).facts()
        require(expected == found, f"{name}: " + "\n".join(f"{a}\n{b}" for a, b in zip(expected, found) if a != b))


@test
def debians_setup_drives_our_swtpm():
    state = new_state()
    result = set_up(state, *SETUP_LINES["libvirt"], "--tpm", f"{program('swtpm')} socket",
                    executable=debians("swtpm_setup"))
    made(result, "Debian's swtpm_setup over our swtpm")
    theirs = new_state("theirs")
    made(set_up(theirs, *SETUP_LINES["libvirt"], executable=debians("swtpm_setup"), env=dict(os.environ)), "Debian's")
    require(looked(state).facts() == looked(theirs, debians("swtpm")).facts(), "they differ")


@test
def certificates_are_of_the_keys_in_the_tpm():
    state = new_state()
    files = new_directory()
    made(set_up(state, *SETUP_LINES["libvirt"], "--write-ek-cert-files", files), "swtpm_setup")
    for name in ("rsa2048", "secp384r1"):
        shown = execute(["openssl", "x509", "-inform", "DER", "-noout", "-subject", "-in", f"{files}/ek-{name}.crt"])
        require(f"CN = vm1:{UUID}" in shown.stdout, f"{name}: {shown}")


@test
def setup_touches_no_tpm_that_is_there():
    state = new_state()
    made(set_up(state, "--createek"), "the first")
    with open(os.path.join(state, "vtpm-instance"), encoding="ascii") as file:
        identity = file.read().strip()
    before = looked(state).keys
    made(set_up(state, "--createek", "--not-overwrite"), "--not-overwrite")
    again = set_up(state, "--createek")
    require(again.returncode == 1 and "Found existing TPM state" in again.stderr, f"{again}")
    made(set_up(state, "--reconfigure", "--pcr-banks", "sha1,sha512"), "--reconfigure")
    after = looked(state)
    require(after.keys == before and "sha256: [ ]" in after.banks.replace("sha256:[ ]", "sha256: [ ]"), f"{after.banks}")
    made(set_up(state, "--createek", "--overwrite"), "--overwrite")
    with open(os.path.join(state, "vtpm-instance"), encoding="ascii") as file:
        require(file.read().strip() != identity, "--overwrite kept the TPM")
    require(daemon().call("show", instance=identity)["state"] == "deleted", "the TPM before is not deleted")


@test
def a_setup_that_fails_leaves_nothing():
    state = new_state()
    before = [one["id"] for one in daemon().call("list")["instances"]]
    result = set_up(state, "--createek", "--pcr-banks", "md5")
    require(result.returncode == 1 and "No PCR banks could be allocated" in result.stderr, f"{result}")
    require(os.listdir(state) == [], f"{os.listdir(state)}")
    require([one["id"] for one in daemon().call("list")["instances"]] == before, "an instance is left")
    with open(os.path.join(state, "tpm2-00.permall"), "wb") as file:
        file.write(b"a state of swtpm's")
    result = set_up(state, "--createek", "--not-overwrite")
    require(result.returncode == 1 and "vtpmctl import" in result.stderr, f"{result}")


@test
def the_configuration_of_an_ordinary_user_is_debians():
    trees = []
    for executable in (debians("swtpm_setup"), program("swtpm_setup")):
        home = new_directory()
        os.chmod(home, 0o755)
        told = [execute([executable, "--create-config-files", how], env={"HOME": home, "PATH": os.environ["PATH"]})
                for how in ("root", "root", "root,skip-if-exist", "root,overwrite", "overwrite,skip-if-exist")]
        files = {}
        for folder, _, names in os.walk(home):
            files[folder.replace(home, "HOME")] = sorted(names)
            for name in names:
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    files[name] = file.read().replace(home, "HOME")
        trees.append(([one.returncode for one in told], files))
    require(trees[0] == trees[1], f"{trees[0]}\n{trees[1]}")


@test
def setup_says_what_it_can_do():
    result = execute([program("swtpm_setup"), "--print-capabilities"])
    expected = execute([debians("swtpm_setup"), "--print-capabilities"]).stdout
    require((result.returncode, result.stdout) == (0, expected), f"{result.stdout}{expected}")


# --- a TPM 1.2 ---------------------------------------------------------------------------------------------------------

CAP_FLAG, CAP_PROPERTY, CAP_NV_LIST, CAP_NV_INDEX = 4, 5, 0x0D, 0x11
FLAG_PERMANENT, PROPERTY_OWNER = 0x108, 0x111
EK_CERTIFICATE, PCR_EXTENDED = 0x1000F000, 10
SETUP12_LINES = {
    "libvirt": SETUP_LINES["libvirt"],
    "an owner": ["--take-ownership", "--create-ek-cert"],
    "an owner with a password of his own": ["--take-ownership", "--ownerpass", "mine", "--srk-well-known", "--lock-nvram"],
    "nothing": [],
}
OWNERS = {"an owner": sha1(b"ooo"), "an owner with a password of his own": sha1(b"mine")}


@test
def without_tpm2_a_directory_has_a_tpm_12():
    state, of_20 = new_state(), new_state("new")
    line = ["--ctrl", f"type=unixio,path={state}.ctrl", "--tpmstate"]
    for turn in range(2):
        command = Command(state, "--flags", "not-need-init,startup-clear", family=())
        require(command.instance()["tpm"] == "1.2" and command.instance()["start"] == turn + 1, f"{command.instance()}")
        client = Tpm12(connect_unix(command.path))
        require(client.pcr_read(PCR_EXTENDED) == bytes(20), "it was not reset")
        require(client.extend(PCR_EXTENDED, bytes(20)) == sha1(bytes(40)), "it does not extend")
        client.close()
        require(command.stop() == 0, command.log())
    names = sorted(os.listdir(state))
    require(names == ["tpm-00.permall", "vtpm-copied", "vtpm-instance"], f"{names}")
    shown = execute([program("swtpm"), "socket", "--print-states", "--tpmstate", f"dir={state}"]).stdout
    require(json.loads(shown)["states"][0]["name"] == "permall", shown)
    refused("names a TPM 1.2: leave --tpm2 out", "socket", "--tpm2", *line, f"dir={state}")
    Command(of_20).stop()
    refused("names a TPM 2.0: add --tpm2", "socket", *line, f"dir={of_20}")


class Looked12:
    """What a TPM 1.2 says of itself: flags, owner, indices; and whether the owner's password is the right one."""

    def __init__(self, state, owner=None, executable=None):
        command = Command(state, "--flags", "not-need-init,startup-clear", executable=executable, name="looked", family=())
        client = Tpm12(connect_unix(command.path))
        self.flags = client.get_capability(CAP_FLAG, struct.pack(">I", FLAG_PERMANENT)).hex()
        self.owned = client.get_capability(CAP_PROPERTY, struct.pack(">I", PROPERTY_OWNER)).hex()
        listed = client.get_capability(CAP_NV_LIST)
        self.indices = sorted(struct.unpack(f">{len(listed) // 4}I", listed))
        public = [client.get_capability(CAP_NV_INDEX, struct.pack(">I", index)) for index in self.indices]
        # Of the sizes at the ends not the last bytes: a certificate has one more byte now and then.
        self.public = [one[:-4].hex() + f" {struct.unpack('>I', one[-4:])[0] // 16}" for one in public]
        if owner:
            client.create_counter(owner, bytes(20))
        client.close()
        command.stop()

    def facts(self):
        return [self.flags, self.owned, [hex(index) for index in self.indices], self.public]


@test
def of_a_tpm_12_setup_makes_what_debians_makes():
    for name, arguments in SETUP12_LINES.items():
        theirs, ours = new_state("theirs"), new_state("ours")
        made(set_up(theirs, *arguments, executable=debians("swtpm_setup"), family=(), env=dict(os.environ)), f"{name}, Debian's")
        made(set_up(ours, *arguments, family=()), f"{name}, ours")
        expected = Looked12(theirs, OWNERS.get(name), debians("swtpm")).facts()
        found = Looked12(ours, OWNERS.get(name)).facts()
        require(expected == found, f"{name}: " + "\n".join(f"{a}\n{b}" for a, b in zip(expected, found) if a != b))


@test
def the_certificate_of_a_tpm_12_is_in_it():
    state, files = new_state(), new_directory()
    made(set_up(state, "--create-ek-cert", "--vmid", "old", "--write-ek-cert-files", files, family=()), "swtpm_setup")
    with open(os.path.join(files, "ek-rsa2048.crt"), "rb") as file:
        certificate = file.read()
    # TPM_TAG_PCCLIENT_STORED_CERT, a whole one, and its DER: the key in it is one for OAEP, which openssl x509 does not read.
    head = struct.pack(">HBHH", 0x1001, 0, len(certificate) - 5, 0x1002)
    require(certificate.startswith(head + b"\x30\x82") and b"swtpm-localca" in certificate, f"{certificate.hex()}")
    command = Command(state, "--flags", "not-need-init,startup-clear", name="looked", family=())
    client = Tpm12(connect_unix(command.path))
    kept = client.nv_read(EK_CERTIFICATE, len(certificate))
    require(kept == certificate, f"{kept.hex()}")
    client.close()
    command.stop()


@test
def what_a_tpm_12_cannot_be_set_up_with_is_refused_by_name():
    state = new_state()
    for words in (["--create-spk"], ["--pcr-banks", "sha256"], ["--reconfigure"], ["--allow-signing"], ["--rsa-keysize", "2048"]):
        result = set_up(state, *words, family=())
        require(result.returncode == 1 and f"{words[0]} requires --tpm2." in result.stderr, f"{result}")
    require(os.listdir(state) == [], f"{os.listdir(state)}")


# --- moving over -------------------------------------------------------------------------------------------------------

@test
def a_directory_of_swtpms_moves_over_with_its_tpm():
    """As docs/from-swtpm.md says: the same directory, the same keys, another program."""
    state = new_state("uuid")
    made(set_up(state, "--createek", executable=debians("swtpm_setup"), env=dict(os.environ)), "Debian's swtpm_setup")

    def endorsement(executable=None):
        command = Command(state, "--flags", "not-need-init,startup-clear", executable=executable, name="moved")
        text = Looked(command).ask("tpm2_readpublic", "-c", "0x81010001")
        command.stop()
        return text
    before = endorsement(debians("swtpm"))
    refused("vtpmctl import", "socket", "--tpm2", "--ctrl", f"type=unixio,path={state}.ctrl", "--tpmstate", f"dir={state}")
    result = execute([program("vtpmctl"), "--socket", daemon().socket, "import", UUID + "-moved", "--from", state,
                      "--no-start", "--mark"])
    require(result.returncode == 0, f"{result}")
    require("tpm2-00.permall.imported'" in result.stdout and
            os.path.exists(os.path.join(state, "tpm2-00.permall.imported")), f"{result.stdout}{os.listdir(state)}")
    after = endorsement()
    require(not [name for name in os.listdir(state) if "foreign" in name], f"{os.listdir(state)}")
    require(after == before, f"{before}\n{after}")
    again = execute([program("vtpmctl"), "--socket", daemon().socket, "import", "another", "--from", state, "--no-start",
                     "--mark"])
    require(again.returncode == 1 and "names an instance already" in again.stderr, f"what is imported was taken for a state of swtpm's: {again}")


if __name__ == "__main__":
    run()
