"""What the scripts of ./bench share: the helpers of the system tests, rows, medians. The first argument of each script is
the build directory.
"""

import os
import sys
import tempfile
import time

os.environ["BUILD_DIR"] = os.path.abspath(sys.argv[1])
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "system"))

tempfile.tempdir = os.environ.get("BENCH_DIR", "/var/tmp")  # a disk; not the environment's, which the programs inherit

from tap import Skip  # noqa: E402


def median(values):
    return sorted(values)[len(values) // 2]


def row(name, unit, ours, swtpm="-"):
    print(f"{name}\t{unit}\t{ours}\t{swtpm}\t-", flush=True)


def row_of_seconds(name, unit, ours, swtpm):
    """The medians of two lists of seconds."""
    factor, digits = {"s": (1, 2), "ms": (1e3, 1), "us": (1e6, 1)}[unit]
    row(name, unit, *(f"{median(times) * factor:.{digits}f}" for times in (ours, swtpm)))


def timed(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def run(main):
    """What this machine cannot run is said, and is no failure."""
    try:
        main(*map(int, sys.argv[2:]))
    except Skip as reason:
        print(f"bench: {os.path.basename(sys.argv[0])} is skipped: {reason}", file=sys.stderr)
