"""A small TPM 2.0 client: builds the bytes of a command itself and speaks them over any stream.

It is a client for tests: passwords only, SHA-256 names, one command in flight. Clause numbers are those of the TPM 2.0
Library, Part 3.
"""

import hashlib
import struct

NO_SESSIONS, SESSIONS = 0x8001, 0x8002
RH_OWNER, RH_NULL, RS_PW = 0x40000001, 0x40000007, 0x40000009
RH_LOCKOUT, RH_ENDORSEMENT = 0x4000000A, 0x4000000B
RC_RETRY, RC_INITIALIZE, RC_FAILURE = 0x922, 0x100, 0x101
RC_AUTH_FAIL_SESSION_1, RC_LOCKOUT = 0x98E, 0x921
ALG_RSA, ALG_HMAC, ALG_AES, ALG_KEYEDHASH, ALG_SHA256, ALG_NULL = 0x0001, 0x0005, 0x0006, 0x0008, 0x000B, 0x0010
ALG_RSASSA, ALG_ECDSA, ALG_ECC, ALG_CFB = 0x0014, 0x0018, 0x0023, 0x0043
# TPMA_OBJECT
FIXED_TPM, FIXED_PARENT, SENSITIVE_ORIGIN, USER_AUTH, NO_DA = 0x2, 0x10, 0x20, 0x40, 0x400
RESTRICTED, DECRYPT, SIGN = 0x10000, 0x20000, 0x40000
# TPMA_NV: owner write and read, auth write and read, no dictionary attack protection
NV_ATTRIBUTES = 0x2 | 0x4 | 0x20000 | 0x40000 | 0x2000000
NV_COUNTER, NV_NO_DA = 0x10, 0x2000000
TPM_CAP_TPM_PROPERTIES, TPM_PT_LOCKOUT_COUNTER = 6, 0x20E


class TpmError(Exception):
    def __init__(self, code, name):
        super().__init__(f"{name} answered 0x{code:03x}")
        self.code = code


def sized(data):
    return struct.pack(">H", len(data)) + data


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, size):
        if len(self.data) < size:
            raise ValueError("the response ends early")
        head, self.data = self.data[:size], self.data[size:]
        return head

    def u16(self):
        return struct.unpack(">H", self.take(2))[0]

    def u32(self):
        return struct.unpack(">I", self.take(4))[0]

    def sized(self):
        return self.take(self.u16())


def receive_exactly(stream, size):
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise ConnectionError("the TPM closed the connection")
        data += part
    return data


