#!/usr/bin/python3
"""Two vtpmd on one machine, each with a store, a ledger and an anchor of its own, in one trust domain: an instance that is
stopped is brought from one to the other and home again with everything that is in its TPM; a running one moves with its
first command; a guest does so while it extends a PCR without a pause; and one is killed in the middle, after which the move is
finished, or the one that had it goes on.
"""

import functools
import json
import os
import shutil
import socket
import subprocess
import time

from harness import AdminError, Daemon, Instance, connect_unix, ctl, listens, new_directory, program, wait_for
from machine import (BOOT_TIMEOUT, CMD_HASH_END, CMD_HASH_START, CMD_INIT, CMD_SHUTDOWN, PERMANENT, VOLATILE, Commands,
                     ask_and_leave, control_call, exported, extending, get_blob, give, moved, moves, require_extensions,
                     snapshots_file, waiting)
from tap import LONG, randomness, require, run, test
from tpm import RC_FAILURE, Tpm, TpmError, signing_key_ecc

PCR, INDEX = 10, 0x01800081
KILLS = 200 if LONG else 8


@functools.cache
def hosts():
    """Two that are members of one domain, on one processor."""
    first = Daemon()
    second = Daemon(cpu=first.cpu)
    joined = ctl(second, "join", "--from", first.socket)
    require(first.call("status")["domain"] in joined, f"it has joined another domain: {joined}")
    require(first.call("status")["domain"] == second.call("status")["domain"], "they are of two domains")
    require(first.call("status")["member"] != second.call("status")["member"], "they are one member")
    return first, second


def move(there, here, label):
    """Brings it here; it serves when this returns."""
    ctl(here, "move", label, "--from", there.socket)
    instance = Instance(here, here.call("show", instance=label))
    shown = there.call("show", instance=label)
    require(shown["state"] == "moved" and shown["moved-to"] == here.call("status")["member"], f"{shown}")
    require(shown["version"] == 0, f"the other one still has its state: {shown}")
    instance.start()
    return instance


@functools.cache
def third():
    """Another member, which joined the one that had joined."""
    first, second = hosts()
    daemon = Daemon(cpu=first.cpu)
    ctl(daemon, "join", "--from", second.socket)
    require(first.call("status")["domain"] == daemon.call("status")["domain"], "it is of another domain")
    return daemon


def received(stream):
    """A line, and the descriptors that came along."""
    line, descriptors = b"", []
    while not line.endswith(b"\n"):
        part, passed, _, _ = socket.recv_fds(stream, 1 << 16, 1)
        require(part, "the connection has ended")
        line, descriptors = line + part, descriptors + passed
    return line, descriptors


MEMBER_MOVE, MEMBER_CONFIRM = "03", "04"


