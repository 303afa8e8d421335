#!/usr/bin/python3
"""A running guest is moved to another QEMU, and taken back to a snapshot, while it extends a PCR without a pause and compares
the TPM's value with its own: the TPM has to go with the machine, to the last command. Between two of Debian's swtpm, which
shows that what is seen here is what QEMU does.
"""

import functools
import hashlib
import os

from harness import new_directory, wait_for
from machine import BOOT_TIMEOUT, COMMAND_LINE, EXTENDING_PCR, Machine, libvirts_swtpm, snapshots_file
from tap import require, run, test


def expected(count):
    value = bytes(32)
    for number in range(1, count + 1):
        value = hashlib.sha256(value + hashlib.sha256(str(number).encode()).digest()).digest()
    return value.hex()


def is_right(said):
    """What the guest has said, by a second reckoning: nothing was lost, nothing was extended twice."""
    counts = [count for count, _ in said]
    require(counts == list(range(counts[0], counts[0] + len(counts))), f"the guest has counted {counts}")
    require(said[-1][1] == expected(counts[-1]), f"after {counts[-1]} extensions the PCR is {said[-1][1]}")


def moves(source, destination, source_snapshots=None, destination_snapshots=None):
    """Boots a guest at one control socket, moves it to the other one while it extends; returns the second machine. What its
    guest has sealed before can be unsealed there."""
    first = Machine(new_directory(), source, command_line=COMMAND_LINE, snapshots=source_snapshots)
    first.guest.wait_ready()
    first.guest.run("tpm2 createprimary -Q -G ecc -c parent && echo -n a secret | "
                    "tpm2 create -Q -C parent -i - -u public -r private")
    first.guest.go_on_extending()
    first.wait_extended()
    stream = os.path.join(new_directory(), "stream")
    second = Machine(new_directory(), destination, command_line=COMMAND_LINE, incoming=f"unix:{stream}",
                     snapshots=destination_snapshots)
    first.migrate(f"unix:{stream}", second)
    first.kill()
    second.wait_extended()
    is_right(second.extended())
    second.guest.run("tpm2 load -Q -C parent -u public -r private -c blob")
    require(second.guest.run("tpm2 unseal -c blob") == "a secret", "what was sealed before is another secret now")
    return second


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
    later = machine.wait_extended()
    machine.load("now")
    said = len(machine.extended())
    machine.wait_extended()
    after = machine.extended()[said:]
    is_right(after)
    require(after[0][0] <= later, f"the machine has not gone back: it has counted to {later}, and now {after}")


@test
def the_guest_notices_an_extension_that_it_has_not_made():
    machine, swtpm = moved_between_swtpm()
    machine.guest.run(f"tpm2 pcrextend {EXTENDING_PCR}:sha256={'11' * 32}")
    wait_for(lambda: b"extending failed" in machine.console(), "it does not notice", BOOT_TIMEOUT)
    machine.end()
    swtpm.stop()


if __name__ == "__main__":
    run()
