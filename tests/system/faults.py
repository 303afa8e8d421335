#!/usr/bin/python3
"""S10: SIGKILL of vtpmd at every write and fsync, by fault injection: strace kills it when it is about to make the n-th
call of one kind.

A point is (workload, files or messages, system call, n): `files` are the calls that change something below the state
directory, whatever lies there; `messages` are the other writes and sends, among them those between a commit and its
answer. The points are counted in one run of each workload without a kill. Half of the kills take everything else along:
then only what was stored is left. After each: what was answered is there, what was under way is there wholly or not at
all, what was deleted stays deleted, `list` says the truth, and the TPM starts and can be written to. Points are drawn
from the seed that is printed; CHECK_SEED repeats them. The full run kills at all of them.
"""

import collections
import os
import re
import signal
import subprocess
import threading
import time

from harness import AdminError, Cpu, Daemon, Instance, Process, alive, wait_for
from tap import LONG, Skip, note, randomness, require, run, test
from tpm import TpmError

FILE_CALLS = ("write", "writev", "pwrite64", "pwritev", "pwritev2", "truncate", "ftruncate", "fallocate", "fsync",
              "fdatasync", "sync_file_range", "msync", "rename", "renameat", "renameat2", "link", "linkat", "unlink",
              "unlinkat", "mkdir", "mkdirat")
MESSAGE_CALLS = ("write", "writev", "sendto", "sendmsg", "sendmmsg")
SAMPLE = 7  # points of each workload that are tried when it is not the full run
ROUNDS_OF_A_HOST = 100  # deleted instances keep their slots: a host gets slower
VALUE, COUNTER = 0x01800090, 0x01800091
NO_INDEX, NOT_WRITTEN = 0x18B, 0x14A

Point = collections.namedtuple("Point", "kind call number")


class Ended(Exception):
    """vtpmd was killed: the workload does not go on."""


class Host:
    """A host whose vtpmd can be run under strace."""

    def __init__(self, init=True):
        self.daemon = Daemon(init=False)
        self.plain = self.daemon.arguments
        self.trace = os.path.join(self.daemon.directory, "trace")
        self.machines, self.rounds, self.watcher = [], 0, None
        if init:
            self.daemon.init()

    def under_strace(self, *options):
        """Children that execute another program are let go; vtpmd stays our child."""
        self.daemon.arguments = ["strace", "-D", "-f", "-qq", "-y", "-b", "execve", "-s", "0", "-o", self.trace,
                                 *options, *self.plain]

    def count(self):
        self.under_strace("-e", "trace=" + ",".join(set(FILE_CALLS + MESSAGE_CALLS)))

    def aim(self, point, names):
        """At the n-th call; names are the files below the state directory that a call has to be about."""
        paths = [option for name in names for option in ("-P", self.daemon.state + name)]
        self.under_strace("-e", f"trace={point.call}", "-e", f"inject={point.call}:signal=SIGKILL:when={point.number}",
                          *(paths if point.kind == "files" else []))

    def start(self):
        self.daemon.arguments = self.plain
        self.daemon.start()

    def counted(self):
        """{Point without number: how often}, and the names below the state directory, of the run that was traced."""
        calls, names = collections.Counter(), set()
        with open(self.trace, encoding="utf-8", errors="replace") as file:
            for line in file:
                call = re.match(r"(\d+) +(\w+)\(", line)
                found = re.findall(rf'[<"]{re.escape(self.daemon.state)}(/?[^>"]*)[>"]', line)
                names.update(found)
                if call and (found or call[2] in MESSAGE_CALLS):
                    calls["files" if found else "messages", call[2], call[1]] += 1
        most = collections.Counter()  # strace counts for each thread
        for (kind, call, _), number in calls.items():
            most[kind, call] = max(most[kind, call], number)
        return most, names

    def machine(self):
        machine = Machine(self, f"vm{self.rounds}-{len(self.machines)}")
        self.machines.append(machine)
        return machine


class Watcher(threading.Thread):
    """Starts vtpmd again when it has died; if everything else is to die with it, after that."""

    def __init__(self, host, everything):
        super().__init__(daemon=True)
        self.host, self.everything = host, everything
        self.process, self.failure = host.daemon.process, None
        self.ended = threading.Event()
        self.start()

    def run(self):
        try:
            self.process.popen.wait()
            self.ended.set()
            if self.everything:
                self.host.daemon.end()
                self.host.daemon.arguments = self.host.plain
                self.host.daemon.power_on()
            else:
                self.host.start()
        except Exception as failure:
            self.failure = failure

    def struck(self, seconds=0.0):
        """Its sockets close before its end is seen."""
        return self.ended.wait(seconds)

    def finish(self):
        self.join()
        if self.failure:
            raise self.failure


