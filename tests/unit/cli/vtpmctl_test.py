#!/usr/bin/python3
"""vtpmctl from outside, against daemons that answer well, badly, late, or as an attacker would.

    vtpmctl_test.py VTPMCTL VTPM-SIGN
"""

import copy
import functools
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

ROOT = Path(__file__).resolve().parent.parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))
import tap  # noqa: E402

PROGRAM, SIGN = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
COMPLETION = ROOT / "packaging" / "vtpmctl.bash-completion"
GREETING = {"vtpm": {"version": "0.2.0", "api": 1}}
ID = "c9a7e0b1-2233-4455-8899-aabbccddeeff"
OTHER_ID = "11111111-2233-4455-8899-aabbccddeeff"
DOMAIN = "77aa0000-1111-4222-8333-444455556666"
MANAGER = "5a" * 32
NONCE = "c3" * 32
WEB1 = {
    "id": ID, "label": "web1", "state": "running", "health": "serving", "epoch": 2, "start": 3, "version": 12,
    "slot": 0, "tpm": "2.0", "device": "software", "digest": "9f" * 32, "owner": "operator", "front-key": None, "origin": "made here",
    "created": 1790000000, "deaths": 0, "rebuilds": 0, "pid": 4711,
    "listen": ["swtpm:unix:/run/vtpm/instances/web1/tpm.sock"], "reason": None,
}
DB1 = {**WEB1, "tpm": "1.2", "id": OTHER_ID, "label": "db1", "state": "stopped", "health": None, "owner": "ab" * 32, "pid": None}
STATUS = {
    "version": "0.2.0", "device": "software", "limits": "keeps keys from readers, not from root", "memory": "secret",
    "domain": DOMAIN,
    "manager": {"mrenclave": MANAGER, "mrsigner": "6b" * 32, "security-version": 1, "release-key": None},
    "instance": {"mrenclave": "7c" * 32}, "anchor": "tpm", "anchor-limits": "ends with the TPM",
    "anchor-place": "device:/dev/tpmrm0", "anchor-nv-index": "0x01800100", "anchor-value": "4e" * 32,
    "ledger": {"version": 40, "root": "8d" * 32, "slots": 3, "deleted": 1}, "recovery": "none",
    "instances": {"running": 2, "failed": 0}, "uptime": 5,
}
REFUSAL = {"class": "NO_INSTANCE", "code": 160, "desc": "web2: there is no instance of this id",
           "hint": "vtpmctl list shows them"}


class Daemon:
    """Speaks the admin API at a socket; what it says to each verb is the test's."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "admin.sock")
        self.greeting = json.dumps(GREETING).encode() + b"\n"
        self.answers = {"list": {"instances": [WEB1, DB1]}, "show": WEB1, "status": STATUS, "subscribe": {},
                        "version": {"version": "0.2.0", "api": 1}}
        self.requests = []  # what was asked, in order
        self.subscribers = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            connection.sendall(self.greeting)
            for line in connection.makefile("rb"):
                request = json.loads(line)
                assert len(line) <= 65536 and set(request) <= {"execute", "arguments", "id"}
                self.requests.append(request)
                if request["execute"] == "subscribe":
                    self.subscribers.append(connection)
                self.answer(connection, request)
        except OSError:
            pass

    def answer(self, connection, request):
        answer = self.answers.get(request["execute"], {"error": REFUSAL})
        if callable(answer):
            answer = answer(connection, request)
        if isinstance(answer, bytes):
            connection.sendall(answer)
        elif answer is not None:
            whole = answer if set(answer) == {"error"} else {"return": answer}
            connection.sendall(json.dumps({**whole, "id": request["id"]}).encode() + b"\n")

    def asked(self, verb):
        return [request.get("arguments", {}) for request in self.requests if request["execute"] == verb]

    def close(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave the accepting thread with it
            self.listener.close()
        for connection in self.connections:
            connection.close()


class Place:
    """A directory of the test's own, with a daemon in it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="vtpmctl-test-")
        self.daemon = Daemon(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def run(self, *arguments, **options):
        return subprocess.run([PROGRAM, "--socket", self.daemon.path, *arguments], capture_output=True, timeout=30,
                              check=False, **options)

    def succeeds(self, *arguments):
        result = self.run(*arguments)
        tap.require(result.returncode == 0, f"{arguments}: status {result.returncode}: {result.stderr!r}")
        return result.stdout.decode()

    def fails(self, *arguments, status, saying):
        result = self.run(*arguments)
        text = result.stderr.decode()
        tap.require(result.returncode == status, f"{arguments}: status {result.returncode}, not {status}: {text!r}")
        tap.require(text.startswith("vtpmctl: ") and re.search(saying, text), f"does not say {saying!r}: {text!r}")
        return result

    def key(self, private, name):
        """Writes both halves in PEM; returns their paths and the public bytes in hexadecimal."""
        secret, public = self.path(name + ".pem"), self.path(name + ".pub")
        with open(secret, "wb") as file:
            file.write(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                             serialization.NoEncryption()))
        with open(public, "wb") as file:
            file.write(private.public_key().public_bytes(serialization.Encoding.PEM,
                                                         serialization.PublicFormat.SubjectPublicKeyInfo))
        raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return secret, public, raw.hex()

    def close(self):
        self.daemon.close()
        shutil.rmtree(self.directory)


def test(function):
    """Registers a test that gets a Place of its own."""

    @functools.wraps(function)
    def run():
        place = Place()
        try:
            function(place)
        finally:
            place.close()

    return tap.test(run)


# --- what is asked and shown ---


@test
def list_is_a_table_that_fits_a_terminal(place):
    lines = place.succeeds("list").splitlines()
    tap.require(len(lines) == 3 and lines[0].split() == "LABEL STATE HEALTH EPOCH START VERSION TPM DEVICE OWNER ID".split(), lines)
    tap.require(all(len(line) <= 100 for line in lines), "wider than 100 columns")
    tap.require(not any(line.endswith(" ") for line in lines), "blanks at the end of a line")
    tap.require(lines[1].split() == ["web1", "running", "serving", "2", "3", "12", "2.0", "software", "operator", ID[:8]], lines[1])
    tap.require(lines[2].split() == ["db1", "stopped", "-", "2", "3", "12", "1.2", "software", "ab" * 4, OTHER_ID[:8]], lines[2])
    columns = [lines[0].index(title) for title in ("STATE", "HEALTH", "OWNER")]
    tap.require([lines[1].index(word) for word in ("running", "serving", "operator")] == columns, "not aligned")


