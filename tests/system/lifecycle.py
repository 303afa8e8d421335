#!/usr/bin/python3
"""The life of an instance through vtpmd and vtpmctl: every state of the documented table and what it refuses, labels and
ids (V1), the owner's word (O1), deletion for good (D1, whose files are put back in method.py), and vtpmd's own restart.
"""

import json
import os
import re
import signal
import subprocess
import time

from harness import Daemon, Owner, alive, children_of, ctl, new_directory, program, wait_for
from k2 import FrontEnd
from tap import require, run, test
from tpm import digest

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NV_INDEX = 0x01800070


def labels(daemon, **arguments):
    return {shown["label"]: shown["state"] for shown in daemon.call("list", **arguments)["instances"]}


_daemons = []


def shared():
    """One host for the tests that do not restart it."""
    if not _daemons:
        # A short path, so that the longest label still makes a socket's name.
        _daemons.append(Daemon(new_directory("v"), settings={"rebuild": "manual"}))
    return _daemons[0]


def started_client(instance):
    client = instance.connect()
    client.startup()
    return client


# --- the table of states ---------------------------------------------------------------------------------------------

@test
def a_provisioned_instance_starts_and_does_nothing_else():
    daemon = shared()
    instance = daemon.create("provisioned", start=False)
    shown = instance.show()
    require(shown["state"] == "provisioned" and shown["start"] == 0 and shown["pid"] is None, f"it is {shown}")
    daemon.refuses("VERB_STATE", "stop", instance="provisioned")
    instance.start()
    require(instance.show()["start"] == 1, "its first start is not number 1")
    require(UUID.fullmatch(instance.identity), f"its id is {instance.identity}")


@test
def a_running_instance_is_neither_started_nor_deleted():
    daemon = shared()
    instance = daemon.create("running")
    client = started_client(instance)
    daemon.refuses("VERB_STATE", "start", instance="running")
    daemon.refuses("VERB_STATE", "delete", instance="running")
    require(len(client.get_random(8)) == 8, "it stopped serving")
    require(instance.show()["state"] == "running", f"it is {instance.show()}")


@test
def a_stopped_instance_starts_again_with_its_state_under_the_next_number():
    daemon = shared()
    instance = daemon.create("stopped")
    client = started_client(instance)
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, b"whatever")
    processes = [instance.keeper(), instance.worker()]
    answer = instance.stop()
    require(answer["state"] == "stopped", f"it is {answer}")
    wait_for(lambda: not any(map(alive, processes)), "its processes live on")
    instance.wait_for("it keeps a process", pid=None)
    daemon.refuses("VERB_STATE", "stop", instance="stopped")
    instance.start()
    require((instance.show()["start"], instance.show()["epoch"]) == (2, 0), f"it is {instance.show()}")
    require(started_client(instance).nv_read(NV_INDEX, 8) == b"whatever", "its state is another one")


@test
def a_failed_instance_wants_its_holder_declared_dead():
    daemon = shared()
    instance = daemon.create("failed")
    client = started_client(instance)
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, b"whatever")
    os.kill(instance.keeper(), signal.SIGKILL)
    shown = instance.wait_for("it does not fail", state="failed")
    require(shown["reason"], "there is no reason")
    daemon.refuses("HELD", "start", instance="failed")
    daemon.refuses("VERB_STATE", "delete", instance="failed")
    instance.call("start", declare_dead=True)
    client = instance.recover()
    require(client.nv_read(NV_INDEX, 8) == b"whatever", "its state is another one")
    require(instance.show()["epoch"] == 1, f"the epoch is {instance.show()['epoch']}")
    require(instance.show()["deaths"] == 1, f"{instance.show()['deaths']} deaths are counted")


@test
def a_failed_instance_whose_process_is_gone_can_be_stopped():
    daemon = shared()
    instance = daemon.create("failed-then-stopped")
    started_client(instance)
    os.kill(instance.keeper(), signal.SIGKILL)
    instance.wait_for("it does not fail", state="failed")
    instance.call("stop")
    require(instance.show()["state"] == "stopped", f"it is {instance.show()}")
    require(instance.show()["epoch"] == 1, "the lost enclave was not declared dead")
    instance.call("start")
    instance.recover()


