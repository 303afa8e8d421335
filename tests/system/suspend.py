#!/usr/bin/python3
"""S7: suspending and resuming. What a power-off would lose is there after a resume, once; nothing of it comes back a second
time, from another moment or from another instance, and no random byte is drawn twice.
"""

import contextlib
import os
import shutil
import signal
import struct
import time

from harness import AdminError, Daemon, Instance, new_directory, wait_for
from tap import require, run, test
from tpm import TpmError, digest, storage_key

PCR, INDEX = 16, 0x01800090
BLANK = bytes(32)
BLOB_HEADER, BLOB_TAG = 128, 16

_daemons = []


def shared():
    if not _daemons:
        _daemons.append(Daemon(settings={"rebuild": "manual"}))
    return _daemons[0]


def started_client(instance):
    client = instance.connect()
    client.startup()
    return client


def measured(label, daemon=None):
    """A running instance with something in a PCR; its client, and the PCR's value."""
    instance = (daemon or shared()).create(label)
    client = started_client(instance)
    client.pcr_extend(PCR, digest(label.encode()))
    return instance, client, client.pcr_read(PCR)


def bundle_of(tables, instance):
    """What is stored of it: the sealed state and the sealed volatile state."""
    blob, = tables.execute("SELECT blob FROM states WHERE id = ?", (instance.key(),)).fetchone()
    size = BLOB_HEADER + struct.unpack_from("<I", blob, 12)[0] + BLOB_TAG
    return blob[:size], blob[size:]


def store(tables, instance, blob):
    tables.execute("UPDATE states SET blob = ? WHERE id = ?", (blob, instance.key()))


def opens_without(instance, value):
    """A refused resume loses the volatile state and nothing else."""
    instance.call("declare-dead")
    instance.call("start")
    client = instance.recover()
    require(client.pcr_read(PCR) == BLANK != value, "its PCR has what was refused")
    return client


@test
def what_is_suspended_goes_on_where_it_stopped():
    instance, client, value = measured("goes-on")
    handle, public = client.create_primary(storage_key())
    session = client.start_encrypting_session()
    before = client.reset_count(), client.clock(), public.sized()
    shown = instance.call("suspend")
    require(shown["state"] == "stopped" and shown["suspended"] and not shown["wanted"], f"it is {shown}")
    instance.start()
    require(not instance.show()["suspended"], "it is still said to be suspended")
    client = instance.connect()
    require(client.pcr_read(PCR) == value, "its PCR is another one")
    require(client.read_public(handle) == before[2], "the loaded key is gone")
    client.flush(session)
    require(client.reset_count() == before[0] and client.clock() >= before[1], "resetCount or Clock are others")


@test
def the_machines_init_after_a_resume_changes_nothing_and_a_later_one_resets():
    instance, _, value = measured("init")
    instance.call("suspend")
    instance.start()
    instance.reset()  # what a front-end's client does when it begins
    client = instance.connect()
    require(client.pcr_read(PCR) == value, "the first INIT after a resume reset the TPM")
    instance.reset()
    require(started_client(instance).pcr_read(PCR) == BLANK, "a later INIT did not reset it")


@test
def s7_a_second_start_resumes_nothing():
    instance, _, value = measured("once")
    instance.call("suspend")
    instance.start()
    require(instance.connect().pcr_read(PCR) == value, "it did not resume")
    os.kill(instance.keeper(), signal.SIGKILL)
    instance.wait_for("it does not fail", state="failed")
    opens_without(instance, value)


@test
def s7_a_bundle_that_was_resumed_is_put_back_in_vain():
    daemon = Daemon(settings={"rebuild": "manual"})
    instance, _, value = measured("put-back", daemon)
    instance.call("suspend")
    daemon.stop()
    with daemon.tables() as tables:
        bundle = b"".join(bundle_of(tables, instance))
    daemon.start()
    instance.start()
    client = instance.connect()
    client.nv_define(INDEX, 8)
    client.nv_write(INDEX, b"later...")
    instance.stop()
    daemon.stop()
    with daemon.tables() as tables:
        later = b"".join(bundle_of(tables, instance))
        store(tables, instance, bundle)
    daemon.start()
    instance.refused_start("STATE_OLD", "older than")
    daemon.stop()
    with daemon.tables() as tables:
        store(tables, instance, later)
    daemon.start()
    client = opens_without(instance, value)
    require(client.nv_read(INDEX, 8) == b"later...", "what was committed after the resume is lost")


