#!/usr/bin/python3
"""vtpmctl import: TPMs that Debian's swtpm and tpm2-tools made go on here with everything that was in them."""

import hashlib
import json
import os
import secrets
import shutil
import subprocess

from harness import Daemon, Process, new_directory, program, wait_for
from tap import LONG, randomness, require, run, test

PARENT, SEALED, SIGNER, NV_INDEX = "0x81000001", "0x81000002", "0x81000003", "0x1500020"
SECRET, NV_DATA = b"what unlocks a disk", b"sixteen bytes...."[:16]
PERMANENT, VOLATILE = "tpm2-00.permall", "tpm2-00.volatilestate"


def tool(path, name, *arguments, directory, stdin=None, fails=False):
    """Runs a tool of tpm2-tools at a socket; then flushes what it left in the TPM."""
    environment = dict(os.environ, TPM2TOOLS_TCTI=f"swtpm:path={path}")
    result = subprocess.run([name, *arguments], cwd=directory, env=environment, input=stdin, capture_output=True,
                            timeout=60, check=False)
    require((result.returncode != 0) == fails, f"{name}: {result.returncode}, {result.stderr.decode(errors='replace')}")
    for kind in ("-t", "-l"):  # transient objects, loaded sessions
        subprocess.run(["tpm2_flushcontext", kind], cwd=directory, env=environment, capture_output=True, timeout=60,
                       check=False)
    return result.stdout


class Swtpm(Process):
    """A swtpm that keeps its state in source.state."""

    def __init__(self, source, *options, tpm2=True):
        self.path = os.path.join(source.directory, "swtpm.sock")
        self.control = self.path + ".ctrl"
        super().__init__("swtpm", [
            "swtpm", "socket", *(["--tpm2"] if tpm2 else []), "--tpmstate", f"dir={source.state}",
            "--server", f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,path={self.control}",
            "--flags", "not-need-init,startup-clear", "--seccomp", "action=none", *options], source.directory)
        self.wait_until(lambda: os.path.exists(self.path) and os.path.exists(self.control), "its sockets exist")

    def ioctl(self, *arguments):
        subprocess.run(["swtpm_ioctl", "--unix", self.control, *arguments], check=True, capture_output=True, timeout=30)

    def end(self):
        self.ioctl("-s")
        self.popen.wait(timeout=30)


class Source:
    """A state directory of swtpm's with keys in it, and what is known of them."""

    def __init__(self, *options):
        self.directory = new_directory()
        self.state = os.path.join(self.directory, "state")
        os.mkdir(self.state)
        self.options = options
        swtpm = Swtpm(self, *options)
        self.fill(swtpm.path)
        swtpm.end()

    def tool(self, path, *arguments, **more):
        return tool(path, *arguments, directory=self.directory, **more)

    def fill(self, path):
        call = lambda *arguments, **more: self.tool(path, *arguments, **more)
        call("tpm2_createprimary", "-C", "o", "-G", "ecc256", "-c", "parent.ctx")
        call("tpm2_evictcontrol", "-C", "o", "-c", "parent.ctx", PARENT)
        call("tpm2_createpolicy", "--policy-pcr", "-l", "sha256:7", "-L", "policy")
        call("tpm2_create", "-C", PARENT, "-i-", "-L", "policy", "-u", "seal.pub", "-r", "seal.priv", stdin=SECRET)
        call("tpm2_load", "-C", PARENT, "-u", "seal.pub", "-r", "seal.priv", "-c", "seal.ctx")
        call("tpm2_evictcontrol", "-C", "o", "-c", "seal.ctx", SEALED)
        call("tpm2_create", "-C", PARENT, "-G", "ecc256:ecdsa-sha256:null", "-u", "sign.pub", "-r", "sign.priv")
        call("tpm2_load", "-C", PARENT, "-u", "sign.pub", "-r", "sign.priv", "-c", "sign.ctx")
        call("tpm2_evictcontrol", "-C", "o", "-c", "sign.ctx", SIGNER)
        call("tpm2_readpublic", "-c", SIGNER, "-f", "pem", "-o", "sign.pem")
        call("tpm2_nvdefine", NV_INDEX, "-C", "o", "-s", "16", "-a", "ownerread|ownerwrite|no_da")
        call("tpm2_nvwrite", NV_INDEX, "-C", "o", "-i-", stdin=NV_DATA)
        self.endorsement = self.endorsement_key(path)

    def endorsement_key(self, path):
        self.tool(path, "tpm2_createek", "-c", "ek.ctx", "-G", "ecc", "-u", "ek.pub")
        return self.read("ek.pub")

    def read(self, name):
        with open(os.path.join(self.directory, name), "rb") as file:
            return file.read()

    def write(self, name, content):
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def permanent(self):
        return self.read(os.path.join("state", PERMANENT))

    def copy(self, content=None):
        """Another state directory with the same state, or with this one."""
        directory = os.path.join(self.directory, f"copy-{secrets.token_hex(4)}")
        shutil.copytree(self.state, directory)
        if content is not None:
            with open(os.path.join(directory, PERMANENT), "wb") as file:
                file.write(content)
        return directory

    def check(self, path):
        """Everything that was in it is behind this socket. The TPM was not started yet."""
        call = lambda *arguments, **more: self.tool(path, *arguments, **more)
        call("tpm2_startup", "-c")
        require(self.endorsement_key(path) == self.endorsement, "the endorsement key is another one")
        require(call("tpm2_unseal", "-c", SEALED, "-p", "pcr:sha256:7") == SECRET, "another secret is unsealed")
        self.write("message", secrets.token_bytes(64))
        call("tpm2_sign", "-c", SIGNER, "-g", "sha256", "-f", "plain", "-o", "signature", "message")
        subprocess.run(["openssl", "dgst", "-sha256", "-verify", "sign.pem", "-signature", "signature", "message"],
                       cwd=self.directory, check=True, capture_output=True)
        require(call("tpm2_nvread", NV_INDEX, "-C", "o", "-s", "16") == NV_DATA, "NV has something else")
        call("tpm2_pcrextend", "7:sha256=" + "5a" * 32)
        call("tpm2_unseal", "-c", SEALED, "-p", "pcr:sha256:7", fails=True)


