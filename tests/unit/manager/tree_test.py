#!/usr/bin/python3
"""The ledger's tree against RFC 6962, 2.1, written down as the RFC has it."""

import hashlib
import subprocess
import sys


def tree_hash(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def expected():
    leaves = []
    yield tree_hash(leaves)
    for i in range(70):
        leaves.append(b"slot %d" % i)
        yield tree_hash(leaves)
    for i in range(70):
        leaves[i] = b"changed %d" % i
        yield tree_hash(leaves)


def main():
    printed = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout.split()
    roots = [root.hex() for root in expected()]
    print("TAP version 13\n1..1")
    print("ok 1 - roots of RFC 6962" if printed == roots else "not ok 1 - roots of RFC 6962")


if __name__ == "__main__":
    main()