class Machine:
    """One instance, and for each fact about it the values that it may have: what was answered, or what is under way."""

    def __init__(self, host, label):
        self.host, self.label = host, label
        self.instance = self.client = None
        self.may = {"exists": {False}, "runs": {False}, VALUE: {None}, COUNTER: {None}}

    def does(self, action, **after):
        return self.does_to(action, after)

    def does_to(self, action, after):
        if self.host.watcher and self.host.watcher.struck():
            raise Ended()
        for fact, value in after.items():
            self.may[fact] = self.may.setdefault(fact, {None}) | {value}
        result = action()
        for fact, value in after.items():
            self.may[fact] = {value}
        return result

    def create(self, **arguments):
        runs = arguments.get("start", True)
        self.instance = self.does(lambda: self.host.daemon.create(self.label, **arguments), exists=True, runs=runs)
        return self.connected() if runs else self

    def start(self):
        self.does(self.instance.start, runs=True)
        return self.connected()

    def connected(self):
        self.client = self.instance.connect()
        self.command(self.client.startup)
        return self

    def stop(self):
        self.client.close()
        self.does(self.instance.stop, runs=False)

    def delete(self):
        """In one step: it is there and runs, or it is deleted."""
        self.does(lambda: self.instance.call("delete", force=True), exists=False, runs=False)

    def command(self, action, after=None):
        """A TPM command outlives vtpmd: its connection ends only if the instance is killed."""
        try:
            self.does_to(action, after or {})
        except (OSError, TpmError) as failure:
            if self.host.watcher and self.host.watcher.struck(5) and self.host.watcher.everything:
                raise Ended() from failure
            raise AssertionError(f"{self.label}: the TPM does not go on: {failure}") from failure

    def define(self, index, size):
        self.command(lambda: self.client.nv_define(index, size), {index: "not written"})

    def write(self, index, data):
        self.command(lambda: self.client.nv_write(index, data), {index: data})

    def undefine(self, index):
        self.command(lambda: self.client.nv_undefine(index), {index: None})

    def define_counter(self):
        self.command(lambda: self.client.nv_define_counter(COUNTER), {COUNTER: "not written"})

    def increment(self):
        """A new TPM's first counter begins at one (Part 3, 31.8)."""
        (before,) = self.may[COUNTER]
        after = 1 + (int.from_bytes(before, "big") if isinstance(before, bytes) else 0)
        self.command(lambda: self.client.nv_increment(COUNTER), {COUNTER: after.to_bytes(8, "big")})

    def read(self, index, size):
        try:
            return self.client.nv_read(index, size)
        except TpmError as error:
            require(error.code in (NO_INDEX, NOT_WRITTEN), f"index {index:x} of {self.label}: {error}")
            return None if error.code == NO_INDEX else "not written"

    # --- what has to be true after a kill

    def check(self):
        daemon = self.host.daemon
        if self.client:
            self.client.close()
        listed = [one for one in daemon.call("list")["instances"] if one["label"] == self.label]
        require(bool(listed) in self.may["exists"], f"{self.label}: exists {self.may['exists']}, and the list has {listed}")
        if listed:
            self.instance = Instance(daemon, listed[0])
            self.check_state(listed[0])
            self.check_contents()
        else:
            self.instance = daemon.create(self.label, start=False)  # nothing of it is left in the way
        self.instance.call("delete", force=True)
        labels = [one["label"] for one in daemon.call("list")["instances"]]
        require(self.label not in labels, f"{self.label} is still listed")

    def check_state(self, shown):
        """What was answered is so. What was to start or stop then may still do so; it is stopped, then started."""
        state, wanted = shown["state"], shown["wanted"]
        require(wanted in self.may["runs"], f"{self.label}: runs {self.may['runs']}, and the list says {shown}")
        require(state != "running" or alive(shown["pid"]), f"the list names a process that is dead: {shown}")
        if self.may["runs"] == {True}:  # what is being started anew is stopped for a moment; check_contents waits for it
            require(state in ("running", "starting", "failed", "stopped"), f"{self.label} should run, and the list says {shown}")
            return
        if self.may["runs"] == {False}:
            require(state in ("provisioned", "stopped"), f"{self.label} should not run, and the list says {shown}")
        wait_for(self.started_anew, f"{self.label} cannot be stopped and started")

    def started_anew(self):
        """Refused while its process has still to connect again (HELD) or what was under way still ends (VERB_STATE)."""
        for verb in ("stop", "start"):
            try:
                self.instance.call(verb)
                refused = False
            except AdminError as error:
                require(error.name in ("HELD", "VERB_STATE"), f"{verb} is refused with {error}")
                refused = True
        return not refused

    def check_contents(self):
        self.client = self.instance.recover()
        for index in [fact for fact in self.may if isinstance(fact, int)]:
            size = max([len(data) for data in self.may[index] if isinstance(data, bytes)], default=8)
            found = self.read(index, size)
            require(found in self.may[index], f"{self.label}: index {index:x} is {found}, not one of {self.may[index]}")
        self.client.nv_define(VALUE + 15, 8)
        self.client.nv_write(VALUE + 15, bytes(8))
        self.client.close()


