#!/usr/bin/python3
"""B4 with real sockets: clients that stall, flood and send nonsense, while other clients of the same TPM want to be
served. What one TPM's clients do to another TPM is in tenants.py.

What is sent is drawn from the seed that is printed; CHECK_SEED repeats it.
"""

import socket
import struct
import time

import tpm
from harness import CMD_INIT, Daemon, connect_unix, control, free_port
from tap import LONG, note, randomness, require, run, test

SECONDS = 120.0 if LONG else 4.0
CMD_SHUTDOWN, CMD_SET_LOCALITY, CMD_STOP = 3, 5, 14
LAST_CONTROL_COMMAND = 0x13
PATIENCE = 2.0  # seconds that an honest client waits at most


class Scene:
    def __init__(self, more=()):
        self.daemon = Daemon()
        listen = {}
        if more:
            path = f"{self.daemon.run}/instances/attacked/tpm.sock"
            listen = {"listen": [f"swtpm:unix:{path}", *more]}
        self.instance = self.daemon.create("attacked", **listen)
        self.instance.wait_serving()
        self.pids = [self.instance.keeper(), self.instance.worker()]
        client = self.instance.connect()
        client.startup()
        client.close()

    def require_served(self):
        require([self.instance.keeper(), self.instance.worker()] == self.pids,
                f"the instance ended: {self.daemon.log()[-4000:]}")
        client = self.instance.connect(10)
        begin = time.monotonic()
        client.startup()
        require(len(client.get_random(16)) == 16, "no random bytes")
        require(time.monotonic() - begin < PATIENCE, "an honest client waited too long")
        client.close()


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
    with open(f"/proc/{scene.pids[1]}/status", encoding="utf-8") as file:
        before = next(line for line in file if line.startswith("VmRSS"))
    for _ in range(2000):
        connect_unix(scene.instance.path).close()
    scene.require_served()
    with open(f"/proc/{scene.pids[1]}/status", encoding="utf-8") as file:
        after = next(line for line in file if line.startswith("VmRSS"))
    growth = int(after.split()[1]) - int(before.split()[1])
    require(growth < 512, f"memory grew by {growth} KiB")


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
    scene = Scene([f"mssim:tcp:{port}"])

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
        connection.connect(scene.daemon.cpu.path)
        return connection

    def message():
        return struct.pack("<I", randomness.randrange(9)) + randomness.randbytes(
            randomness.choice([0, 4, 96, 512, 576, 1808, 4096]))

    send_nonsense(stream, message)
    require(scene.daemon.cpu.running(), f"vtpm-cpu ended: {scene.daemon.cpu.log()}")
    scene.daemon.create("other").connect().startup()


def require_vtpmd_serves(scene, pid):
    require(scene.daemon.process.running() and scene.daemon.process.pid == pid, f"vtpmd ended: {scene.daemon.log()[-4000:]}")
    require(scene.daemon.call("version")["api"] == 1, "the admin API does not answer")
    scene.require_served()


@test
def random_frames_at_the_daemon_socket_do_not_stop_vtpmd():
    """Of kinds, sizes and bodies that nobody sends; whole ones, and some that end early."""
    scene = Scene()

    def message():
        body = randomness.randbytes(randomness.choice([0, 4, 16, 57, 64, 129, 1024]))
        if randomness.random() < 0.5:
            body = struct.pack("<HBBI", 1, randomness.randrange(3), randomness.randrange(3), 0) + body
        size = len(body) if randomness.random() < 0.8 else randomness.choice([0, 1 << 16, 0xFFFFFFFF])
        return struct.pack("<IB3x", size, randomness.randrange(17)) + body

    send_nonsense(lambda: connect_unix(f"{scene.daemon.run}/daemon.sock"), message)
    require_vtpmd_serves(scene, scene.daemon.process.pid)


@test
def random_lines_at_the_admin_socket_do_not_stop_vtpmd():
    scene = Scene()
    lines = [b"[" * 70000, b'{"execute": ' + b"{" * 20, b'{"execute": "show", "arguments": {"instance": 5}}', b"nul\0\0",
             b'{"execute": "create", "arguments": {"label": "../../etc"}}', b'{"execute": "delete"}', b"\xff\xfe", b"5",
             b'{"execute": "start", "arguments": {"instance": "", "more": 1}}', b'{"execute": "list", "id": [[[[]]]]}']

    def message():
        line = bytearray(randomness.choice(lines))
        for _ in range(randomness.randrange(3)):
            line[randomness.randrange(len(line))] = randomness.randrange(256)
        return bytes(line) + b"\n" * randomness.randrange(2)

    send_nonsense(lambda: connect_unix(scene.daemon.socket), message)
    require_vtpmd_serves(scene, scene.daemon.process.pid)


if __name__ == "__main__":
    run()
