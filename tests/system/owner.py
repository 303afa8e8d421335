#!/usr/bin/python3
"""O1: what an operator may not do to an instance that has an owner, and what an owner may: delete, revert, clone, another
owner. What may never go back does not, whoever reverts (rules of going back), and a deleted instance's snapshots are gone
with it (D1).
"""

import contextlib
import os
import subprocess
import time

from harness import Daemon, Instance, Owner, ctl, program
from tap import require, run, test
from tpm import (NV_ATTRIBUTES, NV_NO_DA, RC_AUTH_FAIL_SESSION_1, RC_LOCKOUT, RH_ENDORSEMENT, TpmError, storage_key)

INDEX, COUNTER, PIN = 0x01800080, 0x01800081, 0x01800082

_daemons = []


def shared():
    if not _daemons:
        _daemons.append(Daemon(settings={"rebuild": "manual"}))
    return _daemons[0]


def started_client(instance):
    client = instance.connect()
    client.startup()
    return client


def write(client, data):
    with contextlib.suppress(TpmError):
        client.nv_define(INDEX, 8)
    client.nv_write(INDEX, data)


def with_history(label, **arguments):
    """An instance with a snapshot named `first` of what it held then, and something else since; stopped."""
    instance = shared().create(label, **arguments)
    client = started_client(instance)
    write(client, b"first...")
    instance.call("snapshot", name="first")
    write(client, b"second..")
    client.close()
    instance.stop()
    return instance


def sign(signer, instance, verb, **arguments):
    return signer.sign(bytes.fromhex(instance.call("challenge", verb=verb, **arguments)["message"]))


# --- with an owner ---------------------------------------------------------------------------------------------------

@test
def o1_without_the_owners_signature_an_operator_changes_nothing():
    daemon = shared()
    owner, stranger = Owner(daemon.directory), Owner(daemon.directory, "stranger")
    instance = with_history("owned", owner=owner.public)
    before = instance.show()
    acts = {
        "revert": {"snapshot": "first"},
        "set-owner": {"owner": stranger.public},
        "clone": {"label": "owned-copy"},
        "delete": {},
    }
    for verb, arguments in acts.items():
        daemon.refuses("OWNER_SIGNATURE", verb, instance="owned", **arguments)
        daemon.refuses("OWNER_SIGNATURE", verb, instance="owned", signature="00" * 64, **arguments)
        daemon.refuses("OWNER_SIGNATURE", verb, instance="owned", signature=sign(stranger, instance, verb, **arguments),
                       **arguments)
        for other, others in acts.items():
            if other != verb:
                daemon.refuses("OWNER_SIGNATURE", verb, instance="owned",
                               signature=sign(owner, instance, other, **others), **arguments)
    # signed for other arguments
    daemon.refuses("OWNER_SIGNATURE", "set-owner", instance="owned", owner=None,
                   signature=sign(owner, instance, "set-owner", owner=stranger.public))
    daemon.refuses("OWNER_SIGNATURE", "clone", instance="owned", label="owned-other",
                   signature=sign(owner, instance, "clone", label="owned-copy"))
    daemon.refuses("LABEL_TAKEN", "create", label="owned", **{"import": True})
    require(instance.show() == before, f"it was {before}, it is {instance.show()}")
    require(len(instance.call("snapshots")["snapshots"]) == 1, "a refused revert left a snapshot")
    instance.start()
    require(started_client(instance).nv_read(INDEX, 8) == b"second..", "its state is another one")


