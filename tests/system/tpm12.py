#!/usr/bin/python3
"""A TPM 1.2 by the same way: beside Debian's swtpm without --tpm2, over restarts, suspended, before a machine; and what is
refused for one.
"""

import os
import shutil
import socket
import struct
import subprocess

from harness import (CMD_INIT, Daemon, Front, Holder, Instance, NewHouse, Process, connect_unix, control, ctl, free_port,
                     listens, new_directory, wait_for)
from tap import Skip, require, run, test
from tpm12_client import FAILEDSELFTEST, ST_CLEAR, Tpm12, Tpm12Error, command

CMD_GET_CAPABILITY, CMD_STOP, CMD_SET_DATAFD = 0x01, 0x0E, 0x10
CMD_HASH_START, CMD_HASH_DATA, CMD_HASH_END = 0x06, 0x07, 0x08
SECRET, SRK, COUNTER = b"the owner's password", b"the storage root key", b"the counter's secret"
NV_INDEX = 0x1100
QEMU, SEABIOS = "qemu-system-x86_64", "/usr/share/seabios/bios-256k.bin"
PCRS = range(8)


class Swtpm12(Process):
    """Debian's swtpm without --tpm2."""

    def __init__(self, directory=None, flags="not-need-init"):
        directory = directory or new_directory()
        self.path = os.path.join(directory, "swtpm12.sock")
        super().__init__("swtpm12", [
            "swtpm", "socket", "--server", f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,path={self.path}.ctrl",
            "--tpmstate", f"dir={directory}", "--flags", flags], directory)
        self.wait_until(lambda: listens(self.path) and listens(self.path + ".ctrl"), "it listens")

    def connect(self):
        return Tpm12(connect_unix(self.path))


def connect(instance):
    return Tpm12(connect_unix(instance.path))


def started(daemon, label="old", **arguments):
    instance = daemon.create(label, tpm="1.2", **arguments)
    client = connect(instance)
    client.startup()
    return instance, client


def fails(code, function, *arguments):
    try:
        function(*arguments)
    except Tpm12Error as error:
        require(error.code == code, f"{error}, and not 0x{code:x}")
        return
    raise AssertionError(f"{function.__name__} {arguments} succeeded")


# --- beside swtpm ------------------------------------------------------------------------------------------------------

def nv_definition(size):
    short = struct.pack(">H", 3) + bytes(3) + b"\x1f" + bytes(20)
    return struct.pack(">HI", 0x18, NV_INDEX) + 2 * short + struct.pack(">HI", 0x17, 1) + bytes(3) + struct.pack(
        ">I", size) + bytes(20)


