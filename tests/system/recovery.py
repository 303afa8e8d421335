#!/usr/bin/python3
"""Recovery keys: a backup of the store, another processor, another anchor, and two of three holders bring every TPM back;
fewer do not, nor does anything that is not theirs.
"""

import os
import shutil
import subprocess

from harness import Daemon, Holder, Instance, NewHouse, ctl, new_directory
from tap import require, run, test

INDEX = 0x018000A0


class House:
    """A host with recovery keys, and what was saved of it: a backup of its store."""

    def __init__(self, threshold=2, count=3):
        self.keys = new_directory()
        self.holders = [Holder(self.keys, f"holder{i}") for i in range(count)]
        self.daemon = Daemon(new_directory(), init=False)
        named = [word for holder in self.holders for word in ("--recovery-key", holder.public)]
        self.daemon.init(*named, "--recovery-threshold", str(threshold))
        self.daemon.start()
        self.backup = os.path.join(self.keys, "backup.db")

    def save(self):
        ctl(self.daemon, "store", "backup", self.backup)

    def burn(self):
        """Everything of it is gone but the backup and the holders' keys."""
        self.daemon.end()
        shutil.rmtree(self.daemon.directory)


def written(client, data):
    client.startup()
    client.nv_define(INDEX, 8)
    client.nv_write(INDEX, data)


def answers_of(house, *numbers):
    def answers(state):
        paths = []
        for number in numbers:
            path = os.path.join(house.keys, f"answer{number}")
            result = house.holders[number].answer(state, path)
            require(result.returncode == 0, f"holder {number}: {result.stderr}")
            paths.append(path)
        return paths
    return answers


@test
def two_of_three_holders_bring_every_tpm_back():
    house = House()
    require(house.daemon.call("status")["recovery"] == "2 of 3 keys", f"{house.daemon.call('status')}")
    running, stopped, gone = (house.daemon.create(label) for label in ("running", "stopped", "gone"))
    written(running.connect(), b"running.")
    written(stopped.connect(), b"stopped.")
    stopped.stop()
    gone.call("delete", force=True)
    resets = running.connect().reset_count()
    house.save()
    house.burn()
    new = NewHouse(house.backup)
    status, said = new.recover(answers_of(house, 2, 0))
    require(status == 0 and "was recovered" in said, f"{status}: {said}")
    new.daemon.start()
    require(new.daemon.call("status")["recovery"] == "2 of 3 keys", "the rule is lost")
    for label, value in (("running", b"running."), ("stopped", b"stopped.")):
        instance = Instance(new.daemon, new.daemon.call("show", instance=label))
        require(instance.show()["epoch"] == 1, f"{instance.show()}")
        if instance.show()["state"] == "stopped" and not instance.show()["wanted"]:
            require(instance.show()["reverted"], f"{instance.show()}")
            instance.call("start")
        client = instance.recover()
        require(client.nv_read(INDEX, 8) == value, f"{label} holds something else")
        if label == "running":
            require(client.reset_count() > resets, "resetCount went back")
    new.daemon.refuses("DELETED", "start", instance=gone.identity)
    findings = new.daemon.call("store-check")["findings"]
    require(not findings, f"{findings}")
    new.daemon.restart()
    Instance(new.daemon, new.daemon.call("show", instance="stopped")).wait_for("it does not go on", state="running")


