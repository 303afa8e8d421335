#!/usr/bin/python3
"""E2 and U1 with real processes: who is no enclave, or another enclave, gets nothing from the manager.

What vtpmd starts in vtpm-instance's place is named by --instance-program, as root could.
"""

import os
import shutil
import struct
import subprocess
import sys
import uuid

from harness import BUILD, MANAGER_IMAGE, AdminError, Daemon, connect_unix, new_directory, program, wait_for
from tap import note, require, run, test
from wiretap import COMMIT, LINK, PEER, REFUSED, STATE, Frames, HEADER, frame, script, tapped_instance

CHALLENGE, PROOF, ADMIT = 17, 18, 19
HERE = os.path.dirname(os.path.abspath(__file__))
MANUAL = {"rebuild": "manual"}


class Impostor:
    """A host that starts fake_instance.py as the instance, with the messages that it is to send."""

    def __init__(self, messages):
        self.directory = new_directory()
        self.record = os.path.join(self.directory, "record")
        self.daemon = Daemon(self.directory, settings=MANUAL, instance_program=self.fake(messages))
        self.instance = self.daemon.create("impostor", start=False)
        self.try_to_start()

    def fake(self, messages):
        answers = os.path.join(self.directory, "answers")
        with open(answers, "w", encoding="ascii") as file:
            file.write("\n".join(messages) + "\n")
        return script(self.directory, "fake", sys.executable, os.path.join(HERE, "fake_instance.py"), answers, self.record)

    def try_to_start(self):
        try:
            self.instance.call("start")
        except AdminError as error:
            note(error)

    def frames(self):
        """[(kind, body)] that came to the fake, once vtpmd has ended the connection."""
        def closed():
            with open(self.record, encoding="ascii") as file:
                return file.read().endswith("closed\n")
        wait_for(lambda: os.path.exists(self.record) and closed(), "vtpmd does not end the connection")
        with open(self.record, encoding="ascii") as file:
            lines = [line.split() for line in file if line != "closed\n"]
        return [(int(line[0]), bytes.fromhex(line[1] if len(line) > 1 else "")) for line in lines]

    def require_refused(self, *sentences):
        frames = self.frames()
        for kind, body in frames:
            require(kind in (PEER, REFUSED), f"vtpmd sent a frame of kind {kind}")
            require(kind != PEER or body[0] == CHALLENGE, f"the manager sent {body.hex()}")
        require(frames and frames[-1][0] == REFUSED, f"it was not refused but sent {frames}")
        shown = self.instance.show()
        require(shown["state"] != "running", f"it runs: {shown}")
        require(any(sentence in (shown["reason"] or "") for sentence in sentences), f"the reason is {shown['reason']}")


def proof(report):
    return (bytes([PROOF, 0, 0, 0]) + os.urandom(96) + report).hex()


@test
def e2_a_process_without_a_report_is_refused_before_any_secret():
    Impostor([proof(bytes(432))]).require_refused("REPORT does not verify")


@test
def e2_a_process_with_an_invented_report_is_refused_before_any_secret():
    Impostor([proof(os.urandom(432))]).require_refused("REPORT does not verify")


class Replayed(Impostor):
    """A true start is recorded; then the host goes back to the files from before it, so that the manager makes the very
    same start again, and the recorded PROOF is said in it. Only what the manager draws anew differs.
    """

    def __init__(self):
        self.directory, records = new_directory(), new_directory()
        self.record = os.path.join(self.directory, "record")
        tapped = tapped_instance(self.directory, records, program("vtpm-instance"))
        self.daemon = Daemon(self.directory, settings=MANUAL, instance_program=tapped)
        self.instance = self.daemon.create("replayed", start=False)
        self.daemon.stop()
        before = self.daemon.state + ".before"
        shutil.copytree(self.daemon.state, before)
        self.daemon.start()
        self.instance.start()
        self.daemon.end()
        shutil.rmtree(self.daemon.state)
        os.rename(before, self.daemon.state)
        place = self.daemon.arguments.index("--instance-program") + 1
        self.daemon.arguments[place] = self.fake([proof_on_the_wire(records).hex()])
        self.daemon.power_on()
        self.try_to_start()


def proof_on_the_wire(records):
    for name in filter(lambda name: name.endswith(".up"), os.listdir(records)):
        with open(os.path.join(records, name), "rb") as file:
            for one in Frames().feed(file.read()):
                if one[4] == PEER and one[HEADER] == PROOF:
                    return one[HEADER:]
    raise AssertionError("there was no PROOF on the wire")


@test
def e2_the_report_of_a_true_enclave_said_again_is_refused_before_any_secret():
    Replayed().require_refused("about another exchange")


