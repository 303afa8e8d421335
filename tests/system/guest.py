#!/usr/bin/python3
"""A Linux guest on one of our TPMs: Debian's kernel under OVMF. What the guest reads in its PCRs is what the firmware's log
says; what it seals to them comes out again after a reset, and after another start only if what was measured is the same.
"""

import functools
import hashlib
import json
import os
import re
import subprocess

import eventlog
from harness import new_directory
from machine import COMMAND_LINE, SECRET_MEMORY, Host, initramfs
from tap import require, run, test

KEY = "0x81000010"
OTHER_COMMAND_LINE = COMMAND_LINE.replace(SECRET_MEMORY, "") + " single"
POLICY_FAIL = "0x99d"
IMA_PCR = 10  # the kernel's own log has it, not the firmware's


class Boot:
    """What a guest shows of one boot."""

    def __init__(self, guest):
        self.events = eventlog.read(guest.get("/sys/kernel/security/tpm0/binary_bios_measurements"))
        self.banks = banks_of(guest)

    def pcrs_of(self, what, *words):
        """The PCRs that were extended with an event whose data has one of the words, in ASCII or in UTF-16."""
        found = {event.pcr for event in self.events for word in words
                 if word.encode() in event.data or word.encode("utf-16le") in event.data}
        require(found, f"the log shows no {what}: {self.events}")
        return found


def banks_of(guest):
    """{bank: {PCR: value}}, as tpm2_pcrread prints them."""
    banks = {}
    for line in guest.run("tpm2 pcrread").splitlines():
        bank, value = re.match(r"^ *(sha\d+):$", line), re.match(r"^ *(\d+) *: 0x([0-9A-F]+)$", line)
        if bank:
            values = banks.setdefault(bank[1], {})
        if value:
            values[int(value[1])] = bytes.fromhex(value[2])
    return banks


def doctors_checks(guest):
    """What vtpmctl doctor finds there. QEMU's processor of no name runs no enclave: a problem, and the status says so."""
    checks = {check["check"]: check for check in json.loads(guest.run("vtpmctl doctor --json 2>/dev/null", fails=True))["checks"]}
    require("no SGX" in checks["SGX"]["found"] and "QEMU" in checks["SGX"]["do"], f"the guest's doctor says {checks['SGX']}")
    require(checks["SGX"]["verdict"] == "note" and checks["kernel"]["verdict"] == "ok", f"the guest's doctor says {checks}")
    require("it lacks" in checks["processor"]["found"] and "AES-NI" in checks["processor"]["found"], f"{checks['processor']}")
    return checks


def agrees(boot):
    """Of each PCR of each bank: it is what the log says, or what it is at the start."""
    require(set(boot.banks) == set(eventlog.HASHES.values()), f"the TPM has the banks {list(boot.banks)}")
    for algorithm, bank in eventlog.HASHES.items():
        logged = eventlog.replay(boot.events, algorithm)
        require({0, 1, 2, 3, 4, 5, 6, 7} < set(logged), f"the log has the PCRs {list(logged)} only")
        for pcr, value in boot.banks[bank].items():
            if pcr != IMA_PCR:
                start = (b"\xff" if 17 <= pcr <= 22 else b"\0") * len(value)
                require(value == logged.get(pcr, start), f"{bank}: PCR {pcr} is {value.hex()}, and by the log "
                                                         f"{logged.get(pcr, start).hex()}")


class Sealed:
    """Secrets that the guest has sealed, and a key that it has made and kept in its TPM."""

    def __init__(self, guest, selections):
        self.blobs = {}
        guest.run("tpm2 createprimary -Q -G ecc -c parent")
        for name, pcrs in selections.items():
            selection = "sha256:" + ",".join(map(str, sorted(pcrs)))
            guest.run(f"""set -e
                echo -n 'what {name} guards' >secret
                tpm2 createpolicy -Q --policy-pcr -l {selection} -L policy
                tpm2 create -Q -C parent -i secret -L policy -a 'fixedtpm|fixedparent|noda' -u public -r private""")
            self.blobs[name] = selection, guest.get("public"), guest.get("private")
        guest.run(f"""set -e
            tpm2 create -Q -C parent -G ecc -u public -r private
            tpm2 load -Q -C parent -u public -r private -c key
            tpm2 evictcontrol -Q -C o -c key {KEY}
            tpm2 readpublic -Q -c {KEY} -f pem -o pem""")
        self.public = guest.get("pem")

    def unseal(self, guest, name, fails=False):
        selection, public, private = self.blobs[name]
        guest.put("public", public)
        guest.put("private", private)
        guest.run("tpm2 createprimary -Q -G ecc -c parent && tpm2 load -Q -C parent -u public -r private -c blob")
        said = guest.run(f"tpm2 unseal -c blob -p pcr:{selection}", fails)
        if fails:
            require(POLICY_FAIL in said.lower(), f"{name} was refused with another reason: {said}")
        else:
            require(said == f"what {name} guards", f"unsealed was {said}")

    def sign(self, guest):
        """A signature by the key in the TPM, which openssl verifies outside."""
        guest.run(f"echo -n a message >message; tpm2 sign -Q -c {KEY} -g sha256 -f plain -o signature message")
        directory = new_directory()
        paths = [os.path.join(directory, name) for name in ("message", "signature", "public")]
        for path, data in zip(paths, (b"a message", guest.get("signature"), self.public)):
            with open(path, "wb") as file:
                file.write(data)
        result = subprocess.run(["openssl", "dgst", "-sha256", "-verify", paths[2], "-signature", paths[1], paths[0]],
                                capture_output=True, text=True, check=False)
        require(result.returncode == 0, f"the signature does not verify: {result.stdout}{result.stderr}")