_shared = {}


def shared(name, make):
    if name not in _shared:
        _shared[name] = make()
    return _shared[name]


def the_daemon():
    return shared("daemon", Daemon)


def plain():
    return shared("plain", Source)


def encrypted():
    """With its key's file."""
    def make():
        key = os.path.join(new_directory(), "key")
        with open(key, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(16) + "\n")
        return Source("--key", f"file={key}"), key
    return shared("encrypted", make)


def vtpmctl(*arguments):
    return subprocess.run([program("vtpmctl"), "--socket", the_daemon().socket, *arguments], capture_output=True,
                          text=True, timeout=180, check=False)


def imports(label, directory, *options):
    result = vtpmctl("--json", "import", label, "--from", directory, *options)
    require(result.returncode == 0, f"import: {result.returncode}, {result.stderr}")
    return json.loads(result.stdout)


def refuses(sentence, directory, *options, label=None, status=1):
    """Refused with this sentence; and nothing was made, if no label was given."""
    name = label or f"not-{secrets.token_hex(4)}"
    result = vtpmctl("import", name, "--from", directory, *options)
    require(result.returncode == status and sentence in result.stderr, f"{result.returncode}, {result.stderr}")
    if not label:
        labels = [instance["label"] for instance in the_daemon().call("list", deleted=True)["instances"]]
        require(name not in labels, f"{name} was made")


def socket_of(instance):
    return instance["listen"][0].removeprefix("swtpm:unix:")


@test
def a_plain_state_goes_on_with_all_that_was_in_it():
    source, label = plain(), "plain"
    before = hashlib.sha256(source.permanent()).digest()
    instance = imports(label, source.state)
    require(instance["origin"] == "imported" and instance["state"] == "running", f"{instance}")
    require(instance["shred"] == [os.path.join(source.state, PERMANENT)], f"{instance['shred']}")
    require(hashlib.sha256(source.permanent()).digest() == before, "the source was changed")
    source.check(socket_of(instance))
    the_daemon().call("stop", instance=label)
    the_daemon().call("start", instance=label)
    source.tool(socket_of(instance), "tpm2_startup", "-c")
    require(source.endorsement_key(socket_of(instance)) == source.endorsement, "another TPM after a stop")
    shown = vtpmctl("show", label).stdout
    require("origin               imported\n" in shown, shown)


@test
def what_is_to_be_shredded_is_said_to_people_too():
    source = plain()
    result = vtpmctl("import", "people", "--from", source.state, "--no-start")
    require(result.returncode == 0 and f"shred -u -- '{source.state}/{PERMANENT}'\n" in result.stdout, result.stdout)
    require(the_daemon().call("show", instance="people")["state"] == "stopped", "it was started")


@test
def where_it_is_served_is_chosen_as_with_create():
    path = os.path.join(new_directory(), "tpm.sock")
    instance = imports("chosen", plain().state, "--listen", f"swtpm:unix:{path}")
    require(instance["listen"] == [f"swtpm:unix:{path}"], f"{instance}")
    plain().check(path)


def encrypted_with(label, content, swtpm_option, *options):
    directory = new_directory()
    path = os.path.join(directory, "secret")
    with open(path, "wb") as file:
        file.write(content)
    source = Source("--key", swtpm_option.format(path))
    instance = imports(label, source.state, options[0], path, *options[1:])
    source.check(socket_of(instance))


@test
def a_state_under_a_hexadecimal_key_of_128_bits():
    source, key = encrypted()
    source.check(socket_of(imports("hex-128", source.state, "--key", key)))


