#!/usr/bin/python3
"""A running guest is moved to another QEMU, and taken back to a snapshot, while it extends a PCR without a pause and compares
the TPM's value with its own: the TPM has to go with the machine, to the last command. Between two of Debian's swtpm, which
shows that what is seen here is what QEMU does; between two of this project's command swtpm; and between two processes of one
instance, where besides only one of the two goes on, whatever a host does with what was exported (S6, S7).
"""

import functools
import hashlib
import os
import signal
import socket
import struct

from harness import Daemon, connect_unix, listens, new_directory, wait_for
from machine import (BOOT_TIMEOUT, CMD_HASH_END, CMD_HASH_START, CMD_INIT, CMD_SET_STATEBLOB, CMD_SHUTDOWN, CMD_STOP,
                     COMMAND_LINE, EXTENDING_PCR, PERMANENT, VOLATILE, Commands, Machine, ask_and_leave, control_call, exported,
                     get_blob, give, libvirts_swtpm, moves, require_extensions, snapshots_file, waiting)
from tap import randomness, require, run, test
from tpm import RC_FAILURE, Tpm, TpmError
from tpm12_client import Tpm12

CMD_LOCK_STORAGE = 0x13
TPM_FAIL = 0x09
PCR, INDEX = 10, 0x01800080


@functools.cache
def moved_between_swtpm():
    (source, first), (destination, second) = libvirts_swtpm(), libvirts_swtpm()
    machine = moves(source, destination, snapshots_file(), snapshots_file())
    first.stop()
    return machine, second


@test
def a_guest_that_is_moved_between_two_swtpm_loses_no_extension():
    moved_between_swtpm()


@test
def at_swtpm_a_snapshot_has_the_tpm_as_it_was():
    machine, _ = moved_between_swtpm()
    machine.save("now")
    machine.wait_extended()
    machine.go_back("now")


@test
def the_guest_notices_an_extension_that_it_has_not_made():
    machine, swtpm = moved_between_swtpm()
    machine.guest.run(f"tpm2 pcrextend {EXTENDING_PCR}:sha256={'11' * 32}")
    wait_for(lambda: b"extending failed" in machine.console(), "it does not notice", BOOT_TIMEOUT)
    machine.end()
    swtpm.stop()


# --- between two processes of one instance --------------------------------------------------------------------------------

def incoming(instance):
    """Another process of the instance, which waits for what the one that serves exports. The path of its data socket."""
    shown = instance.call("start", incoming=True)
    address = shown["incoming"]["listen"][0]
    path = address[len("swtpm:unix:"):]
    wait_for(lambda: listens(path + ".ctrl"), f"nobody listens at {path}.ctrl")
    return path


@functools.cache
def moved_between_ours():
    daemon = Daemon()
    instance = daemon.create("moved", snapshots="allowed")
    path = incoming(instance)
    snapshots = snapshots_file()
    machine = moves(instance.path + ".ctrl", path + ".ctrl", snapshots_file(), snapshots)
    return instance, machine, snapshots


@test
def a_guest_that_is_moved_between_two_processes_loses_no_extension():
    instance, machine, _ = moved_between_ours()
    shown = instance.show()
    require(shown["state"] == "running" and shown["start"] == 2 and not shown["incoming"], f"it is shown as {shown}")
    machine.wait_extended()


@test
def where_it_listens_now_is_known_to_a_vtpmd_that_begins_anew():
    instance, machine, _ = moved_between_ours()
    listens_at = instance.show()["listen"]
    require("tpm-2.sock" in listens_at[0], f"it listens at {listens_at}")
    instance.daemon.restart()
    instance.wait_serving()
    require(instance.show()["listen"] == listens_at, f"it listens at {instance.show()['listen']} and not {listens_at}")
    machine.wait_extended()


@test
def a_migration_that_fails_leaves_the_machine_and_its_tpm_going():
    instance, machine, _ = moved_between_ours()
    path = incoming(instance)
    other = waiting(path + ".ctrl", os.path.join(new_directory(), "nobody-connects"), snapshots_file())
    machine.migrate_in_vain()
    other.kill()
    require(instance.show()["start"] == 2, "another process has taken over")
    require(not instance.call("stop", incoming=True)["incoming"], "the process that was to take over is still there")
    instance.daemon.refuses("VERB_STATE", "stop", instance=instance.identity, incoming=True)
    machine.wait_extended()


