#!/usr/bin/python3
"""M2: somebody has every file of the host and knows every format. Under `file` the state opens, which is what the
documentation says of it; under a passphrase it does not.
"""

import hashlib

import attack
import derive
from harness import MANAGER_IMAGE, Cpu, Daemon, new_directory
from secrets_in_tpm import Secrets
from tap import note, require, run, test

PASSPHRASE = b"correct horse battery staple\n"


class Stolen:
    """The files that a stopped host leaves behind, and what was in the TPM."""

    def __init__(self, passphrase):
        daemon = Daemon(passphrase=passphrase)
        self.directory = daemon.directory
        instance = daemon.create("stolen")
        self.secrets = Secrets()
        client = instance.connect()
        self.secrets.put_into(client)
        client.close()
        instance.stop()
        daemon.stop()
        daemon.cpu.stop()
        self.identity = derive.Identity(MANAGER_IMAGE)
        with daemon.tables() as tables:
            self.blobs = derive.Blobs(tables, instance.identity)
        self.secret_path = daemon.cpu.secret_path

    def candidates(self):
        """Every 32 bytes at every offset of every file that may be a key: 32 random bytes have some 30 values, and fewer
        than 20 once in more than a thousand million.
        """
        seen = set()
        for _, data in attack.files_below(self.directory):
            for offset in range(max(0, len(data) - 31)):
                window = data[offset:offset + 32]
                if window not in seen and len(set(window)) >= 20:
                    seen.add(window)
                    yield window

    def open(self):
        """The master secret's plaintext, with whatever candidate opens it, and how many were tried."""
        count = 0
        for candidate in self.candidates():
            count += 1
            if derive.open_master(self.blobs.master, candidate, self.identity) is not None:
                return candidate, count
        return None, count


@test
def with_the_secret_in_a_file_a_stolen_disk_opens_the_state():
    stolen = Stolen(None)
    secret, count = stolen.open()
    note(f"{count} candidates tried")
    require(secret is not None, "the derivation does not follow the format: it must open the master secret")
    plaintext = derive.open_state(stolen.blobs, secret, stolen.identity)
    require(plaintext is not None, "the derivation does not follow the format: it must open this state")
    found, _ = attack.Search(stolen.secrets.values).found([("state", plaintext)])
    require("NV data" in found, "the opened state does not hold the NV data")


@test
def vtpm_cpu_says_that_a_file_does_not_protect():
    directory = new_directory()
    cpu = Cpu(directory)
    cpu.wait_until(lambda: "can open every sealed state" in cpu.log(), "it says what a file means")


@test
def with_a_passphrase_a_stolen_disk_does_not_open_the_state():
    stolen = Stolen(PASSPHRASE)
    secret, count = stolen.open()
    note(f"{count} candidates tried")
    require(count > 1000, "too few candidates were tried")
    require(secret is None, "the master secret opened with something that lies in a file")
    found, _ = attack.Search(stolen.secrets.values).found(attack.files_below(stolen.directory))
    require(not found, f"files give away {found}")


@test
def with_the_passphrase_the_state_opens():
    """The test above could not fail if the derivation did not know passphrases: scrypt as untrusted/cpu/secret.c."""
    stolen = Stolen(PASSPHRASE)
    with open(stolen.secret_path, "rb") as file:
        salt = file.read(32)
    secret = hashlib.scrypt(PASSPHRASE.strip(), salt=salt, n=1 << 17, r=8, p=1, maxmem=192 << 20, dklen=64)[:32]
    require(derive.open_state(stolen.blobs, secret, stolen.identity), "the passphrase does not open the state")


@test
def a_passphrase_is_in_no_file():
    stolen = Stolen(PASSPHRASE)
    found, _ = attack.Search({"passphrase": PASSPHRASE.strip()}).found(attack.files_below(stolen.directory))
    require(not found, f"files give away the {found}")


if __name__ == "__main__":
    run()
