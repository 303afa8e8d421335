#!/usr/bin/python3
"""A guest's disk, encrypted with LUKS2, whose only key is sealed in its TPM by systemd-cryptenroll: cryptsetup opens it in
the next start through systemd's token, and not when the PCR is another one or the TPM is.
"""

import functools
import os

from harness import new_directory
from machine import Host, disk
from tap import require, run, test

TEXT = "what is on the disk " * 5
MEBIBYTE = 1 << 20
FORMAT = "cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vdb password"
ENROLL = "systemd-cryptenroll --tpm2-device=/dev/tpmrm0 --tpm2-pcrs=7 /dev/vdb"
OPEN = "cryptsetup open --token-only /dev/vdb opened"


def pcr_7(guest):
    return guest.run("tpm2 pcrread sha256:7")


@functools.cache
def enrolled():
    """The host, the path of the disk, and the PCR that guards it."""
    host, path = Host("first"), os.path.join(new_directory(), "disk")
    with open(path, "wb") as file:
        file.truncate(64 * MEBIBYTE)
    guest = host.boot(arguments=disk(path))
    guest.run("echo -n password >password")
    guest.run(FORMAT)
    guest.run(f"PASSWORD=password {ENROLL}")
    guest.run("PASSWORD=password systemd-cryptenroll --wipe-slot=password /dev/vdb")
    slots = guest.run("systemd-cryptenroll /dev/vdb").split()
    require(slots == ["SLOT", "TYPE", "1", "tpm2"], f"there are other keys than the TPM's: {slots}")
    guest.run(OPEN)
    guest.run("mkfs.ext4 -q /dev/mapper/opened && mkdir -p disk && mount -t ext4 /dev/mapper/opened disk")
    guest.run(f"echo -n '{TEXT}' >disk/file && umount disk && cryptsetup close opened && sync")
    return host, path, pcr_7(guest)


@functools.cache
def started_again():
    host, path, before = enrolled()
    guest = host.boot(arguments=disk(path))
    require(pcr_7(guest) == before, "PCR 7 is another one after a start of the same machine")
    return guest


@test
def a_disk_bound_to_the_tpm_opens_in_the_next_start():
    guest = started_again()
    guest.run(OPEN)
    said = guest.run("mkdir -p disk && mount -t ext4 /dev/mapper/opened disk && cat disk/file")
    guest.run("umount disk && cryptsetup close opened")
    require(said == TEXT, f"the file has {said!r}")
    with open(enrolled()[1], "rb") as file:
        require(TEXT.encode() not in file.read(), "the text is on the disk in the clear")


@test
def and_no_more_when_its_pcr_was_extended():
    guest = started_again()
    guest.run(f"tpm2 pcrextend 7:sha256={'11' * 32}")
    said = guest.run(OPEN, fails=True)
    require("policy digest does not match" in said, f"it was refused with another reason: {said}")
    enrolled()[0].end()


@test
def it_does_not_open_at_the_tpm_of_another_machine():
    host, path, before = enrolled()
    if host.machine.popen.poll() is None:
        host.end()
    other = Host("second", host.daemon)
    guest = other.boot(arguments=disk(path))
    require(pcr_7(guest) == before, "the other machine has another PCR 7")
    said = guest.run(OPEN, fails=True)
    require("integrity check failed" in said, f"it was refused with another reason: {said}")
    other.end()


if __name__ == "__main__":
    run()