@test
def a_snapshot_of_the_machine_is_loaded_again_and_again_where_that_is_allowed():
    """PCRs go back with the machine, which goes on extending without noticing; what may not go back does not."""
    instance, machine, snapshots = moved_between_ours()

    def counts():
        said = machine.guest.run(f"tpm2 nvread {INDEX:#x} -C o 2>/dev/null | xxd -p; tpm2 readclock | sed -n 's/.*reset_count: *//p'")
        counter, resets = said.split()
        return int(counter, 16), int(resets)
    machine.guest.run(f"tpm2 nvdefine -Q {INDEX:#x} -C o -a 'ownerread|ownerwrite|nt=counter' && tpm2 nvincrement {INDEX:#x} -C o")
    machine.save("now")
    for load in (1, 2):
        machine.guest.run(f"tpm2 nvincrement {INDEX:#x} -C o")
        counter, resets = counts()
        machine.wait_extended()
        machine.go_back("now")
        require(counts() >= (counter, resets + 1), f"a counter has gone back: {counts()} after {counter}, {resets}")
        require(counts()[1] == resets + 1, f"it says {counts()[1]} resets after {resets}")
        require(instance.show()["snapshot-loads"] == load, f"{instance.show()}")
    require(instance.daemon.log().count("was put back to a snapshot of its machine") == 2, "the log does not say so")
    stream = instance.daemon.admin()
    stream.call("subscribe", since=1)
    while stream.read()["event"] != "snapshot-loaded":
        pass
    stream.close()
    machine.kill()
    instance.call("stop")

    instance.call("start")
    machine = Machine(new_directory(), instance.path + ".ctrl", command_line=COMMAND_LINE, snapshots=snapshots,
                      arguments=("-loadvm", "now"))
    machine.wait_extended()
    require_extensions(machine.extended()[1:])  # the first line may have begun before the snapshot
    require(instance.show()["snapshot-loads"] == 3, f"{instance.show()}")
    machine.kill()
    instance.call("stop")


# --- between two commands swtpm -------------------------------------------------------------------------------------------

@test
def a_guest_that_is_moved_between_two_of_our_swtpm_loses_no_extension():
    commands = Commands()
    destination, second = commands.start_incoming()
    machine = moves(commands.source, destination)
    require(commands.first.wait() == 0, commands.first.log())
    shown = commands.show()
    require(shown["state"] == "running" and shown["start"] == 2 and shown["held"] and not shown["incoming"], f"{shown}")

    commands.daemon.restart()
    wait_for(lambda: "is there again" in second.log(), f"it does not come back: {second.log()}")
    machine.wait_extended()
    machine.end()
    require(second.wait() == 0, second.log())
    require(commands.show()["state"] == "stopped", f"{commands.show()}")
    commands.require_copies()


@test
def a_swtpm_that_waits_in_vain_leaves_the_one_that_serves():
    commands = Commands()
    with connect_unix(commands.source) as control:
        require(control_call(control, CMD_INIT, bytes(4)) == bytes(4), "INIT is refused")
        for ends in ("stop", "kill"):
            _, waiting = commands.start_incoming()
            commands.refuses_incoming("an incoming process already")
            status = getattr(waiting, ends)()
            require(ends == "kill" or status == 0, waiting.log())
            wait_for(lambda: not commands.show()["incoming"], "the process that was to take over is still there")
        _, waiting = commands.start_incoming()
        commands.daemon.restart()
        require(waiting.wait(40) == 1 and "before the TPM was brought here" in waiting.log(), waiting.log())
        wait_for(lambda: "is there again" in commands.first.log(), f"it does not come back: {commands.first.log()}")
        wait_for(lambda: commands.show()["state"] == "running", f"{commands.show()}")
        require(commands.show()["start"] == 1, f"{commands.show()}")
        require(control_call(control, CMD_HASH_START) == bytes(4) == control_call(control, CMD_HASH_END), "hashing is refused")
        require(control_call(control, CMD_SHUTDOWN) == bytes(4), "SHUTDOWN is refused")
    require(commands.first.wait() == 0, commands.first.log())
    commands.require_copies()


@test
def a_swtpm_whose_tpm_was_taken_over_ends():
    commands = Commands()
    path, second = commands.start_incoming()
    with connect_unix(commands.source) as source, connect_unix(path) as control:
        require(control_call(source, CMD_INIT, bytes(4)) == bytes(4), "INIT is refused")
        require(give(control, [get_blob(source, kind)[1] for kind in (PERMANENT, VOLATILE)]) == 0, second.log())
        require(control_call(control, CMD_HASH_START) == bytes(4) == control_call(control, CMD_HASH_END), "hashing is refused")
        require(commands.first.wait() == 0, commands.first.log())
        require("another process has taken its TPM over" in commands.first.log(), commands.first.log())
        require(commands.show()["start"] == 2, f"{commands.show()}")
        os.kill(commands.show()["pid"], signal.SIGKILL)
        wait_for(lambda: commands.show()["health"] == "awaiting reset", "it is not rebuilt on the sockets of the second one")
    with connect_unix(path) as control:
        require(control_call(control, CMD_INIT, bytes(4)) == bytes(4), "INIT is refused")
    require(second.stop() == 0, second.log())
    commands.require_copies()