@test
def deleted_ones_are_listed_when_asked_for(place):
    place.succeeds("list")
    place.succeeds("list", "--deleted")
    tap.require(place.daemon.asked("list") == [{}, {"deleted": True}], place.daemon.requests)


@test
def show_has_the_whole_id_and_says_who_the_owner_is(place):
    text = place.succeeds("show", "web1")
    for words in (ID, "9f" * 32, "operator (no key", "named by vtpmd", "swtpm:unix:/run/vtpm/instances/web1/tpm.sock",
                  "2026-09-21 14:13:20 UTC"):
        tap.require(words in text, f"{words!r} is missing: {text}")
    tap.require(place.daemon.asked("show") == [{"instance": "web1"}], place.daemon.requests)


@test
def status_says_what_protects_and_what_does_not(place):
    text = place.succeeds("status")
    for words in ("software", STATUS["limits"], STATUS["anchor-limits"], "secret", MANAGER, "7c" * 32, "6b" * 32, DOMAIN):
        tap.require(words in text, f"{words!r} is missing: {text}")
    for caption in ("device", "memory", "anchor", "recovery", "owner"):
        tap.require(re.search(rf"^{caption} +\S", text, re.MULTILINE), f"{caption} is missing: {text}")


@test
def long_sentences_are_broken_between_words_and_long_words_are_not(place):
    sentence, word = "keeps keys from readers " * 12, "x" * 150
    place.daemon.answers["status"] = {**STATUS, "limits": sentence.strip(), "anchor-limits": word}
    text = place.succeeds("status")
    tap.require(word in text, "a word was broken")
    lines = [line for line in text.splitlines() if word not in line]
    tap.require(all(len(line) <= 100 for line in lines), "wider than 100 columns")
    begin, end = text.index("keeps"), text.index("memory")
    tap.require(text[begin:end].split() == sentence.split(), f"words are missing: {text}")


@test
def json_is_the_answer_itself(place):
    for verb, arguments, expected in (("list", [], {"instances": [WEB1, DB1]}), ("show", ["web1"], WEB1),
                                      ("status", [], STATUS), ("version", [], {"version": "0.2.0", "api": 1})):
        tap.require(json.loads(place.succeeds("--json", verb, *arguments)) == expected, verb)


@test
def a_list_longer_than_a_request_may_be_is_shown(place):
    place.daemon.answers["list"] = {"instances": [{**WEB1, "label": f"vm{i}"} for i in range(2000)]}
    tap.require(len(place.succeeds("list").splitlines()) == 2001, "not all")


@test
def version_names_both(place):
    tap.require("vtpmd 0.2.0, admin API 1" in place.succeeds("version"), "the daemon's is missing")


@test
def create_sends_what_the_command_line_says(place):
    _, owner, owner_hex = place.key(ed25519.Ed25519PrivateKey.generate(), "owner")
    _, front, front_hex = place.key(x25519.X25519PrivateKey.generate(), "front")
    place.daemon.answers["create"] = WEB1
    tap.require(place.succeeds("create", "web1") == f"web1  {ID}  running\n", "output")
    place.succeeds("create", "web1", "--owner", owner, "--front-key", front, "--listen", "front", "--listen",
                   "mssim:tcp:2321", "--no-start")
    tap.require(place.daemon.asked("create") == [
        {"label": "web1"},
        {"label": "web1", "owner": owner_hex, "front-key": front_hex, "listen": ["front", "mssim:tcp:2321"],
         "start": False}], place.daemon.requests)


@test
def create_refuses_a_key_of_another_kind_before_it_asks(place):
    secret, public, _ = place.key(ed25519.Ed25519PrivateKey.generate(), "owner")
    place.fails("create", "web1", "--front-key", public, status=1, saying="no public key of X25519")
    place.fails("create", "web1", "--owner", secret, status=1, saying="no public key of ED25519")
    place.fails("create", "web1", "--owner", place.path("none"), status=1, saying="No such file")
    tap.require(place.daemon.requests == [], "it asked")


@test
def start_and_stop_send_what_the_command_line_says(place):
    place.daemon.answers.update(start=WEB1, stop={**WEB1, "state": "stopped"})
    place.succeeds("start", "web1")
    place.succeeds("start", "web1", "--declare-dead")
    tap.require("stopped" in place.succeeds("stop", "web1"), "output")
    tap.require(place.daemon.asked("start") == [{"instance": "web1"}, {"instance": "web1", "declare-dead": True}], "start")
    tap.require(place.daemon.asked("stop") == [{"instance": "web1"}], "stop")


@test
def a_failed_start_says_why(place):
    place.daemon.answers["start"] = {**WEB1, "state": "failed", "reason": "the image is gone"}
    tap.require("failed: the image is gone" in place.succeeds("start", "web1"), "no reason")


@test
def stop_all_stops_what_runs_and_goes_on_after_a_refusal(place):
    third = {**WEB1, "id": "2" + ID[1:], "label": "web3"}
    place.daemon.answers["list"] = {"instances": [WEB1, DB1, third]}
    place.daemon.answers["stop"] = lambda _, request: (
        {"error": REFUSAL} if request["arguments"]["instance"] == ID else {**third, "state": "stopped"})
    result = place.fails("stop", "--all", status=1, saying="not every instance was stopped")
    tap.require(place.daemon.asked("stop") == [{"instance": ID}, {"instance": third["id"]}], place.daemon.requests)
    tap.require(b"web3" in result.stdout, result.stdout)


@test
def events_follow_until_interrupted(place):
    def subscribe(connection, request):
        connection.sendall(b'{"return": {}, "id": %d}\n{"event": "started", "number": 12, "time": 1790000000.25, "data": '
                           b'{"id": "x", "label": "web1", "start": 3, "epoch": 0}}\n' % request["id"])

    place.daemon.answers["subscribe"] = subscribe
    with subprocess.Popen([PROGRAM, "--socket", place.daemon.path, "events", "--since", "7"],
                          stdout=subprocess.PIPE) as process:
        line = process.stdout.readline().decode()
        tap.require("2026-09-21" in line and "started" in line and "web1  start 3  epoch 0" in line, line)
        place.daemon.subscribers[0].sendall(b'{"event": "stopped", "number": 13, "time": 1790000001, "data": {}}\n')
        tap.require("stopped" in process.stdout.readline().decode(), "the second one")
        process.send_signal(signal.SIGINT)
    tap.require(place.daemon.asked("subscribe") == [{"since": 7}], place.daemon.requests)


