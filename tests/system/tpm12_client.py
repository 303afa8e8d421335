"""A small TPM 1.2 client: builds the bytes of a command itself and speaks them over any stream.

It is a client for tests: one command in flight, no transport sessions. Numbers are those of TPM Main 1.2, Parts 2 and 3.
"""

import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tpm import Reader, Tpm

COMMAND, AUTH1_COMMAND, RESPONSE = 0xC1, 0xC2, 0xC4
ST_CLEAR, ST_STATE = 1, 2
FAIL, INVALID_POSTINIT, FAILEDSELFTEST, RETRY = 0x09, 0x26, 0x1C, 0x800
PP_CMD_ENABLE, PP_PRESENT = 0x20, 0x08
OWNER = 0x40000001
RSA_2048 = struct.pack(">IHHI", 1, 3, 1, 12) + struct.pack(">III", 2048, 2, 0)  # OAEP, no signatures
NO_PCRS = struct.pack(">H", 3) + bytes(3) + b"\x1f" + bytes(20)  # TPM_PCR_INFO_SHORT: at every locality


class Tpm12Error(Exception):
    def __init__(self, code, name):
        super().__init__(f"{name} answered 0x{code:03x}")
        self.code = code


def command(ordinal, body=b"", tag=COMMAND):
    return struct.pack(">HII", tag, 10 + len(body), ordinal) + body


def sha1(*parts):
    return hashlib.sha1(b"".join(parts)).digest()


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha1).digest()


class Tpm12(Tpm):
    """One connection that carries raw commands and responses."""

    def raw(self, ordinal, body=b"", tag=COMMAND):
        """The whole response."""
        return self.exchange(command(ordinal, body, tag))

    def run(self, name, ordinal, body=b"", tag=COMMAND):
        """The parameters of the response, which has to be a success."""
        response = self.raw(ordinal, body, tag)
        code = struct.unpack(">I", response[6:10])[0]
        if code:
            raise Tpm12Error(code, name)
        return Reader(response[10:])

    # --- what needs no authorization ---

    def startup(self, state=False):
        self.run("TPM_Startup", 0x99, struct.pack(">H", ST_STATE if state else ST_CLEAR))

    def save_state(self):
        self.run("TPM_SaveState", 0x98)

    def physical_presence(self, value):
        self.run("TSC_PhysicalPresence", 0x4000000A, struct.pack(">H", value))

    def be_present(self):
        self.physical_presence(PP_CMD_ENABLE)
        self.physical_presence(PP_PRESENT)

    def switch_on(self):
        """Presence, enabled, activated: the last one holds from the next TPM_Startup on."""
        self.be_present()
        self.run("TPM_PhysicalEnable", 0x6F)
        self.run("TPM_PhysicalSetDeactivated", 0x72, b"\0")

    def extend(self, pcr, digest):
        return self.run("TPM_Extend", 0x14, struct.pack(">I", pcr) + digest).take(20)

    def pcr_read(self, pcr):
        return self.run("TPM_PCRRead", 0x15, struct.pack(">I", pcr)).take(20)

    def get_random(self, size=32):
        reader = self.run("TPM_GetRandom", 0x46, struct.pack(">I", size))
        return reader.take(reader.u32())

    def get_capability(self, area, sub=b""):
        reader = self.run("TPM_GetCapability", 0x65, struct.pack(">II", area, len(sub)) + sub)
        return reader.take(reader.u32())

    def nv_define(self, index, size, attributes=1):
        """Attribute 1: written with physical presence."""
        public = struct.pack(">HI", 0x18, index) + 2 * NO_PCRS + struct.pack(">HI", 0x17, attributes) + bytes(3)
        self.run("TPM_NV_DefineSpace", 0xCC, public + struct.pack(">I", size) + bytes(20))

    def nv_write(self, index, data):
        self.run("TPM_NV_WriteValue", 0xCD, struct.pack(">III", index, 0, len(data)) + data)

    def nv_read(self, index, size):
        reader = self.run("TPM_NV_ReadValue", 0xCF, struct.pack(">III", index, 0, size))
        return reader.take(reader.u32())

    # --- sessions ---

    def oiap(self):
        """(handle, nonceEven)"""
        reader = self.run("TPM_OIAP", 0x0A)
        return reader.u32(), reader.take(20)

    def osap(self, entity_type, entity, secret):
        """(handle, nonceEven, shared secret)"""
        odd = os.urandom(20)
        reader = self.run("TPM_OSAP", 0x0B, struct.pack(">HI", entity_type, entity) + odd)
        handle, even, even_osap = reader.u32(), reader.take(20), reader.take(20)
        return handle, even, mac(secret, even_osap, odd)

    def authorized(self, name, ordinal, body, session, key):
        """Runs it in the session, which ends with it; the response's authorization is checked. Reader of the rest."""
        handle, even = session[:2]
        odd = os.urandom(20)
        digest = sha1(struct.pack(">I", ordinal), body)
        trailer = struct.pack(">I", handle) + odd + b"\0" + mac(key, digest, even, odd, b"\0")
        response = self.run(name, ordinal, body + trailer, AUTH1_COMMAND).data
        rest, even, more, said = response[:-41], response[-41:-21], response[-21:-20], response[-20:]
        digest = sha1(struct.pack(">II", 0, ordinal), rest)
        if said != mac(key, digest, even, odd, more):
            raise ValueError(f"{name}: the response's authorization is wrong")
        return Reader(rest)

    # --- an owner, and what needs one ---

    def create_endorsement_key(self):
        """TPM_CreateEndorsementKeyPair: the public key."""
        reader = self.run("TPM_CreateEndorsementKeyPair", 0x78, bytes(20) + RSA_2048)
        reader.take(12 + 12)
        return rsa.RSAPublicNumbers(65537, int.from_bytes(reader.take(reader.u32()), "big")).public_key()

    def take_ownership(self, endorsement_key, owner, srk):
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
        key = bytes([1, 1, 0, 0]) + struct.pack(">HIB", 0x11, 0, 1) + RSA_2048 + bytes(12)  # TPM_KEY, storage
        body = struct.pack(">H", 5)
        for secret in (owner, srk):
            sealed = endorsement_key.encrypt(secret, oaep)
            body += struct.pack(">I", len(sealed)) + sealed
        self.authorized("TPM_TakeOwnership", 0x0D, body + key, self.oiap(), owner)

    def create_counter(self, owner, secret):
        """TPM_CreateCounter: (id, value)"""
        handle, even, shared = self.osap(2, OWNER, owner)
        hidden = bytes(a ^ b for a, b in zip(secret, sha1(shared, even)))
        reader = self.authorized("TPM_CreateCounter", 0xDC, hidden + b"test", (handle, even), shared)
        identity = reader.u32()
        reader.take(2 + 4)
        return identity, reader.u32()

    def increment_counter(self, identity, secret):
        reader = self.authorized("TPM_IncrementCounter", 0xDD, struct.pack(">I", identity), self.oiap(), secret)
        reader.take(2 + 4)
        return reader.u32()

    def read_counter(self, identity):
        reader = self.run("TPM_ReadCounter", 0xDE, struct.pack(">I", identity))
        reader.take(2 + 4)
        return reader.u32()