@test
def who_leaves_before_it_is_answered_leaves_nothing():
    daemon = Daemon()
    instance = daemon.create("left")
    directory = new_directory()
    for turn in range(20):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(directory, str(turn)))
            listener.listen(1)
            arguments = {"instance": "left", "incoming": True, "swtpm": {"sockets": ["control"], "off": True}}
            requests = [("start", arguments), ("await", {"instance": "left"}), ("stop", {"instance": "left"})]
            ask_and_leave(daemon, [listener.fileno()], *requests[:1 + turn % 3])
        wait_for(lambda: not daemon.call("show", instance="left")["incoming"], "the process that was to take over is still there")
    shown = instance.show()
    require(shown["state"] == "running" and shown["start"] == 1 and not shown["held"], f"{shown}")
    require(daemon.process.running(), daemon.log())


@test
def a_swtpm_that_has_ended_leaves_its_tpm_to_one_that_is_incoming():
    commands = Commands()
    with connect_unix(commands.source) as control:
        require(control_call(control, CMD_INIT, bytes(4)) == bytes(4), "INIT is refused")
        blobs = [get_blob(control, kind)[1] for kind in (PERMANENT, VOLATILE)]
        require(control_call(control, CMD_SHUTDOWN) == bytes(4), "SHUTDOWN is refused")
    require(commands.first.wait() == 0, commands.first.log())
    path, second = commands.start_incoming()
    with connect_unix(path) as control:
        require(give(control, blobs) == 0, f"what was exported is not taken: {second.log()}")
        require(commands.show()["start"] == 1, "INIT alone decides")
        require(control_call(control, CMD_HASH_START) == bytes(4) == control_call(control, CMD_HASH_END), "hashing is refused")
        shown = commands.show()
        require(shown["state"] == "running" and shown["start"] == 2 and shown["held"], f"{shown}")
    require(second.stop() == 0, second.log())
    require(commands.show()["state"] == "stopped", f"{commands.show()}")
    commands.require_copies()


# --- what a host may try with what was exported ---------------------------------------------------------------------------

class Target:
    """A process that waits for an export, without a machine."""

    def __init__(self, instance):
        self.path = incoming(instance)
        self.control = connect_unix(self.path + ".ctrl")

    def give(self, blobs):
        return give(self.control, blobs)

    def connect(self):
        return Tpm(connect_unix(self.path))

    def close(self):
        self.control.close()


def fails(client):
    """The TPM answers TPM_RC_FAILURE, or nobody answers any more."""
    try:
        client.pcr_read(PCR)
    except TpmError as error:
        return error.code == RC_FAILURE
    except OSError:
        return True
    return False


def serving(label, daemon=None):
    instance = (daemon or Daemon()).create(label)
    client = instance.connect()
    client.startup()
    client.pcr_extend(PCR, hashlib.sha256(label.encode()).digest())
    return instance, client


@test
def an_export_is_sealed_whether_it_is_asked_for_decrypted_or_not():
    instance, client = serving("sealed")
    secret = bytes(randomness.randrange(256) for _ in range(32))
    client.nv_define(INDEX, len(secret))
    client.nv_write(INDEX, secret)
    blobs = exported(instance)
    require(client.pcr_read(PCR) not in b"".join(blobs) and secret not in b"".join(blobs), "it is in the clear")
    require(all(blob.startswith(b"VTPMSEAL") for blob in blobs), "these are no sealed blobs")


@test
def of_the_two_that_could_go_on_the_first_one_does():
    for source_first in (True, False):
        instance, client = serving("decided" if source_first else "redeemed")
        before = client.pcr_read(PCR)
        target = Target(instance)
        require(target.give(exported(instance)) == 0, "what was exported is not taken")
        there = target.connect()
        if source_first:
            require(client.pcr_read(PCR) == before, "the source is another one")
            require(fails(there), "the target answers as well")
        else:
            require(there.pcr_read(PCR) == before, "the target is another one")
            require(fails(client), "the source answers as well")
            there.nv_define(INDEX, 8)
        target.close()


@test
def a_tpm_12_is_moved_with_all_it_had():
    instance = Daemon().create("old", tpm="1.2")
    client = Tpm12(connect_unix(instance.path))
    client.startup()
    before = client.extend(PCR, b"twenty bytes of hash")
    target = Target(instance)
    require(target.give(exported(instance)) == 0, "what was exported is not taken")
    there = Tpm12(connect_unix(target.path))
    require(there.pcr_read(PCR) == before, "the target is another one")
    try:
        code = client.raw(0x15, struct.pack(">I", PCR))[6:10]
    except OSError:  # nobody answers any more
        code = struct.pack(">I", TPM_FAIL)
    require(code == struct.pack(">I", TPM_FAIL), "the source answers as well")
    target.close()