@test
def with_the_owners_signature_it_goes_back_and_that_is_seen():
    daemon = shared()
    owner = Owner(daemon.directory)
    instance = with_history("owned-revert", owner=owner.public)
    before = instance.show()
    shown = instance.call("revert", snapshot="first", signature=sign(owner, instance, "revert", snapshot="first"))
    require(shown["reverted"] and shown["epoch"] == 1 and shown["version"] == before["version"] + 1, f"it is {shown}")
    instance.start()
    client = started_client(instance)
    require(client.nv_read(INDEX, 8) == b"first...", "it holds something else")
    write(client, b"third...")
    require(not instance.show()["reverted"], "it is still said to be reverted after it committed")
    names = [snapshot["name"] for snapshot in instance.call("snapshots")["snapshots"]]
    require(names == ["first", f"before-version-{before['version']}"], f"its snapshots are {names}")


@test
def the_owner_hands_it_on():
    daemon = shared()
    owner, heir = Owner(daemon.directory), Owner(daemon.directory, "heir")
    instance = daemon.create("owned-handed", owner=owner.public, start=False)
    arguments = {"owner": heir.public}
    shown = instance.call("set-owner", signature=sign(owner, instance, "set-owner", **arguments), **arguments)
    require(shown["owner"] == heir.public and shown["epoch"] == 1, f"it is {shown}")
    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned-handed", signature=sign(owner, instance, "delete"))
    require(instance.call("delete", signature=sign(heir, instance, "delete"))["state"] == "deleted", "it is not deleted")


@test
def a_clone_has_the_same_owner_and_other_keys():
    daemon = shared()
    owner = Owner(daemon.directory)
    instance = daemon.create("owned-source", owner=owner.public, lockout_heals="never", snapshots="allowed")
    client = started_client(instance)
    write(client, b"secret..")
    shown = instance.call("clone", label="owned-clone",
                          signature=sign(owner, instance, "clone", label="owned-clone"))
    require((shown["origin"], shown["source"]) == ("clone", instance.identity), f"it is {shown}")
    require((shown["owner"], shown["lockout-heals"], shown["snapshots"]) == (owner.public, "never", "allowed"), f"it is {shown}")
    clone = Instance(daemon, shown)
    clone.wait_serving()
    other = started_client(clone)
    require(client.read_public(client.create_primary(storage_key(), hierarchy=RH_ENDORSEMENT)[0]) !=
            other.read_public(other.create_primary(storage_key(), hierarchy=RH_ENDORSEMENT)[0]), "the seeds are the same")
    try:
        other.nv_read(INDEX, 8)
        raise AssertionError("the clone has what its source holds")
    except TpmError:
        pass
    require(client.nv_read(INDEX, 8) == b"secret..", "the source goes on otherwise")
    require(instance.show()["state"] == "running" and instance.show()["epoch"] == 0, f"it is {instance.show()}")


@test
def vtpmctl_signs_each_act_with_a_key_that_is_here_or_elsewhere():
    daemon = shared()
    owner, heir = Owner(daemon.directory), Owner(daemon.directory, "heir")
    act, signature = (os.path.join(daemon.directory, name) for name in ("act", "signature"))
    ctl(daemon, "create", "by-ctl", "--owner", owner.public_file, "--lockout-heals", "start-only")
    instance = Instance(daemon, daemon.call("show", instance="by-ctl"))
    write(started_client(instance), b"first...")
    ctl(daemon, "snapshot", "by-ctl", "first")
    write(started_client(instance), b"second..")
    ctl(daemon, "stop", "by-ctl")
    ctl(daemon, "revert", "by-ctl", "first", fails=True)
    ctl(daemon, "challenge", "by-ctl", "revert", "first", "--out", act)
    told = subprocess.run([program("vtpm-sign"), "owner-act", "--key", owner.private, "--out", signature, act],
                          capture_output=True, text=True, check=True).stdout
    require(instance.identity in told and "put an older state back" in told, f"it tells {told}")
    ctl(daemon, "revert", "by-ctl", "first", "--signature", signature)
    ctl(daemon, "revert", "by-ctl", "first", "--signature", signature, fails=True)
    ctl(daemon, "start", "by-ctl")
    require(started_client(instance).nv_read(INDEX, 8) == b"first...", "its state is another one")
    ctl(daemon, "stop", "by-ctl")
    ctl(daemon, "clone", "by-ctl", "by-ctl-clone", "--no-start", "--owner-key", owner.private)
    ctl(daemon, "owner", "by-ctl", "--set", heir.public_file, "--owner-key", owner.private)
    ctl(daemon, "delete", "by-ctl", "--owner-key", owner.private, fails=True)
    ctl(daemon, "delete", "by-ctl", "--owner-key", heir.private)
    shown = daemon.call("show", instance="by-ctl-clone")
    require((shown["source"], shown["owner"]) == (instance.identity, owner.public), f"it is {shown}")


