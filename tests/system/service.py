#!/usr/bin/python3
"""The service as it is installed: `meson install` beside this system's files, systemd booted on both in a container that
leaves the host as it is, and the first start as vtpmd(8) says it. Then what an operator's host does to it: kills, hangs, a
group, a reboot.
"""

import contextlib
import functools
import json
import os
import re
import subprocess

from harness import BUILD, Process, connect_unix, need_root, new_directory, wait_for
from tap import Skip, require, run, test
from tpm import Tpm

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "untrusted")
MANUAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "man", "vtpmd.8")
# systemd-nspawn has a list of system calls; the kernel gives these to everybody.
ALLOWED = "memfd_secret landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp"
BOOT = """
mount -t tmpfs tmpfs layers && cd layers && mkdir upper work root && cp -a ../installed/. upper &&
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root &&
while
    systemd-nspawn --quiet --directory=root --register=no --keep-unit --private-network --system-call-filter="$1" --boot -- \\
        --unit=basic.target --show-status=no
    [ $? -eq 133 ]                                # it wants to be started again
do :; done
"""
# Under what the container's profile allows, which nsenter is not.
IN_CONTAINER = "systemd-run --quiet --wait --pipe"
UNITS = ["vtpm-cpu.service", "vtpmd.socket", "vtpmd.service", "vtpm-instances.service"]
INDEX = 0x01800101


