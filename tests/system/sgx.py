#!/usr/bin/python3
"""vtpmd and vtpm-instance on the kernel's SGX device, whole: their own object files, linked with the driver of the tests'
own (tests/fakes/fake_sgx_program.c). What it lets in runs on the software device behind it, whose processor is one that
says of itself that it is hardware. A machine that was suspended has lost every enclave.
"""

import errno
import json
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import threading
from unittest.mock import patch

from harness import (BUILD, SECRET_MEMORY, Cpu, Daemon, Front, Holder, Instance, NewHouse, control, ctl, give_to_user,
                     new_directory, program, wait_for)
from tap import LONG, note, randomness, require, run, test
from tpm import RC_FAILURE, TpmError

ROUNDS = 200 if LONG else 8
CMD_STOP = 14  # of swtpm's control channel
NV_INDEX = 0x01800060
PCR = 16
MANY = 1 << 20  # more steps than anything takes
MARKED = bytes.fromhex("5e") * 32
CPUSVN_AT = 128 + 8  # in the sealed master secret: behind the blob's header, in its KEYREQUEST


def over_the_driver(name):
    path = os.path.join(BUILD, "tests", "system", f"sgx-{name}")
    require(os.access(path, os.X_OK), f"{path} was not built")
    return path


class Machine(Cpu):
    """The machine that programs over the driver find themselves on: struct machine of fake_sgx_program.c, and the
    processor behind the driver. At `path`, where vtpm-cpu would listen, nobody does.
    """

    LOSSES, UNTIL_LOSS, OPEN_ERROR, EPC_PAGES, ORDINARY_MEMORY, CPU, SIZE = 0, 4, 8, 12, 16, 20, 128

    def __init__(self):
        directory = new_directory()
        super().__init__(directory, executable=over_the_driver("vtpm-cpu"))
        place = os.path.join(directory, "machine")
        with open(place, "xb") as file:
            file.write(bytes(self.SIZE))
        give_to_user(place)
        with open(place, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), self.SIZE)
        self.memory[self.CPU:self.CPU + len(self.path)] = self.path.encode()
        self.set(self.ORDINARY_MEMORY, not SECRET_MEMORY)
        self.path = os.path.join(directory, "nobody.sock")
        os.environ["FAKE_SGX"] = place

    def get(self, field):
        return struct.unpack_from("=I", self.memory, field)[0]

    def set(self, field, value):
        struct.pack_into("=I", self.memory, field, value)

    def suspend(self):
        """And wake up: the EPC is lost."""
        self.set(self.LOSSES, self.get(self.LOSSES) + 1)


def sgx_host(device="sgx", cpu=None, **options):
    return Daemon(device=device, cpu=cpu or Machine(), executable=over_the_driver("vtpmd"),
                  instance_program=over_the_driver("vtpm-instance"), **options)


def serving(daemon, label, value=b"unharmed"):
    """A new instance, and a client of it that has written the value and extended a PCR."""
    instance = daemon.create(label)
    client = instance.connect()
    client.startup()
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, value)
    client.pcr_extend(PCR, MARKED)
    return instance, client


def refused_with(code, call, *arguments):
    try:
        call(*arguments)
    except TpmError as error:
        require(error.code == code, f"it is refused with {error}")
        return
    raise AssertionError(f"{call.__name__} is answered")


def require_failure(client):
    refused_with(RC_FAILURE, client.get_random)
    refused_with(RC_FAILURE, client.nv_write, NV_INDEX, b"anything")
    refused_with(RC_FAILURE, client.pcr_read, PCR)


def require_state(client, value=b"unharmed"):
    client.startup()
    require(client.nv_read(NV_INDEX, 8) == value, "another value is there")


def notice_and_restart(daemon):
    """vtpmd enters its manager enclave, finds it gone and ends; what systemd does then (Restart=) is done here."""
    daemon.refuses("LINK_CLOSED", "list")
    require(daemon.process.wait() == 1, "it did not end")
    require("the manager enclave faulted: vector 14" in daemon.log(), f"it says: {daemon.log()}")
    daemon.start()


