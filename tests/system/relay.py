#!/usr/bin/python3
"""L1, L2 and L3 with real processes: a relay between vtpm-front and vtpm-instance, which sees every byte and may send what
it likes; front-ends of other VMs; and what a relay can do that made the keys itself, as an operating system's module
would in the literal reading of the method.
"""

import os
import struct
import subprocess

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from harness import Daemon, Front, connect_unix, wait_for
from k2 import DATA, ENROLLED, FINAL, NAMED, FrontEnd, Link, Refused, opens, raw_public
from tap import note, require, run, test
from tpm import RC_FAILURE, TpmError, digest
from wiretap import HEADER, LINK, RECORD, Frames, Wiretap, frame

NV_INDEX, MARKER = 0x018000A0, b"what passed through the relay..."
RECORD_START = HEADER + 8  # the frame's header, then u8 verb and zeros


class Relayed:
    """One VM whose front-end reaches its instance and vtpmd through two relays; `change` may be set at any time."""

    def __init__(self, daemon, label):
        self.instance = daemon.create_for_front(label)
        self.change = None
        prefix = os.path.join(daemon.directory, label)
        self.tap = Wiretap(f"{prefix}.front-tap", self.instance.front_path, self.apply)
        self.daemon_tap = Wiretap(f"{prefix}.daemon-tap", os.path.join(daemon.run, "daemon.sock"))
        self.front = Front(self.instance, name=label, daemon_path=self.daemon_tap.path, front_path=self.tap.path)
        self.front.wait_listening()
        self.instance.wait_serving()
        self.client = self.front.connect()
        self.client.startup()
        self.client.nv_define(NV_INDEX, len(MARKER))
        self.client.nv_write(NV_INDEX, MARKER)

    def apply(self, direction, one):
        return self.change(direction, one) if self.change else [one]

    def require_cut(self):
        """The next command is not answered as if nothing had been."""
        try:
            self.client.nv_write(NV_INDEX, b"what must not be executed.......")
        except TpmError as error:
            require(error.code == RC_FAILURE, f"the TPM answers {error}")
            return
        except OSError:
            return
        raise AssertionError("the command was answered with success")

    def require_recovers(self):
        """The instance is unharmed: after a reset of the machine its front-end links anew, and nothing was executed."""
        self.change = None

        def reset():
            return self.front.reset() == bytes(4)
        wait_for(reset, f"the front-end does not link anew: {self.front.log()}")
        client = self.front.connect()
        client.startup()
        require(client.nv_read(NV_INDEX, len(MARKER)) == MARKER, "an altered command was executed")
        self.client = client


_relayed = {}


def relayed():
    """Two VMs behind relays, on one host."""
    if not _relayed:
        daemon = Daemon()
        for label in ("a", "b"):
            _relayed[label] = Relayed(daemon, label)
    return _relayed["a"], _relayed["b"]


def once(wanted_direction, change):
    """Changes the first record of a direction and lets everything else pass."""
    done = []

    def apply(direction, one):
        if direction == wanted_direction and one[4] == RECORD and not done:
            done.append(True)
            return change(one)
        return [one]
    return apply


def altered(one, place):
    place %= len(one)
    return [one[:place] + bytes([one[place] ^ 1]) + one[place + 1:]]


@test
def l1_an_altered_record_ends_the_link_and_executes_nothing():
    vm, other = relayed()
    for direction in ("up", "down"):
        for place in (RECORD_START, RECORD_START + 8, RECORD_START + 16, RECORD_START + 30, -1):
            if direction == "down" and place != -1:
                continue  # what was executed is executed; only its answer is cut off
            vm.change = once(direction, lambda one, place=place: altered(one, place))
            vm.require_cut() if direction == "up" else cut_reading(vm)
            vm.require_recovers()
    require(len(other.client.get_random(8)) == 8, "the other VM noticed")


def cut_reading(vm):
    try:
        vm.client.nv_read(NV_INDEX, len(MARKER))
    except (TpmError, OSError):
        return
    raise AssertionError("an altered response was passed on")


@test
def l1_a_truncated_and_an_extended_record_end_the_link():
    vm, _ = relayed()
    for change in (lambda record: record[:-1], lambda record: record + b"\0", lambda record: record[:16]):
        vm.change = once("up", lambda one, change=change: [
            frame(RECORD, one[HEADER:HEADER + 8] + change(one[RECORD_START:]))])
        vm.require_cut()
        vm.require_recovers()


@test
def l1_a_connection_cut_without_a_final_record_is_named_as_truncation():
    """An orderly end says FINAL; whoever cuts the connection instead may have kept the last word back."""
    vm, _ = relayed()

    def cut(_one):
        raise ConnectionResetError

    before = len(vm.front.log())
    vm.change = once("up", cut)
    vm.require_cut()
    vm.require_recovers()
    require("without the session's final record" in vm.front.log()[before:], f"it says: {vm.front.log()[before:]}")