@functools.cache
def crb():
    host = Host("crb")
    return host, Boot(host.boot())


@functools.cache
def sealed():
    host, boot = crb()
    measured = boot.pcrs_of("kernel", "kernel") | boot.pcrs_of("command line", "LoadOptions")
    require(7 not in measured, f"kernel and command line are in {measured}")
    return Sealed(host.machine.guest, {"the firmware": {7}, "the boot": measured})


@test
def a_guest_on_tpm_crb_reads_the_pcrs_that_its_log_gives():
    agrees(crb()[1])


@test
def and_one_on_tpm_tis():
    host = Host("tis")
    boot = Boot(host.boot("tpm-tis"))
    agrees(boot)
    require(boot.banks == crb()[1].banks, "the same machine was measured otherwise on tpm-crb")
    host.machine.end()


@test
def the_log_has_the_initramfs_and_the_command_line_that_qemu_was_given():
    boot = crb()[1]
    with open(initramfs(), "rb") as file:
        content = file.read()
    for what, words, measured in (("initramfs", "Linux initrd", content),
                                  ("command line", "LoadOptions", f"{COMMAND_LINE} initrd=initrd\0".encode("utf-16le"))):
        digests = [event.digests[eventlog.SHA256] for event in boot.events if words.encode() in event.data]
        require(digests == [hashlib.sha256(measured).digest()], f"{what}: {[one.hex() for one in digests]}")


@test
def the_doctor_finds_secret_memory_in_it_and_no_processor_for_enclaves():
    guest = crb()[0].machine.guest
    checks = doctors_checks(guest)
    require(checks["memfd_secret"]["verdict"] == "ok", f"with {SECRET_MEMORY}, the doctor says {checks['memfd_secret']}")
    said = guest.run("vtpmctl selftest", fails=True)
    require("the software device cannot be used here" in said and "FAILED" not in said, f"the selftest says {said}")


# With the programs of the build, which INIT has put in PATH; instances do not run as root.
VTPM_CPU = """
vtpm-cpu --init --secret file:/tmp/secret
vtpm-cpu --listen /tmp/cpu.sock --secret file:/tmp/secret >/tmp/cpu.log 2>&1 &
until [ -S /tmp/cpu.sock ]; do sleep 0.1; done"""
VTPMD = """vtpmd --state-dir /tmp/state --run-dir /tmp/run --cpu /tmp/cpu.sock --user nobody \\
    --manager-image /tools/build/enclave/manager.sgx --instance-image /tools/build/enclave/instance.sgx \\
    --instance-program /tools/build/bin/vtpm-instance"""
VTPMCTL = "vtpmctl --socket /tmp/run/admin.sock"


@test
def a_vtpmd_in_a_guest_says_that_there_is_no_sgx_and_runs_on_the_software_device():
    host = Host("inner")
    guest = host.boot(arguments=("-cpu", "max", "-m", "512"))
    guest.run("mkdir /etc; printf 'root:x:0:0::/:\\nnobody:x:65534:65534::/:\\n' >/etc/passwd")
    said = guest.run("vtpmctl selftest")
    require("steps passed, device software" in said, f"the selftest says {said}")
    guest.run(VTPM_CPU)
    said = guest.run(f"{VTPMD} --init --device sgx", fails=True)
    require("the processor has no SGX" in said, f"vtpmd on the device sgx says {said}")
    said = guest.run(f"{VTPMD} --init && {VTPMD} >/tmp/log 2>&1 &\nuntil {VTPMCTL} status >/tmp/status 2>&1; do sleep 0.5; done\n"
                     "cat /tmp/log")
    require("device: software, as sgx does not work here: there is no SGX device: the processor has no SGX" in said,
            f"vtpmd says {said}")
    guest.run(f"{VTPMCTL} create web1")
    status = json.loads(guest.run(f"{VTPMCTL} status --json"))
    require((status["device"], status["memory"], status["instances"]["running"]) == ("software", "secret", 1), f"its status is {status}")
    host.end()


@test
def after_a_reset_the_guest_has_its_key_and_what_it_sealed():
    secrets, (host, before) = sealed(), crb()
    host.machine.qmp.execute("system_reset")
    host.machine.guest.wait_ready()
    after = Boot(host.machine.guest)
    require(after.banks == before.banks, "after a reset other PCRs were measured")
    agrees(after)
    for name in secrets.blobs:
        secrets.unseal(host.machine.guest, name)
    secrets.sign(host.machine.guest)


@test
def under_another_command_line_it_has_only_what_is_not_sealed_to_the_boot():
    secrets, (host, before) = sealed(), crb()
    after = Boot(host.boot(command_line=OTHER_COMMAND_LINE))
    agrees(after)
    changed = {pcr for pcr, value in after.banks["sha256"].items() if before.banks["sha256"][pcr] != value} - {IMA_PCR}
    require(changed == before.pcrs_of("command line", "LoadOptions"), f"the command line has changed the PCRs {changed}")
    secrets.unseal(host.machine.guest, "the firmware")
    secrets.unseal(host.machine.guest, "the boot", fails=True)
    secrets.sign(host.machine.guest)
    secret_memory = doctors_checks(host.machine.guest)["memfd_secret"]
    require(secret_memory["verdict"] == "problem" and SECRET_MEMORY.strip() in secret_memory["do"], f"{secret_memory}")
    host.machine.end()


if __name__ == "__main__":
    run()
