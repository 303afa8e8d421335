"""What somebody can do who has files and knows every format: derive, from a device secret, the key of the master secret,
from it the key of a ledger's row, from it the instance's root key, and from that the key of its sealed state.

Written from abi/blob.h, from the encoding that untrusted/cpu/keys.c draws and from the image's header, without any code
of the product. What lies where in the plaintext of MASTER and of a row is not asked: every 32 bytes in it are tried.
AES-256-GCM comes from libcrypto.
"""

import ctypes
import ctypes.util
import hmac
import struct

HEADER_SIZE, KEYREQUEST_SIZE, TAG_SIZE, SECRET_SIZE = 128, 512, 16, 32
STATE, LEDGER_ROW, LEDGER_HEAD, MASTER = 1, 2, 3, 4
GCM_SET_TAG = 0x11

_crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
_crypto.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
_crypto.EVP_aes_256_gcm.restype = ctypes.c_void_p


def aes_256_gcm_open(key, iv, associated, ciphertext, tag):
    """The plaintext, or None if it does not authenticate."""
    context = ctypes.c_void_p(_crypto.EVP_CIPHER_CTX_new())
    size = ctypes.c_int()
    plaintext = ctypes.create_string_buffer(len(ciphertext) + 16)
    _crypto.EVP_DecryptInit_ex(context, ctypes.c_void_p(_crypto.EVP_aes_256_gcm()), None, key, iv)
    _crypto.EVP_DecryptUpdate(context, None, ctypes.byref(size), associated, len(associated))
    _crypto.EVP_DecryptUpdate(context, plaintext, ctypes.byref(size), ciphertext, len(ciphertext))
    _crypto.EVP_CIPHER_CTX_ctrl(context, GCM_SET_TAG, len(tag), ctypes.c_char_p(tag))
    authentic = _crypto.EVP_DecryptFinal_ex(context, None, ctypes.byref(size)) == 1
    _crypto.EVP_CIPHER_CTX_free(context)
    return plaintext.raw[:len(ciphertext)] if authentic else None


def hkdf_sha256(secret, salt, info, size):
    pseudorandom = hmac.digest(salt, secret, "sha256")
    output, block = b"", b""
    while len(output) < size:
        block = hmac.digest(pseudorandom, block + info + bytes([len(output) // 32 + 1]), "sha256")
        output += block
    return output[:size]


class Identity:
    """What EGETKEY takes from the enclave: from the image file's header and its first SIGSTRUCT."""

    def __init__(self, image_path):
        with open(image_path, "rb") as file:
            image = file.read(0x2000)
        self.miscselect, flags = struct.unpack_from("<IQ", image, 36)
        self.flags = flags | 1  # INIT
        self.product = struct.unpack_from("<H", image, 0x1000 + 1024)[0]


def sealing_key(device_secret, identity, request, mrenclave):
    """EGETKEY of the software device for a sealing key bound to MRENCLAVE."""
    policy, version = struct.unpack_from("<HH", request, 2)
    processor_version, keyid = request[8:24], request[40:72]
    mask_flags, mask_features = struct.unpack_from("<QQ", request, 24)
    mask_misc = struct.unpack_from("<I", request, 72)[0]
    fuses = hmac.digest(device_secret, b"vtpm-cpu seal fuses 1\0", "sha256")
    encoding = b"vtpm-cpu key 1".ljust(16, b"\0") + struct.pack("<HHHH", 4, identity.product, version, policy)
    encoding += processor_version + struct.pack("<QQ", identity.flags & (mask_flags | 3), 0)
    encoding += struct.pack("<QQII", mask_flags, mask_features, identity.miscselect & mask_misc, mask_misc ^ 0xFFFFFFFF)
    encoding += mrenclave + bytes(32) + keyid
    padding = bytes([0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
                     0x00, 0x04, 0x20])
    encoding += b"\x00\x01" + b"\xff" * (352 - 2 - 1 - len(padding)) + b"\x00" + padding
    return hmac.digest(fuses, encoding, "sha256")[:16]


def kind_of(blob):
    return struct.unpack_from("<H", blob, 10)[0]


def open_blob(blob, root):
    """The plaintext, or None if this is not its root."""
    size = HEADER_SIZE + (KEYREQUEST_SIZE if kind_of(blob) == MASTER else 0)
    header, body = blob[:size], blob[size:]
    key = hkdf_sha256(root, header[96:128], b"vtpm blob" + header[8:12], 44)
    return aes_256_gcm_open(key[:32], key[32:], header, body[:-TAG_SIZE], body[-TAG_SIZE:])


def open_master(blob, device_secret, identity):
    """What the blob of kind MASTER holds, or None if this is not the secret of the processor that sealed it."""
    request = blob[HEADER_SIZE:HEADER_SIZE + KEYREQUEST_SIZE]
    return open_blob(blob, sealing_key(device_secret, identity, request, blob[64:96]))


def open_with_secret_in(plaintext, blob, label):
    """Opens a blob with each secret that the plaintext may hold; label says what the secret is for."""
    for offset in range(len(plaintext) - SECRET_SIZE + 1):
        root = hkdf_sha256(plaintext[offset:offset + SECRET_SIZE], blob[64:96], label, 32)
        opened = open_blob(blob, root)
        if opened is not None:
            return opened
    return None


def open_state(files, device_secret, identity):
    """The TPM's state in the clear, from the blobs of a database, or None if the secret is not the one."""
    master = open_master(files.master, device_secret, identity)
    row = master and open_with_secret_in(master, files.row, b"vtpm ledger")
    return row and open_with_secret_in(row, files.state, b"vtpm state")


class Blobs:
    """The sealed blobs of one instance in vtpmd's database (untrusted/store/store.h)."""

    def __init__(self, tables, identity):
        key = bytes.fromhex(identity.replace("-", ""))
        self.master = tables.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()[0]
        self.row = tables.execute("SELECT blob FROM rows WHERE id = ?", [key]).fetchone()[0]
        self.state = tables.execute("SELECT blob FROM states WHERE id = ?", [key]).fetchone()[0]