@test
def vtpmd_and_instances_run_in_enclaves_of_the_kernels_device():
    daemon = sgx_host()
    instances = [serving(daemon, f"real-{number}") for number in range(2)]
    status = daemon.call("status")
    require(status["device"] == "sgx" and status["memory"] == "EPC", f"status: {status}")
    require({one["device"] for one in daemon.call("list")["instances"]} == {"sgx"}, "the list does not say what the enclaves run on")
    require("device               sgx" in ctl(daemon, "status"), "vtpmctl status does not say it")
    require(daemon.log().count(": device: sgx, memory: EPC, stack canary: the enclave's own") == 2,
            f"the instances say: {daemon.log()}")
    require(daemon.log().count("(local attestation); admitted") == 2, f"they are not admitted: {daemon.log()}")
    for instance, client in instances:
        require("running" in ctl(daemon, "show", instance.label), "vtpmctl show does not say that it runs")
        require(re.search(rf"^{instance.label} .* sgx ", ctl(daemon, "list"), re.M), f"vtpmctl list has {ctl(daemon, 'list')}")
        require(len(client.get_random(32)) == 32, "no random bytes")
    require(os.path.lexists(daemon.cpu.path) is False, "somebody listens where vtpm-cpu would")


@test
def they_outlive_vtpmd_and_their_own_processes():
    daemon = sgx_host()
    (killed, _), (kept, client) = serving(daemon, "killed"), serving(daemon, "kept", b"restart1")
    daemon.restart()
    kept.wait_serving()
    client.nv_write(NV_INDEX, b"restart2")
    daemon.kill()
    daemon.start()
    kept.wait_serving()
    require(client.pcr_read(PCR) != bytes(32), "its PCR is gone")
    require(client.nv_read(NV_INDEX, 8) == b"restart2", "what was written under the new vtpmd is gone")
    os.kill(killed.worker(), signal.SIGKILL)
    killed.wait_for("its machine is not told", rebuilds=1, health="awaiting reset")
    require(killed.recover().nv_read(NV_INDEX, 8) == b"unharmed", "what the killed one had is gone")
    kept.stop()
    kept.start()
    require_state(kept.connect(), b"restart2")
    ctl(daemon, "stop", "killed")
    ctl(daemon, "delete", "killed")
    require(daemon.refuses("DELETED", "start", instance="killed"), "a deleted one starts")


@test
def a_store_opens_on_the_device_only_that_it_was_made_on():
    daemon = sgx_host()
    instance, _ = serving(daemon, "at-home")
    instance.stop()
    daemon.stop()
    with daemon.tables() as tables:
        master = tables.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()[0]
    require(master[CPUSVN_AT:CPUSVN_AT + 13] == b"fake hardware", "the ledger is not sealed to the processor")
    place = daemon.arguments.index("--device") + 1
    daemon.arguments[place] = "software"
    daemon.refuses_to_start('was made on the device "sgx", and vtpmd runs on "software": set device = sgx, or bring')
    daemon.arguments[place] = "auto"
    daemon.cpu.set(Machine.OPEN_ERROR, errno.ENOENT)
    daemon.refuses_to_start("device: software, as sgx does not work here", 'vtpmd runs on "software"')
    daemon.cpu.set(Machine.OPEN_ERROR, 0)
    daemon.start()
    require(daemon.call("status")["device"] == "sgx", "auto is not sgx where sgx works")
    instance.start()
    require_state(instance.connect())


@test
def nor_does_one_of_the_software_device_open_here():
    machine = Machine()
    machine.set(Machine.OPEN_ERROR, errno.EACCES)
    directory = new_directory()
    daemon = sgx_host("auto", directory=directory, cpu=Cpu(directory))
    require("device: software, as sgx does not work here: this user may not open the SGX device" in daemon.log(),
            f"it says: {daemon.log()}")
    require(daemon.call("status")["device"] == "software", "status says another device")
    instance, _ = serving(daemon, "soft")
    instance.stop()
    daemon.stop()
    machine.set(Machine.OPEN_ERROR, 0)
    for device in ("sgx", "auto"):
        daemon.arguments[daemon.arguments.index("--device") + 1] = device
        daemon.refuses_to_start('was made on the device "software", and vtpmd runs on "sgx": set device = software, or')
    daemon.arguments[daemon.arguments.index("--device") + 1] = "software"
    daemon.start()
    instance.start()
    require_state(instance.connect())


@test
def a_trust_domain_of_the_software_device_comes_over_by_its_recovery_keys():
    keys = new_directory()
    holder = Holder(keys, "holder")
    old = Daemon(init=False)
    old.init("--recovery-key", holder.public, "--recovery-threshold", "1")
    old.start()
    serving(old, "moved")[0].stop()
    backup, answer = os.path.join(keys, "backup.db"), os.path.join(keys, "answer")
    ctl(old, "store", "backup", backup)
    old.end()
    new = NewHouse(backup, sgx_host(init=False))
    status, said = new.recover(lambda state: [answer] if holder.answer(state, answer).returncode == 0 else [])
    require(status == 0 and "was recovered" in said, f"{status}: {said}")
    new.daemon.start()
    require(new.daemon.call("status")["device"] == "sgx", "it runs on another device")
    moved = Instance(new.daemon, new.daemon.call("show", instance="moved"))
    moved.call("start")
    require_state(moved.recover())