@test
def an_end_in_order_leaves_the_export_to_be_redeemed():
    instance, client = serving("ended")
    before = client.pcr_read(PCR)
    target = Target(instance)
    blobs = exported(instance)
    with connect_unix(instance.path + ".ctrl") as control:
        require(control_call(control, CMD_SHUTDOWN) == bytes(4), "SHUTDOWN is refused")
    instance.wait_for("it goes on", state="stopped")
    require(target.give(blobs) == 0, "what was exported is not taken")
    require(target.connect().pcr_read(PCR) == before, "the target is another one")


@test
def a_lock_takes_back():
    instance, client = serving("locked")
    target = Target(instance)
    require(target.give(exported(instance)) == 0, "what was exported is not taken")
    with connect_unix(instance.path + ".ctrl") as control:
        require(control_call(control, CMD_LOCK_STORAGE, struct.pack(">I", 300)) == bytes(4), "LOCK_STORAGE is refused")
    require(fails(target.connect()), "the target answers after the lock")
    require(not fails(client), "the source does not answer")


@test
def an_export_that_was_left_opens_nowhere_again():
    instance, client = serving("left")
    blobs = exported(instance)
    client.pcr_extend(PCR, bytes(32))
    after = client.pcr_read(PCR)
    target = Target(instance)
    require(target.give(blobs) == 0, "INIT only checks what it can")
    require(fails(target.connect()), "the TPM went on from an old moment")
    with connect_unix(instance.path + ".ctrl") as control:
        require(control_call(control, CMD_STOP) == bytes(4), "STOP is refused")
        for kind, blob in zip((PERMANENT, VOLATILE), blobs):
            control_call(control, CMD_SET_STATEBLOB, struct.pack(">III", 0, kind, len(blob)) + blob)
        require(control_call(control, CMD_INIT, bytes(4)) != bytes(4), "the holder went back to an old moment")
    require("older than the newest one" in instance.daemon.log(), "the log does not say why")
    instance.call("stop")
    instance.call("start")
    client = instance.connect()
    client.startup()
    require(client.pcr_read(PCR) != after and not fails(client), "the TPM does not go on")


@test
def what_is_damaged_mixed_or_another_instances_is_refused_at_once():
    daemon = Daemon()
    instance, client = serving("first", daemon)
    other, _ = serving("second", daemon)
    older = exported(instance)
    client.pcr_extend(PCR, bytes(32))
    permanent, volatile = exported(instance)
    target = Target(instance)
    require(target.give((permanent, b"")) != 0, "a part of it is enough")
    require(target.give((volatile, permanent)) != 0, "the parts may be swapped")
    require(target.give((older[0], volatile)) != 0, "the parts may be of two exports")
    require(target.give(exported(other)) != 0, "another instance's is taken")
    require(target.give((permanent[:-1], volatile)) != 0, "it may be cut")
    require(target.give((permanent, volatile + b"x")) != 0, "it may be longer")
    for blob in range(2):
        for _ in range(20):
            changed = [bytearray(permanent), bytearray(volatile)]
            at = randomness.randrange(len(changed[blob]))
            changed[blob][at] ^= 1 << randomness.randrange(8)
            require(target.give(map(bytes, changed)) != 0, f"byte {at} of part {blob} may be changed")
    require(target.give((permanent, volatile)) == 0, "the right one is not taken any more")
    require(not fails(target.connect()), "the target does not go on")
    require(fails(client), "the source answers as well")


@test
def of_several_targets_one_goes_on():
    instance, client = serving("several")
    before = client.pcr_read(PCR)
    blobs = exported(instance)
    first = Target(instance)
    require(first.give(blobs) == 0, "what was exported is not taken")
    instance.daemon.refuses("VERB_STATE", "start", instance=instance.identity, incoming=True)
    there = first.connect()
    require(there.pcr_read(PCR) == before, "the target is another one")
    second = Target(instance)
    require(second.give(blobs) != 0 or fails(second.connect()), "it was taken over twice")
    require(not fails(there), "the first one was fenced")


@test
def vtpmd_that_dies_before_it_is_decided_leaves_the_source():
    instance, client = serving("cut")
    before = client.pcr_read(PCR)
    target = Target(instance)
    require(target.give(exported(instance)) == 0, "what was exported is not taken")
    there = target.connect()
    instance.daemon.kill()
    require(fails(there), "the target answers without vtpmd")
    instance.daemon.start()
    instance.wait_serving()
    require(client.pcr_read(PCR) == before, "the source does not go on")


if __name__ == "__main__":
    run()