@test
def l1_a_replayed_record_ends_the_link_and_is_not_executed_twice():
    vm, _ = relayed()
    kept = []
    vm.change = once("up", lambda one: kept.append(one) or [one])
    vm.client.pcr_extend(16, digest(b"once"))
    before = vm.client.pcr_read(16)
    vm.change = once("up", lambda one: [kept[0], one])
    try:
        require(vm.client.pcr_read(16) == before, "the PCR was extended twice")
    except (TpmError, OSError):
        pass
    vm.change = None
    vm.require_cut()
    vm.require_recovers()


@test
def l1_a_reflected_record_ends_the_link():
    vm, _ = relayed()
    kept = []
    vm.change = once("down", lambda one: kept.append(one) or [one])
    vm.client.get_random(8)
    vm.change = once("up", lambda one: [frame(RECORD, one[HEADER:HEADER + 8] + kept[0][RECORD_START:])])
    vm.require_cut()
    vm.require_recovers()


@test
def l2_records_of_one_vm_given_to_another_are_refused():
    vm, other = relayed()
    kept = []
    vm.change = once("up", lambda one: kept.append(one) or [one])
    vm.client.get_random(8)
    other.change = once("up", lambda one: [kept[0]])
    other.require_cut()
    other.require_recovers()
    require(len(vm.client.get_random(8)) == 8, "the first VM noticed")


@test
def l2_a_front_end_connected_to_another_vms_instance_is_refused():
    """By a relay: VM A's front-end says what it always says, and VM B's instance is at the other end."""
    daemon = Daemon()
    a, b = (daemon.create_for_front(label) for label in ("a", "b"))
    front_a = FrontEnd(daemon, a.identity).register()
    front_b = FrontEnd(daemon, b.identity).register()
    for wrong_front, wrong_path in ((front_a, b.front_path), (front_b, a.front_path)):
        try:
            wrong_front.connect(wrong_path, 10)
        except (Refused, OSError):
            continue
        raise AssertionError("two VMs were crossed")


@test
def l2_a_second_front_end_on_one_instance_gets_no_link_and_the_first_goes_on():
    """It is told nothing while the first one is there: vtpmd keeps it for the next start."""
    vm, _ = relayed()
    second = FrontEnd(vm.instance.daemon, vm.instance.identity)
    try:
        second.register(2).connect(vm.instance.front_path, 10)
        raise AssertionError("a second front-end was linked")
    except (Refused, OSError) as refusal:
        note(refusal)
    finally:
        second.close()
    require(vm.client.nv_read(NV_INDEX, len(MARKER)) == MARKER, "the first front-end lost its link")


@test
def l1_records_in_another_order_end_the_link():
    daemon = Daemon()
    front = serving(daemon, "reordered")
    first, second = front.seal(command(b"first")), front.seal(command(b"second"))
    front.send(1, second)
    front.send(1, first)
    require_closed(front)


@test
def l1_nothing_is_accepted_after_final():
    daemon = Daemon()
    front = serving(daemon, "final")
    front.send(0, front.out.seal(FINAL, b""))
    require(front.receive() == b"", "the enclave does not end its direction too")
    front.send(1, front.seal(command(b"after")))
    require_closed(front)


@test
def l1_data_before_finish_is_refused():
    daemon = Daemon()
    instance = daemon.create_for_front("early")
    front = FrontEnd(daemon, instance.identity).register()
    front.stream = connect_unix(instance.front_path, 10)
    front.send(1, front.out.seal(DATA, bytes([1, 0, 0, 0]) + command(b"early")))
    require_closed(front)


def command(text):
    """TPM2_Hash of the text, in the owner's hierarchy."""
    body = struct.pack(">H", len(text)) + text + struct.pack(">HI", 0x000B, 0x40000001)
    return struct.pack(">HII", 0x8001, 10 + len(body), 0x17D) + body


def serving(daemon, label, enrolled=None, **arguments):
    instance = daemon.create_for_front(label, **arguments)
    front = FrontEnd(daemon, instance.identity, enrolled).register().connect(instance.front_path)
    front.startup()
    return front


def require_closed(front):
    try:
        front.receive()
    except (Refused, OSError) as refusal:
        note(refusal)
        return
    raise AssertionError("it was answered")


@test
def a_front_end_written_from_the_documents_is_served():
    """The counterpart of every refusal here: the same code, when it does everything right."""
    daemon = Daemon()
    front = serving(daemon, "written-anew")
    require(front.link.kind == NAMED, f"the kind of the link is {front.link.kind}")
    require(len(front.get_random(16)) == 16, "no random bytes")
    front.nv_define(NV_INDEX, len(MARKER))
    front.nv_write(NV_INDEX, MARKER)
    require(front.nv_read(NV_INDEX, len(MARKER)) == MARKER, "it reads something else")