@test
def events_in_json_are_one_in_a_line(place):
    event = {"event": "created", "number": 1, "time": 5.5, "data": {"label": "web1"}}

    def subscribe(connection, request):
        connection.sendall(b'{"return": {}, "id": %d}\n%s\n' % (request["id"], json.dumps(event).encode()))
        connection.shutdown(socket.SHUT_RDWR)

    place.daemon.answers["subscribe"] = subscribe
    result = place.fails("--json", "events", status=3, saying="ended the connection")
    tap.require(json.loads(result.stdout) == event and result.stdout.count(b"\n") == 1, result.stdout)


def run_in_terminal(*arguments):
    """Runs vtpmctl with standard error at a terminal; returns what it wrote there."""
    master, slave = pty.openpty()
    process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    text = b""
    while select.select([master], [], [], 20)[0]:
        try:
            read = os.read(master, 4096)
        except OSError:
            break
        text += read
    os.close(master)
    return process.wait(timeout=20), text.decode()


@test
def create_tells_what_happens_on_a_terminal(place):
    def create(_, __):
        for label in ("other", "web1"):
            event = {"event": "starting", "number": 3, "time": 1790000000, "data": {"label": label}}
            for subscriber in place.daemon.subscribers:
                try:
                    subscriber.sendall(json.dumps(event).encode() + b"\n")
                except OSError:
                    pass  # that of an earlier command, which has ended
        time.sleep(0.3)
        return WEB1

    place.daemon.answers["create"] = create
    status, text = run_in_terminal("--socket", place.daemon.path, "create", "web1")
    tap.require(status == 0 and "starting" in text and "web1" in text and "other" not in text, text)
    place.succeeds("create", "web1")
    tap.require(len(place.daemon.subscribers) == 1, "it also subscribes where no terminal is")


@test
def create_does_not_depend_on_the_events(place):
    def create(_, __):
        for subscriber in place.daemon.subscribers:
            subscriber.sendall(b"]garbage\n")
        time.sleep(0.3)
        return WEB1

    place.daemon.answers["create"] = create
    status, _ = run_in_terminal("--socket", place.daemon.path, "create", "web1")
    tap.require(status == 0 and len(place.daemon.subscribers) == 1, status)


# --- exit statuses ---


@test
def a_refusal_is_told_in_the_daemons_words(place):
    place.daemon.answers["show"] = {"error": REFUSAL}
    result = place.fails("show", "web2", status=1, saying="web2: there is no instance of this id\n  vtpmctl list shows")
    tap.require(result.stdout == b"", result.stdout)


@test
def a_refusal_with_the_code_of_usage_is_still_a_refusal(place):
    place.daemon.answers["show"] = {"error": {"class": "USAGE", "code": 113, "desc": "no"}}
    place.fails("show", "web2", status=1, saying="no")


@test
def wrong_command_lines_are_refused_without_a_daemon(place):
    place.daemon.close()
    for arguments, saying in (
            ([], "which command"), (["frob"], "frob: unknown command"), (["show"], "which instance"),
            (["create"], "which label"), (["list", "web1"], "takes no"), (["stop", "--all", "web1"], "takes no instance"),
            (["show", "a", "b"], "b: one argument too many"), (["show", "a", "--force"], "does not take --force"),
            (["snapshot", "a"], "which name"), (["snapshot", "--list", "a", "b"], "b: one argument too many"),
            (["snapshot", "--list", "--delete", "a"], "either --list or --delete"), (["revert", "a"], "which snapshot"),
            (["clone", "a"], "which label"), (["challenge", "a"], "which act"),
            (["--frob", "list"], "--frob: unknown option"), (["create", "a", "--owner"], "a value is missing"),
            (["events", "--since", "-1"], "not a number"), (["--timeout", "0", "list"], "not a number"),
            (["create", "a"] + ["--listen", "front"] * 17, "more than 16 times"),
            (["doctor", "--device", "fast"], "auto, sgx or software"), (["doctor", "web1"], "takes no"),
            (["list", "--device", "sgx"], "does not take --device"),
            (["--socket", "x" * 200, "list"], "longer than")):
        place.fails(*arguments, status=2, saying=saying)


@test
def help_and_version_need_no_daemon(place):
    place.daemon.close()
    tap.require(place.succeeds("--help").startswith("usage: vtpmctl"), "--help")
    tap.require(place.succeeds("--version").startswith("vtpmctl "), "--version")


@test
def no_daemon_is_said_with_the_cure(place):
    result = subprocess.run([PROGRAM, "--socket", place.path("none"), "list"], capture_output=True, text=True, check=False)
    tap.require(result.returncode == 3 and "vtpmd does not run" in result.stderr, result.stderr)
    place.daemon.close()
    place.fails("list", status=3, saying="vtpmd does not run")


@test
def no_permission_is_said_with_the_cure(place):
    if os.geteuid() != 0:
        raise tap.Skip("wants root, to become another user")
    os.chmod(place.daemon.path, 0o600)
    os.chmod(place.directory, 0o755)
    program = shutil.copy(PROGRAM, place.path("vtpmctl"))
    result = subprocess.run([program, "--socket", place.daemon.path, "list"], capture_output=True, text=True,
                            check=False, user=65534, group=65534, extra_groups=[])
    tap.require(result.returncode == 3 and "no permission" in result.stderr and "admin-group" in result.stderr,
                result.stderr)


@test
def another_version_of_the_api_is_refused(place):
    place.daemon.greeting = b'{"vtpm": {"version": "9.1", "api": 2}}\n'
    place.fails("list", status=3, saying=r"vtpmd 9\.1 speaks version 2")
    tap.require(place.daemon.requests == [], "it asked nevertheless")


@test
def a_daemon_that_does_not_answer_is_given_up(place):
    place.daemon.answers["list"] = lambda *_: None
    place.fails("--timeout", "1", "list", status=3, saying="did not answer in time")
    place.daemon.greeting = b""
    place.fails("--timeout", "1", "list", status=3, saying="did not answer in time")


@test
def a_daemon_that_drips_bytes_is_given_up_too(place):
    def drip(connection, _):
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.1)

    place.daemon.answers["list"] = drip
    begin = time.monotonic()
    place.fails("--timeout", "1", "list", status=3, saying="did not answer in time")
    tap.require(time.monotonic() - begin < 5, "each byte gave it more time")


@test
def a_full_standard_output_is_a_failure(place):
    with open("/dev/full", "wb") as full:
        result = subprocess.run([PROGRAM, "--socket", place.daemon.path, "list"], stdout=full, stderr=subprocess.PIPE,
                                check=False)
    tap.require(result.returncode == 1 and b"standard output" in result.stderr, result.stderr)


# --- a hostile daemon ---