# What a machine's firmware and its setup send, in the order in which they do; each answer is one value.
SEQUENCE = [
    ("TPM_PCRRead before TPM_Startup", command(0x15, bytes(4))),
    ("TPM_Startup", command(0x99, struct.pack(">H", ST_CLEAR))),
    ("TPM_Startup again", command(0x99, struct.pack(">H", ST_CLEAR))),
    ("TPM_ContinueSelfTest", command(0x53)),
    ("TPM_SelfTestFull", command(0x50)),
    ("TPM_GetTestResult", command(0x54)),
    ("TPM_GetCapability of the PCRs", command(0x65, struct.pack(">III", 5, 4, 0x101))),
    ("TPM_GetCapability of the manufacturer", command(0x65, struct.pack(">III", 5, 4, 0x103))),
    ("TPM_GetCapability of timeouts", command(0x65, struct.pack(">III", 5, 4, 0x115))),
    ("TPM_GetCapability of durations", command(0x65, struct.pack(">III", 5, 4, 0x120))),
    ("TPM_GetCapability of the permanent flags", command(0x65, struct.pack(">III", 4, 4, 0x108))),
    ("TPM_GetCapability of the version", command(0x65, struct.pack(">II", 0x1A, 0))),
    ("TPM_Extend", command(0x14, struct.pack(">I", 5) + b"twenty bytes of hash")),
    ("TPM_PCRRead", command(0x15, struct.pack(">I", 5))),
    ("TPM_Extend of a PCR of locality 2", command(0x14, struct.pack(">I", 20) + b"twenty bytes of hash")),
    ("TPM_PCRRead of none", command(0x15, struct.pack(">I", 24))),
    ("TSC_PhysicalPresence, command enable", command(0x4000000A, struct.pack(">H", 0x20))),
    ("TSC_PhysicalPresence, present", command(0x4000000A, struct.pack(">H", 0x08))),
    ("TPM_PhysicalEnable", command(0x6F)),
    ("TPM_PhysicalSetDeactivated", command(0x72, b"\0")),
    ("TPM_NV_DefineSpace", command(0xCC, nv_definition(16))),
    ("TPM_NV_WriteValue", command(0xCD, struct.pack(">III", NV_INDEX, 0, 16) + b"sixteen bytes...")),
    ("TPM_NV_ReadValue", command(0xCF, struct.pack(">III", NV_INDEX, 0, 16))),
    ("TPM_NV_ReadValue beyond the end", command(0xCF, struct.pack(">III", NV_INDEX, 8, 16))),
    ("TPM_NV_ReadValue of none", command(0xCF, struct.pack(">III", NV_INDEX + 1, 0, 16))),
    ("TPM_SaveState", command(0x98)),
    ("no ordinal", command(0x7777)),
    ("no tag", command(0x99, struct.pack(">H", ST_CLEAR), tag=0xC7)),
    ("TPM2_Startup", bytes.fromhex("80010000000c000001440000")),
    ("a wrong size inside", command(0x15, struct.pack(">I", 5) + b"more")),
    ("TPM_OwnerClear without an owner", command(0x5B, bytes(45), tag=0xC2)),
]


@test
def it_answers_what_swtpm_answers():
    daemon = Daemon()
    instance = daemon.create("old", tpm="1.2")
    ours, theirs = connect(instance), Swtpm12().connect()
    for name, sent in SEQUENCE:
        said, expected = ours.exchange(sent), theirs.exchange(sent)
        require(said == expected, f"{name}: {said.hex()}, and swtpm {expected.hex()}")
    require(len(ours.get_random(32)) == len(theirs.get_random(32)) == 32, "not as many random bytes as were asked for")
    require(ours.get_random(32) != ours.get_random(32), "the same random bytes twice")


@test
def and_so_it_does_when_it_is_off():
    daemon = Daemon()
    instance, _ = started(daemon)
    swtpm = Swtpm12()
    said = []
    for path in (instance.path, swtpm.path):
        require(control(path + ".ctrl", CMD_STOP, b"") == bytes(4), "the STOP is refused")
        client = Tpm12(connect_unix(path))
        said.append(client.raw(0x15, bytes(4)))
    require(said[0] == said[1] == bytes.fromhex("00c40000000a00000009"), f"ours answers {said[0]}, swtpm {said[1]}")
    require(control(instance.path + ".ctrl", CMD_INIT, bytes(4)) == bytes(4), "the INIT is refused")
    client = connect(instance)
    client.startup()
    client.pcr_read(0)


@test
def its_capabilities_are_a_tpm_20s_without_the_framed_command():
    daemon = Daemon()
    instance = daemon.create("old", tpm="1.2")
    newer = daemon.create("new")
    bits = []
    for path in (instance.path, newer.path, Swtpm12().path):
        with connect_unix(path + ".ctrl") as stream:
            stream.sendall(struct.pack(">I", CMD_GET_CAPABILITY))
            bits.append(struct.unpack(">II", stream.recv(8)))
    old, new, theirs = bits
    require(theirs == (0, 0x7FFF), f"swtpm says {theirs}")
    require(old == (0, new[1] & ~0x8000), f"ours are {old}, of a TPM 2.0 {new}")


