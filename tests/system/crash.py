#!/usr/bin/python3
"""S10, S8, S9, S3, S2, S1 and D1 of the attack list with the real processes: everything ends at any moment, and damaged
or exchanged records. The kills of single processes are in kill_under_load.py.
"""

import shutil
import struct
import threading

from harness import Cpu, Daemon, new_directory
from tap import LONG, note, randomness, require, run, test
from tpm import TpmError

ROUNDS = 500 if LONG else 10
FLIPS = 400 if LONG else 12
NV_INDEX = 0x01800030
MANUAL = {"rebuild": "manual"}
UNREADABLE = ("not a sealed vTPM state", "has a format", "cut off", "another instance", "does not authenticate")


def write_until(client, first, kill, delay):
    """Writes rising numbers until `kill`, which comes after the delay; returns the last that was answered."""
    answered = first - 1
    killer = threading.Timer(delay, kill)
    killer.start()
    try:
        while True:
            client.nv_write(NV_INDEX, struct.pack(">Q", answered + 1))
            answered += 1
    except (OSError, TpmError):
        pass
    killer.join()
    return answered


def value_of(client):
    return struct.unpack(">Q", client.nv_read(NV_INDEX, 8))[0]


def with_value(daemon, label="crashed", value=0):
    instance = daemon.create(label)
    client = instance.connect()
    client.startup()
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, struct.pack(">Q", value))
    return instance, client


@test
def what_was_answered_before_everything_was_killed_is_there_after_it():
    daemon = Daemon()
    instance, client = with_value(daemon)
    value, writes = 0, 0
    for _ in range(ROUNDS):
        answered = write_until(client, value + 1, daemon.end, randomness.uniform(0.002, 0.12))
        writes += answered - value
        daemon.power_on()
        client = instance.recover()
        value = value_of(client)
        require(value in (answered, answered + 1), f"{answered} was answered and {value} is there")
    note(f"{ROUNDS} kills, {writes} answered writes")
    require(writes > ROUNDS, "hardly anything was written, so nothing was shown")


@test
def a_clean_stop_loses_nothing():
    daemon = Daemon()
    instance, client = with_value(daemon, value=77)
    client.close()
    instance.stop()
    daemon.restart()
    instance.start()
    client = instance.connect()
    client.startup()
    require(value_of(client) == 77, "another value is there")


class Stopped:
    """A host whose vtpmd does not run, with one stopped instance: what lies in its database can be exchanged."""

    def __init__(self, count=1):
        self.daemon = Daemon(settings=MANUAL)
        self.instances = []
        for number in range(count):
            instance, client = with_value(self.daemon, f"vm{number}", number)
            client.close()
            instance.stop()
            self.instances.append(instance)
        self.daemon.stop()

    def read(self, query, *values):
        with self.daemon.tables() as tables:
            return tables.execute(query, values).fetchone()[0]

    def write(self, statement, *values):
        with self.daemon.tables() as tables:
            require(tables.execute(statement, values).rowcount == 1, f"nothing was changed by {statement}")

    def state_of(self, instance):
        return self.read("SELECT blob FROM states WHERE id = ?", instance.key())

    def put_state(self, instance, blob):
        self.write("UPDATE states SET blob = ? WHERE id = ?", blob, instance.key())

    def refused(self, instance, *sentences):
        """Starts vtpmd and the instance, which has to be refused; what is stored stays as it is."""
        before = self.state_of(instance)
        self.daemon.start()
        held = instance.show()["state"] == "failed"
        instance.refused_start(*sentences, **({"declare_dead": True} if held else {}))
        require(self.daemon.stop() == 0, f"vtpmd did not end cleanly: {self.daemon.log()}")
        require(self.state_of(instance) == before, "the refused state was changed")

    def refused_daemon(self, sentence):
        self.daemon.start(wait=False)
        require(self.daemon.process.wait() > 0, "vtpmd started")
        require(sentence in self.daemon.log(), f"it says: {self.daemon.log()[-2000:]}")

    def opens(self, instance):
        self.daemon.start()
        held = instance.show()["state"] == "failed"
        instance.call("start", **({"declare_dead": True} if held else {}))
        return instance.recover()


def flipped(blob, place):
    return blob[:place] + bytes([blob[place] ^ 0x40]) + blob[place + 1:]


def places_in(blob, count):
    return sorted({0, 8, 10, 12, 16, 32, 40, 48, 56, 64, 96, 127, 128, len(blob) - 1}
                  | set(randomness.sample(range(len(blob)), count)))


@test
def every_flipped_byte_of_a_state_is_refused():
    host = Stopped()
    instance = host.instances[0]
    good = host.state_of(instance)
    places = places_in(good, FLIPS)
    for place in places:
        host.put_state(instance, flipped(good, place))
        host.refused(instance, *UNREADABLE)
    host.put_state(instance, good)
    require(value_of(host.opens(instance)) == 0, "the good state does not open any more")
    note(f"{len(places)} places of {len(good)} bytes")


