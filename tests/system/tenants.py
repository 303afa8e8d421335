#!/usr/bin/python3
"""T1 and T2: two virtual machines of one host, one of which does its worst; the other one must not notice.

What is sent is drawn from the seed that is printed; CHECK_SEED repeats it. No time is a condition but patience: an honest
client is answered within some seconds.
"""

import collections
import os
import signal
import socket
import struct
import threading
import time

import tpm
from harness import CMD_INIT, Daemon, connect_unix, control, wait_for
from tap import LONG, note, randomness, require, run, test

CONNECTIONS = 20000 if LONG else 3000
PATIENCE = 10.0  # seconds that an honest client waits at most
CMD_GET_STATEBLOB, CMD_SET_STATEBLOB, CMD_SET_BUFFERSIZE = 12, 13, 17  # of swtpm's control channel
NV_INDEX, MARKER = 0x01800060, b"the neighbour's own data, intact"


class Two:
    """A host with an attacked TPM and its neighbour's, who is measured: same processes, same data, answers in time."""

    def __init__(self):
        self.daemon = Daemon()
        self.attacked = self.daemon.create("attacked")
        self.neighbour = self.daemon.create("neighbour")
        client = self.attacked.connect()
        client.startup()
        client.close()
        self.client = self.neighbour.connect(PATIENCE)
        self.client.startup()
        self.client.nv_define(NV_INDEX, len(MARKER))
        self.client.nv_write(NV_INDEX, MARKER)
        self.client.pcr_extend(16, tpm.digest(MARKER))
        self.pcr = self.client.pcr_read(16)
        self.pids = [self.neighbour.keeper(), self.neighbour.worker()]

    def require_unharmed(self):
        """The neighbour: what it had, on the connection that it has and on a new one, and the host's other services."""
        shown = self.neighbour.show()
        require((shown["state"], shown["health"]) == ("running", "serving"), f"the neighbour is {shown}")
        require([self.neighbour.keeper(), self.neighbour.worker()] == self.pids, "the neighbour's processes are others")
        require(self.client.pcr_read(16) == self.pcr, "the neighbour's PCR changed")
        require(self.client.nv_read(NV_INDEX, len(MARKER)) == MARKER, "the neighbour's data changed")
        self.client.nv_write(NV_INDEX, MARKER)
        other = self.neighbour.connect(PATIENCE)
        require(len(other.get_random(16)) == 16, "no random bytes")
        other.close()

    def require_attacked_serves(self):
        client = self.attacked.connect(PATIENCE)
        client.startup()
        require(len(client.get_random(16)) == 16, "no random bytes")
        client.close()


def status_of(client, command):
    return struct.unpack(">I", client.exchange(command)[6:10])[0]


@test
def parameters_that_end_early_under_encryption_are_refused():
    """T1, CVE-2023-1017 and CVE-2023-1018: the decryption of a first parameter that is not all there."""
    scene = Two()
    client = scene.attacked.connect()
    session = client.start_encrypting_session()

    def hash_encrypted(parameters):
        area = struct.pack(">IHBH", session, 0, 0x21, 0)
        body = struct.pack(">I", len(area)) + area + parameters
        return status_of(client, struct.pack(">HII", 0x8002, 10 + len(body), 0x17D) + body)

    require(hash_encrypted(tpm.sized(bytes(32)) + struct.pack(">HI", tpm.ALG_SHA256, tpm.RH_NULL)) == 0,
            "a whole parameter is refused")
    for parameters in (b"", b"\0", b"\x10\0", b"\xff\xff\0\0", b"\0\x20" + bytes(30)):
        require(hash_encrypted(parameters) != 0, f"TPM2_Hash of {parameters.hex()} succeeded")
    client.close()
    scene.require_unharmed()


