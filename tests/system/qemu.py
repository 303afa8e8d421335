#!/usr/bin/python3
"""A real machine: QEMU with its emulator back-end at the control socket, and OVMF, which measures what it runs. Nothing but
the socket's path is another than with swtpm, and the PCRs have the same values.
"""

import socket

from harness import Daemon, connect_unix, new_directory
from machine import Machine, control_call, libvirts_swtpm
from tap import require, run, test
from tpm import Tpm

PCRS = range(8)
SET_DATAFD, GET_TPMESTABLISHED, RESET_TPMESTABLISHED = 0x10, 0x04, 0x0B


def pcrs_of(client):
    return [client.pcr_read(index).hex() for index in PCRS]


_expected = []


def expected():
    """What the same machine measures into Debian's swtpm."""
    if not _expected:
        path, swtpm = libvirts_swtpm()
        machine = Machine(new_directory(), path)
        machine.booted()
        machine.kill()
        with connect_unix(path) as control:
            ours, theirs = socket.socketpair()
            require(control_call(control, SET_DATAFD, descriptors=[theirs.fileno()]) == bytes(4), "swtpm takes no data channel")
            theirs.close()
            client = Tpm(ours)
            _expected.append(pcrs_of(client))
            client.close()
        swtpm.kill()
    return _expected[0]


def boots_on(model):
    daemon = Daemon()
    instance = daemon.create(model)
    machine = Machine(new_directory(), instance.path + ".ctrl", model)
    machine.booted()
    measured = pcrs_of(instance.connect())
    require(measured == expected(), f"the PCRs are {measured}, and with swtpm {expected()}")
    require(all(int(value, 16) for value in measured), f"a PCR was not extended: {measured}")
    return daemon, instance, machine


@test
def a_machine_measures_into_tpm_crb_what_it_measures_into_swtpm():
    _, instance, machine = boots_on("tpm-crb")
    machine.qmp.execute("system_reset")
    machine.booted(2)
    require(pcrs_of(instance.connect()) == expected(), "after a reset the PCRs are others")
    machine.end()


@test
def and_into_tpm_tis():
    _, instance, machine = boots_on("tpm-tis")
    machine.end()
    instance.wait_for("its TPM goes on without the machine", state="stopped")


# --- what QEMU asks for, byte by byte ----------------------------------------------------------------------------------

@test
def a_data_descriptor_is_taken_as_swtpm_takes_it():
    daemon = Daemon()
    instance = daemon.create("datafd")
    path, _ = libvirts_swtpm()
    answers = []
    for path in (instance.path + ".ctrl", path):
        with connect_unix(path) as control:
            ours, theirs = socket.socketpair()
            second, other = socket.socketpair()
            said = [control_call(control, SET_DATAFD), control_call(control, SET_DATAFD, descriptors=[theirs.fileno()]),
                    control_call(control, SET_DATAFD, descriptors=[other.fileno()])]
            theirs.close()
            ours.settimeout(10)
            ours.sendall(bytes.fromhex("80010000000c0000017b0008"))
            said.append(ours.recv(100)[:6])
            said.append(control_call(control, GET_TPMESTABLISHED, size=8))
            said += [control_call(control, RESET_TPMESTABLISHED, bytes([locality, 0, 0, 0])) for locality in range(5)]
            answers.append(said)
            for end in (ours, second, other):
                end.close()
    require(answers[0] == answers[1], f"ours answers {answers[0]}, swtpm {answers[1]}")


if __name__ == "__main__":
    run()