# --- without -----------------------------------------------------------------------------------------------------------

@test
def without_an_owner_that_is_shown_and_the_operator_decides():
    instance = with_history("operators")
    require(instance.show()["owner"] == "operator", f"it is {instance.show()}")
    owner = Owner(shared().directory)
    instance.call("revert", snapshot="first")
    instance.call("set-owner", owner=owner.public)
    shared().refuses("OWNER_SIGNATURE", "revert", instance="operators", snapshot="first")
    require(instance.show()["epoch"] == 2, f"it is {instance.show()}")


@test
def what_runs_or_may_be_started_is_not_reverted():
    instance = with_history("running-revert")
    instance.start()
    shared().refuses("VERB_STATE", "revert", instance="running-revert", snapshot="first")
    shared().refuses("VERB_STATE", "set-owner", instance="running-revert", owner=None)
    require(started_client(instance).nv_read(INDEX, 8) == b"second..", "its state is another one")
    instance.stop()
    shared().refuses("NO_SNAPSHOT", "revert", instance="running-revert", snapshot="second")


# --- what never goes back ----------------------------------------------------------------------------------------------

def guess(client):
    try:
        client.nv_read(PIN, 8, auth=b"guess")
    except TpmError as error:
        require(error.code in (RC_AUTH_FAIL_SESSION_1, RC_LOCKOUT), f"the guess was answered with {error}")
        return error.code
    raise AssertionError("a wrong PIN was taken")


@test
def o1_a_revert_before_each_pin_guess_gives_no_guess_back():
    instance = shared().create("pin")
    client = started_client(instance)
    client.dictionary_attack_parameters(3, 100000, 100000)
    client.nv_define(PIN, 8, auth=b"right", attributes=NV_ATTRIBUTES & ~NV_NO_DA)
    client.nv_write(PIN, b"secret..", auth=b"right")
    instance.call("snapshot", name="fresh")
    guesses = 0
    while guess(client) != RC_LOCKOUT:
        guesses += 1
        require(guesses <= 3, "a fourth guess was made")
        instance.stop()
        instance.call("revert", snapshot="fresh")
        instance.start()
        client = started_client(instance)
        # An orderly shutdown is behind none of these states, for which the TPM counts a try itself.
        require(client.lockout_counter() >= guesses, f"after {guesses} guesses it counts {client.lockout_counter()}")
    require(guesses >= 1, "no guess was made at all")


@test
def counters_and_clock_do_not_go_back():
    instance = shared().create("counters")
    client = started_client(instance)
    client.nv_define_counter(COUNTER)
    client.nv_increment(COUNTER)
    instance.call("snapshot", name="early")
    for _ in range(3):
        client.nv_increment(COUNTER)
    before = client.nv_read(COUNTER, 8), client.clock(), client.reset_count()
    instance.stop()
    instance.call("revert", snapshot="early")
    instance.start()
    client = started_client(instance)
    client.nv_increment(COUNTER)
    after = client.nv_read(COUNTER, 8), client.clock(), client.reset_count()
    require(after[0] > before[0], f"the NV counter was {before[0].hex()} and is {after[0].hex()}")
    require(after[1] >= before[1], f"Clock was {before[1]} and is {after[1]}")
    require(after[2] > before[2], f"resetCount was {before[2]} and is {after[2]}")