@test
def a_failed_instance_is_deleted_by_force():
    daemon = shared()
    instance = daemon.create("failed-deleted")
    os.kill(instance.keeper(), signal.SIGKILL)
    instance.wait_for("it does not fail", state="failed")
    require(instance.call("delete", force=True)["state"] == "deleted", "it is not deleted")


@test
def a_running_instance_is_deleted_by_force():
    daemon = shared()
    instance = daemon.create("forced")
    processes = [instance.keeper(), instance.worker()]
    require(instance.call("delete", force=True)["state"] == "deleted", "it is not deleted")
    wait_for(lambda: not any(map(alive, processes)), "its processes live on")


@test
def a_deleted_instance_does_nothing_any_more():
    daemon = shared()
    instance = daemon.create("deleted")
    instance.stop()
    require(instance.call("delete")["state"] == "deleted", "it is not deleted")
    for verb, arguments in (("start", {}), ("start", {"declare_dead": True}), ("stop", {}), ("delete", {}),
                            ("delete", {"force": True})):
        daemon.refuses("DELETED", verb, instance=instance.identity, **arguments)
    require("deleted" not in labels(daemon), "it is still in the list")
    require(labels(daemon, deleted=True)["deleted"] == "deleted", "its tombstone is gone")
    require(not os.path.exists(instance.directory), "its sockets are left")


@test
def an_instance_that_never_was_is_named_in_the_refusal():
    daemon = shared()
    for verb in ("show", "start", "stop", "delete"):
        sentence = daemon.refuses("NO_INSTANCE", verb, instance="nobody")
        require("nobody" in sentence, f"{verb}: {sentence}")
    daemon.refuses("NO_INSTANCE", "show", instance="00000000-0000-4000-8000-000000000000")


# --- labels ----------------------------------------------------------------------------------------------------------

@test
def a_label_is_what_the_documentation_says():
    daemon = shared()
    for label in ("", "-a", ".a", "_a", "a/b", "../a", "a b", "a" * 64, "ä", "a\n"):
        daemon.refuses("LABEL_BAD", "create", label=label, start=False)
    for label in ("a", "A.b_c-9", "0", "b" * 63):
        daemon.create(label, start=False)
        require(labels(daemon)[label] == "provisioned", f"{label} is not there")


@test
def v1_no_instance_is_made_under_the_label_of_another_one_or_the_id_of_one_that_ever_was():
    daemon = shared()
    instance = daemon.create("v1", start=False)
    gone = daemon.create("v1-gone", start=False)
    gone.call("delete")
    for label in ("v1", instance.identity, gone.identity, gone.identity.upper()):
        daemon.refuses("LABEL_TAKEN", "create", label=label, start=False)
    require(gone.identity != daemon.create("v1-gone", start=False).identity, "a deleted instance's label brings its id back")
    require(instance.identity != daemon.create("v1-other", start=False).identity, "two instances have one id")


# --- the owner -------------------------------------------------------------------------------------------------------

@test
def o1_without_the_owners_signature_nothing_is_deleted():
    daemon = shared()
    owner, stranger = Owner(daemon.directory), Owner(daemon.directory, "stranger")
    instance = daemon.create("owned", owner=owner.public)
    other = daemon.create("owned-too", owner=owner.public, start=False)
    require(instance.show()["owner"] == owner.public, "show does not say whose it is")
    instance.stop()
    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned")
    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned", signature="00" * 64)
    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned", force=True)

    def message(of=instance):
        return bytes.fromhex(of.call("challenge", verb="delete")["message"])

    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned", signature=stranger.sign(message()))
    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned", signature=owner.sign(message(other)))
    old = owner.sign(message())
    message()  # a new nonce: what was signed before is worth nothing now
    daemon.refuses("OWNER_SIGNATURE", "delete", instance="owned", signature=old)
    require(instance.show()["state"] == "stopped", "it was deleted after all")
    instance.start()
    require(len(started_client(instance).get_random(8)) == 8, "it serves no more")


