#!/usr/bin/python3
"""The globals of libtpms that trusted/tpm declares have the size that they have in the archive that is linked.

    libtpms_layout_test.py HEADER

Each _Static_assert of the header that names a symbol is one test.
"""

import re
import subprocess
import sys

ASSERTED = re.compile(r'_Static_assert\(sizeof.* == (0x[0-9a-f]+), "(\w+)"\);')
SYMBOL = re.compile(r"^[0-9a-f]+ ([0-9a-f]+) [BDCbdc] (\w+)$", re.MULTILINE)


def archive():
    return subprocess.run(["cc", "-print-file-name=libtpms.a"], check=True, capture_output=True, text=True).stdout.strip()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        asserted = ASSERTED.findall(file.read())
    names = subprocess.run(["nm", "-S", archive()], check=True, capture_output=True, text=True).stdout
    sizes = {name: int(size, 16) for size, name in SYMBOL.findall(names)}
    print(f"1..{len(asserted)}")
    failed = 0
    for number, (size, name) in enumerate(asserted, 1):
        right = sizes.get(name) == int(size, 16)
        failed += not right
        print(f"{'ok' if right else 'not ok'} {number} - {name} has {int(size, 16)} bytes, in the archive {sizes.get(name)}")
    return 1 if failed or not asserted else 0


if __name__ == "__main__":
    sys.exit(main())
