"""TAP output for test scripts: one behaviour per function, and nothing counts as passed that was not run."""

import os
import random
import sys
import traceback

LONG = os.environ.get("CHECK_LONG") == "1"
SEED = int(os.environ.get("CHECK_SEED") or random.SystemRandom().randrange(1 << 30))
randomness = random.Random(SEED)

_tests = []


class Skip(Exception):
    """Why this machine cannot run the test."""


def test(function):
    """Registers a test. Its name is the function's, its description the first line of its docstring."""
    _tests.append(function)
    return function


def require(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


def note(text):
    for line in str(text).splitlines():
        print(f"# {line}", flush=True)


def run():
    """Runs the registered tests in order, or those that arguments name; the exit status is the number of failures."""
    tests = [one for one in _tests if one.__name__ in sys.argv[1:]] or _tests
    print(f"1..{len(tests)}")
    note(f"seed {SEED}")
    failures = 0
    for number, function in enumerate(tests, 1):
        name = function.__name__
        try:
            function()
            print(f"ok {number} - {name}")
        except Skip as reason:
            print(f"ok {number} - {name} # SKIP {reason}")
        except Exception:
            failures += 1
            print(f"not ok {number} - {name}")
            note(traceback.format_exc())
        sys.stdout.flush()
    sys.exit(min(failures, 100))