@test
def a_state_under_a_binary_key_of_256_bits():
    encrypted_with("binary-256", secrets.token_bytes(32), "file={},format=binary,mode=aes-256-cbc", "--key",
                   "--key-format", "binary")


@test
def a_state_under_a_hexadecimal_key_of_256_bits():
    encrypted_with("hex-256", b"0x" + secrets.token_hex(32).encode(), "file={},mode=aes-256-cbc", "--key")


@test
def a_state_under_a_password_by_pbkdf2():
    encrypted_with("pbkdf2", b"a password with its newline\n", "pwdfile={}", "--pwdfile")


@test
def a_state_under_a_password_by_sha512():
    encrypted_with("sha512", b"a password", "pwdfile={},kdf=sha512,mode=aes-256-cbc", "--pwdfile", "--kdf", "sha512")


@test
def another_key_or_none_is_refused():
    source, key = encrypted()
    other = source.write("other", secrets.token_hex(16).encode())
    long = source.write("long", secrets.token_hex(32).encode())
    password = source.write("password", b"x")
    refuses("does not open", source.state, "--key", other)
    refuses("32 hexadecimal digits", source.state, "--key", long)
    refuses("does not open", source.state, "--pwdfile", password)
    refuses("is encrypted", source.state, status=2)
    refuses("not encrypted", plain().state, "--key", key, status=2)


@test
def a_directory_that_swtpm_uses_is_refused():
    source = plain()
    swtpm = Swtpm(source)
    refuses(f"process {swtpm.pid})", source.state)
    swtpm.end()


@test
def a_suspended_machine_is_refused():
    source = Source()
    swtpm = Swtpm(source)
    swtpm.ioctl("-v")
    wait_for(lambda: os.path.exists(os.path.join(source.state, VOLATILE)), "no volatile state")
    swtpm.end()
    refuses("Resume it with swtpm", source.state)


@test
def a_tpm_1_2_and_no_state_are_refused():
    source = plain()
    old = Source.__new__(Source)
    old.directory = new_directory()
    old.state = os.path.join(old.directory, "state")
    os.mkdir(old.state)
    Swtpm(old, tpm2=False).end()
    refuses("TPM 1.2", old.state)
    refuses("there is no tpm2-00.permall", source.directory)
    refuses("not a directory", os.path.join(source.state, PERMANENT))
    refuses("No such file", os.path.join(source.directory, "nowhere"))


@test
def each_byte_of_an_encrypted_file_counts():
    source, key = encrypted()
    content = source.permanent()
    places = range(len(content)) if LONG else sorted(randomness.sample(range(len(content)), 40) + [0, 5, len(content) - 1])
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << randomness.randrange(8)
        result = vtpmctl("import", "damaged", "--from", source.copy(bytes(changed)), "--key", key)
        require(result.returncode in (1, 2), f"byte {place} is no matter: {result.stdout}")
    for size in (0, 9, 10, 40, len(content) // 2, len(content) - 1):
        result = vtpmctl("import", "damaged", "--from", source.copy(content[:size]), "--key", key)
        require(result.returncode == 1, f"{size} bytes will do: {result.stdout}")
    require("damaged" not in vtpmctl("list").stdout, "something was made of it")


@test
def a_state_that_libtpms_refuses_leaves_an_instance_that_waits():
    source, label = plain(), "waits"
    content = bytearray(source.permanent())
    content[16 + 11] ^= 0x40  # the state's second magic number, behind what vtpmctl looks at
    refuses("libtpms in the enclave does not take it", source.copy(bytes(content)), label=label)
    waiting = the_daemon().call("show", instance=label)
    require((waiting["state"], waiting["version"], waiting["origin"]) == ("stopped", 0, "imported"), f"{waiting}")
    instance = imports(label, source.state)
    source.check(socket_of(instance))


@test
def a_broken_off_import_never_makes_a_tpm_and_can_be_done_again():
    source, label = plain(), "broken-off"
    the_daemon().call("create", label=label, **{"import": True})
    waiting = the_daemon().call("show", instance=label)
    require((waiting["state"], waiting["health"]) == ("starting", "awaiting import"), f"{waiting}")
    require(waiting["version"] == 0 and not os.path.exists(socket_of(waiting)), "somebody can use it")
    the_daemon().call("stop", instance=label)
    the_daemon().call("start", instance=label)
    require(the_daemon().call("show", instance=label)["health"] == "awaiting import", "it did not wait")
    refuses("leave --owner and --listen out", source.state, "--listen", "front", label=label)
    instance = imports(label, source.state)
    source.check(socket_of(instance))


@test
def import_replaces_no_tpm():
    the_daemon().create("here")
    refuses("exists, and import replaces no TPM", plain().state, label="here")
    imports("twice", plain().state, "--no-start")
    refuses("exists, and import replaces no TPM", plain().state, label="twice")


if __name__ == "__main__":
    run()
