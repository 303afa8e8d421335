#!/usr/bin/python3
"""vtpmctl store check and backup, with a real vtpmd: what fits together is called so, each planted damage is found by name,
and a copy made under load is whole, opens, and has what was answered before it was asked for.
"""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import threading

from harness import AdminError, Daemon, new_directory, program, wait_for
from tap import require, run, test
from tpm import TpmError

NV_INDEX = 0x01800031
MANUAL = {"rebuild": "manual"}
LOADED = 3  # instances that are written to while a copy is made


def ctl(*arguments, status=0):
    """Runs vtpmctl; returns what it printed."""
    result = subprocess.run([program("vtpmctl"), *arguments], capture_output=True, text=True, timeout=120, check=False)
    require(result.returncode == status, f"vtpmctl {' '.join(arguments)}: {result.returncode}, {result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def online(daemon, *arguments, status=0):
    return ctl("--socket", daemon.socket, "store", *arguments, status=status)


def with_value(daemon, label, value=0):
    instance = daemon.create(label)
    client = instance.connect()
    client.startup()
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, struct.pack(">Q", value))
    return instance, client


def value_of(client):
    return struct.unpack(">Q", client.nv_read(NV_INDEX, 8))[0]


class Host:
    """Three instances with a state each, and a vtpmd that does not run; the file as it was then."""

    def __init__(self):
        self.daemon = Daemon(settings=MANUAL)
        self.instances = []
        for number in range(3):
            instance, client = with_value(self.daemon, f"vm{number}", number)
            client.close()
            instance.stop()
            self.instances.append(instance)
        self.daemon.stop()
        with self.daemon.tables() as tables:
            tables.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.good = new_directory() + "/good.db"
        shutil.copy(self.daemon.database, self.good)
        shutil.copy(os.path.join(self.daemon.state, "anchor"), self.good + ".anchor")

    def put(self, path):
        """Puts a copy in the store's place, and the anchor where it stood when the good one was made."""
        remove_store(self.daemon)
        shutil.copy(path, self.daemon.database)
        shutil.copyfile(self.good + ".anchor", os.path.join(self.daemon.state, "anchor"))

    def damaged(self, *statements):
        """A copy of the store with that done to it."""
        path = new_directory() + "/damaged.db"
        shutil.copy(self.good, path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as tables:
            for statement, *values in statements:
                require(tables.execute(statement, values).rowcount != 0, f"nothing was changed by {statement}")
        return path

    def read(self, query, *values):
        with contextlib.closing(sqlite3.connect(f"file:{self.good}?immutable=1", uri=True)) as tables:
            return tables.execute(query, values).fetchone()[0]

    def state_of(self, instance):
        return self.read("SELECT blob FROM states WHERE id = ?", instance.key())


_hosts = []


def shared():
    if not _hosts:
        _hosts.append(Host())
    return _hosts[0]


def named(instance):
    return f"{instance.label} ({instance.identity})"


def finds(path, *sentences):
    """Each sentence is one finding, and there are no others."""
    said = ctl("--json", "store", "check", path, status=1)
    findings = json.loads(said[:said.rindex("}") + 1])["findings"]
    told = [f"{finding['subject']}: {finding['fault']}" for finding in findings]
    for sentence in sentences:
        require(any(line.startswith(sentence) for line in told), f"{sentence!r} is not among {told}")
    require(len(told) == len(sentences), f"there are other findings: {told}")
    require(all(finding["cure"] for finding in findings), "a finding does not say what to do")
    people = ctl("store", "check", path, status=1)
    require(all(line in people for line in told), f"people are told something else: {people}")


@test
def a_store_that_fits_together_is_clean_offline_and_online():
    host = shared()
    said = ctl("store", "check", host.good)
    require("3 instances, 3 states, 0 snapshots, 0 findings" in said and "not verified" in said, said)
    said = ctl("store", "check", "--state-dir", host.daemon.state)
    require("3 instances, 3 states, 0 snapshots, 0 findings" in said, said)
    host.daemon.start()
    said = online(host.daemon, "check")
    require("3 instances, 3 states, 0 snapshots, 0 findings" in said and "SHA-256: 3 instances" in said, said)
    require("not verified" not in said, said)
    answer = json.loads(ctl("--socket", host.daemon.socket, "--json", "store", "check"))
    require(answer["findings"] == [] and answer["compared"] == 3 and answer["busy"] == 0, answer)
    host.daemon.stop()


@test
def a_store_that_a_vtpmd_has_open_is_not_looked_at_behind_its_back():
    host = shared()
    host.daemon.start()
    said = ctl("store", "check", host.daemon.database, status=1)
    require("a vtpmd has this store open" in said, said)
    host.daemon.stop()


@test
def what_is_still_in_the_log_of_a_killed_vtpmd_is_seen_and_nothing_is_written():
    daemon = Daemon(settings=MANUAL)
    _, client = with_value(daemon, "logged")
    client.close()
    daemon.end()
    log = daemon.database + "-wal"
    require(os.path.getsize(log) > 0, "there is no log")
    before = {name: open(os.path.join(daemon.state, name), "rb").read()
              for name in os.listdir(daemon.state) if name.startswith("vtpm.db")}
    said = ctl("store", "check", "--state-dir", daemon.state)
    require("1 instances, 1 states, 0 snapshots, 0 findings" in said, said)
    after = {name: open(os.path.join(daemon.state, name), "rb").read()
             for name in os.listdir(daemon.state) if name.startswith("vtpm.db")}
    require(before == after, "the check wrote to the store")


@test
def a_removed_row_is_found():
    host = shared()
    gone = host.instances[1]
    finds(host.damaged(("DELETE FROM rows WHERE id = ?", gone.key())),
          "slot 1: 1 rows of the ledger are missing before slot 2",
          f"{gone.identity}: there are states of it, and the ledger has no row",
          f"{gone.identity}: there are settings of it, and the ledger has no row")


@test
def a_row_and_a_state_of_another_instance_are_found():
    host = shared()
    first, second = host.instances[:2]
    finds(host.damaged(("UPDATE states SET blob = ? WHERE id = ?", host.state_of(first), second.key())),
          f"{named(second)}: its state is the state of another instance")
    row = host.read("SELECT blob FROM rows WHERE id = ?", first.key())
    finds(host.damaged(("UPDATE rows SET blob = ? WHERE id = ?", row, second.key())),
          f"{named(second)}: its row is the row of another instance",
          f"{named(second)}: its row was made for slot 0 and lies in slot 1")


@test
def an_older_and_a_missing_state_are_found():
    host = shared()
    instance = host.instances[2]
    version = host.read("SELECT version FROM states WHERE id = ?", instance.key())
    older = host.state_of(instance)
    older = older[:40] + (version - 1).to_bytes(8, "little") + older[48:]
    finds(host.damaged(("UPDATE states SET blob = ?, version = version - 1 WHERE id = ?", older, instance.key())),
          f"{named(instance)}: its state is older than its row: version {version - 1}, and the row names {version}")
    newer = older[:40] + (version + 1).to_bytes(8, "little") + older[48:]
    finds(host.damaged(("UPDATE states SET blob = ? WHERE id = ?", newer, instance.key())),
          f"{named(instance)}: its state says that it is version {version + 1}, and lies there as {version}")
    finds(host.damaged(("DELETE FROM states WHERE id = ?", instance.key())),
          f"{named(instance)}: its state is missing: the row names version {version}")
    finds(host.damaged(("UPDATE rows SET version = 0 WHERE id = ?", instance.key())),
          f"{named(instance)}: there is a state, and its row says that it has none")


@test
def cut_and_foreign_records_are_found():
    host = shared()
    instance = host.instances[0]
    good = host.state_of(instance)
    for blob, sentence in ((good[:-1], "is cut off or has bytes added"), (good[:100], "is cut off"),
                           (b"x" * 300, "is no sealed record"), (b"", "is no sealed record"),
                           (good[:8] + b"\2" + good[9:], "has a format"), (good[:10] + b"\2" + good[11:], "is a record of another")):
        finds(host.damaged(("UPDATE states SET blob = ? WHERE id = ?", blob, instance.key())),
              f"{named(instance)}: its state {sentence}")


@test
def a_missing_or_older_head_and_a_missing_master_are_found():
    host = shared()
    finds(host.damaged(("DELETE FROM meta WHERE name = 'head'",)), "the store: the ledger's head is missing")
    finds(host.damaged(("DELETE FROM meta WHERE name = 'master'",)), "the store: the master secret is missing")
    head = host.read("SELECT value FROM meta WHERE name = 'head'")
    older = head[:40] + (1).to_bytes(8, "little") + head[48:]
    finds(host.damaged(("UPDATE meta SET value = ? WHERE name = 'head'", older)),
          *(f"{named(instance)}: its row is of ledger version" for instance in host.instances))


@test
def all_findings_are_told_not_the_first():
    host = shared()
    finds(host.damaged(("DELETE FROM states",), ("DELETE FROM meta WHERE name = 'master'",)),
          "the store: the master secret is missing", *(f"{named(one)}: its state is missing" for one in host.instances))


@test
def a_damaged_page_is_found():
    host = shared()
    path = host.damaged()
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as tables:
        root, size = (tables.execute(query).fetchone()[0] for query in
                      ("SELECT rootpage FROM sqlite_schema WHERE name = 'states'", "PRAGMA page_size"))
    with open(path, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)
    said = ctl("store", "check", path, status=1)
    require("integrity check says" in said or "cannot be read" in said, said)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(host.good) // 2 // size * size)
    said = ctl("store", "check", path, status=1)
    require("integrity check says" in said or "cannot be read" in said, said)


@test
def another_program_s_file_and_a_newer_schema_are_told_apart():
    host = shared()
    finds(host.damaged(("PRAGMA user_version = 3",)), "the store: its schema is of version 3, and this release knows")
    finds(host.damaged(("PRAGMA application_id = 1",)), "the store: the application id is 0x1: this is not a store")
    path = new_directory() + "/text"
    with open(path, "w", encoding="utf-8") as file:
        file.write("no database at all " * 300)
    finds(path, "the store: the file cannot be read: file is not a database")
    require("no such file" in ctl("store", "check", path + "x", status=1), "a missing file")
    require("check or backup" in ctl("store", "compare", status=2), "usage")


@test
def what_only_the_manager_can_tell_is_found_online():
    """A flipped byte of the ciphertext fits every header: offline it is clean, and online it is not."""
    host = shared()
    instance = host.instances[1]
    good = host.state_of(instance)
    version = host.read("SELECT version FROM states WHERE id = ?", instance.key())
    path = host.damaged(("UPDATE states SET blob = ? WHERE id = ?", good[:200] + bytes([good[200] ^ 1]) + good[201:],
                         instance.key()))
    ctl("store", "check", path)
    host.put(path)
    host.daemon.start()
    said = online(host.daemon, "check", status=1)
    require(f"{named(instance)}: the stored state is not the one that the manager has as version {version}" in said, said)
    host.daemon.stop()
    older = good[:40] + (version - 1).to_bytes(8, "little") + good[48:]
    both = [("UPDATE rows SET version = version - 1 WHERE id = ?", instance.key()),
            ("UPDATE states SET blob = ?, version = version - 1 WHERE id = ?", older, instance.key())]
    path = host.damaged(*both)
    ctl("store", "check", path)
    host.put(path)
    host.daemon.start()
    said = online(host.daemon, "check", status=1)
    require(f"the manager has version {version} of its state, and the stored one is version {version - 1}" in said, said)
    host.daemon.stop()
    host.put(host.good)


def remove_store(daemon):
    for name in ("vtpm.db", "vtpm.db-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(daemon.state, name))


class Load:
    """Instances that are written to, each by a thread, until the end of the block."""

    def __init__(self, daemon):
        self.pairs = [with_value(daemon, f"busy{number}") for number in range(LOADED)]
        self.answered = [0] * LOADED
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.write, args=(number,)) for number in range(LOADED)]

    def write(self, number):
        client = self.pairs[number][1]
        with contextlib.suppress(OSError, TpmError):
            while not self.ending.is_set():
                client.nv_write(NV_INDEX, struct.pack(">Q", self.answered[number] + 1))
                self.answered[number] += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join()


