#!/usr/bin/python3
"""P1: SIGKILL of vtpmd, of a worker, of a keeper, of both, and of vtpm-front, while a TPM is written to.

The load is an NV index that gets rising numbers and an NV counter that is incremented, in turns, by one client. After each
kill: what was answered is there, the client's connection goes on or fails cleanly, `list` says the truth. When and in
which order is drawn from the seed that is printed; CHECK_SEED repeats it. The full run kills each a thousand times.
"""

import os
import signal
import struct
import threading
import time

from harness import Daemon, Front, alive, wait_for
from tap import LONG, note, randomness, require, run, test
from tpm import RC_FAILURE, TpmError

ROUNDS = 1000 if LONG else 6
EACH_INSTANCE = 3  # kills of processes of one instance: a rebuild waits longer each time
VALUE, COUNTER = 0x01800080, 0x01800081


class Load:
    """Writes and increments until its connection ends or the TPM fails, and knows what was answered."""

    def __init__(self, connect):
        self.connect = connect
        self.answered_value = self.answered_counter = 0
        self.acknowledged = 0
        self.client = connect()
        self.client.startup()
        self.client.nv_define(VALUE, 8)
        self.client.nv_write(VALUE, struct.pack(">Q", 0))
        self.client.nv_define_counter(COUNTER)
        self.client.nv_increment(COUNTER)
        self.answered_counter = self.counter()

    def value(self):
        return struct.unpack(">Q", self.client.nv_read(VALUE, 8))[0]

    def counter(self):
        return struct.unpack(">Q", self.client.nv_read(COUNTER, 8))[0]

    def step(self):
        self.client.nv_write(VALUE, struct.pack(">Q", self.answered_value + 1))
        self.answered_value += 1
        self.client.nv_increment(COUNTER)
        self.answered_counter += 1
        self.acknowledged += 2

    def run_until(self, kill, goes_on_for=0.0):
        """Kills after a random time; goes on for a while after it. True if the connection did not end."""
        killed = []

        def strike():
            kill()
            killed.append(time.monotonic())

        timer = threading.Timer(randomness.uniform(0.002, 0.1), strike)
        timer.start()
        try:
            while not killed or time.monotonic() < killed[0] + goes_on_for:
                self.step()
            return True
        except OSError:
            return False
        except TpmError as error:
            require(error.code == RC_FAILURE, f"the TPM answers {error}")
            return False
        finally:
            timer.join()

    def check(self, client=None):
        """What was answered is there: no less, and no more than what was on its way."""
        if client:
            self.client = client
        value, counter = self.value(), self.counter()
        require(value in (self.answered_value, self.answered_value + 1),
                f"{self.answered_value} was answered and {value} is there")
        require(counter in (self.answered_counter, self.answered_counter + 1),
                f"the counter was answered as {self.answered_counter} and is {counter}")
        self.answered_value, self.answered_counter = value, counter


def listed(instance):
    shown = [one for one in instance.daemon.call("list")["instances"] if one["id"] == instance.identity]
    require(len(shown) == 1, f"the list has it {len(shown)} times")
    return shown[0]


def require_truth(instance):
    """What the list says of it is so: the process that it names is alive, and the TPM behind it answers."""
    shown = listed(instance)
    require(shown["state"] == "running" and shown["health"] == "serving", f"the list says {shown}")
    require(alive(shown["pid"]), f"the list names a process that is dead: {shown}")
    require(shown["version"] > 0, f"the list says {shown}")


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def report(kind, load, rounds):
    note(f"{rounds} kills of {kind}, {load.acknowledged} answered commits")
    require(load.acknowledged > rounds, "hardly anything was written, so nothing was shown")


@test
def vtpmd_is_killed():
    """The TPM goes on: its connection, its processes, its PCRs and its count of resets stay."""
    daemon = Daemon()
    instance = daemon.create("survivor")
    load = Load(instance.connect)
    pids, resets = [instance.keeper(), instance.worker()], load.client.reset_count()
    for _ in range(ROUNDS):
        def kill_and_start():
            daemon.kill()
            daemon.start()

        require(load.run_until(kill_and_start, 0.05), f"its connection ended: {daemon.log()[-4000:]}")
        load.check()
        instance.wait_serving()
        require_truth(instance)
        require([instance.keeper(), instance.worker()] == pids, "its processes are others")
    require(load.client.reset_count() == resets, "the TPM was reset")
    report("vtpmd", load, ROUNDS)


def killed_and_rebuilt(kind, victims):
    daemon = Daemon()
    rounds, number, commits = 0, 0, 0
    while rounds < ROUNDS:
        instance = daemon.create(f"victim{number}")
        load = Load(instance.connect)
        for _ in range(min(EACH_INSTANCE, ROUNDS - rounds)):
            deaths, pids = instance.show()["deaths"], victims(instance)
            load.run_until(lambda: kill(*pids))
            wait_for(lambda: not any(map(alive, pids)), "the killed live on")
            wait_for(lambda: listed(instance)["deaths"] > deaths, f"the death is not counted: {listed(instance)}", 90)
            load.client.close()
            load.check(instance.recover(90))
            instance.wait_serving()
            require_truth(instance)
            rounds += 1
        commits += load.acknowledged
        load.client.close()
        instance.call("delete", force=True)
        number += 1
    note(f"{rounds} kills of {kind}, {commits} answered commits")
    require(commits > rounds, "hardly anything was written, so nothing was shown")


@test
def a_worker_is_killed():
    killed_and_rebuilt("a worker", lambda instance: [instance.worker()])


@test
def a_keeper_is_killed():
    killed_and_rebuilt("a keeper", lambda instance: [instance.keeper()])


@test
def keeper_and_worker_are_killed():
    killed_and_rebuilt("keeper and worker", lambda instance: [instance.keeper(), instance.worker()])


@test
def vtpmd_and_a_worker_are_killed_at_once():
    daemon = Daemon()
    instance = daemon.create("both")
    load = Load(instance.connect)
    for _ in range(ROUNDS):
        worker = instance.worker()

        def kill_both():
            kill(daemon.process.pid, worker)

        load.run_until(kill_both)
        daemon.process.wait()
        daemon.start()
        load.client.close()
        load.check(instance.recover(120))
        instance.wait_serving()
        require_truth(instance)
    report("vtpmd and a worker", load, ROUNDS)


@test
def a_separate_front_end_is_killed():
    """Its TPM is not lost with it: a new one registers a new share, and the machine resets (the link is one per start)."""
    daemon = Daemon()
    instance = daemon.create_for_front("fronted")
    fronts = [Front(instance)]
    fronts[0].wait_listening()
    instance.wait_serving()
    load = Load(fronts[0].connect)
    for number in range(ROUNDS):
        load.run_until(lambda: kill(fronts[-1].pid))
        fronts[-1].wait()
        for path in (fronts[-1].path, fronts[-1].path + ".ctrl"):
            if os.path.exists(path):
                os.unlink(path)
        fronts.append(Front(instance, name=f"vtpm-front{number}"))
        fronts[-1].wait_listening()

        def usable():
            if fronts[-1].reset() != bytes(4):
                return None
            client = fronts[-1].connect()
            client.startup()
            return client

        load.check(wait_for(usable, f"the new front-end does not serve: {fronts[-1].log()} {daemon.log()[-3000:]}"))
        require(listed(instance)["state"] == "running", f"the list says {listed(instance)}")
    report("vtpm-front", load, ROUNDS)


if __name__ == "__main__":
    run()