def mrenclave_of(image):
    shown = subprocess.run([program("vtpm-sign"), "show", image, "--json"], capture_output=True, check=True)
    return json.loads(shown.stdout)["mrenclave"]


@test
def an_upgrade_runs_two_manager_enclaves_and_outlives_a_suspend():
    enclaves, directory = os.path.join(BUILD, "enclave"), new_directory()
    images = [shutil.copy(os.path.join(enclaves, f"manager-{name}.sgx"), directory) for name in ("keyed", "keyed-next")]
    subprocess.run([program("vtpm-sign"), "manifest", "--old", mrenclave_of(images[0]), "--new", mrenclave_of(images[1]),
                    "--svn", "2", "--key", os.path.join(enclaves, "test-release-key.pem"), "--out",
                    f"{images[1]}.manifest"], check=True)
    daemon = sgx_host(init=False)
    place = daemon.arguments.index("--manager-image") + 1
    daemon.arguments[place] = images[0]
    daemon.init()
    daemon.cpu.set(Machine.UNTIL_LOSS, MANY)
    daemon.start()
    steps = MANY - daemon.cpu.get(Machine.UNTIL_LOSS)  # of the start with one manager
    instance, _ = serving(daemon, "upgraded")
    instance.stop()
    daemon.stop()
    daemon.arguments[place] = images[1]
    daemon.cpu.set(Machine.UNTIL_LOSS, randomness.randint(1, 2 * steps))
    daemon.start(wait=False)
    require(daemon.process.wait() == 1, "the suspend meanwhile did not end it")
    daemon.start()
    require("has handed over" in daemon.log(), f"nobody handed over: {daemon.log()}")
    require(daemon.call("status")["manager"]["mrenclave"] == mrenclave_of(images[1]), "the old manager is there")
    instance.start()
    require_state(instance.connect())


REFUSALS = {errno.ENOENT: "the SGX device /dev/sgx_enclave: there is no SGX device",
            errno.EACCES: "the SGX device /dev/sgx_enclave: this user may not open the SGX device"}


@test
def sgx_that_was_asked_for_and_is_not_there_is_refused_by_name():
    daemon = sgx_host(init=False)
    for error, sentence in REFUSALS.items():
        daemon.cpu.set(Machine.OPEN_ERROR, error)
        result = subprocess.run([*daemon.arguments, "--init"], capture_output=True, text=True, timeout=60, check=False)
        require(result.returncode == 1 and sentence in result.stderr, f"{result}")
        require(not os.path.exists(daemon.database), "a store was made")
    daemon.cpu.set(Machine.OPEN_ERROR, 0)
    daemon.init()
    daemon.start()
    running, client = serving(daemon, "running")
    for number, (error, sentence) in enumerate(REFUSALS.items()):
        daemon.cpu.set(Machine.OPEN_ERROR, error)
        daemon.refuses("PEER_CLOSED", "create", label=f"late-{number}")
        require(re.search(f"vtpm-instance: [0-9a-f-]{{36}}: {re.escape(sentence)}", daemon.log()), f"it says: {daemon.log()}")
    require(running.show()["health"] == "serving" and len(client.get_random(8)) == 8, "the other one does not go on")
    daemon.stop()
    for error, sentence in REFUSALS.items():
        daemon.cpu.set(Machine.OPEN_ERROR, error)
        daemon.refuses_to_start(sentence)


EXHAUSTED = "the memory that the processor keeps for enclaves (EPC) is exhausted: end other enclaves"


def pause_of(instance):
    """Seconds, if it waits to be rebuilt."""
    found = re.search("; it is rebuilt in ([0-9.]+) s$", instance.show()["reason"] or "")
    return found and float(found[1])