@test
def garbage_ends_with_a_sentence_and_nothing_on_standard_output(place):
    for garbage in (b"\x00\xff\xfe\n", b"\n", b"[]\n", b"{}\n", b'"return"\n', b"{" * 60000 + b"\n",
                    b'{"a":' * 60000 + b"1" + b"}" * 60000 + b"\n", b"[" * 3000 + b"]" * 3000 + b"\n",
                    b'{"return": {}, "return": {"instances": []}, "id": 1}\n', b'{"return": [], "id": 1}\n',
                    b'{"return": {"instances": []}, "error": {}, "id": 1}\n', b'{"return": null, "id": 1}\n',
                    b'{"error": "no", "id": 1}\n', b'{"error": {"code": 160}, "id": 1}\n',
                    b'{"error": {"code": 0, "desc": "fine"}, "id": 1}\n',
                    b'{"error": {"code": 65536, "desc": "fine"}, "id": 1}\n', b'{"return": {}, "id": 1}\n',
                    b'{"return": {"instances": {"0": {}}}, "id": 1}\n', b'{"event": "started", "number": 1}\n',
                    b'{"return": {"instances": []}, "id": 1} trailing\n', b'{"return": {"instances": [\xff]}, "id": 1}\n'):
        place.daemon.answers["list"] = lambda *_, garbage=garbage: garbage
        result = place.fails("list", status=3, saying="vtpmd")
        tap.require(result.stdout == b"", f"{garbage[:40]!r}: {result.stdout[:80]!r}")


@test
def garbage_in_the_place_of_the_greeting_is_refused(place):
    for greeting in (b"SSH-2.0-x\n", b"{}\n", b'{"vtpm": 1}\n', b'{"vtpm": {"version": "1"}}\n',
                     b'{"vtpm": {"version": 1, "api": 1}}\n', b'{"vtpm": {"version": "1", "api": "1"}}\n'):
        place.daemon.greeting = greeting
        place.fails("list", status=3, saying="vtpmd")


@test
def an_error_whose_code_is_none_is_not_taken_for_success(place):
    for code in (0, -1, 65536, 1.5, "160", None):
        place.daemon.answers["show"] = {"error": {"class": "X", "code": code, "desc": "fine"}}
        place.fails("show", "web1", status=3, saying="an error of another form")


@test
def a_daemon_that_hangs_up_after_the_greeting_is_survived(place):
    place.daemon.serve = lambda connection: (connection.sendall(place.daemon.greeting), connection.close())
    place.fails("list", status=3, saying="Broken pipe|ended the connection|reset")


@test
def an_answer_with_another_id_is_refused(place):
    for text in ("0", "2", '"1"', "1.0", "null", "[1]", "{}", "99999999999999999999"):
        place.daemon.answers["list"] = lambda *_, text=text: b'{"return": {"instances": []}, "id": %s}\n' % text.encode()
        place.fails("list", status=3, saying="vtpmd")
    place.daemon.answers["list"] = lambda *_: b'{"return": {"instances": []}}\n'
    place.fails("list", status=3, saying="was not asked for")


@test
def an_error_without_id_is_believed_because_the_daemon_may_not_know_it(place):
    place.daemon.answers["list"] = lambda *_: b'{"error": {"class": "BAD_VALUE", "code": 5, "desc": "what?"}}\n'
    place.fails("list", status=1, saying="what")


@test
def half_a_line_is_no_answer(place):
    def half(connection, _):
        connection.sendall(b'{"return": {"instances": []}, "id": 1}')
        connection.shutdown(socket.SHUT_WR)

    place.daemon.answers["list"] = half
    place.fails("list", status=3, saying="ended the connection")


@test
def an_answer_in_many_pieces_is_put_together(place):
    def pieces(connection, request):
        for byte in json.dumps({"return": {"instances": []}, "id": request["id"]}).encode() + b"\n":
            connection.sendall(bytes([byte]))

    place.daemon.answers["list"] = pieces
    place.succeeds("list")


@test
def a_line_without_end_is_given_up_within_a_bound(place):
    sent = [0]

    def flood(connection, _):
        while True:
            connection.sendall(b" " * 65536)
            sent[0] += 65536

    place.daemon.answers["list"] = flood
    place.fails("list", status=3, saying="a line without an end")
    tap.require(sent[0] < 20 << 20, f"it took {sent[0]} bytes")


HOSTILE_TEXT = "a\x1b[2J\r\x07\x00b\x7f\x9b31m\u202ec\u2066\u200bd\u2028e\ufeff\u00fc"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


@test
def nothing_that_steers_a_terminal_is_printed(place):
    hostile = {name: HOSTILE_TEXT.replace("\x00", "") for name in WEB1} | {"listen": [HOSTILE_TEXT.replace("\x00", "")]}
    status = {name: HOSTILE_TEXT.replace("\x00", "") for name in STATUS}
    event = {"event": hostile["id"], "number": 1, "time": 1, "data": hostile}
    place.daemon.answers.update(show=hostile, list={"instances": [hostile]}, status=status, stop=hostile, version=hostile)

    def subscribe(connection, request):
        connection.sendall(b'{"return": {}, "id": %d}\n%s\n' % (request["id"], json.dumps(event).encode()))
        connection.shutdown(socket.SHUT_RDWR)

    place.daemon.answers["subscribe"] = subscribe
    for arguments in (["show", "x"], ["list"], ["status"], ["stop", "x"], ["version"], ["events"]):
        for flags in ([], ["--json"]):
            result = place.run(*flags, *arguments)
            text = (result.stdout + result.stderr).decode()
            tap.require(text and not STEERING.search(text), f"{flags} {arguments}: {text!r}")
    tap.require("\u00fc" in place.succeeds("show", "x"), "an ordinary letter was replaced as well")


@test
def nothing_in_a_refusal_steers_a_terminal(place):
    text = HOSTILE_TEXT.replace("\x00", "") + "\nvtpmctl: forged"
    place.daemon.answers["list"] = {"error": {"class": text, "code": 160, "desc": text, "hint": text}}
    result = place.fails("list", status=1, saying="a")
    tap.require(not STEERING.search(result.stderr.decode()), result.stderr)
    tap.require(result.stderr.count(b"\n") == 2, "a line was forged")


