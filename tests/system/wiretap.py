#!/usr/bin/python3
"""A relay between two ends of a unix socket that keeps every byte, and changes what it is told to change.

In a test it is a class. As a program it is what `vtpmd --instance-program` starts instead of vtpm-instance, which it
then starts itself, so that the connection to vtpmd goes through it:

    wiretap.py RECORD_DIRECTORY VTPM_INSTANCE ARGUMENT...

and every byte of it is in RECORD_DIRECTORY/PID.up (from the instance) and PID.down (from vtpmd).
"""

import os
import shlex
import socket
import stat
import struct
import subprocess
import sys
import threading

HEADER = 8  # of a frame between our processes: u32 size of the body, u8 kind, u8[3] 0
PEER, COMMIT, STATE, LINK, REFUSED, HELLO_FRONT, RECORD = 2, 3, 4, 5, 8, 11, 12


def frame(kind, body):
    return struct.pack("<IB3x", len(body), kind) + body


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self):
        self.waiting = b""

    def feed(self, data):
        self.waiting += data
        while len(self.waiting) >= HEADER:
            size = HEADER + struct.unpack_from("<I", self.waiting)[0]
            if len(self.waiting) < size:
                return
            whole, self.waiting = self.waiting[:size], self.waiting[size:]
            yield whole


class Wiretap:
    """
    Listens on `path` and connects each client to `target`. `up` has every byte from the clients, `down` every byte to
    them. `change(direction, frame)` returns the list of frames to pass on instead; without it bytes pass as they come.
    """

    def __init__(self, path, target, change=None, sink=None):
        self.path, self.target, self.change = path, target, change
        self.up, self.down = bytearray(), bytearray()
        self.sink = sink
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(self.target)
            except OSError:
                client.close()
                continue
            for direction, source, drain in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._pass, args=(direction, source, drain), daemon=True).start()

    def _pass(self, direction, source, drain):
        frames = Frames()
        try:
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                getattr(self, direction).extend(data)
                if self.sink:
                    self.sink(direction, data)
                if self.change:
                    data = b"".join(out for one in frames.feed(data) for out in self.change(direction, one))
                drain.sendall(data)
        except OSError:
            pass
        for end in (source, drain):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def traffic(self):
        return [(f"{self.target} up", bytes(self.up)), (f"{self.target} down", bytes(self.down))]

    def close(self):
        self.listener.close()


def script(directory, name, *arguments):
    """A program of one line in the directory: what vtpmd may be told to start instead of vtpm-instance."""
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\nexec {shlex.join(arguments)} \"$@\"\n")
    os.chmod(path, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    return path


def tapped_instance(directory, record_directory, vtpm_instance):
    return script(directory, "tapped-instance", sys.executable, os.path.abspath(__file__), record_directory, vtpm_instance)


def main():
    record_directory, program, *arguments = sys.argv[1:]
    place = arguments.index("--daemon") + 1
    path = os.path.join(record_directory, f"{os.getpid()}.sock")

    def keep(direction, data):
        with open(os.path.join(record_directory, f"{os.getpid()}.{direction}"), "ab") as file:
            file.write(data)

    Wiretap(path, arguments[place], sink=keep)
    arguments[place] = path
    sys.exit(abs(subprocess.run([program, *arguments], check=False).returncode))


if __name__ == "__main__":
    main()
