"""Known secrets, put into a TPM through its own commands and used there, so that a search knows what to look for."""

import os
import random

import tpm as t

PARENT, PERSISTENT_HMAC = 0x81000001, 0x81000002
NV_INDEX = 0x01800010


def _probably_prime(number, chooser):
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(8):
        power = pow(chooser.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def random_prime(bits):
    chooser = random.SystemRandom()
    while True:
        number = chooser.getrandbits(bits) | 3 << bits - 2 | 1
        if number % 65537 != 1 and _probably_prime(number, chooser):
            return number


class Secrets:
    """`values` maps the name of a secret to its bytes."""

    def __init__(self):
        p, q = random_prime(1024), random_prime(1024)
        self.modulus = p * q
        self.values = {
            "sealed data": os.urandom(32),
            "HMAC key": os.urandom(32),
            "NV data": os.urandom(32),
            "NV password": os.urandom(32),
            "RSA prime p": p.to_bytes(128, "big"),
            "RSA prime q": q.to_bytes(128, "big"),
        }

    def put_into(self, tpm):
        """Leaves the sealed object, the HMAC key and the RSA key loaded, an NV index defined, and all of them used."""
        values = self.values
        tpm.startup()
        parent, _ = tpm.create_primary(t.storage_key())
        tpm.evict(parent, PARENT)
        tpm.flush(parent)
        sealed_blobs = tpm.create(PARENT, t.sealed_object(), values["sealed data"])
        hmac_blobs = tpm.create(PARENT, t.hmac_key(), values["HMAC key"])
        tpm.nv_define(NV_INDEX, 32, values["NV password"])
        tpm.nv_write(NV_INDEX, values["NV data"], values["NV password"])
        if tpm.nv_read(NV_INDEX, 32, values["NV password"]) != values["NV data"]:
            raise AssertionError("the TPM read back something else")
        sealed = tpm.load(PARENT, *sealed_blobs)
        hmac_key = tpm.load(PARENT, *hmac_blobs)
        tpm.evict(hmac_key, PERSISTENT_HMAC)
        rsa = tpm.load_external(t.external_rsa_sensitive(values["RSA prime p"]),
                                t.external_rsa_public(self.modulus.to_bytes(256, "big")))
        tpm.hmac(hmac_key, b"message")
        tpm.sign(rsa, t.digest(b"message"))
        if tpm.unseal(sealed) != values["sealed data"]:
            raise AssertionError("the TPM unsealed something else")
        # Whatever passed through the buffers of the connection is overwritten by ordinary traffic.
        for _ in range(64):
            tpm.get_random(32)
