#!/usr/bin/python3
"""T2 and B4 with real sockets: clients that stall, flood and send nonsense, while others want to be served.

What is sent is drawn from the seed that is printed; CHECK_SEED repeats it.
"""

import socket
import struct
import threading
import time

import tpm
from harness import Cpu, Instance, connect_unix, control, free_port, new_directory
from tap import LONG, note, randomness, require, run, test

SECONDS = 120.0 if LONG else 4.0
CMD_INIT, CMD_SHUTDOWN, CMD_SET_LOCALITY, CMD_STOP = 2, 3, 5, 14
LAST_CONTROL_COMMAND = 0x13
PATIENCE = 2.0  # seconds that an honest client waits at most


class Scene:
    def __init__(self, more=()):
        self.directory = new_directory()
        self.cpu = Cpu(self.directory)
        self.instance = Instance(self.directory, self.cpu.path, more=more)
        client = self.instance.connect()
        client.startup()
        client.close()

    def other(self):
        return Instance(self.directory, self.cpu.path, name="other")

    def require_served(self):
        require(self.instance.running(), f"the instance ended: {self.instance.log()}")
        client = self.instance.connect(10)
        begin = time.monotonic()
        client.startup()
        require(len(client.get_random(16)) == 16, "no random bytes")
        require(time.monotonic() - begin < PATIENCE, "an honest client waited too long")
        client.close()


def slowest_of(client, count):
    slowest = 0.0
    for _ in range(count):
        begin = time.monotonic()
        client.get_random(8)
        slowest = max(slowest, time.monotonic() - begin)
    return slowest


@test
def clients_that_stop_half_way_do_not_keep_others_out():
    scene = Scene()
    stalled = [connect_unix(scene.instance.path) for _ in range(60)]
    for stream in stalled:
        stream.sendall(bytes.fromhex("8001000000"))
    scene.require_served()
    for stream in stalled:
        stream.close()


@test
def half_a_control_message_does_not_keep_others_out():
    scene = Scene()
    stalled = [connect_unix(scene.instance.path + ".ctrl") for _ in range(10)]
    for stream in stalled:
        stream.sendall(b"\0\0")
    begin = time.monotonic()
    require(len(control(scene.instance.path + ".ctrl", 1, answer_size=8)) == 8, "GET_CAPABILITY is not answered")
    require(time.monotonic() - begin < PATIENCE, "the control channel waits for a client that stalls")
    scene.require_served()


@test
def a_client_that_takes_no_response_does_not_keep_others_out():
    scene = Scene()
    greedy = connect_unix(scene.instance.path)
    greedy.setblocking(False)
    command = struct.pack(">HIIH", 0x8001, 12, 0x17B, 48)
    try:
        for _ in range(100000):
            greedy.send(command)
    except OSError:
        pass
    scene.require_served()


@test
def thousands_of_connections_leave_nothing_behind():
    scene = Scene()
    with open(f"/proc/{scene.instance.pid}/status", encoding="utf-8") as file:
        before = next(line for line in file if line.startswith("VmRSS"))
    for _ in range(2000):
        connect_unix(scene.instance.path).close()
    scene.require_served()
    with open(f"/proc/{scene.instance.pid}/status", encoding="utf-8") as file:
        after = next(line for line in file if line.startswith("VmRSS"))
    growth = int(after.split()[1]) - int(before.split()[1])
    require(growth < 512, f"memory grew by {growth} KiB")


@test
def a_flooded_instance_does_not_slow_another_one():
    scene = Scene()
    other = scene.other().connect()
    other.startup()
    stop = threading.Event()

    def flood():
        client = scene.instance.connect()
        while not stop.is_set():
            client.get_random(32)

    floods = [threading.Thread(target=flood, daemon=True) for _ in range(4)]
    for thread in floods:
        thread.start()
    slowest = slowest_of(other, 300)
    stop.set()
    for thread in floods:
        thread.join()
    note(f"slowest answer {slowest * 1000:.1f} ms")
    require(slowest < 0.5, "another instance is slowed by the flood")


