#!/usr/bin/python3
"""The fast path gives the results of libtpms as it was shipped.

usage: fast_path_test.py KEY_RESULTS_FAST KEY_RESULTS_STOCK
"""

import subprocess
import sys
import tempfile
from pathlib import Path

FIXED = ("public", "rsassa", "zgen")


def run(*command, stdin=None):
    return subprocess.run(command, input=stdin, check=True, capture_output=True).stdout


def lines_of(output, kinds):
    return [line for line in output.decode().splitlines() if line.split()[0] in kinds]


class Tap:
    def __init__(self):
        self.count = 0
        self.failed = False

    def ok(self, passed, what):
        self.count += 1
        self.failed = self.failed or not passed
        print(f"{'ok' if passed else 'not ok'} {self.count} - {what}", flush=True)

    def end(self):
        print(f"1..{self.count}")
        return 1 if self.failed else 0


def check_others(tap, checker, state, maker_output, what):
    foreign = "\n".join(lines_of(maker_output, ("cipher", "signature")))
    answers = run(checker, "check", state, stdin=foreign.encode()).decode().splitlines()
    bad = [answer for answer in answers if not answer.startswith("good ")]
    for answer in bad:
        print(f"# {answer}")
    tap.ok(bool(answers) and len(answers) == len(foreign.splitlines()) and not bad, what)


def compare(tap, maker, fast, stock, directory):
    state = str(Path(directory) / f"state-{maker}")
    program = {"fast": fast, "stock": stock}[maker]
    Path(state).write_bytes(run(program, "make"))
    from_fast = run(fast, "results", state)
    from_stock = run(stock, "results", state)
    for kind in FIXED:
        ours, theirs = lines_of(from_fast, (kind,)), lines_of(from_stock, (kind,))
        for a, b in zip(ours, theirs):
            if a != b:
                print(f"# differ: {a.split()[1]}")
        tap.ok(bool(ours) and ours == theirs, f"{kind} results over a state made by {maker} are equal")
    check_others(tap, stock, state, from_fast, f"stock accepts what fast made over a state made by {maker}")
    check_others(tap, fast, state, from_stock, f"fast accepts what stock made over a state made by {maker}")


def shortest_times(program, state):
    return {name: int(ns) for name, ns in (line.split() for line in run(program, "time", state).decode().splitlines())}


def time_it(tap, fast, stock, directory):
    """A link that lost its --wrap arguments, or primes in the wrong order, would give equal results, slowly."""
    state = str(Path(directory) / "state-fast")
    ours, theirs = shortest_times(fast, state), shortest_times(stock, state)
    for name, ns in theirs.items():
        print(f"# {name}: {ours[name] / 1000:.1f} us, stock {ns / 1000:.1f} us")
        tap.ok(ours[name] * 2 < ns, f"{name} signs in less than half of stock's time")


def main():
    fast, stock = sys.argv[1:3]
    tap = Tap()
    try:
        with tempfile.TemporaryDirectory() as directory:
            for maker in ("fast", "stock"):
                compare(tap, maker, fast, stock, directory)
            time_it(tap, fast, stock, directory)
    except subprocess.CalledProcessError as error:
        print(f"Bail out! {error}: {error.stderr.decode().strip()}")
        return 1
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
