#!/usr/bin/python3
"""What a guest waits for its TPM: round trips at /dev/tpm0 of the Linux guest of the system tests, in two machines that
differ in nothing but the TPM behind their tpm-crb, this project's and Debian's swtpm. Both are up all the time, and take
turns of a few samples each.

    guest.py BUILD_DIR SAMPLES

Without KVM, as the tests run it. The client is put on a disk of its own and measures in the guest, by the guest's clock.
"""

import os
import shutil
import sys

sys.dont_write_bytecode = True

from support import Skip, median, row, run  # noqa: E402

from harness import BUILD, new_directory  # noqa: E402
from machine import COMMAND_LINE, GUEST, QEMU, SMALL_FIRMWARE, Host, Machine, libvirts_swtpm  # noqa: E402
from swtpm_command import debians  # noqa: E402

ROUNDS, SECTOR = 10, 512
KINDS = {"GetRandom 32": "random", "PCR_Read 8": "read", "PCR_Extend": "extend", "NV_Write 32": "write"}


def client_disk():
    """Arguments for QEMU: the client, and nothing else, as /dev/vdb."""
    path = os.path.join(new_directory(), "client")
    shutil.copy(os.path.join(BUILD, "benchmark", "in-guest"), path)
    os.truncate(path, -(-os.path.getsize(path) // SECTOR) * SECTOR)
    return ["-drive", f"if=virtio,format=raw,readonly=on,file={path}"]


def main(samples):
    if not shutil.which(QEMU) or not os.path.exists(SMALL_FIRMWARE):
        raise Skip("QEMU or its firmware is not installed")
    if not os.path.isdir(os.path.join(GUEST, "boot")):
        raise Skip("the guest's kernel is not there; tools/install-packages unpacks it")
    debians("swtpm")
    host, (control, swtpm) = Host("guest"), libvirts_swtpm()
    machines = [Machine(new_directory(), path, command_line=COMMAND_LINE, arguments=client_disk())
                for path in (host.instance.path + ".ctrl", control)]
    for machine in machines:
        machine.guest.wait_ready()
        machine.guest.run("cat /dev/vdb >client && chmod 755 client")
    for title, kind in KINDS.items():
        took = [[] for _ in machines]
        for _ in range(ROUNDS):
            for machine, times in zip(machines, took):
                times += map(float, machine.guest.run(f"./client {kind} {-(-samples // ROUNDS)}").split())
        row(f"in a guest, {title} p50", "us", *(f"{median(times):.1f}" for times in took))
    for machine in machines:
        machine.end()
    swtpm.stop()


if __name__ == "__main__":
    run(main)