@test
def too_few_and_wrong_answers_recover_nothing_and_lose_nothing():
    house, other = House(), House()
    written(house.daemon.create("kept").connect(), b"kept....")
    house.save()
    house.burn()
    new = NewHouse(house.backup)
    before = open(new.daemon.database, "rb").read()

    def wrong(state):
        paths = answers_of(house, 1, 1)(state)
        nonsense = os.path.join(house.keys, "nonsense")
        with open(nonsense, "wb") as file:
            file.write(os.urandom(104))
        altered = os.path.join(house.keys, "altered")
        with open(paths[0], "rb") as source, open(altered, "wb") as file:
            file.write(source.read()[:-1] + b"x")
        stranger = other.holders[0].answer(state, os.path.join(house.keys, "strange"))
        require(stranger.returncode == 1 and "none of the record's" in stranger.stderr, f"{stranger}")
        shutil.copy(os.path.join(other.daemon.state, "recovery-record"), os.path.join(state, "other-record"))
        foreign = other.holders[0].answer(state, os.path.join(house.keys, "foreign"), record="other-record")
        require(foreign.returncode == 1 and "another trust domain" in foreign.stderr, f"{foreign}")
        return [*paths, nonsense, altered, os.path.join(house.keys, "none"), house.backup]

    status, said = new.recover(wrong)
    require(status == 1 and "1 of 2 answers were given" in said, f"{status}: {said}")
    for sentence in ("has answered already", "no answer of a holder", "does not authenticate", "No such file",
                     "another size"):
        require(sentence in said, f"it does not say {sentence}: {said}")
    require(not os.path.exists(os.path.join(new.daemon.state, "anchor")), "an anchor was made")
    require(open(new.daemon.database, "rb").read() == before, "the store was changed")
    status, said = new.recover(answers_of(house, 0, 1))
    require(status == 0, f"the right answers are refused afterwards: {said}")
    new.daemon.start()
    instance = Instance(new.daemon, new.daemon.call("show", instance="kept"))
    require(instance.recover().nv_read(INDEX, 8) == b"kept....", "it holds something else")


@test
def without_recovery_keys_that_is_said():
    daemon = Daemon()
    require(daemon.call("status")["recovery"] == "none", f"{daemon.call('status')}")
    daemon.stop()
    result = subprocess.run([*daemon.arguments, "--recover"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            check=False, timeout=60)
    require(result.returncode == 1 and "without recovery keys" in result.stderr, f"{result}")
    daemon.start()


@test
def a_recovery_takes_no_anchor_that_is_another_domains():
    house = House(threshold=1, count=1)
    house.daemon.create("one", start=False)
    house.save()
    house.daemon.stop()
    shutil.copy(house.backup, house.daemon.database)
    for name in ("vtpm.db-wal", "vtpm.db-shm"):
        if os.path.exists(os.path.join(house.daemon.state, name)):
            os.remove(os.path.join(house.daemon.state, name))
    new = NewHouse.__new__(NewHouse)
    new.daemon = house.daemon
    status, said = new.recover(answers_of(house, 0))
    require(status == 1 and "another trust domain is anchored" in said, f"{status}: {said}")


@test
def options_that_do_not_fit_are_refused():
    daemon = Daemon(init=False)
    key = Holder(daemon.directory, "holder")
    for options, sentence in (
            (["--init", "--recovery-key", key.public], "--recovery-threshold"),
            (["--init", "--recovery-key", key.public, "--recovery-threshold", "2"], "how many"),
            (["--init", "--recovery-key", key.public, "--recovery-threshold", "1x"], "how many"),
            (["--init", "--recovery-threshold", "1"], "how many"),
            (["--recovery-key", key.public, "--recovery-threshold", "1"], "--init alone"),
            (["--init", "--recover"], "not with --init"),
            (["--init", "--recovery-key", key.private, "--recovery-threshold", "1"], "no public key of X25519"),
            (["--init", "--recovery-key", "/none", "--recovery-threshold", "1"], "No such file"),
            (["--init", *["--recovery-key", key.public] * 2, "--recovery-threshold", "1"], "the same key"),
            (["--init", *["--recovery-key", key.public] * 9, "--recovery-threshold", "1"], "8 of them at most")):
        result = subprocess.run([*daemon.arguments, *options], capture_output=True, text=True, check=False, timeout=60)
        require(result.returncode != 0 and sentence in result.stderr, f"{options}: {result}")
        require(not os.path.exists(daemon.database), f"{options}: a store was made")


if __name__ == "__main__":
    run()