def random_command():
    """A TPM command whose header is right and whose rest is not; sometimes the header is not either."""
    body = randomness.randbytes(randomness.choice([0, 1, 4, 13, 60, 200, 1000, 4086]))
    tag = randomness.choice([0x8001, 0x8002, 0x8002, randomness.randrange(0x10000)])
    code = randomness.choice([randomness.randrange(0x11F, 0x19F), randomness.randrange(0x11F, 0x19F), 0x20001000])
    if tag == 0x8002 and randomness.random() < 0.7:
        handle = randomness.choice([0x40000001, 0x4000000C, 0x40000007, 0x80000000, 0x81000001, 0x01800001])
        body = struct.pack(">IIIHBH", handle, 9, 0x40000009, 0, 0, 0) + body[:4000]
    return struct.pack(">HII", tag, 10 + len(body), code) + body


@test
def random_tpm_commands_get_well_formed_answers():
    scene = Scene()
    end, count = time.monotonic() + SECONDS, 0
    client = scene.instance.connect(30)
    while time.monotonic() < end:
        response = client.exchange(random_command())
        require(response[:2] in (b"\x80\x01", b"\x80\x02", b"\x00\xc4"), f"a response begins with {response[:2].hex()}")
        count += 1
    client.close()
    note(f"{count} commands")
    require(control(scene.instance.path + ".ctrl", CMD_INIT, struct.pack(">I", 0)) == bytes(4), "the TPM does not reset")
    scene.require_served()


def status_of(client, command):
    return struct.unpack(">I", client.exchange(command)[6:10])[0]


@test
def parameters_that_end_early_under_encryption_are_refused():
    """T1, CVE-2023-1017 and CVE-2023-1018: the decryption of a first parameter that is not all there."""
    scene = Scene()
    client = scene.instance.connect()
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
    scene.require_served()


@test
def an_hmac_key_signs_with_no_hash_but_its_own():
    """T1, CVE-2025-49133: TPM2_Sign whose scheme names another hash than the key's."""
    scene = Scene()
    client = scene.instance.connect()
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
    scene.require_served()


def send_nonsense(make_stream, make_message):
    end, count = time.monotonic() + SECONDS / 2, 0
    while time.monotonic() < end:
        stream = make_stream()
        stream.settimeout(0.02)
        try:
            stream.sendall(make_message())
            stream.recv(4096)
        except OSError:
            pass
        stream.close()
        count += 1
    note(f"{count} messages")


@test
def random_control_messages_do_not_stop_the_instance():
    scene = Scene()
    path = scene.instance.path + ".ctrl"
    allowed = [number for number in range(LAST_CONTROL_COMMAND + 3) if number != CMD_SHUTDOWN]

    def message():
        if randomness.random() < 0.1:
            return b"\xff" + randomness.randbytes(randomness.randrange(64))
        body = randomness.randbytes(randomness.choice([0, 1, 4, 8, 12, 16, 300]))
        return struct.pack(">I", randomness.choice(allowed)) + body

    send_nonsense(lambda: connect_unix(path), message)
    require(control(path, CMD_SET_LOCALITY, b"\0") == bytes(4), "the locality cannot be set back")
    require(control(path, CMD_STOP) == bytes(4), "the TPM does not stop")
    require(control(path, CMD_INIT, struct.pack(">I", 0)) == bytes(4), "the TPM does not start again")
    scene.require_served()


@test
def random_mssim_messages_do_not_stop_the_instance():
    port = free_port()
    scene = Scene(["--mssim", f"tcp:{port}"])

    def stream():
        return socket.create_connection(("127.0.0.1", port + randomness.randrange(2)), timeout=10)

    def message():
        number = randomness.choice([1, 2, 5, 6, 7, 8, 8, 9, 11, 15, 16, 17, 25, 26, 30, randomness.randrange(1 << 32)])
        return struct.pack(">I", number) + randomness.randbytes(randomness.choice([0, 1, 5, 9, 40, 500]))

    send_nonsense(stream, message)
    with socket.create_connection(("127.0.0.1", port + 1), timeout=10) as platform:
        platform.sendall(struct.pack(">I", 1))
        require(tpm.receive_exactly(platform, 4) == bytes(4), "POWER_ON is not acknowledged")
    scene.require_served()


@test
def random_bytes_at_vtpm_cpu_do_not_stop_it():
    scene = Scene()

    def stream():
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(scene.cpu.path)
        return connection

    def message():
        return struct.pack("<I", randomness.randrange(9)) + randomness.randbytes(
            randomness.choice([0, 4, 96, 512, 576, 1808, 4096]))

    send_nonsense(stream, message)
    require(scene.cpu.running(), f"vtpm-cpu ended: {scene.cpu.log()}")
    client = scene.other().connect()
    client.startup()
    require(client.get_random(8), "a new instance cannot start any more")


if __name__ == "__main__":
    run()