@test
def what_was_saved_before_a_revert_is_worth_nothing_after_it():
    instance = shared().create("contexts")
    client = started_client(instance)
    handle, _ = client.create_primary(storage_key())
    saved = client.context_save(handle)
    write(client, b"first...")
    instance.call("snapshot", name="first")
    instance.stop()
    instance.call("revert", snapshot="first")
    instance.start()
    client = started_client(instance)
    try:
        client.context_load(saved)
        raise AssertionError("a context that was saved before the revert was loaded")
    except TpmError:
        pass


@test
def the_same_state_twice_draws_other_random_bytes():
    instance = with_history("random")
    drawn = set()
    for _ in range(3):
        instance.call("revert", snapshot="first")
        instance.start()
        drawn.add(started_client(instance).get_random(32))
        instance.stop()
    require(len(drawn) == 3, "random bytes came twice")


@test
def s4_what_heals_lockout_is_the_policy_of_create():
    """With a recovery time of a second, time heals; or a start does; or nothing."""
    counts = {}
    for policy in ("time", "start-only", "never"):
        instance = shared().create(f"heals-{policy}", lockout_heals=policy)
        client = started_client(instance)
        client.dictionary_attack_parameters(10, 1, 1)
        client.nv_define(PIN, 8, auth=b"right", attributes=NV_ATTRIBUTES & ~NV_NO_DA)
        client.nv_write(PIN, b"secret..", auth=b"right")
        for _ in range(3):
            guess(client)
        time.sleep(1.5)
        client.get_random(8)
        waited = client.lockout_counter()
        client.shutdown()
        instance.stop()
        instance.start()
        counts[policy] = waited, started_client(instance).lockout_counter()
    require(counts["time"][0] < 3, f"time does not heal: {counts}")
    require(counts["start-only"] == (3, 2), f"not the start alone heals: {counts}")
    require(counts["never"] == (3, 3), f"something heals: {counts}")


# --- its end -----------------------------------------------------------------------------------------------------------

@test
def d1_the_snapshots_of_a_deleted_instance_are_gone_and_bring_nothing_back():
    daemon = Daemon()
    instance = daemon.create("gone")
    client = started_client(instance)
    write(client, b"whatever")
    instance.call("snapshot", name="kept")
    instance.stop()
    daemon.stop()
    with daemon.tables() as tables:
        rows = tables.execute("SELECT * FROM snapshots").fetchall()
    daemon.start()
    instance.call("delete")
    require(not instance.call("snapshots")["snapshots"], "its snapshots are there")
    daemon.stop()
    with daemon.tables() as tables:
        tables.executemany(f"INSERT INTO snapshots VALUES({','.join('?' * len(rows[0]))})", rows)
    daemon.start()
    daemon.refuses("DELETED", "revert", instance=instance.identity, snapshot="kept")
    daemon.refuses("DELETED", "start", instance=instance.identity)


@test
def a_snapshot_that_the_host_altered_starts_nothing_and_loses_nothing():
    daemon = Daemon()
    instance = daemon.create("altered")
    client = started_client(instance)
    write(client, b"first...")
    instance.call("snapshot", name="first")
    write(client, b"second..")
    instance.stop()
    daemon.stop()
    with daemon.tables() as tables:
        sealed, = tables.execute("SELECT sealed FROM snapshots").fetchone()
        tables.execute("UPDATE snapshots SET sealed = ?", (sealed[:-1] + bytes([sealed[-1] ^ 1]),))
    daemon.start()
    version = instance.show()["version"]
    instance.call("revert", snapshot="first")
    instance.refused_start("STATE_ALTERED", "altered")
    with contextlib.suppress(Exception):
        instance.call("declare-dead")
    instance.call("revert", snapshot=f"before-version-{version}")
    instance.start()
    require(started_client(instance).nv_read(INDEX, 8) == b"second..", "what was replaced is lost")


if __name__ == "__main__":
    run()