@test
def a_copy_made_under_load_is_whole():
    daemon = Daemon()
    path = new_directory() + "/backup.db"
    with Load(daemon) as load:
        for _ in range(5):
            said = online(daemon, "check")
            require(f"{LOADED} instances, {LOADED} states, 0 snapshots, 0 findings" in said, said)
        before = list(load.answered)
        said = online(daemon, "backup", path)
        after = list(load.answered)
    require(f"{path}: " in said and all(late > early for late, early in zip(load.answered, before)), "nothing was written")
    require(not os.path.exists(path + ".tmp") and os.stat(path).st_mode & 0o777 == 0o600, "the file beside it, or its mode")
    require(not os.path.exists(daemon.state + "/vtpm.db.copy"), "vtpmd's copy was left")
    said = ctl("store", "check", path)
    require(f"{LOADED} instances, {LOADED} states, 0 snapshots, 0 findings" in said, said)
    require(all(early <= late for early, late in zip(before, after)), "what was answered went back")


@test
def a_copy_and_the_anchor_of_its_moment_open_and_have_what_was_answered_before():
    daemon = Daemon()
    path = new_directory() + "/backup.db"
    with Load(daemon) as load:
        wait_for(lambda: min(load.answered) > 5, "nothing is written")
    online(daemon, "backup", path)  # nothing is written any more: the anchor stands still
    shutil.copy(os.path.join(daemon.state, "anchor"), path + ".anchor")
    daemon.end()
    remove_store(daemon)
    shutil.copy(path, daemon.database)
    shutil.copyfile(path + ".anchor", os.path.join(daemon.state, "anchor"))
    daemon.power_on()
    for number, (instance, _) in enumerate(load.pairs):
        value = value_of(instance.recover())
        require(load.answered[number] <= value <= load.answered[number] + 1, f"{load.answered} was answered, {value} is there")
    require("0 findings" in online(daemon, "check"), "the restored store is not clean")