@test
def a_dynamic_launch_goes_into_pcr_17_and_one_out_of_order_fails_as_with_swtpm():
    daemon = Daemon()
    instance, _ = started(daemon)
    swtpm = Swtpm12()
    first = swtpm.connect()
    first.startup()
    first.close()
    said = []
    for path in (instance.path, swtpm.path):
        client = Tpm12(connect_unix(path))
        launch = [(CMD_HASH_START, b""), (CMD_HASH_DATA, struct.pack(">I", 4) + b"code"), (CMD_HASH_END, b"")]
        done = [control(path + ".ctrl", number, body) for number, body in launch]
        done.append(client.pcr_read(17))
        refused = control(path + ".ctrl", CMD_HASH_DATA, struct.pack(">I", 4) + b"code")
        require(refused != bytes(4), "what belongs to no launch is taken")
        done.append(client.raw(0x15, bytes(4)))
        require(control(path + ".ctrl", CMD_INIT, bytes(4)) == bytes(4), "the INIT is refused")
        client.startup()
        said.append(done)
    require(said[0] == said[1], f"ours {said[0]}, swtpm {said[1]}")


# --- what it keeps -----------------------------------------------------------------------------------------------------

def fits_into_4_mib(instance):
    """As limits.py has it for a TPM 2.0."""
    for pid in (instance.keeper(), instance.worker()):
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            locked = next(int(line.split()[1]) for line in file if line.startswith("VmLck:"))
        require(locked <= 4096, f"{locked} KiB are locked")


@test
def an_owner_and_his_counter_outlive_stop_start_and_vtpmd():
    daemon = Daemon()
    instance, client = started(daemon)
    client.switch_on()
    instance.reset()
    client.startup()
    key = client.create_endorsement_key()
    client.take_ownership(key, SECRET, SRK)
    counter, value = client.create_counter(SECRET, COUNTER)
    require(client.increment_counter(counter, COUNTER) == value + 1, "the counter does not count")
    client.be_present()
    client.nv_define(NV_INDEX, 16)
    client.nv_write(NV_INDEX, b"sixteen bytes...")
    fits_into_4_mib(instance)
    instance.stop()
    daemon.restart()
    instance.start()
    client = connect(instance)
    client.startup()
    require(client.read_counter(counter) == value + 1, "the counter went back")
    require(client.nv_read(NV_INDEX, 16) == b"sixteen bytes...", "NV is not what it was")
    require(client.increment_counter(counter, COUNTER) == value + 2, "the counter does not go on")
    require(daemon.call("show", instance="old")["tpm"] == "1.2", "its family has changed")
    daemon.end()
    daemon.power_on()
    wait_for(lambda: instance.show()["state"] == "running", "it does not come back")
    instance.reset()
    client = connect(instance)
    client.startup()
    require(client.read_counter(counter) == value + 2, "what was answered is gone after a loss of power")


@test
def what_tpm_savestate_kept_outlives_a_stop_and_is_used_once():
    daemon = Daemon()
    instance, client = started(daemon)
    value = client.extend(5, b"twenty bytes of hash")
    client.save_state()
    instance.stop()
    instance.start()
    client = connect(instance)
    client.startup(state=True)
    require(client.pcr_read(5) == value, "the PCR is not what it was")
    instance.stop()
    instance.start()
    client = connect(instance)
    fails(FAILEDSELFTEST, client.startup, True)
    wait_for(lambda: instance.show()["health"] == "tpm failure", "nobody is told that the TPM has failed")
    instance.reset()
    client.startup()
    require(client.pcr_read(5) == bytes(20), "a PCR has a value")


@test
def it_is_suspended_and_resumed():
    daemon = Daemon()
    instance, client = started(daemon)
    value = client.extend(5, b"twenty bytes of hash")
    instance.call("suspend")
    require(instance.show()["suspended"], "it is not suspended")
    instance.start()
    client = connect(instance)
    require(client.pcr_read(5) == value, "the PCR is not what it was")


