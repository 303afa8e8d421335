#!/usr/bin/python3
"""Stores that released versions made are brought back by this build: fixtures/VERSION has a backup of each, with the key that
recovers it (it protects nothing) and what its TPMs held.

A release that changes a format adds its own: released.py --make fixtures/VERSION
"""

import json
import os
import shutil
import sys

from harness import Daemon, Holder, Instance, NewHouse, Owner, ctl, new_directory
from tap import require, run, test
from tpm import RH_ENDORSEMENT, signing_key_ecc

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
DATA, COUNTER, PERSISTENT, AUTH = 0x01800001, 0x01800002, 0x81000001, b"a password"


def held(client):
    """What a TPM holds that has to stay: as hexadecimal text."""
    endorsement, _ = client.create_primary(signing_key_ecc(), hierarchy=RH_ENDORSEMENT)
    seed = client.read_public(endorsement).hex()
    client.flush(endorsement)
    return {"data": client.nv_read(DATA, 8, auth=AUTH).hex(), "counter": client.nv_read(COUNTER, 8).hex(),
            "persistent": client.read_public(PERSISTENT).hex(), "endorsement": seed, "resets": client.reset_count()}


def fill(instance, data):
    client = instance.connect()
    client.startup()
    client.nv_define(DATA, 8, auth=AUTH)
    client.nv_write(DATA, data, auth=AUTH)
    client.nv_define_counter(COUNTER)
    client.nv_increment(COUNTER)
    handle, _ = client.create_primary(signing_key_ecc(b"persistent"))
    client.evict(handle, PERSISTENT)
    client.flush(handle)
    return client


def make(target):
    """A store with one TPM that runs, one that was suspended, one with an owner and a snapshot, and a tombstone."""
    os.makedirs(target)
    holder, owner = Holder(target, "holder"), Owner(target)
    daemon = Daemon(new_directory(), init=False)
    daemon.init("--recovery-key", holder.public, "--recovery-threshold", "1")
    daemon.start()
    expected = {}
    for label, arguments in (("runs", {}), ("suspended", {}), ("owned", {"owner": owner.public})):
        instance = daemon.create(label, **arguments)
        client = fill(instance, label.encode()[:8].ljust(8, b"."))
        expected[label] = {"id": instance.identity, "owner": arguments.get("owner", "operator"), **held(client)}
        if label == "owned":
            instance.call("snapshot", name="kept")
            client.nv_write(DATA, b"replaced", auth=AUTH)
            expected["after"] = client.nv_read(DATA, 8, auth=AUTH).hex()
            client.close()
            instance.stop()
        if label == "suspended":
            client.close()
            instance.call("suspend")
    gone = daemon.create("gone", start=False)
    gone.call("delete")
    expected["gone"] = {"id": gone.identity}
    ctl(daemon, "store", "backup", os.path.join(target, "vtpm.db"))
    with open(os.path.join(target, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file, indent=1, sort_keys=True)
        file.write("\n")


def brought_back(version):
    """A host with the store of that version, and what it has to hold."""
    place = os.path.join(FIXTURES, version)
    with open(os.path.join(place, "expected.json"), encoding="utf-8") as file:
        expected = json.load(file)
    working = new_directory()
    shutil.copytree(place, os.path.join(working, "fixture"))
    holder = Holder.__new__(Holder)
    holder.private = os.path.join(working, "fixture", "holder.key")
    new = NewHouse(os.path.join(working, "fixture", "vtpm.db"))

    def answer(state):
        result = holder.answer(state, os.path.join(working, "answer"))
        require(result.returncode == 0, f"{version}: {result.stderr}")
        return [os.path.join(working, "answer")]

    status, said = new.recover(answer)
    require(status == 0, f"{version} is not recovered: {status}, {said}")
    new.daemon.start()
    return new.daemon, expected, os.path.join(working, "fixture")


@test
def what_each_released_version_stored_is_there():
    versions = sorted(os.listdir(FIXTURES))
    require(versions, "there are no fixtures")
    for version in versions:
        daemon, expected, _ = brought_back(version)
        for label in ("runs", "suspended", "owned"):
            instance = Instance(daemon, daemon.call("show", instance=label))
            shown = instance.show()
            require((shown["id"], shown["owner"]) == (expected[label]["id"], expected[label]["owner"]), f"{shown}")
            if not shown["wanted"]:
                instance.call("start")
            client = instance.recover()
            found = held(client)
            require(found.pop("resets") > expected[label]["resets"], f"{version}, {label}: resetCount went back")
            wanted = {name: expected[label][name] for name in found}
            if label == "owned":
                wanted["data"] = expected["after"]
            require(found == wanted, f"{version}, {label}: it holds {found}, not {wanted}")
            client.close()
        daemon.refuses("DELETED", "start", instance=expected["gone"]["id"])
        findings = daemon.call("store-check")["findings"]
        require(not findings, f"{version}: {findings}")


@test
def snapshots_of_each_released_version_can_be_put_back():
    for version in sorted(os.listdir(FIXTURES)):
        daemon, expected, place = brought_back(version)
        ctl(daemon, "revert", "owned", "kept", "--owner-key", os.path.join(place, "owner.key"))
        instance = Instance(daemon, daemon.call("show", instance="owned"))
        instance.call("start")
        require(instance.recover().nv_read(DATA, 8, auth=AUTH).hex() == expected["owned"]["data"],
                f"{version}: the snapshot is another one")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(os.path.abspath(sys.argv[2]))
    else:
        run()