@test
def a_backup_replaces_nothing_unless_it_is_told_to():
    host = shared()
    path = new_directory() + "/backup.db"
    with open(path, "w", encoding="utf-8") as file:
        file.write("mine")
    host.daemon.start()
    for where in (("--socket", host.daemon.socket), ()):
        source = () if where else ("--state-dir", host.daemon.state)
        if not where:
            host.daemon.stop()
        said = ctl(*where, "store", "backup", path, *source, status=1)
        require("--force replaces it" in said and open(path, encoding="utf-8").read() == "mine", said)
        fresh = new_directory() + "/fresh.db"
        ctl(*where, "store", "backup", fresh, *source)
        require("3 instances, 3 states, 0 snapshots, 0 findings" in ctl("store", "check", fresh), "the copy")
    ctl("store", "backup", path, "--force", "--state-dir", host.daemon.state)
    require("3 instances, 3 states, 0 snapshots, 0 findings" in ctl("store", "check", path), "the copy")
    said = ctl("store", "backup", path + "/x", "--state-dir", host.daemon.state, status=1)
    require("Not a directory" in said, said)


@test
def a_client_that_leaves_in_the_middle_and_a_second_one_do_no_harm():
    host = shared()
    host.daemon.start()
    for verb in ("store-check", "store-backup"):
        for _ in range(3):
            admin = host.daemon.admin()
            admin.send(verb)
            admin.stream.shutdown(socket.SHUT_RDWR)
            admin.close()
    def free():
        with contextlib.suppress(AdminError):
            return host.daemon.call("store-check")
        return None

    require(wait_for(free, "the store is busy for ever")["findings"] == [], "findings")
    require(host.daemon.stop() == 0, "vtpmd did not end cleanly")


@test
def a_restored_older_store_opens_with_the_anchor_of_its_moment_only():
    """docs/state-format.md, "Backup and restore": then an instance deleted since is there again, and so is an older state."""
    daemon = Daemon()
    path = new_directory() + "/backup.db"
    kept, client = with_value(daemon, "kept", 1)
    gone, other = with_value(daemon, "gone", 2)
    online(daemon, "backup", path)
    shutil.copy(os.path.join(daemon.state, "anchor"), path + ".anchor")
    client.nv_write(NV_INDEX, struct.pack(">Q", 7))
    other.close()
    gone.call("delete", force=True)
    daemon.end()
    remove_store(daemon)
    shutil.copy(path, daemon.database)
    try:
        daemon.power_on()
    except AssertionError as refused:
        require("the anchor does not stand where the store's newest record left it" in str(refused), str(refused))
    else:
        raise AssertionError("the older store opens though the anchor went on")
    daemon.end()
    shutil.copyfile(path + ".anchor", os.path.join(daemon.state, "anchor"))
    daemon.power_on()
    require(value_of(kept.recover()) == 1 and value_of(gone.recover()) == 2, "the store is not as of the backup")


if __name__ == "__main__":
    run()