@test
def values_of_other_types_are_shown_as_missing(place):
    odd = {name: [{}] for name in WEB1} | {"created": 1e300, "listen": [None, 5, {}]}
    place.daemon.answers.update(show=odd, list={"instances": [odd, 5, None, []]}, status={"manager": 5, "ledger": []})
    tap.require(place.succeeds("show", "x").splitlines()[0].split() == ["label", "-"], "show")
    place.succeeds("list")
    place.succeeds("status")
    for created in (-1, 10**18, 253402300800, "now"):
        place.daemon.answers["show"] = {**WEB1, "created": created}
        tap.require(re.search(r"^created +-$", place.succeeds("show", "x"), re.MULTILINE), created)


@test
def text_without_bound_is_cut_off_between_characters(place):
    place.daemon.answers["show"] = {**WEB1, "reason": "\u00fc" * 30000}
    place.daemon.answers["list"] = {"instances": [{**WEB1, "label": "x" * 100000}]}
    line = re.search(r"^reason +(.*)$", place.succeeds("show", "x"), re.MULTILINE).group(1)
    tap.require(set(line) == {"\u00fc"} and len(line) < 512, "cut")
    place.succeeds("list")


# --- the owner's signature ---


def act(identity=ID, epoch=2, verb=9, nonce=NONCE, label=b"vtpm owner v1", domain=DOMAIN, manager=MANAGER, arguments=b""):
    """OWNER_ACT, written a second time from its description."""
    return (label.ljust(16, b"\0") + verb.to_bytes(2, "little") + bytes(6) + uuid.UUID(domain).bytes
            + uuid.UUID(identity).bytes + epoch.to_bytes(8, "little") + bytes.fromhex(nonce) + bytes.fromhex(manager)
            + hashlib.sha256(arguments).digest())


def owned(place):
    """An instance with an owner, whose private key's path is returned, too."""
    private = ed25519.Ed25519PrivateKey.generate()
    secret, _, public = place.key(private, "owner")
    instance = {**WEB1, "owner": public, "state": "stopped"}
    place.daemon.answers.update(show=instance, delete={**instance, "state": "deleted"},
                                challenge={"nonce": NONCE, "message": act().hex()})
    return private, secret, instance


@test
def delete_without_a_key_is_just_asked_for(place):
    place.daemon.answers["delete"] = {**WEB1, "state": "deleted"}
    place.succeeds("delete", "web1")
    place.succeeds("delete", "web1", "--force")
    tap.require(place.daemon.asked("delete") == [{"instance": "web1"}, {"instance": "web1", "force": True}], "delete")
    tap.require(place.daemon.asked("challenge") == [], "it asked for a challenge")


@test
def delete_is_signed_by_the_owner(place):
    private, secret, _ = owned(place)
    for name in ("web1", ID, ID.upper()):
        place.daemon.requests.clear()
        result = place.run("delete", name, "--owner-key", secret)
        tap.require(result.returncode == 0 and ID in result.stderr.decode(), result.stderr)
        tap.require(place.daemon.asked("challenge") == [{"instance": ID, "verb": "delete"}], "challenge")
        arguments = place.daemon.asked("delete")[0]
        tap.require(set(arguments) == {"instance", "signature"}, arguments)
        private.public_key().verify(bytes.fromhex(arguments["signature"]), act())


@test
def delete_with_force_signs_again_once_when_the_epoch_rose(place):
    private, secret, instance = owned(place)
    refused = {"error": {"class": "OWNER_SIGNATURE", "code": 167, "desc": "the owner's signature does not verify"}}

    def delete(_, request):
        if len(place.daemon.asked("delete")) > 1:
            return {**instance, "epoch": 3, "state": "deleted"}
        place.daemon.answers["show"] = {**instance, "epoch": 3}
        place.daemon.answers["challenge"] = {"nonce": NONCE, "message": act(epoch=3).hex()}
        return refused

    place.daemon.answers["delete"] = delete
    tap.require("deleted" in place.succeeds("delete", "web1", "--force", "--owner-key", secret), "output")
    signatures = [bytes.fromhex(arguments["signature"]) for arguments in place.daemon.asked("delete")]
    private.public_key().verify(signatures[0], act())
    private.public_key().verify(signatures[1], act(epoch=3))
    place.daemon.requests.clear()
    place.daemon.answers["delete"] = refused
    place.fails("delete", "web1", "--force", "--owner-key", secret, status=1, saying="does not verify")
    tap.require(len(place.daemon.asked("delete")) == 2, "it went on asking")
    place.daemon.requests.clear()
    place.fails("delete", "web1", "--owner-key", secret, status=1, saying="does not verify")
    tap.require(len(place.daemon.asked("delete")) == 1, "it asked again without --force")


def signs_nothing(place, saying, name="web1", status=3):
    place.fails("delete", name, "--owner-key", place.path("owner.pem"), status=status, saying=saying)
    tap.require(place.daemon.asked("delete") == [], "it signed")


@test
def a_lying_daemon_has_nothing_else_signed(place):
    owned(place)
    for message in (act(identity=OTHER_ID), act(epoch=3), act(verb=8), act(nonce="00" * 32), act(label=b"vtpm owner v2"),
                    act(domain=OTHER_ID), act(manager="00" * 32), act(arguments=b"x"), act() + b"\0", act()[:-1],
                    b"transfer everything", b""):
        place.daemon.answers["challenge"] = {"nonce": NONCE, "message": message.hex()}
        signs_nothing(place, "nothing was signed")


@test
def a_challenge_of_another_form_is_not_signed(place):
    owned(place)
    good = {"nonce": NONCE, "message": act().hex()}
    for change in ({"nonce": None}, {"nonce": NONCE.upper()}, {"nonce": NONCE[:-1]}, {"nonce": NONCE + "zz"},
                   {"nonce": NONCE + "\x00"},
                   {"message": act().hex().upper()}, {"message": 5}, {"message": None}, {"message": act().hex() + "\x00"}):
        place.daemon.answers["challenge"] = {**good, **change}
        place.fails("delete", "web1", "--owner-key", place.path("owner.pem"), status=3, saying="signed|vtpmd")
    tap.require(place.daemon.asked("delete") == [], "it signed")


@test
def another_instance_than_the_named_one_is_not_signed_for(place):
    _, _, instance = owned(place)
    place.daemon.answers["show"] = {**instance, "label": "db1"}
    signs_nothing(place, "another instance than web1")
    place.daemon.answers["show"] = {**instance, "id": OTHER_ID}
    signs_nothing(place, "another instance than " + ID, name=ID)
    place.daemon.answers["show"] = {**instance, "id": "web1"}
    signs_nothing(place, "another instance than web1")


@test
def a_key_that_is_not_the_owners_signs_nothing(place):
    _, _, instance = owned(place)
    place.daemon.answers["show"] = {**instance, "owner": "ab" * 32}
    signs_nothing(place, "not the owner's", status=1)
    place.daemon.answers["show"] = {**instance, "owner": "operator"}
    signs_nothing(place, "not the owner's of web1, which is operator", status=1)