@test
def s7_a_volatile_state_of_another_moment_or_instance_is_refused():
    daemon = Daemon(settings={"rebuild": "manual"})
    one, client, _ = measured("one", daemon)
    two, _, _ = measured("two", daemon)
    one.call("suspend")
    two.call("suspend")
    daemon.stop()
    with daemon.tables() as tables:
        first, others = bundle_of(tables, one), bundle_of(tables, two)
        store(tables, two, others[0] + first[1])
    daemon.start()
    two.refused_start("STATE_OTHER_INSTANCE", "belongs to another", "never acknowledged", "not authenticate")
    opens_without(two, client)
    one.start()
    client = one.connect()
    client.pcr_extend(PCR, digest(b"more"))
    value = client.pcr_read(PCR)
    one.call("suspend")
    daemon.stop()
    with daemon.tables() as tables:
        second = bundle_of(tables, one)
        store(tables, one, second[0] + first[1])
    daemon.start()
    one.refused_start("never acknowledged", "not authenticate", "older than")
    opens_without(one, value)


@test
def a_bundle_without_its_volatile_part_is_refused_and_opens_as_a_power_off():
    daemon = Daemon(settings={"rebuild": "manual"})
    instance, _, value = measured("cut", daemon)
    instance.call("suspend")
    daemon.stop()
    with daemon.tables() as tables:
        store(tables, instance, bundle_of(tables, instance)[0])
    daemon.start()
    instance.refused_start("missing", "cut", "never acknowledged")
    opens_without(instance, value)


@test
def s7_no_random_byte_is_drawn_twice_from_one_bundle():
    """The whole host is copied and resumed on both sides: with an anchor that can be copied nobody can forbid that, but
    what they draw has nothing in common."""
    daemon = Daemon(settings={"rebuild": "manual"})
    instance, client, value = measured("twice", daemon)
    client.close()
    instance.call("suspend")
    daemon.stop()
    daemon.cpu.kill()
    copy = new_directory()
    for name in ("device-secret", "state"):
        source, target = os.path.join(daemon.directory, name), os.path.join(copy, name)
        (shutil.copytree if os.path.isdir(source) else shutil.copy2)(source, target)
        give_alike(source, target)
    drawn = set()
    daemon.power_on()
    other = Daemon(copy, settings={"rebuild": "manual"})
    for host in (daemon, other):
        here = Instance(host, host.call("show", instance="twice"))
        here.start()
        resumed = here.connect()
        require(resumed.pcr_read(PCR) == value, "it did not resume")
        drawn.add(resumed.get_random(32))
    require(len(drawn) == 2, "the same random bytes were drawn twice")


def give_alike(source, target):
    status = os.stat(source)
    for path in [target] + [os.path.join(root, name) for root, *names in os.walk(target) for name in sum(names, [])]:
        os.chown(path, status.st_uid, status.st_gid)


@test
def reverting_takes_what_was_suspended_with_it():
    instance, client, value = measured("reverted")
    client.nv_define(INDEX, 8)
    client.nv_write(INDEX, b"first...")
    instance.call("snapshot", name="first")
    instance.call("suspend")
    shown = instance.call("revert", snapshot="first")
    require(shown["reverted"] and not shown["suspended"], f"it is {shown}")
    instance.start()
    client = started_client(instance)
    require(client.pcr_read(PCR) == BLANK != value, "a PCR came back with a revert")
    require(client.nv_read(INDEX, 8) == b"first...", "its state is another one")


@test
def only_what_serves_is_suspended():
    instance = shared().create("not-serving", start=False)
    shared().refuses("VERB_STATE", "suspend", instance="not-serving")
    require(instance.show()["state"] == "provisioned", f"it is {instance.show()}")


@test
def vtpmd_that_is_killed_while_one_is_being_suspended_loses_nothing():
    """Either it was suspended, or it goes on: never shut down."""
    daemon = Daemon(settings={"rebuild": "manual"})
    for turn in range(8):
        instance, client, value = measured(f"killed-{turn}", daemon)
        client.close()
        admin = daemon.admin()
        admin.send("suspend", instance=instance.identity)
        time.sleep(turn * 0.0015)
        daemon.kill()
        daemon.start()
        def goes_on(instance=instance):
            shown = instance.show()
            if shown["state"] == "stopped":
                require(shown["suspended"], f"it was shut down: {shown}")
                with contextlib.suppress(AdminError):  # vtpmd may have begun to start it itself: it is wanted
                    instance.call("start")
            try:
                return instance.connect().pcr_read(PCR)
            except (OSError, TpmError):
                return None  # it ends at this moment, or has just begun
        require(wait_for(goes_on, "it does not go on") == value, f"its volatile state is lost: {instance.show()}")


if __name__ == "__main__":
    run()