@test
def l2_the_operator_may_name_a_front_end_and_it_is_logged():
    """Without an enrolled key the operator, who may use vtpmd's socket, decides who the front-end is: not held against
    root, and said so.
    """
    daemon = Daemon()
    front = serving(daemon, "crossed")
    require(len(front.get_random(8)) == 8, "it is not served")
    stream = daemon.admin()
    stream.call("subscribe", since=1)
    while True:
        event = stream.read()
        if event["event"] == "front-end":
            break
    stream.close()
    require(event["data"]["pid"] == os.getpid() and event["data"]["uid"] == os.getuid(), f"the event is {event}")


def enrolled_key(daemon):
    path = os.path.join(daemon.directory, "front.pem")
    subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", path], check=True, capture_output=True)
    os.chmod(path, 0o600)
    with open(path, "rb") as file:
        key = load_pem_private_key(file.read(), None)
    return path, key


@test
def l2_with_an_enrolled_key_the_operators_front_end_is_refused():
    daemon = Daemon()
    _, key = enrolled_key(daemon)
    instance = daemon.create_for_front("enrolled", front_key=raw_public(key).hex())
    front = FrontEnd(daemon, instance.identity).register()
    require(front.link.kind == ENROLLED, f"the kind of the link is {front.link.kind}")
    try:
        front.connect(instance.front_path, 10)
    except (Refused, OSError):
        return
    raise AssertionError("it was linked without the enrolled key")


@test
def l2_with_the_enrolled_key_its_front_end_is_served():
    daemon = Daemon()
    _, key = enrolled_key(daemon)
    front = serving(daemon, "enrolled", key, front_key=raw_public(key).hex())
    require(len(front.get_random(8)) == 8, "it is not served")


@test
def l2_vtpm_front_serves_with_the_enrolled_key_and_only_with_it():
    daemon = Daemon()
    path, key = enrolled_key(daemon)
    instance = daemon.create_for_front("enrolled", front_key=raw_public(key).hex())
    without = Front(instance, name="without")
    require(without.wait() != 0, "vtpm-front goes on without the key")
    require("enrolled" in without.log(), f"it says: {without.log()}")
    front = Front(instance, name="with", key=path)
    front.wait_listening()
    client = front.connect()
    client.startup()
    require(len(client.get_random(8)) == 8, "it is not served")


# --- L3 --------------------------------------------------------------------------------------------------------------

def told_of(traffic):
    return next(one[HEADER:] for one in Frames().feed(traffic) if one[4] == LINK)


def records_of(traffic):
    return [one[RECORD_START:] for one in Frames().feed(traffic) if one[4] == RECORD]


def knows_everything_that_passed(daemon_up, daemon_down, up, down):
    """Tries each 32 bytes that the relay saw as the secret of the link; returns the first that opens a record."""
    host_share = bytes(daemon_up)[HEADER + 8 + 16:HEADER + 8 + 16 + 32]
    link = Link(told_of(bytes(daemon_down)), host_share)
    first = records_of(bytes(up))[0]
    seen = bytes(daemon_up) + bytes(daemon_down) + bytes(up)[:4096] + bytes(down)[:4096]
    candidates = {seen[place:place + 32] for place in range(len(seen) - 31)}
    note(f"{len(candidates)} candidates")
    for candidate in candidates:
        if opens(link.keys(candidate, b"host to enclave"), first):
            return candidate
    return None


@test
def l3_a_relay_that_saw_everything_reads_nothing():
    vm, _ = relayed()
    found = knows_everything_that_passed(vm.daemon_tap.up, vm.daemon_tap.down, vm.tap.up, vm.tap.down)
    require(found is None, f"the link opens with {found}")
    for _, data in vm.tap.traffic():
        require(MARKER not in data, "the relay saw the marker")


@test
def l3_a_module_that_made_the_key_reads_everything():
    """The literal reading: whoever makes the host's key, as the operating system's module there does, and hands it to
    the endpoint, reads all that passes. Ours differs in nothing but where the key is made.
    """
    daemon = Daemon()
    instance = daemon.create_for_front("literal")
    module_key = X25519PrivateKey.generate()
    tap = Wiretap(os.path.join(daemon.directory, "module"), instance.front_path)
    front = FrontEnd(daemon, instance.identity)
    front.private, front.share = module_key, raw_public(module_key)
    front.register().connect(tap.path)
    front.startup()
    front.nv_define(NV_INDEX, len(MARKER))
    front.nv_write(NV_INDEX, MARKER)
    require(MARKER not in bytes(tap.up), "the marker passed in the clear")
    ikm = module_key.exchange(X25519PublicKey.from_public_bytes(front.link.share))
    keys = front.link.keys(ikm, b"host to enclave")
    plaintext = b"".join(keys.open(record) for record in records_of(bytes(tap.up)))
    require(MARKER in plaintext, "with the key in its hands the module reads nothing")


if __name__ == "__main__":
    run()
