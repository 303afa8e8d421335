#!/usr/bin/python3
"""What makes a TPM with keys and certificates: this project's swtpm_setup beside Debian's, with the options that libvirt
gives, from exec to exit.

    setup.py BUILD_DIR COUNT

Both have their certificates made by Debian's swtpm_localca, with one CA. Most of the time is the search for the primes of
the RSA key, which depends on the seed of each TPM: so they take turns, and it is the median that counts. A TPM without
keys shows what is left.
"""

import os
import sys
import uuid

sys.dont_write_bytecode = True

from support import row_of_seconds, run, timed  # noqa: E402

from harness import program  # noqa: E402
from swtpm_command import debians, made, new_state, set_up  # noqa: E402

LINES = {
    "swtpm_setup, EK and certificates": ["--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram"],
    "swtpm_setup, no keys": [],
}


def main(count):
    executables = {"ours": program("swtpm_setup"), "theirs": debians("swtpm_setup")}
    debians("swtpm_localca")

    def once(name, line):
        state = new_state(str(uuid.uuid4()))  # the shortest label, for paths of sockets
        environment = {} if name == "ours" else {"env": dict(os.environ)}
        return timed(lambda: made(set_up(state, *line, executable=executables[name], **environment), name))

    for title, line in LINES.items():
        took = {name: [] for name in executables}
        once("theirs", line)  # makes the CA
        for _ in range(count):
            for name, times in took.items():
                times.append(once(name, line))
        row_of_seconds(title, "ms", *took.values())


if __name__ == "__main__":
    run(main)