@test
def with_the_owners_signature_it_is_deleted():
    daemon = shared()
    owner = Owner(daemon.directory)
    instance = daemon.create("owned-deleted", owner=owner.public, start=False)
    signature = owner.sign(bytes.fromhex(instance.call("challenge", verb="delete")["message"]))
    require(instance.call("delete", signature=signature)["state"] == "deleted", "it is not deleted")


@test
def vtpmctl_signs_with_the_owners_key():
    daemon = shared()
    owner, stranger = Owner(daemon.directory), Owner(daemon.directory, "stranger")
    ctl(daemon, "create", "owned-ctl", "--owner", owner.public_file, "--no-start")
    ctl(daemon, "delete", "owned-ctl", fails=True)
    ctl(daemon, "delete", "owned-ctl", "--owner-key", stranger.private, fails=True)
    ctl(daemon, "delete", "owned-ctl", "--owner-key", owner.private)
    require("owned-ctl" not in labels(daemon), "it is not deleted")


# --- vtpmctl ---------------------------------------------------------------------------------------------------------

@test
def vtpmctl_does_what_the_api_does():
    daemon = shared()
    ctl(daemon, "create", "by-hand")
    shown = json.loads(ctl(daemon, "--json", "show", "by-hand"))
    require(shown["state"] == "running" and shown["label"] == "by-hand", f"it is {shown}")
    require(re.search("^by-hand .* software ", ctl(daemon, "list"), re.M), f"list has {ctl(daemon, 'list')}")
    ctl(daemon, "start", "by-hand", fails=True)
    ctl(daemon, "stop", "by-hand")
    ctl(daemon, "start", "by-hand")
    ctl(daemon, "delete", "by-hand", fails=True)
    ctl(daemon, "delete", "--force", "by-hand")
    require("by-hand" not in ctl(daemon, "list"), "list still has it")
    require("by-hand" in ctl(daemon, "list", "--deleted"), "its tombstone is not listed")
    sentence = ctl(daemon, "show", "nobody", fails=True)
    require("nobody" in sentence, f"it says: {sentence}")


@test
def status_says_what_protects_and_what_does_not():
    daemon = shared()
    status = daemon.call("status")
    require(status["device"] == "software" and status["limits"], "the device and its limits are not said")
    require(status["memory"] in ("secret", "ordinary") and status["anchor"] == "file", f"{status}")
    require("restore the disk" in status["anchor-limits"] and len(status["anchor-value"]) == 64, f"{status}")
    require(len(status["manager"]["mrenclave"]) == 64 and len(status["instance"]["mrenclave"]) == 64, f"{status}")
    shown = subprocess.run([program("vtpm-sign"), "show", daemon.arguments[daemon.arguments.index("--manager-image") + 1]],
                           capture_output=True, text=True, check=True).stdout
    require(status["manager"]["mrenclave"] in shown, "the manager's identity is not the image's")
    text = ctl(daemon, "status")
    require(status["manager"]["mrenclave"] in text and status["limits"][:40] in " ".join(text.split()), f"vtpmctl: {text}")
    require(status["anchor-value"][:16] in text and status["anchor-value"] not in text, f"vtpmctl: {text}")


@test
def events_are_told_as_they_happen():
    daemon = shared()
    stream = daemon.admin()
    stream.call("subscribe")
    instance = daemon.create("told")
    instance.stop()
    instance.call("delete")
    seen = []
    while "deleted" not in seen:
        event = stream.read()
        if event.get("data", {}).get("label") == "told":
            seen.append(event["event"])
    stream.close()
    for before, after in (("created", "starting"), ("starting", "started"), ("started", "stopped"), ("stopped", "deleted")):
        require(before in seen and after in seen and seen.index(before) < seen.index(after), f"told were {seen}")


@test
def stop_all_stops_all():
    daemon = Daemon()
    for label in ("one", "two", "three"):
        daemon.create(label)
    daemon.create("four", start=False)
    ctl(daemon, "stop", "--all")
    require(labels(daemon) == {"one": "stopped", "two": "stopped", "three": "stopped", "four": "provisioned"},
            f"{labels(daemon)}")