@test
def an_exhausted_epc_fails_one_start_and_the_others_go_on():
    daemon = sgx_host()
    first, client = serving(daemon, "first")
    daemon.cpu.set(Machine.EPC_PAGES, 500)
    reason = daemon.refuses("PEER_CLOSED", "create", label="second")
    require("its process ended before it served; the log says why" in reason, f"it is refused with: {reason}")
    require(f"loading the enclave: {EXHAUSTED}" in daemon.log(), f"it says: {daemon.log()}")
    second = Instance(daemon, daemon.call("show", instance="second"))
    require(second.show()["state"] == "failed", f"it is {second.show()}")
    client.nv_write(NV_INDEX, b"meantime")
    require(first.show()["health"] == "serving", "the first one does not serve")

    os.kill(first.keeper(), signal.SIGKILL)
    pauses = []

    def grown():
        pauses.append(pause_of(first) or 0)
        return pauses[-1] > 3

    wait_for(grown, "the pauses between its rebuilds do not grow", 60)
    seen = [pause for pause in pauses if pause]
    require(seen == sorted(seen), f"it is tried again after {seen} s")
    daemon.cpu.set(Machine.EPC_PAGES, 0)
    client = first.recover()
    require_state(client, b"meantime")
    shown = first.show()
    require((shown["rebuilds"], shown["epoch"]) == (1, 1), f"one rebuild is counted otherwise: {shown}")
    second.start()
    require_failed_start_of_vtpmd(daemon)


def require_failed_start_of_vtpmd(daemon):
    daemon.stop()
    daemon.cpu.set(Machine.EPC_PAGES, 500)
    daemon.refuses_to_start(f"the manager enclave on the device sgx: {EXHAUSTED}")
    daemon.cpu.set(Machine.EPC_PAGES, 0)
    daemon.start()


@test
def after_a_suspend_each_tpm_fails_until_its_machine_is_reset_and_then_goes_on():
    daemon = sgx_host()
    lost = [serving(daemon, f"lost-{number}", f"value--{number}".encode()) for number in range(3)]
    daemon.cpu.suspend()
    for _, client in lost[:2]:
        require_failure(client)
    require(daemon.log().count("the enclave is not there any more, as after the host was suspended") == 2,
            f"the instances say: {daemon.log()}")
    notice_and_restart(daemon)
    for instance, client in lost:
        instance.wait_for(f"{instance.label} is not known to be lost", state="running", health="broken")
        require_failure(client)
    require(control(lost[1][0].path + ".ctrl", CMD_STOP) == bytes(4), "a lost TPM is not switched off")
    for number, (instance, client) in enumerate(lost):
        instance.reset()
        require_state(client, f"value--{number}".encode())
        client.nv_write(NV_INDEX, b"later...")
        shown = instance.wait_serving()
        require((shown["deaths"], shown["rebuilds"], shown["epoch"], shown["start"]) == (1, 1, 1, 2), f"it is {shown}")
        require(f"{instance.label}: its lost enclave was declared dead; epoch 1" in daemon.log(), f"{daemon.log()}")
    daemon.restart()
    for instance, client in lost:
        instance.wait_serving()
        require(client.nv_read(NV_INDEX, 8) == b"later...", "what was written after the suspend is gone")


@test
def an_idle_vtpmd_notices_it_by_itself():
    """As often as it tells a watchdog that it lives."""
    machine = Machine()
    with patch.dict(os.environ, WATCHDOG_USEC="200000"):
        daemon = sgx_host(cpu=machine)
    instance, _ = serving(daemon, "quiet")
    machine.suspend()
    require(daemon.process.wait() == 1, "it goes on without its enclave")
    require("the manager enclave faulted: vector 14" in daemon.log(), f"it says: {daemon.log()}")
    daemon.start()
    instance.wait_for("it is not known to be lost", state="running", health="broken")


@test
def what_was_lost_can_be_stopped_and_started_by_its_operator():
    daemon = sgx_host()
    known, client = serving(daemon, "known")
    idle, _ = serving(daemon, "idle")
    daemon.cpu.set(Machine.UNTIL_LOSS, 1)  # while its enclave runs
    require_failure(client)
    daemon.restart()  # who was not asked has noticed nothing
    for instance in (known, idle):
        instance.wait_for(f"{instance.label} is not known to be lost", health="broken")
        require(instance.stop()["state"] == "stopped", "it is not stopped")
        instance.call("start")
        instance.wait_for("its machine is not told", health="awaiting reset")
        require_failure(instance.connect())
        instance.reset()
        require_state(instance.connect())


@test
def what_its_operator_asks_for_meanwhile_is_refused_and_done_when_asked_for_again():
    daemon = sgx_host()
    kept, _ = serving(daemon, "kept")
    for command, after in ((["delete", "--force", "kept"], {"health": "awaiting reset"}),
                           (["create", "late"], {"health": "broken"})):
        daemon.cpu.suspend()
        said = ctl(daemon, *command, fails=True)
        require("the log of vtpmd says why it ended" in said, f"it says: {said}")
        require(daemon.process.wait() == 1, "vtpmd did not end")
        daemon.start()
        kept.wait_for("it is not there again", **after)
    kept.reset()
    require_state(kept.connect())
    daemon.create("late")
    ctl(daemon, "delete", "--force", "kept")
    require(kept.show()["state"] == "deleted", "it is not deleted")