@test
def a_client_that_has_lost_its_tpm_is_told_so_in_its_own_words():
    daemon = Daemon()
    instance, client = started(daemon)
    os.kill(instance.worker(), 9)
    instance.wait_for("it is not rebuilt", state="running", health="awaiting reset")
    client = connect(instance)
    require(client.raw(0x15, bytes(4)) == bytes.fromhex("00c40000000a00000009"), "not TPM_FAIL")
    instance.reset()
    client.startup()
    client.pcr_read(0)


@test
def a_recovered_one_has_all_but_what_tpm_savestate_kept():
    keys = new_directory()
    holder = Holder(keys, "holder")
    daemon = Daemon(new_directory(), init=False)
    daemon.init("--recovery-key", holder.public, "--recovery-threshold", "1")
    daemon.start()
    instance, client = started(daemon)
    client.be_present()
    client.nv_define(NV_INDEX, 16)
    client.nv_write(NV_INDEX, b"sixteen bytes...")
    client.save_state()
    instance.stop()
    backup = os.path.join(keys, "backup.db")
    ctl(daemon, "store", "backup", backup)
    daemon.end()
    new = NewHouse(backup)

    def answers(state):
        path = os.path.join(keys, "answer")
        require(holder.answer(state, path).returncode == 0, "the holder does not answer")
        return [path]

    status, said = new.recover(answers)
    require(status == 0, said)
    new.daemon.start()
    instance = Instance(new.daemon, new.daemon.call("show", instance="old"))
    require(instance.show()["tpm"] == "1.2" and instance.show()["reverted"], f"{instance.show()}")
    instance.start()
    client = connect(instance)
    fails(FAILEDSELFTEST, client.startup, True)
    instance.reset()
    client.startup()
    require(client.nv_read(NV_INDEX, 16) == b"sixteen bytes...", "NV is not what it was")


# --- what there is of one, and what is not -----------------------------------------------------------------------------

@test
def create_list_and_show_know_the_family():
    daemon = Daemon()
    ctl(daemon, "create", "old", "--tpm", "1.2")
    ctl(daemon, "create", "new", "--tpm", "2.0")
    ctl(daemon, "create", "default")
    table = {line.split()[0]: line.split() for line in ctl(daemon, "list").splitlines()}
    column = table["LABEL"].index("TPM")
    require([table[label][column] for label in ("old", "new", "default")] == ["1.2", "2.0", "2.0"], f"{table}")
    require("TPM                  1.2\n" in ctl(daemon, "show", "old"), ctl(daemon, "show", "old"))
    ctl(daemon, "clone", "old", "twin")
    require(daemon.call("show", instance="twin")["tpm"] == "1.2", "a clone is of another family")
    require("2.0 or 1.2" in ctl(daemon, "create", "bad", "--tpm", "1.1", fails=True), "it is not said what there is")


@test
def what_only_a_tpm_20_can_is_refused():
    daemon = Daemon()
    instance, _ = started(daemon)
    instance.stop()
    daemon.refuses("TPM_FAMILY", "snapshot", instance="old", name="before")
    for arguments in ({"lockout_heals": "never"}, {"snapshots": "allowed"}, {"import": True}, {"listen": [f"mssim:tcp:{free_port()}"]}):
        daemon.refuses("TPM_FAMILY", "create", label="other", tpm="1.2", **arguments)
    require(len(daemon.call("list")["instances"]) == 1, "there is another instance")


@test
def a_separate_front_end_serves_it():
    daemon = Daemon()
    instance = daemon.create_for_front("old", tpm="1.2")
    front = Front(instance, tpm="1.2")
    front.wait_listening()
    client = Tpm12(connect_unix(front.path))
    client.startup()
    client.extend(5, b"twenty bytes of hash")
    instance.call("stop")
    wait_for(lambda: client.raw(0x15, bytes(4)) == bytes.fromhex("00c40000000a00000009"), "not TPM_FAIL")


