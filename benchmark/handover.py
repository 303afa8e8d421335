#!/usr/bin/python3
"""What a machine waits for its TPM when it is moved: from the question for the first state blob at the source to the answer
to the first command at the target, as QEMU asks, but without QEMU. Between two processes of one instance, and between two
of swtpm; which of the two kinds begins alternates.

    handover.py BUILD_DIR COUNT

The target listens before: starting it is not in the time, as it is not in the time that a machine stands still.
"""

import struct
import sys
import time

sys.dont_write_bytecode = True

from support import row_of_seconds, run  # noqa: E402

from harness import Daemon, Swtpm, connect_unix, listens, new_directory, wait_for  # noqa: E402
from machine import CMD_INIT, CMD_SET_STATEBLOB, CMD_STOP, PERMANENT, SAVESTATE, VOLATILE  # noqa: E402
from machine import control_call, get_blob  # noqa: E402
from migration import incoming  # noqa: E402
from swtpm_command import debians  # noqa: E402
from tap import require  # noqa: E402
from tpm import Tpm, digest  # noqa: E402

PCR, INDEX = 10, 0x01800080
PARTS = ("export", "import", "first command")


class End:
    """One process of a TPM, as a machine is connected to it."""

    def __init__(self, path, process=None):
        self.process = process
        wait_for(lambda: listens(path) and listens(path + ".ctrl"), f"nobody listens at {path}")
        self.control, self.client = connect_unix(path + ".ctrl"), Tpm(connect_unix(path))

    def close(self):
        self.control.close()
        self.client.close()
        if self.process:
            self.process.stop()


class Ours:
    def __init__(self):
        self.instance = Daemon().create("moved")
        self.source = End(self.instance.path)

    def target(self):
        return End(incoming(self.instance))


class Theirs:
    def __init__(self):
        debians("swtpm")
        self.source = self.target()

    def target(self):
        process = Swtpm(new_directory())
        return End(process.path, process)


def prepare(end):
    """A TPM that has been used a little."""
    end.client.startup()
    end.client.pcr_extend(PCR, digest(b"moved"))
    end.client.nv_define(INDEX, 32)
    end.client.nv_write(INDEX, bytes(32))


def give(control, blobs):
    require(control_call(control, CMD_STOP) == bytes(4), "STOP is refused")
    for kind, blob in blobs:
        require(control_call(control, CMD_SET_STATEBLOB, struct.pack(">III", 0, kind, len(blob)) + blob) == bytes(4),
                "a blob is refused")
    require(control_call(control, CMD_INIT, bytes(4)) == bytes(4), "what was exported is not taken")


def move(kind):
    """The times at which each part was over, the beginning first; the target is the next source."""
    source, target = kind.source, kind.target()
    before = source.client.pcr_read(PCR)
    times = [time.perf_counter()]
    blobs = [(number, get_blob(source.control, number)[1]) for number in (PERMANENT, VOLATILE, SAVESTATE)]
    times.append(time.perf_counter())
    give(target.control, [(number, blob) for number, blob in blobs if blob])
    times.append(time.perf_counter())
    after = target.client.pcr_read(PCR)
    times.append(time.perf_counter())
    require(after == before, "it is another TPM")
    source.close()
    kind.source = target
    return times


def main(count):
    kinds = [Ours(), Theirs()]
    moves = {kind: [] for kind in kinds}
    for kind in kinds:
        prepare(kind.source)
        move(kind)
    for turn in range(count):
        for kind in kinds[::1 if turn % 2 else -1]:
            moves[kind].append(move(kind))
    row_of_seconds("state handover in a migration", "ms", *([one[-1] - one[0] for one in moves[kind]] for kind in kinds))
    for number, part in enumerate(PARTS):
        row_of_seconds(f"state handover, {part}", "ms",
                       *([one[number + 1] - one[number] for one in moves[kind]] for kind in kinds))
    for kind in kinds:
        kind.source.close()


if __name__ == "__main__":
    run(main)
