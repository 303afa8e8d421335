"""What somebody can do who has files and knows every format: derive the key of a sealed state from a device secret.

Written from abi/blob.h, from the encoding that untrusted/cpu/keys.c draws and from the image's header, without any code
of the product. AES-256-GCM comes from libcrypto.
"""

import ctypes
import ctypes.util
import hmac
import struct

BLOB_HEADER_SIZE, BLOB_TAG_SIZE = 640, 16
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


def open_state(blob, device_secret, identity):
    """The TPM's state in the clear, or None if this is not the secret."""
    header, body = blob[:BLOB_HEADER_SIZE], blob[BLOB_HEADER_SIZE:]
    root = sealing_key(device_secret, identity, header[128:640], header[48:80])
    key = hkdf_sha256(root, header[96:128], b"vtpm blob" + header[8:12], 44)
    return aes_256_gcm_open(key[:32], key[32:], header, body[:-BLOB_TAG_SIZE], body[-BLOB_TAG_SIZE:])
