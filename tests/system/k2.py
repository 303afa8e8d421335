"""A front-end written a second time, from the descriptions of the link, the frames and K2 (link/link.h, link/record.h,
link/k2.h, untrusted/wire/wire.h): it registers with vtpmd, links with an instance's enclave and sends it TPM commands.

It is a front-end for tests: whatever it may be told to send wrongly, it sends.
"""

import hashlib
import hmac
import os
import struct
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from derive import hkdf_sha256
from harness import connect_unix
from tpm import Tpm, receive_exactly
from wiretap import HEADER, HELLO_FRONT, LINK, RECORD, frame

NAMED, ENROLLED = 2, 3
FINISH, DATA, FINAL = 1, 2, 3
COMMAND, RESET, POWER_OFF = 1, 2, 3
RECORD_HEADER, TAG = 16, 16


class Refused(Exception):
    """The other side refused, failed or closed the connection."""


def raw_public(private):
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def read_frame(stream):
    """(kind, body) of the next frame."""
    try:
        head = receive_exactly(stream, HEADER)
        return head[4], receive_exactly(stream, struct.unpack_from("<I", head)[0])
    except ConnectionError as error:
        raise Refused(str(error)) from None


class Link:
    """What both ends know of a link, from the frame LINK; `ikm` makes its keys."""

    def __init__(self, told, host_share):
        self.kind, self.identity = told[0], told[8:24]
        self.share = told[104:136]
        self.h = hashlib.sha256(b"vtpm link v1" + told[:1] + told[8:104] + host_share + self.share).digest()

    def keys(self, ikm, direction):
        material = hkdf_sha256(ikm, self.h, b"vtpm link v1 " + direction, 76)
        return Direction(self.h, material[:32], material[32:44], material[44:])


class Direction:
    """Records of one direction."""

    def __init__(self, h, key, iv, finish_key):
        self.h, self.cipher, self.iv, self.number = h, AESGCM(key), iv, 0
        self.finish = hmac.digest(finish_key, h, "sha256")

    def nonce(self, number):
        return bytes(a ^ b for a, b in zip(self.iv, bytes(4) + struct.pack("<Q", number)))

    def seal(self, kind, plaintext):
        head = struct.pack("<B3xIQ", kind, len(plaintext), self.number)
        sealed = head + self.cipher.encrypt(self.nonce(self.number), plaintext, self.h + head)
        self.number += 1
        return sealed

    def open(self, record):
        head, number = record[:RECORD_HEADER], struct.unpack_from("<Q", record, 8)[0]
        return self.cipher.decrypt(self.nonce(number), record[RECORD_HEADER:], self.h + head)


def opens(direction, record):
    try:
        direction.open(record)
        return True
    except InvalidTag:
        return False


class FrontEnd(Tpm):
    """One link to one instance; the TPM behind it."""

    def __init__(self, daemon, identity, enrolled=None):
        super().__init__(None)
        self.daemon_socket = os.path.join(daemon.run, "daemon.sock")
        self.identity = uuid.UUID(identity).bytes
        self.enrolled = enrolled
        self.private = X25519PrivateKey.generate()
        self.share = raw_public(self.private)
        self.registration = self.link = None

    def register(self, timeout=10.0):
        """Until vtpmd has told the share of the enclave."""
        self.registration = connect_unix(self.daemon_socket, timeout)
        self.registration.sendall(frame(HELLO_FRONT, struct.pack("<H6x", 1) + self.identity + self.share))
        kind, body = read_frame(self.registration)
        if kind != LINK:
            raise Refused(f"vtpmd answers with a frame of kind {kind}: {body.hex()}")
        self.link = Link(body, self.share)
        self.ikm = self.private.exchange(X25519PublicKey.from_public_bytes(self.link.share))
        if self.link.kind == ENROLLED and self.enrolled:
            self.ikm += self.enrolled.exchange(X25519PublicKey.from_public_bytes(self.link.share))
        self.out = self.link.keys(self.ikm, b"host to enclave")
        self.back = self.link.keys(self.ikm, b"enclave to host")
        return self

    def connect(self, front_path, timeout=30.0):
        """The handshake: both FINISHes."""
        self.stream = connect_unix(front_path, timeout)
        self.send(0, self.out.seal(FINISH, self.out.finish))
        if self.receive() != self.back.finish:
            raise Refused("the enclave's FINISH has another MAC")
        return self

    def send(self, verb, record):
        self.stream.sendall(frame(RECORD, struct.pack("<B7x", verb) + record))

    def receive(self):
        """The plaintext of the next record."""
        kind, body = read_frame(self.stream)
        if kind != RECORD:
            raise Refused(f"the instance answers with a frame of kind {kind}: {body.hex()}")
        return self.back.open(body[8:])

    def seal(self, command, verb=COMMAND):
        return self.out.seal(DATA, struct.pack("<BBH", verb, 0, 0) + command)

    def request(self, command=b"", verb=COMMAND):
        self.send(verb, self.seal(command, verb))
        response = self.receive()
        code = struct.unpack_from("<H", response)[0]
        if code:
            raise Refused(f"the enclave answers with the error {code}")
        return response[4:]

    def exchange(self, command):
        return self.request(command)

    def close(self):
        for stream in (self.stream, self.registration):
            if stream:
                stream.close()