class Tpm:
    """One connection that carries raw commands and responses."""

    def __init__(self, stream):
        self.stream = stream

    def close(self):
        self.stream.close()

    def exchange(self, command):
        self.stream.sendall(command)
        head = receive_exactly(self.stream, 10)
        return head + receive_exactly(self.stream, struct.unpack(">I", head[2:6])[0] - 10)

    def call(self, name, code, handles=(), parameters=b"", auths=None, handle_out=False):
        """Sends one command, resends it on TPM_RC_RETRY, and returns (handle, Reader of the parameters)."""
        body = b"".join(struct.pack(">I", handle) for handle in handles)
        tag = NO_SESSIONS
        if auths is not None:
            tag = SESSIONS
            area = b"".join(struct.pack(">IHBH", RS_PW, 0, 0, len(auth)) + auth for auth in auths)
            body += struct.pack(">I", len(area)) + area
        body += parameters
        command = struct.pack(">HII", tag, 10 + len(body), code) + body
        response = self.exchange(command)
        while struct.unpack(">I", response[6:10])[0] == RC_RETRY:
            response = self.exchange(command)
        status = struct.unpack(">I", response[6:10])[0]
        if status:
            raise TpmError(status, name)
        reader = Reader(response[10:])
        handle = reader.u32() if handle_out else None
        if auths is not None:
            reader = Reader(reader.take(reader.u32()))
        return handle, reader

    def startup(self, state=False):
        """9.3; a TPM that is started already stays as it is."""
        try:
            self.call("TPM2_Startup", 0x144, parameters=struct.pack(">H", 1 if state else 0))
        except TpmError as error:
            if error.code != RC_INITIALIZE:
                raise

    def shutdown(self, state=False):
        self.call("TPM2_Shutdown", 0x145, parameters=struct.pack(">H", 1 if state else 0))

    def start_encrypting_session(self):
        """11.1: an HMAC session without key or binding whose parameter encryption is AES-128-CFB."""
        data = sized(bytes(16)) + sized(b"") + struct.pack(">BHHH", 0, ALG_AES, 128, ALG_CFB) + struct.pack(">H", ALG_SHA256)
        handles = [RH_NULL, RH_NULL]
        return self.call("TPM2_StartAuthSession", 0x176, handles, data, handle_out=True)[0]

    def get_random(self, size=32):
        return self.call("TPM2_GetRandom", 0x17B, parameters=struct.pack(">H", size))[1].sized()

    def create_primary(self, public, sensitive=b"", auth=b"", hierarchy=RH_OWNER):
        data = sized(sized(auth) + sized(sensitive)) + sized(public) + sized(b"") + struct.pack(">I", 0)
        return self.call("TPM2_CreatePrimary", 0x131, [hierarchy], data, [b""], handle_out=True)

    def create(self, parent, public, sensitive=b"", auth=b""):
        """12.1; returns (private, public) as they are loaded again."""
        data = sized(sized(auth) + sized(sensitive)) + sized(public) + sized(b"") + struct.pack(">I", 0)
        _, reader = self.call("TPM2_Create", 0x153, [parent], data, [b""])
        return reader.sized(), reader.sized()

    def load(self, parent, private, public):
        return self.call("TPM2_Load", 0x157, [parent], sized(private) + sized(public), [b""], handle_out=True)[0]

    def load_external(self, sensitive, public):
        data = sized(sensitive) + sized(public) + struct.pack(">I", RH_NULL)
        return self.call("TPM2_LoadExternal", 0x167, parameters=data, handle_out=True)[0]

    def context_save(self, handle):
        return self.call("TPM2_ContextSave", 0x162, [handle])[1].data

    def context_load(self, context):
        return self.call("TPM2_ContextLoad", 0x161, parameters=context, handle_out=True)[0]

    def read_public(self, handle):
        return self.call("TPM2_ReadPublic", 0x173, [handle])[1].sized()

    def flush(self, handle):
        self.call("TPM2_FlushContext", 0x165, parameters=struct.pack(">I", handle))

    def unseal(self, handle, auth=b""):
        return self.call("TPM2_Unseal", 0x15E, [handle], auths=[auth])[1].sized()

    def hmac(self, handle, data, auth=b""):
        return self.call("TPM2_HMAC", 0x155, [handle], sized(data) + struct.pack(">H", ALG_NULL), [auth])[1].sized()

    def sign(self, handle, digest, scheme=ALG_RSASSA, auth=b""):
        """20.2; returns the TPMT_SIGNATURE."""
        ticket = struct.pack(">HIH", 0x8024, RH_NULL, 0)
        data = sized(digest) + struct.pack(">HH", scheme, ALG_SHA256) + ticket
        return self.call("TPM2_Sign", 0x15D, [handle], data, [auth])[1].data

    def evict(self, handle, persistent):
        self.call("TPM2_EvictControl", 0x120, [RH_OWNER, handle], struct.pack(">I", persistent), [b""])

    def pcr_extend(self, index, digest):
        data = struct.pack(">IH", 1, ALG_SHA256) + digest
        self.call("TPM2_PCR_Extend", 0x182, [index], data, [b""])

    def pcr_read(self, index):
        selection = bytearray(3)
        selection[index // 8] = 1 << index % 8
        data = struct.pack(">IHB", 1, ALG_SHA256, 3) + bytes(selection)
        return self.call("TPM2_PCR_Read", 0x17E, parameters=data)[1].data[-32:]

    def reset_count(self):
        """29.1: TPMS_TIME_INFO is time, clock, resetCount."""
        return struct.unpack(">I", self.call("TPM2_ReadClock", 0x181)[1].take(20)[16:])[0]

    def clock(self):
        """29.1: ms that the TPM has been powered on, over all its starts."""
        return struct.unpack(">Q", self.call("TPM2_ReadClock", 0x181)[1].take(16)[8:])[0]

    def lockout_counter(self):
        """30.2; TPMI_YES_NO, TPM_CAP, count and one property come before the value."""
        data = struct.pack(">III", TPM_CAP_TPM_PROPERTIES, TPM_PT_LOCKOUT_COUNTER, 1)
        return struct.unpack(">I", self.call("TPM2_GetCapability", 0x17A, parameters=data)[1].take(17)[13:])[0]

    def dictionary_attack_parameters(self, tries, recovery, lockout_recovery):
        """25.3; in seconds."""
        data = struct.pack(">III", tries, recovery, lockout_recovery)
        self.call("TPM2_DictionaryAttackParameters", 0x13A, [RH_LOCKOUT], data, [b""])

    def nv_undefine(self, index):
        self.call("TPM2_NV_UndefineSpace", 0x122, [RH_OWNER, index], auths=[b""])

    def nv_define(self, index, size, auth=b"", attributes=NV_ATTRIBUTES):
        public = struct.pack(">IHIHH", index, ALG_SHA256, attributes, 0, size)
        self.call("TPM2_NV_DefineSpace", 0x12A, [RH_OWNER], sized(auth) + sized(public), [b""])

    def nv_define_counter(self, index):
        """31.3, with TPM_NT_COUNTER: eight bytes that only rise."""
        self.nv_define(index, 8, attributes=NV_ATTRIBUTES | NV_COUNTER)

    def nv_increment(self, index):
        self.call("TPM2_NV_Increment", 0x134, [index, index], auths=[b""])

    def nv_write(self, index, data, auth=b""):
        self.call("TPM2_NV_Write", 0x137, [index, index], sized(data) + struct.pack(">H", 0), [auth])

    def nv_read(self, index, size, auth=b""):
        data = struct.pack(">HH", size, 0)
        return self.call("TPM2_NV_Read", 0x14E, [index, index], data, [auth])[1].sized()


def storage_key():
    """The public area of a restricted decryption key P-256 (the usual storage root key)."""
    attributes = FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | USER_AUTH | NO_DA | RESTRICTED | DECRYPT
    parameters = struct.pack(">HHHHHH", ALG_AES, 128, ALG_CFB, ALG_NULL, 0x0003, ALG_NULL)
    return struct.pack(">HHI", ALG_ECC, ALG_SHA256, attributes) + sized(b"") + parameters + sized(b"") + sized(b"")


def signing_key_ecc(unique=b""):
    attributes = FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | USER_AUTH | NO_DA | SIGN
    parameters = struct.pack(">HHHHH", ALG_NULL, ALG_ECDSA, ALG_SHA256, 0x0003, ALG_NULL)
    return struct.pack(">HHI", ALG_ECC, ALG_SHA256, attributes) + sized(b"") + parameters + sized(unique) + sized(b"")


def sealed_object():
    attributes = FIXED_TPM | FIXED_PARENT | USER_AUTH | NO_DA
    return struct.pack(">HHI", ALG_KEYEDHASH, ALG_SHA256, attributes) + sized(b"") + struct.pack(
        ">H", ALG_NULL) + sized(b"")


def hmac_key():
    attributes = FIXED_TPM | FIXED_PARENT | USER_AUTH | NO_DA | SIGN
    return struct.pack(">HHI", ALG_KEYEDHASH, ALG_SHA256, attributes) + sized(b"") + struct.pack(
        ">HH", ALG_HMAC, ALG_SHA256) + sized(b"")


def external_rsa_public(modulus):
    parameters = struct.pack(">HHHHI", ALG_NULL, ALG_RSASSA, ALG_SHA256, len(modulus) * 8, 0)
    return struct.pack(">HHI", ALG_RSA, ALG_SHA256, USER_AUTH | NO_DA | SIGN) + sized(b"") + parameters + sized(modulus)


def external_rsa_sensitive(prime):
    return struct.pack(">H", ALG_RSA) + sized(b"") + sized(b"") + sized(prime)


def digest(data):
    return hashlib.sha256(data).digest()
