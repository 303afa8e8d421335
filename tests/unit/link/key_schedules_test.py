#!/usr/bin/python3
"""The key schedules of docs/protocol.md by another implementation: key_schedules (C), this, and the file agree.

    key_schedules_test.py PROGRAM VECTORS            TAP
    key_schedules_test.py --print                    the vectors as they should be
"""

import hashlib
import hmac
import struct
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FINISH, DATA, FINAL = 1, 2, 3
TO_ENCLAVE, TO_HOST = b"host to enclave", b"enclave to host"


def counting(first):
    return bytes((first + i) % 256 for i in range(32))


def share(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def x25519(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def hkdf(key, salt, info, size):
    return HKDF(SHA256(), size, salt, info).derive(key)


def sha256(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


class Direction:
    """One direction of the record layer."""

    def __init__(self, session, keys):
        self.session, self.key, self.iv, self.finish = session, keys[:32], keys[32:44], keys[44:]
        self.number = 0

    def record(self, kind, text):
        header = struct.pack("<B3xIQ", kind, len(text), self.number)
        mask = b"\0\0\0\0" + struct.pack("<Q", self.number)
        nonce = bytes(a ^ b for a, b in zip(self.iv, mask))
        self.number += 1
        return header + AESGCM(self.key).encrypt(nonce, text, self.session + header)


def link(name, kind, instance, epoch, start, program):
    host, enclave, enrolled = counting(0x10), counting(0x40), counting(0x70)
    h = sha256(b"vtpm link v1" + bytes([kind]) + instance + struct.pack("<QQ", epoch, start) + b"\xa1" * 32 + program +
               share(host) + share(enclave))
    ikm = x25519(host, share(enclave))
    if name == "k2-enrolled":
        ikm += x25519(enrolled, share(enclave))
    to_enclave, to_host = (
        Direction(h, hkdf(ikm, h, b"vtpm link v1 " + direction, 76)) for direction in (TO_ENCLAVE, TO_HOST))
    yield f"{name}.h", h
    yield f"{name}.host.finish", to_enclave.record(FINISH, mac(to_enclave.finish, h))
    yield f"{name}.enclave.finish", to_host.record(FINISH, mac(to_host.finish, h))
    yield f"{name}.host.data", to_enclave.record(DATA, b"from the host")
    yield f"{name}.enclave.data", to_host.record(DATA, b"from the enclave")
    yield f"{name}.host.final", to_enclave.record(FINAL, b"")


def words(name, key, session, label):
    to_enclave, to_host = (
        Direction(session, hkdf(key, session, label + b" " + direction, 44)) for direction in (TO_ENCLAVE, TO_HOST))
    yield f"{name}.manager.word", to_enclave.record(DATA, struct.pack("<B7x", 1) + b"from the manager")
    yield f"{name}.instance.word", to_host.record(DATA, struct.pack("<B7x", 2) + b"from the instance")


INSTANCE, START = b"instance of test", 0x0102030405060708
HOLDER, BASE, ROOT_KEY = b"\xc3" * 32, b"\xd4" * 32, b"\xe5" * 32


def draw(number):
    return counting(16 * number)


def peer():
    manager, manager_nonce, instance, instance_nonce = (draw(i) for i in range(4))
    target = b"the manager image under test".ljust(32, b"\0") + struct.pack("<QQ", 0x5, 0x3)
    start = struct.pack("<Q", START)

    def reportdata(role):
        return hashlib.sha512(b"vtpm peer v1" + bytes([role]) + share(manager) + share(instance) + manager_nonce +
                              instance_nonce + INSTANCE + start + HOLDER + BASE).digest()

    yield "peer.challenge", (b"\x11\0\0\0" + target.ljust(128, b"\0") + manager_nonce + share(manager) + INSTANCE +
                             start + BASE)
    yield "peer.proof", b"\x12\0\0\0" + instance_nonce + share(instance) + HOLDER
    yield "peer.proof.reportdata", reportdata(2)
    yield "peer.admit", b"\x13\0\0\0"
    yield "peer.admit.reportdata", reportdata(1)
    h = sha256(b"vtpm peer v1" + reportdata(1) + reportdata(2))
    yield from words("peer", x25519(manager, share(instance)), h, b"vtpm peer v1")


def resume():
    label = b"vtpm resume v1"
    instance, instance_nonce, manager, manager_nonce = (draw(i) for i in range(4, 8))
    t = sha256(label + INSTANCE + struct.pack("<QQ", 3, START) + HOLDER + share(manager) + share(instance) +
               manager_nonce + instance_nonce)
    prk = hkdf(ROOT_KEY + x25519(manager, share(instance)), t, label, 32)
    yield "resume.resume", b"\x14\0\0\0" + INSTANCE + struct.pack("<Q", START) + instance_nonce + share(instance)
    yield "resume.accept", b"\x15\0\0\0" + manager_nonce + share(manager) + mac(prk, label + b"\x01" + t)
    yield "resume.confirm", b"\x16\0\0\0" + mac(prk, label + b"\x02" + t)
    yield from words("resume", prk, t, label)


def vectors():
    yield from link("k1", 1, bytes(16), 0, 0, bytes(32))
    yield from link("k2-named", 2, INSTANCE, 3, START, b"\xb2" * 32)
    yield from link("k2-enrolled", 3, INSTANCE, 3, START, b"\xb2" * 32)
    yield from peer()
    yield from resume()


def parse(text):
    return dict(line.partition(" ")[::2] for line in text.splitlines())


def main():
    expected = {name: value.hex() for name, value in vectors()}
    if sys.argv[1:] == ["--print"]:
        for name, value in expected.items():
            print(name, value)
        return 0
    program, file = sys.argv[1:]
    printed = parse(subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout)
    with open(file, encoding="ascii") as vectors_file:
        written = parse(vectors_file.read())
    failures = 0
    print("TAP version 13")
    print(f"1..{len(expected) + 1}")
    for number, (name, value) in enumerate(expected.items(), 1):
        agree = printed.get(name) == value == written.get(name)
        failures += not agree
        print(f"{'ok' if agree else 'not ok'} {number} - {name}")
        if not agree:
            print(f"# computed here {value}\n# the product   {printed.get(name)}\n# the file      {written.get(name)}")
    same = list(expected) == list(printed) == list(written)
    print(f"{'ok' if same else 'not ok'} {len(expected) + 1} - all three have the same vectors")
    return 1 if failures or not same else 0


if __name__ == "__main__":
    sys.exit(main())
