#!/usr/bin/python3
"""The method as a whole: its steps in vtpmd's log, in their order; two VMs with the tools that people use; one of them
deleted, and old files of it put back (D1, S1).
"""

import os
import re
import subprocess

from harness import IMAGE, MANAGER_IMAGE, Daemon, new_directory, program
from tap import note, require, run, test

NV_INDEX = "0x1500030"


def mrenclave(image):
    shown = subprocess.run([program("vtpm-sign"), "show", image], check=True, capture_output=True, text=True).stdout
    return re.search(r"MRENCLAVE\W+([0-9a-f]{64})", shown).group(1)


class Machine:
    """One VM: an instance, and tpm2-tools in a directory of their own."""

    def __init__(self, daemon, label):
        self.instance, self.directory = daemon.create(label), new_directory()

    def tool(self, name, *arguments, stdin=None, fails=False):
        environment = dict(os.environ, TPM2TOOLS_TCTI=f"swtpm:path={self.instance.path}")
        result = subprocess.run([name, *arguments], cwd=self.directory, env=environment, input=stdin, capture_output=True,
                                timeout=60, check=False)
        require((result.returncode != 0) == fails, f"{name}: {result.stdout} {result.stderr.decode(errors='replace')}")
        subprocess.run(["tpm2_flushcontext", "-t"], env=environment, check=False, capture_output=True, timeout=60)
        return result.stdout

    def path(self, name):
        return os.path.join(self.directory, name)

    def use(self):
        tool = self.tool
        with open(self.path("message"), "wb") as file:
            file.write(self.instance.label.encode())
        tool("tpm2_startup", "-c")
        tool("tpm2_createprimary", "-C", "o", "-G", "ecc256", "-c", "primary.ctx")
        tool("tpm2_create", "-C", "primary.ctx", "-G", "ecc256:ecdsa", "-u", "key.pub", "-r", "key.priv")
        tool("tpm2_load", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
        tool("tpm2_evictcontrol", "-C", "o", "-c", "key.ctx", "0x81000020")
        tool("tpm2_nvdefine", NV_INDEX, "-C", "o", "-s", "8", "-a", "ownerread|ownerwrite|no_da")
        tool("tpm2_nvwrite", NV_INDEX, "-C", "o", "-i-", stdin=self.instance.label.ljust(8).encode())
        tool("tpm2_pcrextend", "16:sha256=" + "ab" * 32)
        self.check()

    def check(self):
        tool = self.tool
        tool("tpm2_sign", "-c", "0x81000020", "-g", "sha256", "-o", "signature", "message")
        tool("tpm2_verifysignature", "-c", "0x81000020", "-g", "sha256", "-m", "message", "-s", "signature")
        read = tool("tpm2_nvread", NV_INDEX, "-C", "o", "-s", "8")
        require(read == self.instance.label.ljust(8).encode(), f"NV reads back {read}")


class Scene:
    def __init__(self):
        self.daemon = Daemon(settings={"rebuild": "manual"})
        self.red, self.blue = Machine(self.daemon, "red"), Machine(self.daemon, "blue")


_scene = []


def scene():
    if not _scene:
        _scene.append(Scene())
    return _scene[0]


def lines_about(step):
    return [line for line in scene().daemon.log().splitlines() if re.search(rf"\bstep {step}\b", line)]


def place_of(step, word=""):
    """Where in the log a step is told."""
    for number, line in enumerate(scene().daemon.log().splitlines()):
        if re.search(rf"\bstep {step}\b", line) and word in line:
            return number
    raise AssertionError(f"step {step} {word} is not in the log: {scene().daemon.log()}")


@test
def the_steps_of_the_host_are_told_in_order_with_the_managers_identity():
    places = [place_of(step) for step in (1, 2, 3, 4)]
    require(places == sorted(places), f"steps 1 to 4 are told in the order {places}")
    told = "\n".join(line for step in (1, 2) for line in lines_about(step))
    require(mrenclave(MANAGER_IMAGE) in told, f"the manager's MRENCLAVE is not told: {told}")


@test
def the_steps_of_each_machine_are_told_in_order():
    for label in ("red", "blue"):
        places = [place_of(4), *(place_of(step, label) for step in (5, 6, 7))]
        require(places == sorted(places), f"{label}: steps 5 to 7 are told in the order {places}")


@test
def status_names_both_enclaves_as_their_images_do():
    status = scene().daemon.call("status")
    require(status["manager"]["mrenclave"] == mrenclave(MANAGER_IMAGE), "the manager is another one")
    require(status["instance"]["mrenclave"] == mrenclave(IMAGE), "the instances are others")


@test
def the_tools_work_with_both_tpms():
    scene().red.use()
    scene().blue.use()


@test
def a_key_of_one_does_not_load_into_the_other():
    red, blue = scene().red, scene().blue
    blue.tool("tpm2_load", "-C", "primary.ctx", "-u", red.path("key.pub"), "-r", red.path("key.priv"), "-c", "stolen.ctx",
              fails=True)


def rows_of(tables, identity):
    key = [bytes.fromhex(identity.replace("-", ""))]
    return (tables.execute("SELECT slot, id, version, blob FROM rows WHERE id = ?", key).fetchone(),
            tables.execute("SELECT id, version, blob FROM states WHERE id = ?", key).fetchone())


_old = {}


@test
def one_is_deleted_and_its_keys_are_gone_from_every_file():
    """The root key is in its row, which is overwritten; the sealed state is removed. What is looked for is ciphertext."""
    daemon, red = scene().daemon, scene().red.instance
    red.stop()
    daemon.stop()
    with daemon.tables() as tables:
        _old["row"], _old["state"] = rows_of(tables, red.identity)
    daemon.start()
    require(red.call("delete")["state"] == "deleted", "it is not deleted")
    require(place_of(10, "red") > place_of(7, "red"), "step 10 is not told")
    daemon.stop()
    with daemon.tables() as tables:
        row, state = rows_of(tables, red.identity)
    require(state is None, "its sealed state is still there")
    require(row and row[3] != _old["row"][3], "its row was not overwritten")
    for name in os.listdir(daemon.state):
        if os.path.isfile(os.path.join(daemon.state, name)):
            with open(os.path.join(daemon.state, name), "rb") as file:
                data = file.read()
            require(_old["row"][3][-64:] not in data, f"{name} holds the old row, and with it the root key")
            require(_old["state"][2][-64:] not in data, f"{name} holds the old state")
    daemon.start()


@test
def d1_its_old_state_put_back_does_not_revive_it():
    daemon, red = scene().daemon, scene().red.instance
    daemon.stop()
    with daemon.tables() as tables:
        tables.execute("INSERT OR REPLACE INTO states(id, version, blob) VALUES(?, ?, ?)", _old["state"])
    daemon.start()
    for arguments in ({}, {"declare_dead": True}):
        daemon.refuses("DELETED", "start", instance=red.identity, **arguments)
    daemon.refuses("LABEL_TAKEN", "create", label=red.identity)
    require(red.show()["state"] == "deleted", f"it is {red.show()}")


@test
def d1_its_old_row_put_back_is_refused_as_a_whole():
    daemon = scene().daemon
    daemon.stop()
    with daemon.tables() as tables:
        tombstone = rows_of(tables, scene().red.instance.identity)[0]
        tables.execute("INSERT OR REPLACE INTO rows(slot, id, version, blob) VALUES(?, ?, ?, ?)", _old["row"])
    daemon.start(wait=False)
    require(daemon.process.wait() > 0, "vtpmd started over a row that was put back")
    require("not those that its newest record was made over" in daemon.log(), f"it says: {daemon.log()[-2000:]}")
    with daemon.tables() as tables:
        tables.execute("INSERT OR REPLACE INTO rows(slot, id, version, blob) VALUES(?, ?, ?, ?)", tombstone)
    daemon.start()


@test
def the_other_one_is_unharmed():
    """Through all of this its TPM has run: the same enclave, the same PCRs."""
    blue = scene().blue
    blue.instance.wait_serving()
    shown = blue.instance.show()
    require((shown["start"], shown["epoch"], shown["deaths"]) == (1, 0, 0), f"it is {shown}")
    blue.check()
    blue.tool("tpm2_nvwrite", NV_INDEX, "-C", "o", "-i-", stdin=b"blue    ")
    note(f"start {shown['start']}, version {blue.instance.show()['version']}")


if __name__ == "__main__":
    run()
