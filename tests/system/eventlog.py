"""The firmware's event log, as the TCG PC Client Platform Firmware Profile, 10.2, lays it out: little-endian, first a head in
the old format that names the banks, then events with one digest for each bank.
"""

import hashlib
import struct
from dataclasses import dataclass

EV_NO_ACTION = 3
SHA256 = 0x000B
HASHES = {0x0004: "sha1", SHA256: "sha256", 0x000C: "sha384", 0x000D: "sha512"}


@dataclass
class Event:
    pcr: int
    kind: int
    digests: dict  # by algorithm
    data: bytes


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        part = self.data[self.at:self.at + size]
        if len(part) < size:
            raise ValueError(f"the log ends early, at {self.at}")
        self.at += size
        return part

    def u16(self):
        return struct.unpack("<H", self.take(2))[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]


def read(log):
    """The events of a binary log."""
    source = Bytes(log)
    pcr, kind, _ = source.u32(), source.u32(), source.take(20)
    head = Bytes(source.take(source.u32()))
    if pcr or kind != EV_NO_ACTION or head.take(16) != b"Spec ID Event03\0":
        raise ValueError("the log does not begin with the head of the crypto-agile format")
    head.take(8)
    sizes = {head.u16(): head.u16() for _ in range(head.u32())}
    events = []
    while source.at < len(log):
        pcr, kind = source.u32(), source.u32()
        digests = {}
        for _ in range(source.u32()):
            algorithm = source.u16()
            digests[algorithm] = source.take(sizes[algorithm])
        events.append(Event(pcr, kind, digests, source.take(source.u32())))
    return events


def replay(events, algorithm=SHA256):
    """{PCR: value} of those that the events extend."""
    values = {}
    for event in events:
        if event.kind == EV_NO_ACTION:
            continue
        name = HASHES[algorithm]
        before = values.get(event.pcr, bytes(hashlib.new(name).digest_size))
        values[event.pcr] = hashlib.new(name, before + event.digests[algorithm]).digest()
    return values