@test
def a_status_without_manager_is_not_signed_for(place):
    owned(place)
    for change in ({"manager": None}, {"manager": {"mrenclave": "5a"}}, {"domain": "x"}, {"domain": None}):
        place.daemon.answers["status"] = {**copy.deepcopy(STATUS), **change}
        signs_nothing(place, "nothing was signed")


# --- the store; what vtpmd and real files do is in tests/system/store_check.py ---

CLEAN = {"findings": [], "rows": 2, "states": 2, "snapshots": 0, "other-manager": 0, "compared": 2, "busy": 0}
FINDING = {"subject": "web1 (" + ID + ")", "fault": "its state\x1b[2J is missing", "cure": "restore"}


@test
def store_check_tells_what_the_daemon_found(place):
    place.daemon.answers["store-check"] = CLEAN
    tap.require("2 instances, 2 states, 0 snapshots, 0 findings" in place.succeeds("store", "check"), "clean")
    place.daemon.answers["store-check"] = {**CLEAN, "findings": [FINDING, FINDING]}
    result = place.run("store", "check")
    tap.require(result.returncode == 1 and result.stdout.count(b"its state?[2J is missing") == 2, result)
    result = place.run("--json", "store", "check")
    tap.require(result.returncode == 1 and json.loads(result.stdout)["findings"] == [FINDING, FINDING], result)
    for lie in ({}, {"findings": None}, {"findings": 5}):
        place.daemon.answers["store-check"] = lie
        place.fails("store", "check", status=3, saying="no findings")


@test
def progress_that_nobody_asked_for_is_no_answer(place):
    for verb, command in (("store-check", ("store", "check")), ("version", ("version",))):
        progress = json.dumps({"progress": {"done": 1, "of": 2}, "id": 1}).encode() + b"\n"
        place.daemon.answers[verb] = lambda connection, request, progress=progress: progress
        place.fails("--timeout", "2", *command, status=3, saying="vtpmd")


@test
def a_backup_that_comes_without_a_copy_leaves_nothing(place):
    place.daemon.answers["store-backup"] = {"size": 4096}
    place.fails("store", "backup", place.path("b.db"), status=3, saying="no copy with it")
    place.daemon.answers["store-backup"] = {"error": {"class": "STORE_IO", "code": 197, "desc": "no room"}}
    place.fails("store", "backup", place.path("b.db"), status=1, saying="no room")
    tap.require(not [name for name in os.listdir(place.path("")) if name.startswith("b.db")], "something was left")


@test
def a_copy_that_is_shorter_than_it_is_said_to_be_is_not_kept(place):
    Path(place.path("copy")).write_bytes(b"x" * 5000)

    def answer(size):
        def send(connection, request):
            with open(place.path("copy"), "rb") as file:
                line = json.dumps({"return": {"size": size}, "id": request["id"]}).encode() + b"\n"
                socket.send_fds(connection, [line], [file.fileno()])
        return send

    place.daemon.answers["store-backup"] = answer(6000)
    place.fails("store", "backup", place.path("b.db"), status=1, saying="ends early")
    tap.require(not [name for name in os.listdir(place.path("")) if name.startswith("b.db")], "something was left")
    place.daemon.answers["store-backup"] = answer(5000)
    place.succeeds("store", "backup", place.path("b.db"))
    tap.require(Path(place.path("b.db")).read_bytes() == b"x" * 5000, "other bytes")


@test
def store_wants_a_verb_and_one_file(place):
    for words, saying in ((("store",), "check or backup"), (("store", "burn"), "check or backup"),
                          (("store", "backup"), "which file"), (("store", "check", "a", "b"), "too many"),
                          (("store", "check", "a", "--state-dir", "b"), "not both"),
                          (("store", "check", "--force"), "does not take --force")):
        place.fails(*words, status=2, saying=saying)


# --- the owner's other acts ---

SNAPSHOT = {"name": "first", "version": 7, "created": 1790000000, "digest": "8e" * 32, "manager": "5b" * 32, "size": 4584}
REVERT = (13).to_bytes(8, "little") + bytes.fromhex("8e" * 32 + "5b" * 32)  # version 12 is recorded
VERB_NUMBERS = {"delete": 9, "revert": 13, "set-owner": 14, "clone": 15}


def acts(place, heir):
    """For each act: the words of the command line, what is sent beside the instance, and what is hashed."""
    _, public, public_hex = place.key(heir, "heir")
    return {
        "delete": (["delete", "web1"], {}, b""),
        "revert": (["revert", "web1", "first"], {"snapshot": "first"}, REVERT),
        "set-owner": (["owner", "web1", "--set", public], {"owner": public_hex}, bytes.fromhex(public_hex)),
        "clone": (["clone", "web1", "web2"], {"label": "web2"}, b"web2".ljust(64, b"\0")),
    }


def challenges(place, arguments):
    """A daemon that challenges as it should, for the arguments that are to be hashed."""
    place.daemon.answers["snapshots"] = {"snapshots": [{**SNAPSHOT, "name": "other", "digest": "00" * 32}, SNAPSHOT]}
    place.daemon.answers["challenge"] = lambda _, request: {
        "nonce": NONCE, "arguments": arguments.hex(),
        "message": act(verb=VERB_NUMBERS[request["arguments"]["verb"]], arguments=arguments).hex()}


@test
def each_act_is_signed_by_the_owner(place):
    private, secret, instance = owned(place)
    for verb, (words, about, arguments) in acts(place, ed25519.Ed25519PrivateKey.generate()).items():
        place.daemon.requests.clear()
        place.daemon.answers[verb] = instance
        challenges(place, arguments)
        place.succeeds(*words, "--owner-key", secret)
        tap.require(place.daemon.asked("challenge") == [{"instance": ID, "verb": verb, **about}], place.daemon.requests)
        asked = place.daemon.asked(verb)[0]
        tap.require({**asked, "signature": None} == {"instance": "web1", "signature": None, **about}, asked)
        private.public_key().verify(bytes.fromhex(asked["signature"]),
                                    act(verb=VERB_NUMBERS[verb], arguments=arguments))