@test
def a_separate_front_end_fails_until_its_machine_is_reset_and_goes_on():
    daemon = sgx_host()
    instance = daemon.create_for_front("apart")
    front = Front(instance)
    front.wait_listening()
    client = front.connect()
    client.startup()
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, b"unharmed")
    daemon.cpu.suspend()
    require_failure(client)
    require(daemon.process.wait() == 1, "vtpmd, to which its process came with a new enclave, did not end")
    daemon.start()
    instance.wait_for("it is not rebuilt", deaths=1, rebuilds=1, health="serving")
    require_failure(client)
    require(front.reset() == bytes(4), "the reset is refused")
    require_state(client)


@test
def an_instance_that_was_suspended_before_its_host_goes_on_where_it_stopped():
    daemon = sgx_host()
    instance, client = serving(daemon, "asleep")
    before = client.pcr_read(PCR)
    instance.call("suspend")
    daemon.cpu.suspend()
    notice_and_restart(daemon)
    instance.start()
    require(instance.connect().pcr_read(PCR) == before != bytes(32), "its PCR is another one")


class Service:
    """vtpmd as systemd keeps it: started again whenever it ends."""

    def __init__(self, daemon):
        self.daemon, self.starts = daemon, 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._keep)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()

    def _keep(self):
        while not self.ends.wait(0.02):
            if not self.daemon.process.running():
                self.daemon.start(wait=False)
                self.starts += 1


def write_until_it_fails(client, answered):
    """Rising numbers; returns the last that was answered."""
    while True:
        try:
            client.nv_write(NV_INDEX, struct.pack(">Q", answered + 1))
        except TpmError as error:
            require(error.code == RC_FAILURE, f"the TPM answers {error}")
            return answered
        except OSError:
            return answered
        answered += 1


def reset_and_read(instance):
    """A machine that is reset until its TPM starts: (client, value), or None if there was a failure on the way."""
    try:
        instance.reset()
        client = instance.connect()
        client.startup()
        return client, struct.unpack(">Q", client.nv_read(NV_INDEX, 8))[0]
    except TpmError as error:
        require(error.code == RC_FAILURE, f"the TPM answers {error}")
    except (OSError, AssertionError):
        pass
    return None


@test
def a_start_that_is_cut_off_in_one_of_its_last_steps_is_made_up_for():
    daemon = sgx_host()
    instance, _ = serving(daemon, "started", bytes(8))
    instance.stop()
    daemon.cpu.set(Machine.UNTIL_LOSS, MANY)
    instance.start()
    steps = MANY - daemon.cpu.get(Machine.UNTIL_LOSS)
    with Service(daemon):
        for step in range(steps - 5, steps + 1):
            daemon.cpu.set(Machine.UNTIL_LOSS, 0)
            instance.wait_serving()
            instance.stop()
            daemon.cpu.set(Machine.UNTIL_LOSS, step)
            instance.call("start", wait=False)
            wait_for(lambda: reset_and_read(instance), f"cut off in step {step} of {steps} it does not come back", 90)


@test
def whatever_it_is_doing_when_the_host_is_suspended_nothing_answered_is_lost():
    """Each time once more, a few steps later: in the rebuild, in the start of vtpmd, or when all is well again."""
    daemon = sgx_host()
    instance, client = serving(daemon, "driven", bytes(8))
    answered, writes, suspends = 0, 0, 0
    with Service(daemon) as service:
        for _ in range(ROUNDS):
            daemon.cpu.set(Machine.UNTIL_LOSS, randomness.randint(1, 60))
            before, answered = answered, write_until_it_fails(client, answered)
            writes += answered - before
            daemon.cpu.set(Machine.UNTIL_LOSS, randomness.randint(1, 150))
            client, value = wait_for(lambda: reset_and_read(instance), "it does not come back", 90)
            require(value in (answered, answered + 1), f"{answered} was answered and {value} is there")
            answered = value
        suspends = daemon.cpu.get(Machine.LOSSES)
        daemon.cpu.set(Machine.UNTIL_LOSS, 0)
    note(f"{suspends} suspends, {writes} answered writes, {service.starts} starts of vtpmd")
    require(suspends >= ROUNDS and writes > ROUNDS and service.starts > 0, "hardly anything happened")


run()