@test
def e2_a_process_that_claims_to_resume_a_session_is_refused_before_any_secret():
    """It says that it is start 1 of an instance whose enclave serves; it does not know the root key."""
    resume = bytes([20, 0, 0, 0]) + bytes(16) + struct.pack("<Q", 1) + os.urandom(64)
    Impostor(["resume " + resume.hex()]).require_refused("")


def hello(identity, enclave=1, start=0):
    return frame(1, struct.pack("<HBBI", 1, enclave, 1, 0) + uuid.UUID(identity).bytes + struct.pack("<Q", start)
                 + os.urandom(32))


@test
def e2_whoever_was_not_asked_for_gets_nothing():
    """Connections that nobody started: for an instance that runs, one that is stopped, and one that is not there."""
    daemon = Daemon()
    running, stopped = daemon.create("running"), daemon.create("stopped")
    stopped.stop()
    client = running.connect()
    client.startup()
    client.pcr_extend(16, bytes(32))
    before = client.pcr_read(16)
    for identity in (running.identity, stopped.identity, str(uuid.uuid4())):
        for message in (hello(identity), hello(identity, 2, 1)):
            with connect_unix(os.path.join(daemon.run, "daemon.sock"), 10) as stream:
                stream.sendall(message + frame(PEER, os.urandom(100)))
                answer, received = b"", b"-"
                while received:
                    try:
                        received = stream.recv(1 << 16)
                    except ConnectionResetError:
                        received = b""
                    answer += received
            kinds = [one[4] for one in Frames().feed(answer)]
            require(not {COMMIT, STATE, LINK} & set(kinds), f"vtpmd sent frames of the kinds {kinds}")
            for one in Frames().feed(answer):
                require(one[4] != PEER or one[HEADER] == CHALLENGE, f"the manager sent {one.hex()}")
    require(client.pcr_read(16) == before, "the running TPM was harmed")
    client.nv_define(0x01800090, 8)
    require(running.show()["state"] == "running" and stopped.show()["state"] == "stopped", "a state changed")


def changed_image(name, prodid, directory):
    """The image with one byte of its content changed, signed again with the key that lies in the build directory."""
    with open(os.path.join(BUILD, "enclave", f"{name}.elf"), "rb") as file:
        data = bytearray(file.read())
    place = data.index(b"CRYPTOGAMS")
    data[place] ^= 0x20
    elf, image = os.path.join(directory, f"{name}.elf"), os.path.join(directory, f"{name}.sgx")
    with open(elf, "wb") as file:
        file.write(data)
    subprocess.run([program("vtpm-sign"), "image", "--elf", elf, "--key", os.path.join(BUILD, "enclave", "signing-key.pem"),
                    "--prodid", str(prodid), "--svn", "1", "--out", image], check=True, capture_output=True)
    os.chmod(image, 0o644)
    return image


@test
def u1_a_changed_instance_image_signed_with_a_key_of_the_host_is_not_admitted():
    directory = new_directory()
    image = changed_image("instance", 2, directory)
    # The program that vtpmd starts is given another image behind its back.
    other = script(directory, "other-image", "sh", "-c", f'exec {program("vtpm-instance")} "$@" --image {image}', "sh")
    daemon = Daemon(directory, settings=MANUAL, instance_program=other)
    instance = daemon.create("changed", start=False)
    instance.refused_start("another identity")
    require(instance.show()["start"] == 0, "a start was recorded for it")


@test
def u1_a_changed_instance_image_in_vtpmds_configuration_is_not_admitted():
    directory = new_directory()
    daemon = Daemon(directory, settings=MANUAL, instance_image=changed_image("instance", 2, directory), init=False)
    daemon.init()
    daemon.start(wait=False)
    wait_for(lambda: not daemon.process.running() or "ready\n" in daemon.process.output(), "it neither starts nor ends")
    if not daemon.process.running():  # it may say so at once
        require("instance" in daemon.log() and "MRENCLAVE" in daemon.log(), f"it says: {daemon.log()}")
        return
    daemon.create("changed", start=False).refused_start("not the one that the manager admits")


@test
def u1_a_changed_manager_image_opens_no_store():
    daemon = Daemon(settings=MANUAL)
    daemon.create("kept", start=False)
    daemon.stop()
    place = daemon.arguments.index("--manager-image") + 1
    daemon.arguments[place] = changed_image("manager", 1, daemon.directory)
    daemon.start(wait=False)
    require(daemon.process.wait() > 0, "another manager opened the store")
    require("another manager image" in daemon.log(), f"it says: {daemon.log()}")
    daemon.arguments[place] = MANAGER_IMAGE
    daemon.start()
    require(daemon.call("show", instance="kept")["state"] == "provisioned", "the store is not what it was")


if __name__ == "__main__":
    run()
