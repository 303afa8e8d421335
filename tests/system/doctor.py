#!/usr/bin/python3
"""vtpmctl doctor and vtpmctl selftest on this machine, and in a /dev of their own, as a container or a service has one."""

import json
import os
import re
import shutil
import signal
import subprocess

from harness import (AS_ROOT, IMAGE, MANAGER_IMAGE, SECRET_MEMORY, USER, need_root, need_secret_memory, new_directory,
                     program, wait_for)
from tap import Skip, require, run, test

MIB = 1 << 20
EPC_INSTANCE, EPC_MANAGER = 6 * MIB, 10 * MIB  # untrusted/cli/doctor.h, docs/hardware.md
DEVICE = "/dev/sgx_enclave"


def vtpmctl(*arguments, executable=None, **options):
    return subprocess.run([executable or program("vtpmctl"), *arguments], capture_output=True, text=True, timeout=120,
                          check=False, **options)


def doctor(*arguments, **options):
    """The report, and the exit status, which has to fit it."""
    result = vtpmctl("doctor", "--json", *arguments, **options)
    report = json.loads(result.stdout)
    require(result.returncode == (0 if report["usable"] else 1), f"status {result.returncode} of {report}")
    return {check["check"]: check for check in report["checks"]}, report


def has_sgx():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return re.search(r"^flags.*\bsgx\b", file.read(), re.M) is not None


@test
def the_report_is_of_this_machine():
    checks, report = doctor()
    require((checks["memfd_secret"]["verdict"] == "ok") == SECRET_MEMORY, f"{checks['memfd_secret']}")
    require(os.uname().release in checks["kernel"]["found"], f"{checks['kernel']}")
    if not has_sgx():
        require(report["device"] == "software" and checks["SGX"]["verdict"] == "note", f"{report}")
        require(checks["SGX"]["found"] in report["conclusion"], f"it concludes: {report['conclusion']}")
    text = vtpmctl("doctor")
    require(text.stdout.rstrip("\n").endswith(report["conclusion"]), f"its last line is not the conclusion: {text.stdout}")
    require("never run on SGX hardware" in text.stdout, f"it does not say what was never tried: {text.stdout}")


@test
def a_device_that_is_not_there_is_a_problem_to_whoever_asks_for_it():
    if has_sgx():
        raise Skip("this machine has SGX")
    for command in ("doctor", "selftest"):
        result = vtpmctl(command, "--device", "sgx")
        require(result.returncode == 1 and "the sgx device cannot be used here" in result.stderr, f"{command}: {result}")
        require("no SGX" in result.stderr, f"{command}: {result.stderr}")
    require(vtpmctl("doctor", "--device", "fast").returncode == 2, "another kind of device")
    require(vtpmctl("doctor", "web1").returncode == 2, "an argument")


def as_user():
    group = subprocess.run(["id", "-gn", USER], capture_output=True, text=True, check=True).stdout.strip()
    return ["setpriv", "--reuid", USER, "--regid", group, "--clear-groups"]


def in_own_dev(mount, mode="0666", group=None, become=()):
    """What doctor says where /dev is a file system of its own, with something of the device's name that can be opened."""
    directory = copied("bin/vtpmctl")
    setup = (f"mount -t tmpfs -o {mount} tmpfs /dev && mknod -m {mode} /dev/null c 1 3 && mknod -m {mode} {DEVICE} c 1 3 && "
             f"chown root:{group or 'root'} {DEVICE} && exec \"$@\"")
    result = subprocess.run(["unshare", "--mount", "sh", "-c", setup, "sh", *become, os.path.join(directory, "bin", "vtpmctl"),
                             "doctor", "--json", "--device", "sgx"], capture_output=True, text=True, timeout=60, check=False)
    require(result.returncode == 1 and result.stdout, f"{result}")
    return {check["check"]: check for check in json.loads(result.stdout)["checks"]}