@test
def what_an_instances_process_logs_says_which_instance_it_is():
    daemon = shared()
    instances = [daemon.create(label) for label in ("says-one", "says-two")]
    daemon.refuses("PEER_CLOSED", "create", label="says-three", listen=[f"swtpm:unix:{daemon.run}/instances/says-one/tpm.sock"])
    said = [line for line in daemon.log().splitlines() if line.startswith("vtpm-instance: ")]
    unnamed = [line for line in said if not re.match("vtpm-instance: [0-9a-f-]{36}: ", line)]
    require(not unnamed, f"whose are these: {unnamed}")
    third = daemon.call("show", instance="says-three")["id"]
    taken = f"listening for swtpm data at unix:{daemon.run}/instances/says-one/tpm.sock: "
    for identity, text in (*((one.identity, "device: ") for one in instances), (third, taken)):
        require(any(line.startswith(f"vtpm-instance: {identity}: {text}") for line in said), f"{identity} says nothing: {said}")
    for one in instances:
        one.stop()


# --- vtpmd ends and comes back ---------------------------------------------------------------------------------------

def goes_on(end):
    """A running, a stopped, a deleted and a provisioned instance while vtpmd ends as told and is started again."""
    daemon = Daemon()
    running, stopped, deleted = (daemon.create(label) for label in ("running", "stopped", "deleted"))
    daemon.create("provisioned", start=False)
    client = started_client(running)
    client.pcr_extend(16, digest(b"measured before"))
    client.nv_define(NV_INDEX, 8)
    client.nv_write(NV_INDEX, b"before..")
    before = client.pcr_read(16), client.reset_count()
    pids = [running.keeper(), running.worker()]
    stopped.stop()
    deleted.call("delete", force=True)
    end(daemon)
    require(client.pcr_read(16) == before[0], "without vtpmd it does not answer")
    require(all(map(alive, pids)), "without vtpmd its processes end")
    daemon.start()
    running.wait_serving()
    require([running.keeper(), running.worker()] == pids, "its processes are others")
    require((client.pcr_read(16), client.reset_count()) == before, "PCR or resetCount are others")
    client.nv_write(NV_INDEX, b"after...")
    require(client.nv_read(NV_INDEX, 8) == b"after...", "it does not commit any more")
    shown = running.show()
    require((shown["start"], shown["epoch"], shown["deaths"]) == (1, 0, 0), f"it is {shown}")
    require(labels(daemon, deleted=True) == {"running": "running", "stopped": "stopped", "deleted": "deleted",
                                             "provisioned": "provisioned"}, f"{labels(daemon, deleted=True)}")
    daemon.refuses("DELETED", "start", instance=deleted.identity)
    daemon.refuses("LABEL_TAKEN", "create", label=deleted.identity)
    stopped.start()
    running.stop()
    require(not children_of(pids[0]), "the worker outlives its stop")


@test
def when_vtpmd_ends_in_order_instances_go_on_and_states_stay():
    goes_on(lambda daemon: require(daemon.stop() == 0, "vtpmd did not end cleanly"))


@test
def when_vtpmd_is_killed_instances_go_on_and_states_stay():
    goes_on(lambda daemon: daemon.kill())


@test
def a_command_that_commits_while_vtpmd_is_gone_is_answered_when_it_is_back():
    daemon = Daemon()
    instance = daemon.create("waiting")
    client = started_client(instance)
    client.nv_define(NV_INDEX, 8)
    daemon.kill()
    client.stream.sendall(nv_write_command(b"held up."))
    time.sleep(0.5)
    client.stream.settimeout(0.2)
    try:
        require(not client.stream.recv(1), "it was answered although nobody could store it")
    except TimeoutError:
        pass
    client.stream.settimeout(30)
    daemon.start()
    require(client.stream.recv(10)[6:10] == bytes(4), "it was not answered with success")
    client.stream.recv(100)
    require(client.nv_read(NV_INDEX, 8) == b"held up.", "it is not there")