# --- workloads: they begin with the start of vtpmd and end with its end on SIGTERM


def lifecycle(host):
    """create, start, NV writes, a counter, stop, start, delete; and one that runs while vtpmd ends."""
    first = host.machine().create(start=False)
    first.start()
    first.define(VALUE, 8)
    first.write(VALUE, b"first   ")
    first.define_counter()
    first.increment()
    first.stop()
    first.start()
    first.increment()
    first.write(VALUE, b"second  ")
    first.delete()
    second = host.machine().create()
    second.define(VALUE, 8)


def large_states(host):
    """Many indexes, defined, written, written over, removed."""
    machine = host.machine().create()
    for number in range(8):
        machine.define(VALUE + 2 + number, 1500)
        machine.write(VALUE + 2 + number, bytes([number + 1]) * 700)
    for number in range(4):
        machine.write(VALUE + 2 + number, bytes([number + 101]) * 700)
        machine.undefine(VALUE + 6 + number)
    machine.stop()


def two_at_once(host):
    """Commits of two instances, which may become one transaction."""
    machines = [host.machine().create(), host.machine().create()]
    failures = []

    def load(machine):
        try:
            machine.define(VALUE, 8)
            machine.define_counter()
            for number in range(8):
                machine.write(VALUE, number.to_bytes(8, "big"))
                machine.increment()
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=load, args=[machine], daemon=True) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


def past_a_checkpoint(host):
    """So many commits that the database takes over what is in its log."""
    machine = host.machine().create()
    machine.define(VALUE, 8)
    for number in range(260):
        machine.write(VALUE, number.to_bytes(8, "big"))


def after_a_kill(host):
    """vtpmd was killed before: it reads its log, finds its instance running and goes on with it."""
    host.machines[0].write(VALUE, b"after   ")


def before_a_kill(host):
    host.start()
    machine = host.machine().create()
    machine.define(VALUE, 8)
    machine.write(VALUE, b"before  ")
    host.daemon.kill()


def run_workload(host, workload):
    traced = host.watcher.process
    try:
        wait_for(lambda: "ready\n" in traced.output() or host.watcher.struck(), f"vtpmd is not ready: {traced.log()}")
        if not host.watcher.struck():
            workload(host)
            os.kill(traced.pid, signal.SIGTERM)
            require(host.watcher.struck(20), f"vtpmd does not end on SIGTERM: {traced.log()[-2000:]}")
    except Ended:
        pass
    except (OSError, AdminError) as failure:
        require(host.watcher.struck(5), f"{failure}, and vtpmd was not killed")


def one_round(host, workload, prepare, everything):
    """Runs the workload in the vtpmd that was set up to be traced; returns whether it was killed."""
    arguments, host.daemon.arguments = host.daemon.arguments, host.plain
    host.machines, host.watcher = [], None
    host.rounds += 1
    prepare(host)
    host.daemon.arguments = arguments
    host.daemon.start(wait=False)
    host.watcher = Watcher(host, everything)
    run_workload(host, workload)
    host.watcher.finish()
    killed, host.watcher = host.watcher.process.popen.returncode != 0, None
    for machine in host.machines:
        machine.check()
    require(host.daemon.stop() == 0, f"vtpmd does not end cleanly: {host.daemon.log()[-2000:]}")
    return killed


def nothing_is_left(host):
    """Settings, states and processes are those of instances; all of them were deleted."""
    host.start()
    wait_for(lambda: not [name for name, _ in host.daemon.processes() if name.startswith("vtpm-instance")],
             f"processes of deleted instances live on: {host.daemon.processes()} {host.daemon.log()[-2000:]}")
    host.daemon.stop()
    with host.daemon.tables() as tables:
        for table in ("states", "settings", "processes"):
            left = tables.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            require(left == 0, f"{left} rows are left in {table} although every instance was deleted")


def points_of(counts):
    return [Point(kind, call, number + 1) for (kind, call), count in sorted(counts.items()) for number in range(count)]


def drawn(points):
    return points if LONG else randomness.sample(points, min(SAMPLE, len(points)))


def need_strace():
    """strace may be there and not be allowed to trace."""
    result = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    if result.returncode:
        raise Skip(f"strace: {result.stderr.strip()}")