@test
def an_hmac_key_signs_with_no_hash_but_its_own():
    """T1, CVE-2025-49133: TPM2_Sign whose scheme names another hash than the key's."""
    scene = Two()
    client = scene.attacked.connect()
    key, _ = client.create_primary(tpm.hmac_key(), b"k" * 32)
    for scheme in (tpm.ALG_HMAC, tpm.ALG_RSASSA, tpm.ALG_ECDSA, tpm.ALG_NULL):
        for hash_algorithm, size in ((0x04, 20), (0x0C, 48), (0x0D, 64), (tpm.ALG_NULL, 32), (0xFFFF, 32)):
            data = tpm.sized(bytes(size)) + struct.pack(">HH", scheme, hash_algorithm) + struct.pack(
                ">HIH", 0x8024, tpm.RH_NULL, 0)
            area = struct.pack(">IHBH", tpm.RS_PW, 0, 0, 0)
            body = struct.pack(">II", key, len(area)) + area + data
            status = status_of(client, struct.pack(">HII", 0x8002, 10 + len(body), 0x15D) + body)
            require(status != 0, f"TPM2_Sign with scheme 0x{scheme:04x} and hash 0x{hash_algorithm:04x} succeeded")
    client.close()
    scene.require_unharmed()


@test
def sizes_larger_than_their_buffers_are_refused_and_harm_no_state():
    """T1, CVE-2021-3746: a size field beyond its buffer, left behind in an object that is marshalled afterwards."""
    scene = Two()
    client = scene.attacked.connect()

    def attempt(code, handles, parameters, sessions=0):
        area = struct.pack(">IHBH", tpm.RS_PW, 0, 0, 0) * sessions
        body = b"".join(struct.pack(">I", handle) for handle in handles)
        body += (struct.pack(">I", len(area)) + area if sessions else b"") + parameters
        tag = tpm.SESSIONS if sessions else tpm.NO_SESSIONS
        return status_of(client, struct.pack(">HII", tag, 10 + len(body), code) + body)

    for size in (0x41, 0x81, 0x201, 0x1000, 0x7FFF, 0xFFFF):
        for filler in (b"", bytes(size if size < 3800 else 3800)):
            large = struct.pack(">H", size) + filler
            algorithm = struct.pack(">H", tpm.ALG_SHA256)
            require(attempt(0x186, [], large + algorithm) != 0, f"TPM2_HashSequenceStart with {size} bytes succeeded")
            require(attempt(0x131, [tpm.RH_OWNER], tpm.sized(large + tpm.sized(b"")), 1) != 0,
                    f"TPM2_CreatePrimary with {size} bytes of authorisation succeeded")
            require(attempt(0x167, [], tpm.sized(struct.pack(">H", tpm.ALG_KEYEDHASH) + large)) != 0,
                    f"TPM2_LoadExternal with {size} bytes of authorisation succeeded")
            require(attempt(0x12A, [tpm.RH_OWNER], large + tpm.sized(b""), 1) != 0,
                    f"TPM2_NV_DefineSpace with {size} bytes of authorisation succeeded")
            require(attempt(0x129, [tpm.RH_OWNER], large, 1) != 0,
                    f"TPM2_HierarchyChangeAuth with {size} bytes succeeded")
    handle = client.create_primary(tpm.storage_key())[0]
    client.call("TPM2_ContextSave", 0x162, [handle])
    client.flush(handle)
    client.shutdown(state=True)
    client.startup()
    client.close()
    scene.require_attacked_serves()
    scene.require_unharmed()


@test
def a_worker_that_dies_takes_no_other_with_it():
    """The end of what a fault of libtpms can do: its own process. The neighbour keeps processes, PCRs and data."""
    scene = Two()
    worker = scene.attacked.worker()
    os.kill(worker, signal.SIGSEGV)
    wait_for(lambda: scene.attacked.show()["deaths"] > 0, "the death is not counted", 30)
    scene.require_unharmed()
    scene.attacked.recover()
    scene.require_unharmed()


@test
def a_tpm_that_is_flooded_does_not_keep_another_from_answering():
    scene = Two()
    stop = threading.Event()
    count = [0]

    def flood():
        client = scene.attacked.connect()
        while not stop.is_set():
            client.get_random(32)
            count[0] += 1

    floods = [threading.Thread(target=flood, daemon=True) for _ in range(4)]
    for thread in floods:
        thread.start()
    wait_for(lambda: count[0] > 10, "the flood does not begin")
    slowest = 0.0
    began_at = count[0]
    ends = time.monotonic() + PATIENCE
    asked = 0
    while asked < 300 or (count[0] - began_at < 300 and time.monotonic() < ends):
        begin = time.monotonic()
        scene.client.get_random(8)
        slowest = max(slowest, time.monotonic() - begin)
        asked += 1
    scene.require_unharmed()
    stop.set()
    for thread in floods:
        thread.join()
    note(f"slowest of {asked} answers {slowest * 1000:.1f} ms beside {count[0]} commands")
    require(slowest < PATIENCE, "the neighbour waits")
    require(count[0] - began_at >= 300, "there was no flood")


