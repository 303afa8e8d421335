#!/usr/bin/python3
"""What libvirt's user waits for: from `virsh start` to the first response of the machine's TPM, with this project's
commands first in libvirtd's PATH and with Debian's. The machine has no disk; its firmware gives the first command.

    virsh.py BUILD_DIR COUNT

Two libvirtd, each in a mount namespace of its own, take turns. Of a new machine the time has swtpm_setup in it, which
makes keys and certificates; afterwards the machine is destroyed and started again. QEMU's trace says, with the time of
day, when the firmware reads that its first command is done.
"""

import os
import re
import shutil
import sys
import time
import uuid

sys.dont_write_bytecode = True

from support import Skip, row_of_seconds, run  # noqa: E402

from harness import Daemon, wait_for  # noqa: E402
from libvirt import BOOT_TIMEOUT, FIRMWARE, NAME, QEMU, VARIABLES, Libvirt, stopped  # noqa: E402
from swtpm_command import debians  # noqa: E402

CONTROL_START = 0x4C  # TCG PC Client Platform TPM Profile 1.05, 6.5.3: TPM_CRB_CTRL_START_0
ACCESS = re.compile(r"@(\d+\.\d+):tpm_crb_mmio_(read|write) CRB \w+ 0x([0-9a-f]+) len:\d+ val: 0x([0-9a-f]+)")
DOMAIN = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>256</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>{firmware}</loader>
    <nvram template='{variables}'>{directory}/nvram.fd</nvram>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-trace'/><qemu:arg value='tpm_crb_mmio_*'/>
    <qemu:arg value='-D'/><qemu:arg value='{directory}/trace'/>
  </qemu:commandline>
</domain>
"""


def first_response(trace):
    """When the first command was answered, by the clock of the day; None as long as it was not."""
    if not os.path.exists(trace):
        return None
    begun = False
    with open(trace, encoding="ascii", errors="replace") as file:
        for when, kind, address, value in ACCESS.findall(file.read()):
            if int(address, 16) != CONTROL_START:
                continue
            if kind == "write":
                begun = True
            elif begun and int(value, 16) == 0:
                return float(when)
    return None


class Side:
    """One libvirtd, and what was measured at it."""

    def __init__(self, daemon, ours):
        self.libvirt = Libvirt(daemon) if ours else Libvirt(daemon, os.path.dirname(debians("swtpm")))
        self.daemon, self.ours = daemon, ours
        self.trace = os.path.join(self.libvirt.directory, "trace")
        self.new, self.again = [], []  # of each start, when virsh returned and when the TPM had answered

    def start(self):
        if os.path.exists(self.trace):
            os.unlink(self.trace)
        begin = time.time()
        self.libvirt.virsh("start", NAME)
        returned = time.time() - begin
        responded = wait_for(lambda: first_response(self.trace), "the TPM gives no response", BOOT_TIMEOUT) - begin
        self.libvirt.virsh("destroy", NAME)
        if self.ours:
            stopped(self.daemon, "after destroy the TPM goes on")
        return returned, responded

    def turn(self):
        identity = str(uuid.uuid4())  # a label that is a UUID is never used again
        xml = DOMAIN.format(name=NAME, uuid=identity, directory=self.libvirt.directory, firmware=FIRMWARE,
                            variables=VARIABLES, qemu=shutil.which(QEMU))
        self.libvirt.virsh("define", self.libvirt.write("machine.xml", xml))
        self.new.append(self.start())
        self.again.append(self.start())
        self.libvirt.virsh("undefine", "--nvram", NAME)
        if self.ours:
            self.daemon.call("delete", instance=self.daemon.call("show", instance=identity)["id"])


def main(count):
    if not os.path.exists(FIRMWARE):
        raise Skip("OVMF is not installed")
    os.environ.pop("TMPDIR", None)  # swtpm_setup works there as swtpm_user, who may not write to that of root
    daemon, sides = Daemon(), []
    try:
        sides += [Side(daemon, ours) for ours in (True, False)]
        for _ in range(count + 1):
            for side in sides:
                side.turn()
    finally:
        for side in sides:
            side.libvirt.end()
    for title, name in (("virsh start, a new machine", "new"), ("virsh start, again", "again")):
        for number, until in enumerate(("until it returns", "to first response")):
            # The first turn made the CA, and looked at QEMU.
            row_of_seconds(f"{title}, {until}", "ms", *([one[number] for one in getattr(side, name)[1:]] for side in sides))


if __name__ == "__main__":
    run(main)
