#!/usr/bin/python3
"""A process that vtpmd takes for vtpm-instance, and that has no enclave: it says what it was told to and keeps what it
gets.

    fake_instance.py ANSWER_FILE RECORD_FILE ...VTPM_INSTANCE'S ARGUMENTS...

ANSWER_FILE holds the messages of the peer session that it sends, one in hexadecimal per line; the first as soon as it
has said hello if the line begins with "resume ", else each as an answer to one message of the manager. RECORD_FILE gets
a line "kind hexadecimal" for each frame that came, and "closed" at the end. It waits until vtpmd closes the connection.
"""

import os
import signal
import socket
import struct
import sys
import uuid

from wiretap import HEADER, PEER, Frames, frame

HELLO_INSTANCE = 1
BLANK, SERVING, FRONT_INSIDE = 1, 2, 1


def receive(stream):
    try:
        return stream.recv(1 << 16)
    except ConnectionError:
        return b""


def main():
    answer_path, record_path, *arguments = sys.argv[1:]
    identity = uuid.UUID(arguments[arguments.index("--id") + 1]).bytes
    with open(answer_path, encoding="ascii") as file:
        answers = file.read().split("\n")
    resume = answers[0].startswith("resume ")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # vtpmd ends what it refused
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(arguments[arguments.index("--daemon") + 1])
    enclave, start = (SERVING, 1) if resume else (BLANK, 0)
    share = bytes(32) if resume else os.urandom(32)
    hello = frame(HELLO_INSTANCE, struct.pack("<HBBI", 1, enclave, FRONT_INSIDE, 0) + identity
                  + struct.pack("<Q", start) + share)
    # In one piece: vtpmd may have ended the connection before a second one is sent.
    stream.sendall(hello + (frame(PEER, bytes.fromhex(answers.pop(0).removeprefix("resume "))) if resume else b""))
    frames = Frames()
    with open(record_path, "w", encoding="ascii", buffering=1) as record:
        while data := receive(stream):
            for one in frames.feed(data):
                record.write(f"{one[4]} {one[HEADER:].hex()}\n")
                if one[4] == PEER and answers and answers[0]:
                    stream.sendall(frame(PEER, bytes.fromhex(answers.pop(0))))
        record.write("closed\n")


if __name__ == "__main__":
    main()
