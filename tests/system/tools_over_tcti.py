#!/usr/bin/python3
"""The programs that people use: tpm2-tools over each transport that they have for a simulator, at one instance."""

import os
import subprocess

from harness import Daemon, free_port, new_directory
from tap import require, run, test

NV_INDEX = "0x1500020"


class Scene:
    def __init__(self):
        self.directory = new_directory()  # of the tools' own files
        self.port, self.mssim_port = free_port(), free_port()
        self.path = os.path.join(self.directory, "chosen.sock")
        self.daemon = Daemon()
        self.instance = self.daemon.create("tools", listen=[
            f"swtpm:unix:{self.path}", f"swtpm:tcp:127.0.0.1:{self.port}", f"mssim:tcp:{self.mssim_port}"])
        self.instance.wait_serving()
        self.tctis = {
            "unix": f"swtpm:path={self.path}",
            "tcp": f"swtpm:host=127.0.0.1,port={self.port}",
            "mssim": f"mssim:host=127.0.0.1,port={self.mssim_port}",
        }

    def tool(self, tcti, name, *arguments, stdin=None, fails=False):
        """Runs a tool in the directory and returns its output; then flushes what it left in the TPM."""
        environment = dict(os.environ, TPM2TOOLS_TCTI=self.tctis[tcti])
        result = subprocess.run([name, *arguments], cwd=self.directory, env=environment, input=stdin,
                                capture_output=True, timeout=60)
        if not fails:
            require(result.returncode == 0, f"{name} over {tcti}: {result.stderr.decode(errors='replace')}")
            subprocess.run(["tpm2_flushcontext", "-t"], cwd=self.directory, env=environment, check=True,
                           capture_output=True, timeout=60)
        else:
            require(result.returncode != 0, f"{name} over {tcti} succeeded")
        return result.stdout


_scene = []


def scene():
    if not _scene:
        _scene.append(Scene())
        _scene[0].tool("unix", "tpm2_startup", "-c")
    return _scene[0]


def keys_and_signature(tcti):
    tool = scene().tool
    with open(os.path.join(scene().directory, "message"), "wb") as file:
        file.write(b"what is signed")
    tool(tcti, "tpm2_createprimary", "-C", "o", "-G", "ecc256", "-c", "primary.ctx")
    tool(tcti, "tpm2_create", "-C", "primary.ctx", "-G", "rsa2048:rsassa-sha256:null", "-u", "key.pub", "-r", "key.priv")
    tool(tcti, "tpm2_load", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
    tool(tcti, "tpm2_sign", "-c", "key.ctx", "-g", "sha256", "-o", "signature", "message")
    tool(tcti, "tpm2_verifysignature", "-c", "key.ctx", "-g", "sha256", "-m", "message", "-s", "signature")
    with open(os.path.join(scene().directory, "message"), "wb") as file:
        file.write(b"what is not signed")
    tool(tcti, "tpm2_verifysignature", "-c", "key.ctx", "-g", "sha256", "-m", "message", "-s", "signature", fails=True)


@test
def swtpm_tcti_over_a_unix_socket_creates_signs_and_verifies():
    keys_and_signature("unix")


@test
def swtpm_tcti_over_tcp_creates_signs_and_verifies():
    keys_and_signature("tcp")


@test
def mssim_tcti_creates_signs_and_verifies():
    keys_and_signature("mssim")


@test
def what_one_transport_writes_the_others_read():
    tool = scene().tool
    tool("unix", "tpm2_nvdefine", NV_INDEX, "-C", "o", "-s", "8", "-a", "ownerread|ownerwrite|no_da")
    tool("tcp", "tpm2_nvwrite", NV_INDEX, "-C", "o", "-i-", stdin=b"eight by")
    for tcti in scene().tctis:
        require(tool(tcti, "tpm2_nvread", NV_INDEX, "-C", "o", "-s", "8") == b"eight by", f"{tcti} reads something else")


@test
def a_salted_session_encrypts_parameters():
    tool = scene().tool
    tool("unix", "tpm2_createprimary", "-C", "o", "-G", "ecc256", "-c", "primary.ctx")
    tool("unix", "tpm2_startauthsession", "-S", "session.ctx", "--hmac-session", "-c", "primary.ctx")
    tool("unix", "tpm2_sessionconfig", "--enable-encrypt", "--enable-decrypt", "session.ctx")
    require(len(tool("unix", "tpm2_getrandom", "-S", "session.ctx", "16")) == 16, "no random bytes")
    tool("unix", "tpm2_flushcontext", "session.ctx")


@test
def a_quote_is_checked():
    tool = scene().tool
    tool("tcp", "tpm2_createprimary", "-C", "o", "-G", "ecc256", "-c", "primary.ctx")
    tool("tcp", "tpm2_create", "-C", "primary.ctx", "-G", "ecc256:ecdsa-sha256:null", "-u", "ak.pub", "-r", "ak.priv",
         "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign")
    tool("tcp", "tpm2_load", "-C", "primary.ctx", "-u", "ak.pub", "-r", "ak.priv", "-c", "ak.ctx")
    tool("tcp", "tpm2_readpublic", "-c", "ak.ctx", "-f", "pem", "-o", "ak.pem")
    tool("tcp", "tpm2_quote", "-c", "ak.ctx", "-l", "sha256:0,1,2", "-q", "0123456789abcdef", "-g", "sha256",
         "-m", "quote.msg", "-s", "quote.sig", "-o", "quote.pcrs")
    check = ["tpm2_checkquote", "-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-f", "quote.pcrs", "-g", "sha256"]
    tool("tcp", *check, "-q", "0123456789abcdef")
    tool("tcp", *check, "-q", "fedcba9876543210", fails=True)


if __name__ == "__main__":
    run()