# --- a machine ---------------------------------------------------------------------------------------------------------

class Machine:
    """QEMU with SeaBIOS and nothing to boot; it ends when the firmware has found that out, after it measured."""

    def __init__(self, control_path):
        if not shutil.which(QEMU) or not os.path.exists(SEABIOS):
            raise Skip("QEMU or SeaBIOS is not installed")
        directory = new_directory()
        self.said = os.path.join(directory, "firmware")
        self.monitor_path = os.path.join(directory, "monitor")
        self.popen = subprocess.Popen(
            [QEMU, "-machine", "pc", "-m", "128", "-display", "none", "-nodefaults", "-no-user-config", "-bios", SEABIOS,
             "-chardev", f"file,id=said,path={self.said}", "-device", "isa-debugcon,iobase=0x402,chardev=said",
             "-monitor", f"unix:{self.monitor_path},server=on,wait=off",
             "-chardev", f"socket,id=chrtpm,path={control_path}", "-tpmdev", "emulator,id=tpm0,chardev=chrtpm",
             "-device", "tpm-tis,tpmdev=tpm0"],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def boots(self):
        require(self.popen.poll() is None, f"QEMU ended: {self.popen.poll()}")
        if not os.path.exists(self.said):
            return 0
        with open(self.said, "rb") as file:
            return file.read().count(b"No bootable device")

    def booted(self, times=1):
        wait_for(lambda: self.boots() >= times, "the firmware does not come to its end", 60)

    def reset(self):
        with connect_unix(self.monitor_path) as stream:
            for line in (b"system_reset\n", b""):  # and then wait until it was taken
                said = b""
                while not said.endswith(b"(qemu) "):
                    said += stream.recv(4096)
                stream.sendall(line)

    def end(self):
        self.popen.terminate()
        require(self.popen.wait(30) == 0, f"QEMU ended with {self.popen.returncode}: {self.popen.stderr.read()}")


def pcrs_of(client):
    return [client.pcr_read(index).hex() for index in PCRS]


def measured_by_swtpm():
    directory = new_directory()
    path = os.path.join(directory, "swtpm.ctrl")
    swtpm = Process("swtpm", ["swtpm", "socket", "--ctrl", f"type=unixio,path={path}", "--tpmstate", f"dir={directory}",
                              "--flags", "not-need-init"], directory)
    swtpm.wait_until(lambda: listens(path), "it listens")
    machine = Machine(path)
    machine.booted()
    machine.popen.kill()
    machine.popen.wait()
    with connect_unix(path) as stream:
        ours, theirs = socket.socketpair()
        socket.send_fds(stream, [struct.pack(">I", CMD_SET_DATAFD)], [theirs.fileno()])
        require(stream.recv(4) == bytes(4), "swtpm takes no data channel")
        theirs.close()
        client = Tpm12(ours)
        values = pcrs_of(client)
        client.close()
    swtpm.kill()
    return values


@test
def a_machine_measures_into_it_what_it_measures_into_swtpm():
    expected = measured_by_swtpm()
    daemon = Daemon()
    instance = daemon.create("machine", tpm="1.2")
    machine = Machine(instance.path + ".ctrl")
    machine.booted()
    measured = pcrs_of(connect(instance))
    require(measured == expected, f"the PCRs are {measured}, and with swtpm {expected}")
    require(all(int(value, 16) for value in measured), f"a PCR was not extended: {measured}")
    machine.reset()
    machine.booted(2)
    require(pcrs_of(connect(instance)) == expected, "after a reset the PCRs are others")
    machine.end()
    instance.wait_for("its TPM goes on without the machine", state="stopped")


if __name__ == "__main__":
    run()