class System:
    """A systemd that has only this project's services to start."""

    def __init__(self, allowed=ALLOWED):
        need_root()
        self.directory = new_directory()
        subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir",
                        os.path.join(self.directory, "installed")], check=True, capture_output=True)
        os.mkdir(os.path.join(self.directory, "layers"))
        self.process = Process("systemd", ["unshare", "--mount-proc", "--propagation", "private", "--pid", "--fork", "sh", "-c", BOOT,
                                           "sh", allowed], self.directory)
        self.ready()

    def inside(self):
        """The process id of its systemd; None if there is none yet."""
        for pid in self.process.family()[1:]:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
                if re.search(r"^NSpid:\t\d+\t\d+\t1$", file.read(), re.MULTILINE):
                    return pid
        return None

    def words(self, *words):
        return ["nsenter", "--all", "--target", str(self.inside()), "env", "-i", "TERM=dumb",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", *words]

    def run(self, command, good=True):
        """What a command of root's prints there."""
        result = subprocess.run(self.words("bash", "-c", command), capture_output=True, text=True, timeout=120, check=False)
        require((result.returncode == 0) == good, f"{command}: {result.returncode} {result.stdout}{result.stderr}\n"
                                                  f"{self.journal() if good else ''}")
        return result.stdout + result.stderr

    def journal(self):
        return subprocess.run(self.words("journalctl", "--no-pager", "--output=cat", "--lines=40", *(f"--unit={unit}" for unit in UNITS)),
                              capture_output=True, text=True, timeout=60, check=False).stdout

    def ready(self):
        def done():
            if not self.process.running():
                raise Skip(f"systemd does not boot in a container here: {self.process.log()[-500:]}{self.process.output()[-500:]}")
            pid = self.inside()
            return pid and subprocess.run(self.words("systemctl", "is-active", "--quiet", "basic.target"), capture_output=True,
                                          check=False).returncode == 0
        wait_for(done, "systemd does not come up", 60)

    def ask(self, command):
        return json.loads(self.run(f"vtpmctl {command} --json"))

    def shown(self, label, state="running"):
        """What vtpmctl says of an instance when it is in this state."""
        def done():
            one = self.ask(f"show {label}")
            return one if one["state"] == state else None
        return wait_for(done, f"{label} is not {state}")

    def property(self, name, unit="vtpmd"):
        return self.run(f"systemctl show --property={name} --value {unit}").strip()

    def main_pid(self):
        return int(self.property("MainPID"))

    def add_to_unit(self, setting):
        """As an operator does, in a drop-in; a vtpmd that runs does not hear of it."""
        self.run("mkdir -p /run/systemd/system/vtpmd.service.d && "
                 f"printf '[Service]\\n{setting}\\n' >/run/systemd/system/vtpmd.service.d/test.conf && systemctl daemon-reload")

    def restarted(self, before):
        return wait_for(lambda: self.main_pid() not in (0, before) and "active" == self.run(
            "systemctl is-active vtpmd || true").strip(), "systemd does not start vtpmd again")

    def tpm(self, label):
        """A client of the TPM, who is root out here."""
        return Tpm(connect_unix(f"/proc/{self.inside()}/root/run/vtpm/instances/{label}/tpm.sock"))

    def reboot(self):
        before = self.inside()
        self.run("systemctl reboot")
        wait_for(lambda: self.inside() not in (None, before), "it does not go down", 120)
        self.ready()
        self.run("systemctl start vtpm-cpu vtpmd vtpm-instances")


@functools.cache
def system():
    """As vtpmd(8) says it, word for word."""
    one = System()
    with open(MANUAL, encoding="utf-8") as file:
        first_start = re.search(r"^The first start on a host:\n\.Bd .*?\n(.*?)\.Ed$", file.read(), re.MULTILINE | re.DOTALL)[1]
    one.run(f"set -e\n{first_start}")
    return one


@test
def the_first_start_of_the_manual_makes_a_tpm_that_serves():
    host = system()
    status = host.ask("status")
    require(status["instances"]["running"] == 1, f"the status is {status}")
    tpm = host.tpm("web1")
    tpm.startup()
    tpm.nv_define(INDEX, 8)
    tpm.nv_write(INDEX, b"once....")
    require(host.shown("web1")["health"] == "serving", f"{host.shown('web1')}")
    require("notification" not in host.journal(), f"systemd hears of others than vtpmd: {host.journal()}")


@test
def systemd_finds_nothing_wrong_with_the_units():
    said = system().run(f"systemd-analyze verify --man=no {' '.join(UNITS)} || true")
    wrong = [line for line in said.splitlines() if "vtpm" in line]
    require(not wrong, f"systemd says {wrong}")


@test
def the_doctor_of_a_container_says_what_its_profile_lacks():
    refused = System(allowed="seccomp")
    for user in "root", "nobody":
        said = refused.run(f"{IN_CONTAINER} --uid={user} /usr/local/bin/vtpmctl doctor --json 2>/dev/null", good=False)
        checks = {check["check"]: check for check in json.loads(said)["checks"]}
        require(checks["memfd_secret"]["verdict"] == "problem" and "seccomp profile" in checks["memfd_secret"]["do"],
                f"{checks['memfd_secret']}")
        require(checks["kernel"]["verdict"] == "ok", f"{checks['kernel']}")
    said = refused.run(f"{IN_CONTAINER} /usr/local/bin/vtpmctl selftest", good=False)
    require("memfd_secret" in said and "FAILED" not in said, f"the selftest says {said}")
    refused.run("systemctl poweroff")
    refused.process.wait(60)  # the containers share their control groups, which it takes with it


@test
def where_it_has_nothing_to_say_the_selftest_passes_there_too():
    host = system()
    for user in "root", "nobody":
        for command, end in ("doctor", "it can be used here"), ("selftest", "14 steps passed, device software"):
            said = host.run(f"{IN_CONTAINER} --uid={user} /usr/local/bin/vtpmctl {command}")
            require(end in said, f"{command}, by {user}: {said}")


@test
def the_doctor_counts_the_groups_that_only_the_unit_gives():
    host = system()
    host.run("mknod --mode=0660 /dev/sgx_enclave c 1 3 && chgrp audio /dev/sgx_enclave")

    def access():
        said = host.run(f"{IN_CONTAINER} /usr/local/bin/vtpmctl doctor --device sgx --json 2>/dev/null", good=False)
        return {check["check"]: check for check in json.loads(said)["checks"]}["access"]
    require("usermod -aG audio vtpm" in access()["do"], f"{access()}")
    host.add_to_unit("SupplementaryGroups=audio")
    require((access()["verdict"], access()["found"]) == ("ok", "root may open it, vtpm too"), f"{access()}")
    host.run("rm /dev/sgx_enclave")


@test
def the_units_allow_each_system_call_that_the_programs_allow_themselves():
    host = system()
    for source, unit in (("front/confine.c", "vtpmd"), ("cpu/sandbox.c", "vtpm-cpu")):
        with open(os.path.join(SOURCES, source), encoding="utf-8") as file:
            wanted = set(re.findall(r"SCMP_SYS\((\w+)\)", file.read()))
        allowed = host.property("SystemCallFilter", unit).split()
        require(len(wanted) > 10 and wanted <= set(allowed), f"{unit} may not {wanted - set(allowed)}")


@test
def whoever_is_in_the_group_is_the_operator_and_nobody_else_is():
    host = system()
    host.run("useradd --no-create-home --groups vtpm-admin vtpm-operator && useradd --no-create-home vtpm-stranger")
    require("web1" in host.run("runuser -u vtpm-operator -- vtpmctl list"), "the operator does not see the TPM")
    said = host.run("runuser -u vtpm-stranger -- vtpmctl list", good=False)
    require("no permission" in said, f"vtpmctl says {said}")


@test
def a_killed_vtpmd_is_started_again_and_its_tpms_have_gone_on():
    host = system()
    tpm, before = host.tpm("web1"), host.main_pid()
    host.run("systemctl kill --kill-whom=main --signal=KILL vtpmd")
    require(len(tpm.get_random(8)) == 8, "the TPM has ended with vtpmd")
    host.restarted(before)
    tpm.nv_write(INDEX, b"twice...")
    shown = host.shown("web1")
    require((shown["start"], shown["health"]) == (1, "serving"), f"{shown}")


@test
def so_is_one_that_hangs_and_no_other():
    host = system()
    require(host.property("WatchdogUSec") not in ("0", "infinity"), "the unit has no watchdog")
    host.add_to_unit("WatchdogSec=2")
    host.run("systemctl restart vtpmd")
    tpm, before = host.tpm("web1"), host.main_pid()

    def told():
        return int(host.property("WatchdogTimestampMonotonic"))
    begun = told()
    wait_for(lambda: told() > begun, "vtpmd does not tell its watchdog that it lives")
    require(host.main_pid() == before, "the watchdog ended a vtpmd that did not hang")
    host.run(f"kill -STOP {before}")
    host.restarted(before)
    require("Watchdog timeout" in host.journal(), f"it was not the watchdog: {host.journal()}")
    tpm.nv_write(INDEX, b"thrice..")
    require(host.shown("web1")["start"] == 1, f"{host.shown('web1')}")


@test
def a_client_starts_a_vtpmd_that_was_stopped():
    host = system()
    host.run("systemctl stop vtpmd.service")
    require(host.main_pid() == 0, "vtpmd was not stopped")
    require("web1" in host.run("vtpmctl list") and host.main_pid(), "the socket has not started vtpmd")


@test
def a_reboot_stops_the_tpms_in_order():
    host = system()
    epoch = host.shown("web1")["epoch"]
    host.reboot()
    shown = host.shown("web1", "stopped")
    require((shown["epoch"], shown["wanted"]) == (epoch, False), f"after the reboot {shown}")
    host.run("vtpmctl start web1")
    tpm = host.tpm("web1")
    tpm.startup()
    require(tpm.nv_read(INDEX, 8) == b"thrice..", "what was written last is not there")


@test
def one_that_does_not_costs_an_epoch_and_a_reset():
    host = system()
    epoch = host.shown("web1")["epoch"]
    host.run("systemctl disable vtpm-instances; systemctl stop vtpmd.socket vtpmd; pkill -KILL vtpm-instance")
    host.reboot()
    shown = host.shown("web1")
    require((shown["epoch"], shown["health"]) == (epoch + 1, "awaiting reset"), f"{shown}")


if __name__ == "__main__":
    run()