def broken_off(there, here, label, withheld=MEMBER_CONFIRM):
    """Brings it here through this process, which withholds the CONFIRM, or the answer to MOVE. What is answered here."""
    admin = here.admin()
    ours, theirs = socket.socketpair()
    with ours, connect_unix(there.socket) as asked:
        received(asked)  # its greeting
        request = json.dumps({"execute": "move", "arguments": {"instance": label}}) + "\n"
        socket.send_fds(admin.stream, [request.encode()], [theirs.fileno()])
        theirs.close()
        ours.settimeout(60)
        what = None
        while what != withheld:
            line, _ = received(ours)
            what = json.loads(line)["arguments"].get("message", "")[:2]
            if what == MEMBER_CONFIRM:
                break
            asked.sendall(line)
            line, descriptors = received(asked)
            if what != withheld:
                socket.send_fds(ours, [line], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
    answer = admin.read()
    admin.close()
    return answer


def filled(host, label):
    instance = host.create(label)
    client = instance.connect()
    client.startup()
    client.nv_define(INDEX, 8)
    client.nv_write(INDEX, b"a secret")
    return instance, client, primary(client)


def primary(client):
    handle, reader = client.create_primary(signing_key_ecc())
    client.flush(handle)
    return reader.sized()


@test
def a_stopped_instance_moves_there_and_home_with_all_that_its_tpm_has():
    first, second = hosts()
    instance, client, before = filled(first, "web1")
    client.close()
    stopped = instance.stop()
    there = move(first, second, "web1")
    for verb in ("start", "stop", "delete"):
        said = ctl(first, verb, "web1", fails=True)
        require("has moved to another vtpmd of its trust domain" in said, f"{verb} is refused with: {said}")
    shown = there.show()
    require(shown["id"] == instance.identity and shown["start"] == stopped["start"] + 2, f"{shown}")
    client = there.connect()
    client.startup()
    require(client.nv_read(INDEX, 8) == b"a secret" and primary(client) == before, "it is another TPM")
    client.nv_write(INDEX, b"another!")
    client.close()
    there.stop()
    home = move(second, first, "web1")
    require(home.show()["slot"] == shown["slot"] and home.show()["moved-to"] is None, f"{home.show()}")
    client = home.connect()
    client.startup()
    require(client.nv_read(INDEX, 8) == b"another!" and primary(client) == before, "it is another TPM")
    client.close()
    home.stop()
    first.restart()
    home.start()
    home.stop()
    ctl(first, "delete", "web1")
    second.refuses("MOVED", "start", instance="web1")


@test
def what_was_suspended_is_resumed_where_it_has_moved_to():
    first, second = hosts()
    instance = first.create("suspended")
    client = instance.connect()
    client.startup()
    client.pcr_extend(PCR, bytes(32))
    before = client.pcr_read(PCR)
    client.close()
    instance.call("suspend")
    there = move(first, second, "suspended")
    client = there.connect()
    require(client.pcr_read(PCR) == before, "its PCRs are others")
    client.close()
    there.stop()


@test
def what_was_passed_on_before_it_was_confirmed_is_forgotten_where_it_was_first():
    """By word of whoever it was given to there, and of nobody else, wherever it is by then."""
    first, second = hosts()
    instance, client, before = filled(first, "passed-on")
    client.close()
    instance.stop()

    def require_key(kept):
        shown = instance.show()
        require(shown["state"] == "moved" and (shown["version"] > 0) == kept, f"{shown}")
    require("return" in broken_off(first, second, "passed-on"), f"it has not come: {second.log()}")
    require_key(True)
    there = move(second, third(), "passed-on")
    for host in (first, second):
        host.restart()
    said = ctl(third(), "move", "passed-on", "--from", first.socket, fails=True)
    require("keeps its key" in said, f"it is said to be done: {said}")
    require_key(True)
    require("error" in broken_off(first, second, "passed-on"), "it is said to be done")
    require_key(True)
    for _ in range(2):
        said = ctl(second, "move", "passed-on", "--from", first.socket)
        require("  moved" in said, f"it is said to be somewhere else: {said}")
        require_key(False)
    client = there.connect()
    client.startup()
    require(client.nv_read(INDEX, 8) == b"a secret" and primary(client) == before, "it is another TPM")
    client.close()
    there.stop()
    move(third(), first, "passed-on").stop()
    # The second one has a row of its earlier stay, which says nothing about what it is given now.
    require("error" in broken_off(first, second, "passed-on", MEMBER_MOVE), "it is said to have come")
    require_key(True)
    again = move(first, second, "passed-on")
    client = again.connect()
    client.startup()
    require(primary(client) == before, "it is another TPM")
    client.close()
    again.stop()


@test
def a_running_one_does_not_move_and_nothing_goes_to_another_domain():
    first, second = hosts()
    instance = first.create("stays")
    require("not ended with a receipt" in ctl(second, "move", "stays", "--from", first.socket, fails=True), "it has moved")
    instance.stop()
    stranger = Daemon(cpu=first.cpu)
    said = ctl(stranger, "move", "stays", "--from", first.socket, fails=True)
    require("another trust domain" in said, f"it was refused with: {said}")
    said = ctl(first, "join", "--from", stranger.socket, fails=True)
    require("never had an instance" in said, f"it was refused with: {said}")
    require("vtpmd: join asked for by process" in first.log(), f"it was not logged who asked: {first.log()}")
    instance.start()
    instance.stop()
    require(stranger.stop() == 0, stranger.log())


def fails(client):
    """The TPM answers TPM_RC_FAILURE, or nobody answers any more."""
    try:
        client.pcr_read(PCR)
    except TpmError as error:
        return error.code == RC_FAILURE
    except OSError:
        return True
    return False


# --- one that runs --------------------------------------------------------------------------------------------------------

def incoming(there, here, label):
    """A process here that waits for what the one there exports. The path of its data socket."""
    shown = json.loads(ctl(here, "--json", "start", "--incoming", "--from", there.socket, label))
    path = shown["incoming"]["listen"][0].removeprefix("swtpm:unix:")
    wait_for(lambda: listens(path + ".ctrl"), f"nobody listens at {path}.ctrl: {here.log()}")
    return path


def serving(host, label):
    instance = host.create(label)
    client = instance.connect()
    client.startup()
    client.pcr_extend(PCR, bytes(32))
    return instance, client


@test
def of_the_two_that_could_go_on_the_first_one_does():
    first, second = hosts()
    for source_first in (True, False):
        instance, client = serving(first, "decided" if source_first else "redeemed")
        before = client.pcr_read(PCR)
        path = incoming(first, second, instance.label)
        with connect_unix(path + ".ctrl") as control:
            require(give(control, exported(instance)) == 0, f"what was exported is not taken: {second.log()}")
            there = Tpm(connect_unix(path))
            if source_first:
                require(client.pcr_read(PCR) == before, "the source is another one")
                require(fails(there), "the target answers as well")
                require(instance.show()["state"] == "running", f"{instance.show()}")
                second.refuses("NO_INSTANCE", "show", instance=instance.identity)
                instance.stop()
            else:
                require(there.pcr_read(PCR) == before, f"the target is another one: {second.log()}")
                require(fails(client), "the source answers as well")
                there.nv_define(INDEX, 8)
                moved = Instance(second, second.call("show", instance=instance.label))
                require(moved.wait_serving()["start"] == 2, f"{moved.show()}")
                wait_for(lambda: instance.show()["version"] == 0, f"its key is still there: {instance.show()}")
                require(instance.show()["state"] == "moved", f"{instance.show()}")
                moved.stop()


# --- a running guest ------------------------------------------------------------------------------------------------------

class Guest:
    """A machine whose guest goes on extending, and at which of the two vtpmd its TPM is."""

    def __init__(self):
        self.here, self.there = hosts()
        self.snapshots = snapshots_file()
        self.machine = extending(self.here.create("guest", snapshots="allowed").path + ".ctrl", self.snapshots)
        self.left = None
        self.start = 1
        self.move()

    def incoming(self):
        return incoming(self.here, self.there, "guest") + ".ctrl"

    def move(self):
        """To the other one, with a copy of the disk. The machine that it has left stands still."""
        if self.left:
            self.left.kill()
        before, self.snapshots = self.snapshots, snapshots_file()
        shutil.copyfile(before, self.snapshots)
        self.left, self.machine = self.machine, moved(self.machine, self.incoming(), self.snapshots)
        self.here, self.there = self.there, self.here
        self.start += 1

    def require_undisturbed(self):
        shown = self.here.call("show", instance="guest")
        require(shown["state"] == "running" and shown["start"] == self.start and not shown["incoming"], f"{shown}")
        self.machine.wait_extended()
        require_extensions(self.machine.extended())


@functools.cache
def guest():
    return Guest()


@test
def a_guest_that_moves_to_another_vtpmd_loses_no_extension():
    moving = guest()
    moving.require_undisturbed()

    def left():
        return moving.there.call("show", instance="guest")
    wait_for(lambda: left()["version"] == 0, f"the one that it has left still has its key: {left()}")
    require(left()["state"] == "moved" and left()["moved-to"] == moving.here.call("status")["member"], f"{left()}")
    moving.here.restart()
    Instance(moving.here, moving.here.call("show", instance="guest")).wait_serving()
    moving.require_undisturbed()


@test
def a_machine_that_goes_on_where_it_has_left_its_tpm_has_none():
    moving = guest()
    moving.left.qmp.execute("cont")
    wait_for(lambda: b"extending failed" in moving.left.console(), "it does not notice", BOOT_TIMEOUT)
    moving.require_undisturbed()


@test
def a_migration_to_another_vtpmd_that_fails_leaves_the_machine_and_its_tpm_going():
    moving = guest()
    other = waiting(moving.incoming(), os.path.join(new_directory(), "nobody-connects"), snapshots_file())
    moving.machine.migrate_in_vain()
    other.kill()
    ctl(moving.there, "stop", "--incoming", "guest")
    require("there is no incoming process" in ctl(moving.there, "stop", "--incoming", "guest", fails=True), "it is still there")
    moving.require_undisturbed()


@test
def a_guest_that_has_moved_moves_home_again():
    moving = guest()
    moving.move()
    moving.require_undisturbed()


@test
def a_machine_goes_back_to_a_snapshot_from_before_its_tpm_has_moved_where_that_is_allowed():
    moving = guest()

    def loads():
        return moving.here.call("show", instance="guest")["snapshot-loads"]
    moving.machine.save("before")
    moving.machine.wait_extended()
    before = loads()
    moving.move()
    for turn in (1, 2):
        moving.machine.go_back("before")
        require(loads() == before + turn, f"{loads()} after {before}")
    require(moving.there.call("show", instance="guest")["state"] == "moved", "it was started where it has left")
    moving.machine.end()
    Instance(moving.here, moving.here.call("show", instance="guest")).wait_for("its TPM goes on without it", state="stopped")


def loaded(instance, blobs):
    """What INIT says when a machine that is started brings them."""
    with connect_unix(instance.path + ".ctrl") as control:
        return give(control, blobs)


@test
def a_snapshot_of_a_machine_is_good_behind_a_move_until_the_tpm_is_used():
    first, second = hosts()
    instance, client = serving(first, "saved")
    before = client.pcr_read(PCR)
    blobs = exported(instance)
    client.close()
    instance.stop()
    there = move(first, second, "saved")
    require(loaded(there, blobs) == 0, f"it is refused: {second.log()}")
    client = there.connect()
    require(client.pcr_read(PCR) == before, "its PCRs are others")
    client.pcr_extend(PCR, bytes(32))
    client.close()
    said = len(second.log())
    require(loaded(there, blobs) != 0 and "older than the newest one" in second.log()[said:], second.log()[said:])
    there.stop()
    home = move(second, first, "saved")
    said = len(first.log())
    require(loaded(home, blobs) != 0 and "older than the newest one" in first.log()[said:], first.log()[said:])
    home.stop()


# --- between two commands swtpm ------------------------------------------------------------------------------------------

@test
def a_guest_that_moves_between_two_of_our_swtpm_of_two_vtpmd_loses_no_extension():
    first, second = hosts()
    commands = Commands(first)
    destination, process = commands.start_incoming_from(first, second)
    machine = moves(commands.source, destination)
    require(commands.first.wait() == 0 and "another process has taken its TPM over" in commands.first.log(), commands.first.log())
    require(commands.show()["state"] == "moved", f"{commands.show()}")
    shown = commands.show(second)
    require(shown["state"] == "running" and shown["start"] == 2 and shown["held"] and not shown["incoming"], f"{shown}")
    second.restart()
    wait_for(lambda: "is there again" in process.log(), f"it does not come back: {process.log()}")
    machine.wait_extended()
    machine.end()
    require(process.wait() == 0, process.log())
    require(commands.show(second)["state"] == "stopped", f"{commands.show(second)}")
    commands.require_copies()


def initialised(control):
    require(control_call(control, CMD_INIT, bytes(4)) == bytes(4), "INIT is refused")


def hashes(control):
    """A request that decides."""
    require(control_call(control, CMD_HASH_START) == bytes(4) == control_call(control, CMD_HASH_END), "hashing is refused")


@test
def a_swtpm_under_another_vtpmd_that_waits_in_vain_leaves_the_one_that_serves():
    first, second = hosts()
    commands = Commands(first)
    with connect_unix(commands.source) as source:
        initialised(source)
        for end in ("stop", "kill", "restart", "there"):
            path, waiting = commands.start_incoming_from(first, second)
            with connect_unix(path) as control:
                require(give(control, [get_blob(source, kind)[1] for kind in (PERMANENT, VOLATILE)]) == 0, waiting.log())
            if end == "restart":
                second.restart()
                require(waiting.wait(40) == 1 and "before the TPM was brought here" in waiting.log(), waiting.log())
            elif end == "there":
                first.restart()
                require(waiting.wait() == 1 and "the other vtpmd has ended" in waiting.log(), waiting.log())
                wait_for(lambda: "is there again" in commands.first.log(), f"it does not come back: {commands.first.log()}")
            else:
                require(getattr(waiting, end)() == 0 or end == "kill", waiting.log())
            second.refuses("NO_INSTANCE", "show", instance=commands.show()["id"])
        wait_for(lambda: commands.show()["state"] == "running", f"{commands.show()}")
        hashes(source)
        require(commands.show()["start"] == 1, f"{commands.show()}")
        require(control_call(source, CMD_SHUTDOWN) == bytes(4), "SHUTDOWN is refused")
    require(commands.first.wait() == 0, commands.first.log())
    commands.require_copies()


@test
def who_leaves_before_a_candidate_waits_leaves_nothing():
    first, second = hosts()
    instance = first.create("left")
    said = len(second.log())

    def count(sentence):
        return second.log()[said:].count(sentence)
    for turn in range(20):
        path = os.path.join(new_directory(), "control")
        with socket.socket(socket.AF_UNIX) as listener, connect_unix(first.socket) as there:
            listener.bind(path)
            listener.listen(1)
            arguments = {"instance": "left", "incoming": True, "from": True, "swtpm": {"sockets": ["control"], "off": True}}
            requests = [("start", arguments), ("await", {"instance": "left"}), ("stop", {"instance": "left"})]
            ask_and_leave(second, [there.fileno(), listener.fileno()], *requests[:1 + turn % 3])
        wait_for(lambda: count("is started, to take over") == count(" is gone: "), "the process that waits is still there")
    require(count("is started, to take over") > 0, second.log()[said:])
    require(instance.show()["state"] == "running" and instance.show()["start"] == 1, f"{instance.show()}")
    require(second.process.running(), second.log())
    second.refuses("BAD_VALUE", "start", instance="left", incoming=True, **{"from": True})
    instance.stop()


@test
def a_swtpm_that_does_not_say_from_where_is_told_how():
    first, second = hosts()
    commands = Commands(first)
    with connect_unix(commands.source) as source:
        initialised(source)
        commands.refuses_incoming("VTPM_INCOMING_FROM", second)
        path, waiting = commands.start_incoming_from(first, second)
        with connect_unix(path) as control:
            require(give(control, [get_blob(source, kind)[1] for kind in (PERMANENT, VOLATILE)]) == 0, waiting.log())
            hashes(control)
            require(commands.first.wait() == 0, commands.first.log())
            commands.refuses_incoming("VTPM_INCOMING_FROM")
    require(waiting.stop() == 0, waiting.log())


# --- one is killed in the middle ------------------------------------------------------------------------------------------

@test
def a_source_that_is_killed_before_the_first_command_goes_on():
    first, second = hosts()
    instance, client = serving(first, "goes-on")
    before = client.pcr_read(PCR)
    path = incoming(first, second, "goes-on")
    with connect_unix(path + ".ctrl") as control:
        require(give(control, exported(instance)) == 0, "what was exported is not taken")
        there = Tpm(connect_unix(path))
        first.kill()
        require(fails(there), "the target answers")
    first.start()
    instance.wait_serving()
    require(client.pcr_read(PCR) == before, "the source is another one")
    client.close()
    instance.stop()


def either(label, *daemons):
    """Where the instance is: all others say that it is not there."""
    where = []
    for daemon in daemons:
        try:
            state = daemon.call("show", instance=label)["state"]
        except AdminError as error:
            require(error.name == "NO_INSTANCE", f"{error}")
            continue
        where += [daemon] if state != "moved" else []
    require(len(where) <= 1, f"{label} is at {len(where)} places")
    return where[0] if where else None


@test
def a_target_that_is_killed_after_the_first_command_finds_it_stopped():
    first, second = hosts()
    instance, client = serving(first, "fetched")
    path = incoming(first, second, "fetched")
    with connect_unix(path + ".ctrl") as control:
        require(give(control, exported(instance)) == 0, "what was exported is not taken")
        there = Tpm(connect_unix(path))
        command = bytes.fromhex("80010000000c00000144" "0000")  # TPM2_Startup
        there.stream.sendall(command)
        wait_for(lambda: instance.show()["state"] == "moved", "it is not asked for")
        second.kill()
    second.start()
    require(fails(client), "the source answers")
    if either("fetched", first, second) is None:
        ctl(second, "move", "fetched", "--from", first.socket)
    moved = Instance(second, second.call("show", instance="fetched"))
    if moved.show()["state"] == "stopped":
        moved.start()
    # Its row was anchored before the kill: its candidate goes on if it was told so, or another one, which awaits a reset.
    moved.wait_for("it does not run", state="running")
    if listens(path):
        moved.path = path
    client = moved.recover()
    client.nv_define(INDEX, 8)
    client.close()
    moved.stop()


def is_moved(source, target):
    """False: what vtpmctl had asked for before it was killed is still under way."""
    asked = subprocess.run([program("vtpmctl"), "--socket", target.socket, "move", "killed", "--from", source.socket],
                           capture_output=True, text=True, timeout=60, check=False)
    require(asked.returncode == 0 or "under way here" in asked.stderr, f"it is refused with: {asked.stderr}")
    return asked.returncode == 0


@test
def a_move_that_breaks_off_anywhere_is_finished_by_asking_again():
    """Killed while it is asked for: the asker, the asked, or vtpmctl. One has it at most, and in the end the asker."""
    source, target = hosts()
    instance, client, before = filled(source, "killed")
    client.close()
    instance.stop()
    began = time.monotonic()
    move(source, target, "killed").stop()
    took = time.monotonic() - began
    for _ in range(KILLS):
        source, target = target, source
        victim = randomness.choice((source, target, None))
        asking = subprocess.Popen([program("vtpmctl"), "--socket", target.socket, "move", "killed", "--from", source.socket],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(randomness.uniform(0, took / 2))
        (victim or asking).kill()
        asking.wait(60)
        if victim:
            victim.start()
        either("killed", source, target)
        wait_for(lambda: is_moved(source, target), "it does not come, however often it is asked for")
        require(either("killed", source, target) is target, "it is not where it was moved to")
        shown = source.call("show", instance="killed")
        require(shown["state"] == "moved" and shown["version"] == 0, f"{shown}")
    moved = Instance(target, target.call("show", instance="killed"))
    moved.start()
    client = moved.connect()
    client.startup()
    require(client.nv_read(INDEX, 8) == b"a secret" and primary(client) == before, "it is another TPM")
    client.close()
    moved.stop()


if __name__ == "__main__":
    run()