@test
def a_lying_daemon_has_no_other_act_signed(place):
    """Of another verb, over other arguments, or for a snapshot of another digest than it showed."""
    _, secret, instance = owned(place)
    cases = acts(place, ed25519.Ed25519PrivateKey.generate())
    for verb, (words, _, arguments) in cases.items():
        place.daemon.answers[verb] = instance
        challenges(place, arguments)
        messages = [act(verb=VERB_NUMBERS[other], arguments=arguments) for other in cases if other != verb]
        messages += [act(verb=VERB_NUMBERS[verb], arguments=other)
                     for name, (_, _, other) in cases.items() if name != verb]
        for message in messages:
            place.daemon.answers["challenge"] = {"nonce": NONCE, "message": message.hex(), "arguments": ""}
            place.fails(*words, "--owner-key", secret, status=3, saying="nothing was signed")
        tap.require(place.daemon.asked(verb) == [], f"{verb} was signed")


@test
def without_a_key_acts_are_just_asked_for(place):
    place.daemon.answers.update({verb: WEB1 for verb in VERB_NUMBERS})
    for words, verb, expected in (
            (["revert", "web1", "first"], "revert", {"instance": "web1", "snapshot": "first"}),
            (["owner", "web1", "--operator"], "set-owner", {"instance": "web1", "owner": None}),
            (["clone", "web1", "web2", "--no-start", "--listen", "front"], "clone",
             {"instance": "web1", "label": "web2", "start": False, "listen": ["front"]})):
        place.succeeds(*words)
        tap.require(place.daemon.asked(verb) == [expected], place.daemon.requests)
    tap.require(place.daemon.asked("challenge") == [], "it asked for a challenge")
    for words in (["owner", "web1"], ["owner", "web1", "--operator", "--set", place.path("none")]):
        place.fails(*words, status=2, saying="either --set")


@test
def a_snapshot_that_there_is_not_is_not_signed_for(place):
    _, secret, _ = owned(place)
    challenges(place, REVERT)
    place.fails("revert", "web1", "none", "--owner-key", secret, status=1, saying="no snapshot named none")
    for change in ({"digest": 5}, {"manager": "xx"}, {"digest": "8e" * 31}):
        place.daemon.answers["snapshots"] = {"snapshots": [{**SNAPSHOT, **change}]}
        place.fails("revert", "web1", "first", "--owner-key", secret, status=3, saying="digest or manager")
    tap.require(place.daemon.asked("revert") == [], "it signed")


def sign_offline(place, secret, name, out="signature"):
    return subprocess.run([SIGN, "owner-act", "--key", secret, "--out", place.path(out), place.path(name)],
                          capture_output=True, text=True, check=False, timeout=30)


@test
def each_act_is_signed_where_the_key_is(place):
    private, secret, instance = owned(place)
    told = {"delete": "delete the instance", "revert": "8e" * 32, "set-owner": "new owner", "clone": "web2"}
    for verb, (words, about, arguments) in acts(place, ed25519.Ed25519PrivateKey.generate()).items():
        place.daemon.requests.clear()
        place.daemon.answers[verb] = instance
        challenges(place, arguments)
        text = place.succeeds("challenge", words[1], words[0], *words[2:], "--out", place.path("act"))
        tap.require("vtpm-sign owner-act" in text, text)
        tap.require(place.daemon.asked("challenge") == [{"instance": "web1", "verb": verb, **about}], place.daemon.requests)
        message = act(verb=VERB_NUMBERS[verb], arguments=arguments)
        tap.require(Path(place.path("act")).read_bytes() == message + arguments, "the file")
        result = sign_offline(place, secret, "act")
        tap.require(result.returncode == 0, result.stderr)
        for words_told in (told[verb], ID, DOMAIN, MANAGER):
            tap.require(words_told in result.stdout, f"{verb}: {words_told} is not told: {result.stdout}")
        place.succeeds(*words, "--signature", place.path("signature"))
        private.public_key().verify(bytes.fromhex(place.daemon.asked(verb)[0]["signature"]), message)


@test
def what_is_no_act_is_not_signed(place):
    _, secret, _ = owned(place)
    good = act(verb=13, arguments=REVERT) + REVERT
    label = b"web2\x1b[2J".ljust(64, b"\0")
    for content in (b"", good[:-1], good + b"\0", good[:183], act(verb=8), act(verb=9, label=b"vtpm owner v2"),
                    act(verb=13, arguments=REVERT), act(verb=13, arguments=REVERT[:-1] + b"x") + REVERT,
                    act(verb=15, arguments=label) + label, act(verb=9, arguments=b"x") + b"x",
                    act(verb=15, arguments=b"w" * 64) + b"w" * 64, good[:18] + b"\1" + good[19:]):
        Path(place.path("act")).write_bytes(content)
        result = sign_offline(place, secret, "act")
        tap.require(result.returncode == 1 and result.stderr.startswith("vtpm-sign: "), f"{content.hex()}: {result}")
        tap.require(not os.path.exists(place.path("signature")), f"{content.hex()} was signed")


@test
def a_signature_file_has_64_bytes(place):
    place.daemon.answers["delete"] = WEB1
    Path(place.path("signature")).write_bytes(bytes(63))
    place.fails("delete", "web1", "--signature", place.path("signature"), status=1, saying="a signature has 64")
    place.fails("delete", "web1", "--signature", place.path("none"), status=1, saying="No such file")
    place.fails("delete", "web1", "--signature", "a", "--owner-key", "b", status=2, saying="either --owner-key")
    tap.require(place.daemon.asked("delete") == [], "it asked")


@test
def a_challenge_of_another_form_is_not_written(place):
    for answer in ({}, {"message": act().hex()}, {"message": act().hex()[2:], "arguments": ""},
                   {"message": act().hex(), "arguments": "00" * 73}, {"message": act().hex(), "arguments": "0"},
                   {"message": 5, "arguments": ""}):
        place.daemon.answers["challenge"] = answer
        place.fails("challenge", "web1", "delete", "--out", place.path("act"), status=3, saying="no message or arguments")
        tap.require(not os.path.exists(place.path("act")), f"{answer} was written")
    for words in (["delete", "x"], ["revert"], ["clone"], ["stop"], ["owner"], ["delete", "--operator"], ["delete"]):
        place.fails("challenge", "web1", *words, status=2, saying="challenge|owner")


# --- snapshots, suspend, declare-dead ---


