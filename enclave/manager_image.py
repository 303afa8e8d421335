#!/usr/bin/python3
"""Write what is measured into a manager image besides its code (trusted/manager/image.h) as a C file.

usage: manager_image.py --sign VTPM_SIGN --svn N --out FILE INSTANCE.sgx [PUBKEY.pem]

The instance image's MRENCLAVE comes from vtpm-sign, which measures its pages. The release key is an Ed25519 public key;
without one its hash is zeros, and the image hands over to no other.
"""

import argparse
import base64
import hashlib
import json
import subprocess
import sys

# SubjectPublicKeyInfo of an Ed25519 key, up to the key (RFC 8410, 4).
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


def release_key_hash(path):
    with open(path, encoding="ascii") as file:
        text = file.read()
    body = text.split("-----BEGIN PUBLIC KEY-----")[1].split("-----END PUBLIC KEY-----")[0]
    key = base64.b64decode("".join(body.split()), validate=True)
    if len(key) != len(ED25519_PREFIX) + 32 or not key.startswith(ED25519_PREFIX):
        raise ValueError("not an Ed25519 public key")
    return hashlib.sha256(key[len(ED25519_PREFIX):]).digest()


def initialiser(data):
    return ", ".join(f"0x{byte:02x}" for byte in data)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sign", required=True)
    parser.add_argument("--svn", required=True, type=int)
    parser.add_argument("--out", required=True)
    parser.add_argument("instance")
    parser.add_argument("release_key", nargs="?")
    args = parser.parse_args()
    shown = json.loads(subprocess.run([args.sign, "show", args.instance, "--json"], check=True, capture_output=True,
                                      text=True).stdout)
    instance = bytes.fromhex(shown["mrenclave"])
    release_key = bytes(32)
    if args.release_key:
        try:
            release_key = release_key_hash(args.release_key)
        except (IndexError, ValueError) as error:
            sys.exit(f"manager_image.py: {args.release_key}: not an Ed25519 public key in PEM ({error})")
    with open(args.out, "w", encoding="ascii") as file:
        file.write('#include "trusted/manager/image.h"\n\n'
                   "const struct manager_image *manager_image(void)\n{\n"
                   "    static const struct manager_image image = {\n"
                   f"        .instance = {{{initialiser(instance)}}},\n"
                   f"        .release_key = {{{initialiser(release_key)}}},\n"
                   f"        .security_version = {args.svn},\n"
                   "    };\n    return &image;\n}\n")


if __name__ == "__main__":
    main()