def random_code(client):
    """The response code of one TPM2_GetRandom."""
    client.stream.sendall(bytes.fromhex("80010000000c0000017b0008"))
    header = client.stream.recv(10)
    if header[6:10] == bytes(4):
        client.stream.recv(int.from_bytes(header[2:6], "big") - 10)
    return int.from_bytes(header[6:10], "big")


@test
def reads_while_vtpmd_is_gone_come_to_an_end_and_go_on_when_it_is_back():
    """Nobody says that this is still the instance's holder: no command is run, which is not a TPM's failure."""
    daemon = Daemon()
    client = started_client(daemon.create("web1"))
    daemon.kill()
    served = 0
    while (code := random_code(client)) == 0:
        served += 1
        require(served <= 10000, "more commands were run than without a lease may be")
    require(code == 0x922, f"after {served} commands the answer was {code:#x}, not TPM_RC_RETRY")
    require(random_code(client) == 0x922, "the next command was run")
    daemon.start()
    wait_for(lambda: random_code(client) == 0, "it does not go on")


def nv_write_command(data):
    body = NV_INDEX.to_bytes(4, "big") * 2 + bytes.fromhex("00000009400000090000000000")
    body += len(data).to_bytes(2, "big") + data + bytes(2)
    return b"\x80\x02" + (10 + len(body)).to_bytes(4, "big") + b"\0\0\x01\x37" + body


# --- what is counted when a separate front-end comes late ------------------------------------------------------------

def served(instance):
    """Its front-end, which lasts as long as what is returned is kept."""
    return FrontEnd(instance.daemon, instance.identity).register().connect(instance.front_path)


def require_counts(shown, deaths, rebuilds, start):
    found = {name: shown[name] for name in ("deaths", "rebuilds", "start")}
    require(found == {"deaths": deaths, "rebuilds": rebuilds, "start": start}, f"it is {shown}")


@test
def a_rebuild_counts_when_its_front_end_has_come_however_late():
    daemon = Daemon()
    instance = daemon.create_for_front("late")
    daemon.restart()
    first = served(instance)
    require_counts(instance.wait_serving(), 0, 0, 1)  # nobody died
    os.kill(instance.worker(), signal.SIGKILL)
    wait_for(lambda: daemon.log().count("second creation request") == 2, "it is not allowed to start")
    require_counts(instance.wait_for("it does not wait", health="awaiting front-end"), 1, 0, 1)
    second = served(instance)
    require_counts(instance.wait_for("it is not rebuilt", health="awaiting reset"), 1, 1, 2)
    require(first.link.share != second.link.share, "it is the same enclave")


@test
def one_that_died_before_its_front_end_came_is_rebuilt_without_a_death():
    daemon = Daemon()
    instance = daemon.create_for_front("never-admitted")
    before = instance.wait_for("it does not wait", health="awaiting front-end")["pid"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: instance.show()["pid"] not in (None, before), "no other process is started")
    front = served(instance)
    require_counts(instance.wait_serving(), 0, 1, 1)
    front.startup()
    require(len(front.get_random(8)) == 8, "it is not served")


@test
def a_front_end_that_does_not_come_or_goes_is_neither():
    daemon = Daemon(settings={"commit-timeout": "1"})
    instance = daemon.create_for_front("absent")
    absent = FrontEnd(daemon, instance.identity).register()
    require_counts(instance.wait_for("it waits on", start=1, health="awaiting front-end"), 0, 0, 1)
    front = served(instance)
    require_counts(instance.wait_serving(), 0, 0, 2)
    require(absent.link.share != front.link.share, "it is the same enclave")
    front.stream.close()
    another = served(instance)
    require_counts(instance.wait_serving(), 0, 0, 3)
    require(front.link.share != another.link.share, "it is the same enclave")


@test
def an_admin_who_may_not_is_not_let_in():
    """By the socket's mode; the error is the connection's."""
    daemon = shared()
    require(os.stat(daemon.socket).st_mode & 0o007 == 0, "everybody may connect to the admin socket")


if __name__ == "__main__":
    run()
