#!/usr/bin/python3
"""M2's sockets: every byte between our own processes is recorded while known secrets and known commands pass.

    client ──(1)── vtpm-front ──(2)── vtpm-instance ──(3)── vtpmd
                        └──────────────(4)───────────────────┘

(1) is the client's own socket, where the TPM's bytes are in the clear because a TPM's client has no key: there everything
must be found, else the search shows nothing. On (2), (3), (4) and in every file of vtpmd nothing may be. The relays take
the bytes as the kernel delivers them, so it does not matter that the programs' own buffers cannot be read.
"""

import os
import struct

import attack
from harness import Daemon, Front, Swtpm, connect_unix, new_directory, program
from secrets_in_tpm import Secrets
from tap import note, require, run, test
from tpm import Tpm, digest
from wiretap import COMMIT, PEER, RECORD, Frames, Wiretap, tapped_instance

NV_INDEX = 0x018000B0


def use(client, secrets):
    """Known secrets and known commands and responses; adds what is in the responses to what is looked for."""
    secrets.put_into(client)
    values = secrets.values
    values["PCR digest"] = os.urandom(32)
    client.pcr_extend(16, values["PCR digest"])
    values["PCR value"] = client.pcr_read(16)
    values["random response"] = client.get_random(32)
    values["NV marker"] = os.urandom(64)
    client.nv_define(NV_INDEX, 64)
    client.nv_write(NV_INDEX, values["NV marker"])
    require(client.nv_read(NV_INDEX, 64) == values["NV marker"], "it reads something else")
    # TPM2_GetCapability of the fixed properties: the same bytes from every TPM of this library
    capability = struct.pack(">HIIIII", 0x8001, 22, 0x17A, 6, 0x100, 16)
    values["capability response"] = client.exchange(capability)[20:]
    values["capability command"] = capability
    values["digest of a command"] = digest(b"known")
    client.call("TPM2_Hash", 0x17D, parameters=struct.pack(">H", 64) + values["digest of a command"] * 2
                + struct.pack(">HI", 0x000B, 0x40000007))


class Scene:
    def __init__(self):
        self.directory, self.records = new_directory(), new_directory()
        instance_program = tapped_instance(self.directory, self.records, program("vtpm-instance"))
        self.daemon = Daemon(self.directory, instance_program=instance_program)
        self.instance = self.daemon.create_for_front("traced")
        self.front_tap = Wiretap(os.path.join(self.directory, "tap2"), self.instance.front_path)
        self.daemon_tap = Wiretap(os.path.join(self.directory, "tap4"), os.path.join(self.daemon.run, "daemon.sock"))
        self.front = Front(self.instance, daemon_path=self.daemon_tap.path, front_path=self.front_tap.path)
        self.front.wait_listening()
        self.client_tap = Wiretap(os.path.join(self.directory, "tap1"), self.front.path)
        self.secrets = Secrets()
        client = Tpm(connect_unix(self.client_tap.path))
        use(client, self.secrets)
        client.close()
        # A second one with the front-end inside vtpm-instance: nothing of it but (3) crosses a socket of ours.
        self.inside = self.daemon.create("inside")
        client = self.inside.connect()
        client.startup()
        for name, index in (("NV data", 1), ("NV marker", 2)):
            client.nv_define(NV_INDEX + index, len(self.secrets.values[name]))
            client.nv_write(NV_INDEX + index, self.secrets.values[name])
        client.pcr_extend(16, self.secrets.values["PCR digest"])
        client.close()

    def search(self):
        return attack.Search(self.secrets.values)

    def instance_traffic(self):
        return [place for place in attack.files_below(self.records) if place[0].endswith((".up", ".down"))]


_scene = []


def scene():
    if not _scene:
        _scene.append(Scene())
    return _scene[0]


def kinds_in(places):
    kinds = {}
    for _, data in places:
        for one in Frames().feed(data):
            kinds[one[4]] = kinds.get(one[4], 0) + 1
    return kinds


def require_silent(places, what, least):
    found, size = scene().search().found(places)
    note(f"{what}: {size} bytes, frames by kind {kinds_in(places)}")
    require(size > least, f"only {size} bytes were recorded")
    require(not found, f"{what} gives away {found}")


@test
def the_clients_own_socket_shows_every_secret_and_every_command():
    found, size = scene().search().found(scene().client_tap.traffic())
    note(f"{size} bytes")
    missing = set(scene().secrets.values) - set(found)
    # A private prime q never crosses: its key is loaded by p alone.
    require(missing <= {"RSA prime q"}, f"the search does not find {missing} where all of it passes")


@test
def swtpms_socket_shows_every_secret_and_every_command():
    directory = new_directory()
    swtpm = Swtpm(directory)
    tap = Wiretap(os.path.join(directory, "tap"), swtpm.path)
    secrets = Secrets()
    client = Tpm(connect_unix(tap.path))
    use(client, secrets)
    found, _ = attack.Search(secrets.values).found(tap.traffic())
    require(set(secrets.values) - set(found) <= {"RSA prime q"}, f"only {sorted(found)} was found")


@test
def between_front_end_and_enclave_nothing_is_in_the_clear():
    places = scene().front_tap.traffic()
    require_silent(places, "front.sock", 10000)
    require(kinds_in(places).get(RECORD, 0) > 150, "the commands did not pass here")


@test
def between_instance_and_vtpmd_nothing_is_in_the_clear():
    places = scene().instance_traffic()
    require_silent(places, "daemon.sock of the instances", 20000)
    kinds = kinds_in(places)
    require(kinds.get(COMMIT, 0) > 5 and kinds.get(PEER, 0) > 5, "the commits did not pass here")


@test
def between_front_end_and_vtpmd_nothing_is_in_the_clear():
    require_silent(scene().daemon_tap.traffic(), "daemon.sock of the front-end", 100)


@test
def files_and_logs_of_vtpmd_hold_nothing():
    places = list(attack.files_below(scene().daemon.state, scene().daemon.run))
    places += [(path, data) for path, data in attack.files_below(scene().directory) if path.endswith((".log", ".out"))]
    require_silent([(path, data) for path, data in places if not path.endswith(".sock")], "files", 50000)


if __name__ == "__main__":
    run()