@test
def a_tpm_that_commits_without_end_does_not_keep_another_from_committing():
    scene = Two()
    stop = threading.Event()
    count = [0]

    def flood():
        client = scene.attacked.connect()
        client.nv_define(NV_INDEX, 8)
        while not stop.is_set():
            client.nv_write(NV_INDEX, struct.pack(">Q", count[0]))
            count[0] += 1

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    wait_for(lambda: count[0] > 10, "the flood does not begin")
    ends = time.monotonic() + PATIENCE
    number = 0
    while number < 200 or (count[0] < 60 and time.monotonic() < ends):
        begin = time.monotonic()
        scene.client.nv_write(NV_INDEX, struct.pack(">Q", number) + MARKER[8:])  # what does not change is not committed
        require(time.monotonic() - begin < PATIENCE, "the neighbour's commits wait for the flood")
        number += 1
    stop.set()
    thread.join()
    scene.client.nv_write(NV_INDEX, MARKER)
    note(f"{count[0]} commits beside {number}")
    require(count[0] > 50, "there was no flood")
    scene.require_unharmed()


@test
def thousands_of_connections_to_one_tpm_do_not_keep_clients_of_another_out():
    scene = Two()
    held = []
    refused = 0
    for _ in range(CONNECTIONS):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.setblocking(False)
        try:
            stream.connect(scene.attacked.path)
            held.append(stream)
        except OSError:
            stream.close()
            refused += 1
            time.sleep(0.0002)
    for stream in held[::2]:
        try:
            stream.send(randomness.randbytes(9))
        except OSError:
            pass
    scene.require_unharmed()
    note(f"{len(held)} connections at once, {refused} had to wait")
    require(len(held) > 100, "there were hardly any connections")
    for stream in held:
        stream.close()
    scene.require_attacked_serves()


@test
def a_control_channel_in_use_without_end_does_not_keep_another_tpm_from_answering():
    """T2 where QEMU is: resets, exports that each commit, and connections that stall in the middle of a state."""
    scene = Two()
    path = scene.attacked.path + ".ctrl"
    stop = threading.Event()
    count = collections.Counter()

    def flood(name, command, body, answer_size):
        while not stop.is_set():
            try:
                count[name] += bool(control(path, command, body, answer_size))
            except OSError:
                count["had to wait"] += 1

    floods = [threading.Thread(target=flood, args=arguments, daemon=True) for arguments in (
        ("resets", CMD_INIT, struct.pack(">I", 0), 4),
        ("exports", CMD_GET_STATEBLOB, struct.pack(">III", 0, 1, 0), 16),
        ("buffer sizes", CMD_SET_BUFFERSIZE, struct.pack(">I", 4096), 16))]
    for thread in floods:
        thread.start()
    wait_for(lambda: min(count["resets"], count["exports"]) > 10, "the flood does not begin", 30)
    stalled = []
    for _ in range(CONNECTIONS // 10):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.setblocking(False)
        try:
            stream.connect(path)
            stream.send(struct.pack(">IIII", CMD_SET_STATEBLOB, 0, 1, 100000) + randomness.randbytes(100))
            stalled.append(stream)
        except OSError:
            stream.close()
    for _ in range(100):
        begin = time.monotonic()
        scene.client.get_random(8)
        require(time.monotonic() - begin < PATIENCE, "the neighbour waits")
    scene.require_unharmed()
    stop.set()
    for thread in floods:
        thread.join()
    note(f"{dict(count)} beside {len(stalled)} connections that stall")
    require(len(stalled) > 20, "there were hardly any connections")
    for stream in stalled:
        stream.close()
    scene.require_attacked_serves()


@test
def half_messages_at_every_socket_of_one_tpm_leave_the_other_alone():
    scene = Two()
    streams = []
    for path in (scene.attacked.path, scene.attacked.path + ".ctrl"):
        for size in range(1, 10):
            stream = connect_unix(path)
            stream.sendall(bytes.fromhex("80010000000c0000017b0020")[:size])
            streams.append(stream)
    scene.require_unharmed()
    scene.require_attacked_serves()
    for stream in streams:
        stream.close()


if __name__ == "__main__":
    run()
