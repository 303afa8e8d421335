#!/usr/bin/python3
"""The anchor with real processes: what a host that puts back an older store gets with each kind, and what a crash between
the store and the anchor leaves. The chip is Debian's swtpm, behind a relay that takes several clients, sees every
command, and can keep one back.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

from harness import Daemon, Instance, Swtpm, connect_unix, ctl, end_processes_of, new_directory, wait_for
from tap import require, run, test
from tpm import receive_exactly
from wiretap import Wiretap

INDEX, NV_INDEX = 0x01800040, "0x01800100"
NV_EXTEND, NV_READ, FLUSH_CONTEXT, START_SESSION = 0x136, 0x14E, 0x165, 0x176
NV_ATTRIBUTES = "0x22040044"  # extend; authread, authwrite; no_da; written
OLD = "the anchor does not stand where the store's newest record left it"
WEAKER = "the other vtpmd's anchor is weaker than this one's"


class Chip:
    """A TPM that several programs can reach at once. The TCTI of swtpm connects anew for each command, so the sessions of a
    program that has ended are flushed by close(), as the kernel's resource manager does it.
    """

    def __init__(self):
        self.directory = new_directory()
        self.swtpm = Swtpm(self.directory, flags="not-need-init,startup-clear")
        self.path = os.path.join(self.directory, "chip")
        self.tcti = f"swtpm:path={self.path}"
        self.control = Wiretap(self.path + ".ctrl", self.swtpm.path + ".ctrl")
        self.stream = connect_unix(self.swtpm.path)
        self.lock = threading.Lock()
        self.log = []  # (command code, command, response)
        self.sessions = set()
        self.held = None  # what is kept back: "command" or "response" of the next NV_Extend, or "all"
        self.holding = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client = self.listener.accept()[0]
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client:
            self._carry(client)

    def close(self):
        while self.sessions:
            self._exchange(struct.pack(">HIII", 0x8001, 14, FLUSH_CONTEXT, self.sessions.pop()))

    def _exchange(self, command):
        with self.lock:
            self.stream.sendall(command)
            response = receive_message(self.stream)
            self.log.append((struct.unpack(">I", command[6:10])[0], command, response))
        return response

    def _carry(self, client):
        while True:
            command = receive_message(client)
            code = struct.unpack(">I", command[6:10])[0]
            if self.held == "all":
                return  # the connection is gone
            if self.held == "command" and code == NV_EXTEND:
                self._hold(client)
            response = self._exchange(command)
            if code == START_SESSION and response[6:10] == bytes(4):
                self.sessions.update(struct.unpack(">I", response[10:14]))
            if self.held == "response" and code == NV_EXTEND:
                self._hold(client)
            client.sendall(response)

    def _hold(self, client):
        """Until the other end is gone; then nothing of this is done any more."""
        self.holding.set()
        while client.recv(1):
            pass
        raise ConnectionError

    def hold(self, what):
        self.holding.clear()
        self.held = what

    def extends(self):
        return [command for code, command, response in self.log if code == NV_EXTEND and response[6:10] == bytes(4)]

    def values(self):
        """What the index was read to have, in order."""
        return [response[16:48] for code, _, response in self.log if code == NV_READ and response[6:10] == bytes(4)]

    def tool(self, *arguments):
        return subprocess.run([*arguments, "-T", self.tcti], capture_output=True, text=True, check=False, timeout=60)


def receive_message(stream):
    head = receive_exactly(stream, 10)
    return head + receive_exactly(stream, struct.unpack(">I", head[2:6])[0] - 10)


class Scene:
    """A host with one machine, whose TPM has a number in it."""

    def __init__(self, settings, chip=None):
        self.chip = chip
        self.daemon = Daemon(settings={"rebuild": "manual", **settings})
        self.instance = self.daemon.create("anchored")
        with self.client() as client:
            client.nv_define(INDEX, 1)
        self.write(0)

    @contextlib.contextmanager
    def client(self):
        client = self.instance.connect()
        client.startup()
        try:
            yield client
        finally:
            client.close()

    def write(self, number):
        with self.client() as client:
            client.nv_write(INDEX, bytes([number]))

    def read(self):
        with self.client() as client:
            return client.nv_read(INDEX, 1)[0]

    def close(self):
        self.instance.stop()
        require(self.daemon.stop() == 0, f"vtpmd did not end cleanly: {self.daemon.log()}")
        self.chip_is_closed()

    def chip_is_closed(self):
        if self.chip:
            self.chip.close()

    def open(self):
        self.daemon.start()
        self.instance.start()

    def copy(self, name):
        """Of the whole state directory; nothing runs."""
        copy = os.path.join(self.daemon.directory, name)
        shutil.copytree(self.daemon.state, copy)
        return copy

    def put_back(self, copy):
        self.chip_is_closed()
        shutil.rmtree(self.daemon.state)
        shutil.copytree(copy, self.daemon.state)


def with_older_copy(settings, chip=None):
    """The machine wrote 1, was copied, and wrote 2."""
    scene = Scene(settings, chip)
    scene.write(1)
    scene.close()
    older = scene.copy("older")
    scene.open()
    scene.write(2)
    scene.close()
    return scene, older


def file_elsewhere():
    return {"anchor-file": os.path.join(new_directory(), "anchor")}


@test
def file_an_older_state_directory_is_refused_beside_the_anchor_as_it_is():
    settings = file_elsewhere()
    scene, older = with_older_copy(settings)
    newest = scene.copy("newest")
    scene.put_back(older)
    scene.daemon.refuses_to_start(OLD)
    scene.put_back(newest)
    scene.open()
    require(scene.read() == 2, "the newest store is not as it was")


@test
def file_whoever_puts_back_the_anchor_too_gets_the_older_state():
    """What the kind file does not protect from. vtpmd says so at each start, and status does."""
    scene, older = with_older_copy({})
    require(os.path.exists(os.path.join(older, "anchor")), "the anchor is not in the state directory by default")
    scene.put_back(older)
    scene.open()
    require(scene.read() == 1, "the older store was not opened")
    require("it does not protect against whoever can restore the disk" in scene.daemon.log(), scene.daemon.log())


@test
def file_one_that_is_missing_or_damaged_is_refused_and_none_is_made():
    settings = file_elsewhere()
    place = settings["anchor-file"]
    scene = Scene(settings)
    scene.close()
    os.rename(place, place + ".away")
    scene.daemon.refuses_to_start(place, "No such file", "put that back")
    require(not os.path.exists(place), "it made a new one")
    shutil.copy(place + ".away", place)
    with open(place, "r+b") as file:
        for slot in range(2):
            file.seek(slot * 4096 + 30)
            file.write(b"\xff")
    with open(place, "rb") as file:
        damaged = file.read()
    scene.daemon.refuses_to_start(place, "damaged")
    with open(place, "rb") as file:
        require(file.read() == damaged, "it changed the damaged one")
    os.rename(place + ".away", place)
    scene.open()
    require(scene.read() == 0, "the store is not as it was")


@test
def the_kind_is_fixed_when_the_trust_domain_is_made():
    scene = Scene({})
    scene.close()
    scene.daemon.configure({"anchor": "tpm"})
    scene.daemon.refuses_to_start("made with anchor = file", "the configuration says anchor = tpm")


def on_chip(chip, **more):
    return {"anchor": "tpm", "anchor-tpm": chip.tcti, "commit-rate": 0, "anchor-rate": 0, **more}


@test
def tpm_the_index_moves_once_with_each_record_and_only_the_enclave_can_move_it():
    chip = Chip()
    scene = Scene(on_chip(chip), chip)
    for number in range(1, 6):
        before, value = len(chip.extends()), chip.values()[-1]
        scene.write(number)
        moves = chip.extends()[before:]
        require(moves, "it answered a write without a move of the anchor")
        for move in moves:
            value = hashlib.sha256(value + move[-32:]).digest()
        require(value == chip.values()[-1], "the anchor is not where the extends lead")
    status = scene.daemon.call("status")
    require(status["anchor"] == "tpm" and status["anchor-nv-index"] == NV_INDEX, f"{status}")
    require(status["anchor-value"] == chip.values()[-1].hex(), "status has another value than the chip")
    public = chip.tool("tpm2_nvreadpublic", NV_INDEX).stdout
    require(NV_ATTRIBUTES in public and "sha256" in public, f"the index is {public}")
    with open(os.path.join(chip.directory, "data"), "wb") as file:
        file.write(bytes(32))
    for tool in (["tpm2_nvread", NV_INDEX], ["tpm2_nvextend", NV_INDEX, "-i", file.name],
                 ["tpm2_nvextend", NV_INDEX, "-C", "o", "-i", file.name]):
        require(chip.tool(*tool).returncode, f"{tool} was allowed")
    scene.close()
    scene.open()
    require(scene.read() == 5, "what was written is not there after a restart")


@test
def tpm_an_older_state_directory_is_refused():
    chip = Chip()
    scene, older = with_older_copy(on_chip(chip), chip)
    newest = scene.copy("newest")
    scene.put_back(older)
    scene.daemon.refuses_to_start(OLD)
    scene.put_back(newest)
    scene.open()
    require(scene.read() == 2, "the newest store is not as it was")


@test
def tpm_another_chip_and_one_whose_index_was_removed_are_refused():
    chip, other = Chip(), Chip()
    scene = Scene(on_chip(chip), chip)
    scene.close()
    for settings in (on_chip(other), on_chip(chip)):
        if settings["anchor-tpm"] == chip.tcti:
            removed = chip.tool("tpm2_nvundefine", NV_INDEX, "-C", "o")
            require(removed.returncode == 0, f"the owner may remove it, and could not: {removed.stderr}")
        scene.daemon.configure(settings)
        scene.daemon.refuses_to_start("not the TPM or not the NV index")


def killed_while(held):
    """vtpmd dies by SIGKILL while the chip has not answered the move of a write that nobody was answered."""
    chip = Chip()
    scene = Scene(on_chip(chip), chip)
    scene.write(1)
    moved = len(chip.extends())
    chip.hold(held)
    writer = threading.Thread(target=give_up, args=(scene,), daemon=True)
    writer.start()
    require(chip.holding.wait(20), "the chip was not asked")
    require(len(chip.extends()) == moved + (held == "response"), "it was held at another place")
    require(writer.is_alive(), "the write was answered before the anchor moved")
    scene.daemon.end()
    chip.close()
    chip.hold(None)
    scene.daemon.power_on()
    scene.instance.call("start", declare_dead=True)
    scene.instance.recover().close()
    require(scene.read() in (1, 2), "what was answered is lost")
    scene.write(3)
    require(scene.read() == 3, "it does not go on")
    return scene


def give_up(scene):
    with contextlib.suppress(Exception):
        scene.write(2)


@test
def tpm_killed_between_store_and_anchor_it_opens_and_nothing_answered_is_lost():
    killed_while("command")


@test
def tpm_killed_between_anchor_and_answer_it_opens_and_nothing_answered_is_lost():
    killed_while("response")


@test
def tpm_while_the_chip_cannot_be_reached_a_write_waits_and_is_then_answered():
    chip = Chip()
    scene = Scene(on_chip(chip), chip)
    chip.hold("all")
    writer = threading.Thread(target=give_up, args=(scene,), daemon=True)
    writer.start()
    wait_for(lambda: "see to the anchor" in scene.daemon.log(), f"vtpmd does not say why it waits: {scene.daemon.log()}")
    require(writer.is_alive(), "it was answered although the anchor did not move")
    chip.hold(None)
    writer.join(30)
    require(not writer.is_alive() and scene.read() == 2, f"it was not answered: {scene.daemon.log()[-2000:]}")


@test
def with_a_limit_commits_that_wait_form_one_record():
    chip = Chip()
    scene = Scene(on_chip(chip, **{"anchor-rate": 1}), chip)
    others = [scene.daemon.create(f"other{number}") for number in range(4)]
    clients = [instance.connect(120) for instance in others]
    for client in clients:
        client.startup()
        client.nv_define(INDEX, 1)
    before = len(chip.extends())
    writers = [threading.Thread(target=client.nv_write, args=(INDEX, b"\x07")) for client in clients]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    moves = len(chip.extends()) - before
    require(all(client.nv_read(INDEX, 1) == b"\x07" for client in clients), "a write is not there")
    require(moves < len(writers), f"{len(writers)} writes that came at once moved the anchor {moves} times")


@test
def tpm_what_is_under_a_chip_moves_to_no_file_and_what_is_under_a_file_moves_to_a_chip():
    chip = Chip()
    plain = Daemon()
    chipped = Daemon(settings=on_chip(chip), cpu=plain.cpu)
    said = ctl(plain, "join", "--from", chipped.socket, fails=True)
    require(WEAKER in said, f"it is refused with: {said}")
    ctl(chipped, "join", "--from", plain.socket)

    def stays(label):
        """In each state, whoever asks for it."""
        instance = Instance(chipped, chipped.call("show", instance=label))
        for running in (False, True):
            for asked in (["move", label], ["start", "--incoming", label]):
                said = ctl(plain, *asked, "--from", chipped.socket, fails=True)
                require(WEAKER in said, f"{asked} is refused with: {said}")
            require(instance.show()["state"] == ("running" if running else "stopped"), f"{instance.show()}")
            if not running:
                instance.start()
        return instance

    chipped.create("born").stop()
    stays("born").stop()
    plain.refuses("NO_INSTANCE", "show", instance="born")

    instance = plain.create("moves")
    client = instance.connect()
    client.startup()
    client.nv_define(INDEX, 1)
    client.nv_write(INDEX, b"x")
    client.close()
    instance.stop()
    extends = len(chip.extends())
    ctl(chipped, "move", "moves", "--from", plain.socket)
    require(len(chip.extends()) > extends, "it has come without a move of the chip")
    client = stays("moves").connect()
    client.startup()
    require(client.nv_read(INDEX, 1) == b"x", "it is another TPM")
    client.close()
    require(instance.show()["state"] == "moved", f"{instance.show()}")
    for daemon in (chipped, plain):
        end_processes_of(daemon.run)
    chip.close()


@test
def one_that_commits_above_its_rate_waits_and_others_do_not():
    scene = Scene({"commit-rate": 1})
    other = scene.daemon.create("other").connect()
    other.startup()
    other.nv_define(INDEX, 1)
    flood, answered = scene.instance.connect(120), []
    flood.startup()

    def write_all():
        with contextlib.suppress(OSError):
            for number in range(200):
                flood.nv_write(INDEX, bytes([number]))
                answered.append(number)

    writer = threading.Thread(target=write_all, daemon=True)
    writer.start()
    wait_for(lambda: len(answered) >= 5, "it may not even commit five times at once")
    time.sleep(2)
    reached = len(answered)
    for number in range(5):
        other.nv_write(INDEX, bytes([number]))
    require(reached < 100, f"it committed {reached} times in a moment, at one a second")
    require(writer.is_alive(), "it was not held up")
    flood.close()
    end_processes_of(scene.daemon.run)


if __name__ == "__main__":
    run()