@test
def a_truncated_state_is_refused():
    host = Stopped()
    instance = host.instances[0]
    good = host.state_of(instance)
    for size in (0, 1, 127, 128, 143, len(good) // 2, len(good) - 1):
        host.put_state(instance, good[:size])
        host.refused(instance, "cut off", "not a sealed vTPM state", "the instance's state is missing")


@test
def what_is_behind_a_state_that_was_not_suspended_is_not_looked_at():
    host = Stopped()
    instance = host.instances[0]
    good = host.state_of(instance)
    host.put_state(instance, good + good)
    require(value_of(host.opens(instance)) == 0, "it holds something else")


@test
def a_missing_state_is_not_made_anew():
    host = Stopped()
    instance = host.instances[0]
    host.write("DELETE FROM states WHERE id = ?", instance.key())
    host.daemon.start()
    instance.refused_start("nothing was created in its place")
    host.daemon.stop()
    require(host.read("SELECT count(*) FROM states") == 0, "a new state was made")


@test
def the_state_of_another_instance_is_refused():
    host = Stopped(2)
    first, second = host.instances
    host.put_state(second, host.state_of(first))
    host.refused(second, "belongs to another instance")
    require(value_of(host.opens(first)) == 0, "the other instance was harmed")


@test
def show_says_why_an_instance_was_refused():
    host = Stopped(2)
    first, second = host.instances
    host.put_state(second, host.state_of(first))
    host.daemon.start()
    second.refused_start("belongs to another instance")
    require("belongs to another instance" in second.show()["reason"], f"the reason is {second.show()['reason']}")


@test
def an_older_state_of_the_same_instance_is_refused():
    """S1, without the ledger's rows: they say which version and digest is the newest."""
    host = Stopped()
    instance = host.instances[0]
    older, version = host.state_of(instance), host.read("SELECT version FROM states")
    client = host.opens(instance)
    client.nv_write(NV_INDEX, struct.pack(">Q", 7))
    client.close()
    instance.stop()
    host.daemon.stop()
    newer = host.state_of(instance)
    require(host.read("SELECT version FROM states") > version, "the write did not make a new version")
    host.put_state(instance, older)
    host.refused(instance, "older than the newest")
    host.put_state(instance, newer)
    require(value_of(host.opens(instance)) == 7, "the newest state does not open any more")


@test
def every_flipped_byte_of_a_row_of_the_head_and_of_the_master_secret_is_refused():
    host = Stopped()
    for query, statement in (("SELECT blob FROM rows", "UPDATE rows SET blob = ?"),
                             ("SELECT value FROM meta WHERE name = 'head'", "UPDATE meta SET value = ? WHERE name = 'head'"),
                             ("SELECT value FROM meta WHERE name = 'master'",
                              "UPDATE meta SET value = ? WHERE name = 'master'")):
        good = host.read(query)
        places = randomness.sample(places_in(good, FLIPS), 8 if not LONG else FLIPS)
        for place in places:
            host.write(statement, flipped(good, place))
            host.refused_daemon("vtpmd")
        host.write(statement, good)
    require(value_of(host.opens(host.instances[0])) == 0, "the good records do not open any more")


@test
def an_older_row_is_refused():
    """The ledger's head is sealed over the root of all rows: none of them can be put back alone."""
    host = Stopped()
    instance = host.instances[0]
    older = host.read("SELECT blob FROM rows")
    host.opens(instance).nv_write(NV_INDEX, struct.pack(">Q", 7))
    instance.stop()
    host.daemon.stop()
    newer = host.read("SELECT blob FROM rows")
    host.write("UPDATE rows SET blob = ?", older)
    host.refused_daemon("not those that its newest record was made over")
    host.write("UPDATE rows SET blob = ?", newer)
    require(value_of(host.opens(instance)) == 7, "the newest row does not open any more")


@test
def a_missing_row_is_refused():
    host = Stopped(2)
    host.write("DELETE FROM rows WHERE id = ?", host.instances[1].key())
    host.refused_daemon("not those that its newest record was made over")


@test
def a_store_under_another_device_secret_is_refused():
    host = Stopped()
    stranger = new_directory()
    Cpu(stranger).stop()
    shutil.copy(f"{stranger}/device-secret", host.daemon.cpu.secret_path)
    host.daemon.cpu.kill()
    host.daemon.cpu = Cpu(host.daemon.directory)
    host.refused_daemon("does not authenticate")


@test
def a_store_of_another_device_is_refused_before_anything_is_made():
    """The KEYREQUEST of the master secret has the CPUSVN of the processor, and every software device has the same one."""
    host = Stopped()
    before = len(host.daemon.log())
    statement = "UPDATE meta SET value = ? WHERE name = 'master'"
    good = host.read("SELECT value FROM meta WHERE name = 'master'")
    require(good[128 + 8:128 + 8 + 16] == b"vtpm software\0\0\x01", "the software device does not name itself")
    host.write(statement, good[:128 + 8] + bytes([11, 11, 2, 2, 255, 1]) + bytes(10) + good[128 + 8 + 16:])
    host.refused_daemon('was made on the device "sgx", and vtpmd runs on "software": set device = sgx')
    require("step 1" not in host.daemon.log()[before:], "an enclave was made")
    host.write(statement, good)
    require(value_of(host.opens(host.instances[0])) == 0, "the store does not open any more")


@test
def an_older_store_as_a_whole_is_refused():
    """S1: the anchor, here a file beside the store, knows that it is not the newest. What happens if that is put back as
    well is in anchor.py.
    """
    host = Stopped()
    instance = host.instances[0]
    copy = new_directory() + "/older.db"
    with host.daemon.tables() as tables:
        tables.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(host.daemon.database, copy)
    host.opens(instance).nv_write(NV_INDEX, struct.pack(">Q", 7))
    instance.stop()
    host.daemon.stop()
    with host.daemon.tables() as tables:
        tables.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    newest = new_directory() + "/newest.db"
    shutil.copy(host.daemon.database, newest)
    shutil.copy(copy, host.daemon.database)
    host.refused_daemon("the store is an older copy")
    shutil.copy(newest, host.daemon.database)
    require(value_of(host.opens(instance)) == 7, "the newest store does not open any more")


if __name__ == "__main__":
    run()