@test
def snapshots_are_taken_listed_and_deleted(place):
    place.daemon.answers.update({"snapshot": SNAPSHOT, "snapshots": {"snapshots": [SNAPSHOT, {**SNAPSHOT, "name": "b"}]},
                                 "snapshot-delete": {}})
    tap.require(place.succeeds("snapshot", "web1", "first") == f"first  version 7  {'8e' * 32}\n", "taken")
    lines = place.succeeds("snapshot", "--list", "web1").splitlines()
    tap.require(lines[0].split() == "NAME VERSION CREATED SIZE DIGEST".split() and len(lines) == 3, lines)
    tap.require(lines[1].split()[:2] == ["first", "7"] and "2026-09-21 14:13:20 UTC" in lines[1], lines)
    tap.require(all(len(line) <= 100 for line in lines), "wider than 100 columns")
    tap.require(json.loads(place.succeeds("--json", "snapshot", "--list", "web1"))["snapshots"][1]["name"] == "b", "json")
    tap.require(place.succeeds("snapshot", "--delete", "web1", "first") == "", "deleted")
    tap.require(place.daemon.asked("snapshot") == [{"instance": "web1", "name": "first"}], place.daemon.requests)
    tap.require(place.daemon.asked("snapshot-delete") == [{"instance": "web1", "name": "first"}], place.daemon.requests)


@test
def a_list_of_snapshots_that_lies_steers_no_terminal(place):
    name = HOSTILE_TEXT.replace("\x00", "")
    place.daemon.answers["snapshots"] = {"snapshots": [{**SNAPSHOT, "name": name, "digest": name}, 5, {}]}
    result = place.run("snapshot", "--list", "web1")
    tap.require(result.returncode == 0 and not STEERING.search(result.stdout.decode()), result)
    place.daemon.answers["snapshots"] = {"snapshots": 5}
    place.fails("snapshot", "--list", "web1", status=3, saying="no snapshots")


@test
def suspend_and_declare_dead_send_what_the_command_line_says(place):
    for verb in ("suspend", "declare-dead"):
        place.daemon.answers[verb] = {**WEB1, "state": "stopped"}
        tap.require("stopped" in place.succeeds(verb, "web1"), verb)
        tap.require(place.daemon.asked(verb) == [{"instance": "web1"}], place.daemon.requests)


@test
def what_heals_lockout_is_said_at_create_and_shown(place):
    place.daemon.answers.update(create=WEB1, show={**WEB1, "lockout-heals": "never", "source": OTHER_ID, "origin": "clone",
                                                   "suspended": True, "reverted": False})
    place.succeeds("create", "web1", "--lockout-heals", "never")
    tap.require(place.daemon.asked("create") == [{"label": "web1", "lockout-heals": "never"}], place.daemon.requests)
    text = place.succeeds("show", "web1")
    for caption, value in (("lockout heals", "never"), ("cloned from", OTHER_ID), ("suspended", "yes"), ("reverted", "no")):
        tap.require(re.search(rf"^{caption} +{value}$", text, re.MULTILINE), text)


@test
def whether_machine_snapshots_are_loaded_is_said_at_create_and_shown(place):
    place.daemon.answers.update(create=WEB1, show={**WEB1, "snapshots": "allowed"})
    place.succeeds("create", "web1", "--snapshots", "allowed")
    tap.require(place.daemon.asked("create") == [{"label": "web1", "snapshots": "allowed"}], place.daemon.requests)
    tap.require(re.search(r"^machine snapshots +allowed$", place.succeeds("show", "web1"), re.MULTILINE), "it is not shown")


@test
def the_family_is_said_at_create_and_shown(place):
    place.daemon.answers.update(create=WEB1, show=DB1)
    place.succeeds("create", "web1", "--tpm", "1.2")
    tap.require(place.daemon.asked("create") == [{"label": "web1", "tpm": "1.2"}], place.daemon.requests)
    text = place.succeeds("show", "db1")
    tap.require(re.search(r"^TPM +1\.2$", text, re.MULTILINE), text)


# --- completion ---


def complete(place, *words):
    """What bash offers for the last of words."""
    os.makedirs(place.path("bin"), exist_ok=True)
    if not os.path.exists(place.path("bin/vtpmctl")):
        os.symlink(PROGRAM, place.path("bin/vtpmctl"))
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vtpmctl; '
              'printf "%s\\n" "${COMPREPLY[@]}"; complete -p vtpmctl >&2')
    result = subprocess.run(["bash", "--norc", "-c", script, "bash", str(COMPLETION), "vtpmctl", *words],
                            capture_output=True, text=True, check=False, timeout=30,
                            env={**os.environ, "PATH": place.path("bin") + ":" + os.environ["PATH"]})
    tap.require("complete -F _vtpmctl vtpmctl" in result.stderr, result.stderr)
    return result.stdout.split()


@test
def bash_completes_commands_and_options(place):
    tap.require(complete(place, "st") == ["start", "stop", "status", "store"], "commands")
    tap.require(complete(place, "su") == ["suspend"], "commands")
    tap.require(complete(place, "create", "web1", "--o") == ["--owner"], "options")
    tap.require(complete(place, "--socket", "list", "del") == ["delete"], "an option's value is not the command")
    tap.require(complete(place, "delete", "web1", "--f") == ["--force"], "options of delete")
    tap.require(complete(place, "doctor", "--device", "s") == ["sgx", "software"], "kinds of device")


@test
def bash_completes_every_command_and_option_that_there_is(place):
    usage = place.succeeds("--help")
    commands = re.findall(r"^  ((?:store )?[a-z-]+)", usage, re.MULTILINE)
    tap.require({command.split()[0] for command in commands} <= set(complete(place, "")) and len(commands) == 23,
                f"commands: {complete(place, '')}")
    for command in commands:
        for line in usage.splitlines():
            for option in re.findall(r"--[a-z-]+", line) if line.startswith(f"  {command} ") else ():
                tap.require(option in complete(place, *command.split(), "--"), f"{command} {option}")


@test
def bash_completes_the_verbs_and_files_of_store(place):
    tap.require(complete(place, "store", "b") == ["backup"], "verbs")
    Path(place.path("here.db")).touch()
    tap.require(complete(place, "store", "check", place.path("he")) == [place.path("here.db")], "files")


@test
def bash_completes_labels(place):
    socket_path = place.daemon.path
    tap.require(complete(place, "--socket", socket_path, "show", "") == ["web1", "db1"], "all labels")
    tap.require(complete(place, "--socket", socket_path, "stop", "w") == ["web1"], "those that begin so")
    tap.require(complete(place, "--socket", socket_path, "create", "w") == [], "create takes a new label")


@test
def bash_is_offered_only_what_has_a_labels_form(place):
    labels = ["$(touch pwned)", "a b", "`id`", "-x", "x\x1b[2J", "fine", "../x", 'q"label": "forged"']
    place.daemon.answers["list"] = {"instances": [{**WEB1, "label": label} for label in labels]}
    tap.require(complete(place, "--socket", place.daemon.path, "show", "") == ["fine"], "other labels")


tap.run()