def copied(*names, images=()):
    """A directory that anybody may enter, with those of the programs in it, as a build directory has them."""
    directory = new_directory()
    os.chmod(directory, 0o755)
    for name in names:
        target = os.path.join(directory, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(program(os.path.basename(name)), target)
    for image in images:
        os.makedirs(os.path.join(directory, "enclave"), exist_ok=True)
        shutil.copy(image, os.path.join(directory, "enclave"))
    return directory


@test
def a_dev_without_exec_is_seen():
    need_root()
    checks = in_own_dev("mode=755,noexec")
    require(checks["noexec"]["verdict"] == "problem", f"{checks['noexec']}")
    require("mount -o remount,exec /dev" in checks["noexec"]["do"], f"{checks['noexec']}")
    require(checks["access"]["verdict"] == "ok", f"{checks['access']}")


@test
def who_may_not_open_the_device_is_told_its_group():
    need_root()
    checks = in_own_dev("mode=755", "0660", "daemon", as_user())
    require(checks["noexec"]["verdict"] == "ok", f"{checks['noexec']}")
    require(f"usermod -aG daemon {USER}" in checks["access"]["do"], f"{checks['access']}")


def leftovers():
    return [name for name in os.listdir("/tmp") if name.startswith("vtpm-selftest-")]


def refuses(result, step, *sentences):
    require(result.returncode == 1, f"{result}")
    require(re.search(rf"^FAILED +\d+ ms  {step}$", result.stdout, re.M), f"it does not name the step: {result.stdout}")
    for sentence in (f'"{step}" failed', *sentences):
        require(sentence in result.stderr, f"it does not say \"{sentence}\": {result.stderr}")


@test
def a_selftest_passes_and_leaves_nothing():
    need_secret_memory()
    before = leftovers()
    result = vtpmctl("selftest", "--device", "software")
    require(result.returncode == 0, f"{result}")
    lines = result.stdout.splitlines()
    require(lines[-1] == "selftest: 14 steps passed, device software", f"it ends with {lines[-1]}")
    for name, image in (("manager.mrenclave", MANAGER_IMAGE), ("instance.mrenclave", IMAGE)):
        shown = subprocess.run([program("vtpm-sign"), "show", image], capture_output=True, text=True, check=True).stdout
        mrenclave = re.search(r"MRENCLAVE +([0-9a-f]{64})", shown)[1]
        require(any(line.split() == [name, mrenclave] for line in lines), f"no {name} {mrenclave} in {lines}")
    require(leftovers() == before, f"it leaves {leftovers()}")


@test
def it_passes_for_an_unprivileged_user_too_and_says_the_same_in_json():
    need_secret_memory()
    directory = copied("bin/vtpmctl", "bin/vtpmd", "bin/vtpm-cpu", "bin/vtpm-instance", images=(IMAGE, MANAGER_IMAGE))
    command = [os.path.join(directory, "bin", "vtpmctl"), "selftest", "--json", "--device", "software"]
    result = subprocess.run([*(as_user() if AS_ROOT else ()), *command], capture_output=True, text=True, timeout=120, check=False)
    require(result.returncode == 0, f"{result}")
    report = json.loads(result.stdout)
    require([step["passed"] for step in report["steps"]] == [True] * 14, f"{report}")
    require(report["device"] == "software", f"{report}")


@test
def a_step_that_fails_is_named_with_what_the_log_says():
    need_secret_memory()
    before = leftovers()
    build = copied("bin/vtpmctl", "bin/vtpmd", "bin/vtpm-cpu")
    refuses(vtpmctl("selftest", "--device", "software", executable=os.path.join(build, "bin", "vtpmctl")), "vtpmd --init",
            os.path.join(build, "bin", "..", "enclave", "manager.sgx"), "No such file")
    installed = copied("bin/vtpmctl", "sbin/vtpm-cpu")
    shutil.copy(shutil.which("false"), os.path.join(installed, "sbin", "vtpmd"))
    refuses(vtpmctl("selftest", "--device", "software", executable=os.path.join(installed, "bin", "vtpmctl")), "vtpmd --init",
            "ended with status 1")
    require(leftovers() == before, f"it leaves {leftovers()}")


@test
def an_instance_that_dies_fails_its_step_and_nothing_goes_on_running():
    """What vtpm-instance is, is another program, so there is no instance to ask."""
    need_secret_memory()
    directory = copied("bin/vtpmctl", "bin/vtpmd", "bin/vtpm-cpu", images=(IMAGE, MANAGER_IMAGE))
    shutil.copy(shutil.which("false"), os.path.join(directory, "bin", "vtpm-instance"))
    executable = os.path.join(directory, "bin", "vtpmctl")
    refuses(vtpmctl("selftest", "--device", "software", executable=executable), "create and start an instance", "vtpmd: ")
    steps = json.loads(vtpmctl("selftest", "--json", "--device", "software", executable=executable).stdout)["steps"]
    require([step["passed"] for step in steps] == [True] * (len(steps) - 1) + [False], f"{steps}")
    running = subprocess.run(["pgrep", "-f", directory], capture_output=True, text=True, check=False).stdout
    require(not running, f"there are still: {running}")


@test
def whoever_ends_it_waits_for_the_clean_up():
    need_secret_memory()
    before = leftovers()
    process = subprocess.Popen([program("vtpmctl"), "selftest"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: len(leftovers()) > len(before), "it makes no directory")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    require(leftovers() == before, f"it leaves {leftovers()}")


@test
def an_enclave_takes_no_more_of_epc_than_is_said():
    for image, said in ((IMAGE, EPC_INSTANCE), (MANAGER_IMAGE, EPC_MANAGER)):
        shown = subprocess.run([program("vtpm-sign"), "show", image], capture_output=True, text=True, check=True).stdout
        pages = sum(map(int, re.findall(r"(\d+) (?:code|constants|writable|TCS)", shown))) + 1  # the SECS
        size = (pages + -(-pages // 512)) * 4096  # a version array has slots for 512
        require(said - 2 * MIB < size <= said, f"{image}: {size / MIB:.2f} MiB of EPC, and {said // MIB} are said")


if __name__ == "__main__":
    run()