def report(killed, points, counts):
    note(f"killed at {killed} of {sum(counts.values())} points: " +
         ", ".join(f"{count} {call} ({kind})" for (kind, call), count in sorted(counts.items())))
    require(killed > len(points) * 3 // 4, f"only {killed} of {len(points)} points were reached")


def kill_at_points_of(workload, prepare=lambda host: None):
    need_strace()
    host = Host()
    host.count()
    require(not one_round(host, workload, prepare, False), "vtpmd ended although nothing killed it")
    counts, names = host.counted()
    require(counts["files", "pwrite64"] and counts["files", "fdatasync"], f"what vtpmd stores was not seen: {counts}")
    points, killed = drawn(points_of(counts)), 0
    for number, point in enumerate(points):
        if host.rounds > ROUNDS_OF_A_HOST:
            nothing_is_left(host)
            host.daemon.end()
            host = Host()
        host.aim(point, names)
        try:
            killed += one_round(host, workload, prepare, everything=number % 2 == 1)
        except Exception as failure:
            raise AssertionError(f"at {point}: {failure}") from failure
    nothing_is_left(host)
    host.daemon.end()
    report(killed, points, counts)


def init_under_strace(host, everything):
    """A kill of vtpmd --init, then --init again, as an operator does. Returns whether it was killed."""
    arguments, host.daemon.arguments = host.daemon.arguments, host.plain
    killed = subprocess.run([*arguments, "--init"], cwd=host.daemon.directory, capture_output=True, check=False).returncode
    if everything:
        host.daemon.cpu.kill()
        host.daemon.cpu = Cpu(host.daemon.directory)
    again = subprocess.run([*host.plain, "--init"], cwd=host.daemon.directory, capture_output=True, text=True, check=False)
    require(again.returncode == 0 or "there is a store already" in again.stderr, f"vtpmd --init says {again.stderr}")
    host.daemon.start()
    host.machine().create().check()
    host.daemon.end()
    return killed != 0


@test
def at_points_of_making_a_new_trust_domain():
    """vtpmd --init is done, or is begun anew."""
    need_strace()
    host = Host(init=False)
    host.count()
    require(not init_under_strace(host, False), "vtpmd --init failed although nothing killed it")
    counts, names = host.counted()
    points, killed = drawn(points_of(counts)), 0
    for number, point in enumerate(points):
        host = Host(init=False)
        host.aim(point, names)
        try:
            killed += init_under_strace(host, everything=number % 2 == 1)
        except Exception as failure:
            raise AssertionError(f"at {point}: {failure}") from failure
    report(killed, points, counts)


@test
def an_instance_has_no_file_below_the_state_directory():
    """So there is no write of keeper and worker to kill them at; kill_under_load.py kills them at any time."""
    host = Host()
    host.start()
    machine = host.machine().create()
    for pid in (machine.instance.keeper(), machine.instance.worker()):
        open_files = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        require(open_files and not [path for path in open_files if path.startswith(host.daemon.state)],
                f"process {pid} has {open_files}")


@test
def what_a_cut_off_delete_left_is_gone_after_the_next_start():
    host = Host()
    host.start()
    instance = host.daemon.create("left", start=False)
    instance.call("delete")
    host.daemon.stop()
    with host.daemon.tables() as tables:
        tables.execute("INSERT INTO settings VALUES(?, '{}')", [instance.key()])
        tables.execute("INSERT INTO processes VALUES(?, '', 1, 1)", [instance.key()])
    nothing_is_left(host)


@test
def a_process_that_was_not_noted_ends_and_leaves_its_sockets():
    """It connects to the next vtpmd late, when another one was started in its place: that one waits for the sockets."""
    host = Host()
    host.start()
    instance = host.machine().create().instance
    first, worker = instance.keeper(), instance.worker()
    with open(f"/proc/{first}/cmdline", encoding="utf-8") as file:
        arguments = file.read().split("\0")[:-1]
    host.daemon.kill()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not alive(first) and not alive(worker), "its processes live on")
    stray = Process("stray", arguments, host.daemon.directory)
    stray.wait_until(lambda: "tries again" in stray.log(), "it misses vtpmd")
    os.kill(stray.pid, signal.SIGSTOP)
    host.start()
    second = wait_for(lambda: {instance.keeper()} - {None, first, stray.pid}, "no other process is started")
    time.sleep(2)  # longer than it pauses between two attempts
    os.kill(stray.pid, signal.SIGCONT)
    require(stray.wait() > 0, "it served to its end")
    instance.recover()
    require({instance.keeper()} == second, f"process {instance.keeper()} serves, not {second}: {host.daemon.log()}")


@test
def at_points_of_the_life_of_an_instance():
    kill_at_points_of(lifecycle)


@test
def at_points_of_writing_large_states():
    kill_at_points_of(large_states)


@test
def at_points_of_writing_two_tpms_at_once():
    kill_at_points_of(two_at_once)


@test
def at_points_of_many_writes_and_a_checkpoint():
    kill_at_points_of(past_a_checkpoint)


@test
def at_points_of_a_start_after_a_kill():
    kill_at_points_of(after_a_kill, before_a_kill)


if __name__ == "__main__":
    run()
