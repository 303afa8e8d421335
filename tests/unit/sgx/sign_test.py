#!/usr/bin/python3
"""vtpm-sign from outside: what it makes of a linked enclave, and what it says about everything else.

    sign_test.py VTPM_SIGN
"""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "system"))
import tap  # noqa: E402

VTPM_SIGN = os.path.abspath(sys.argv[1])
ROOM = Path(tempfile.mkdtemp(prefix="sign-test."))
KEY = ROOM / "key.pem"
ELF = ROOM / "sample.elf"
IMAGE = ROOM / "sample.sgx"
IDENTITY = ["--prodid", "7", "--svn", "3", "--date", "20250101"]
PAGE = 4096


def run(*arguments, environment=None):
    return subprocess.run([VTPM_SIGN, *map(str, arguments)], capture_output=True, text=True, check=False,
                          env={**os.environ, **(environment or {})})


def succeeds(*arguments, **options):
    result = run(*arguments, **options)
    tap.require(result.returncode == 0, f"{arguments}: status {result.returncode}: {result.stderr}")
    tap.require(result.stderr == "", f"{arguments}: it complains: {result.stderr}")
    return result.stdout


def refuses(*arguments, saying, status=1, **options):
    """It fails with one line that names the program and matches saying."""
    result = run(*arguments, **options)
    first = result.stderr.split("\n")[0]
    tap.require(result.returncode == status, f"{arguments}: status {result.returncode}, not {status}: {result.stderr}")
    tap.require(first.startswith("vtpm-sign: "), f"no error line: {result.stderr!r}")
    tap.require(re.search(saying, first), f"the error does not say {saying!r}: {first}")


def command(*arguments):
    result = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    tap.require(result.returncode == 0, f"{arguments}: {result.stderr}")
    return result.stdout


def link(name, script_edits=(), assembly="", options=(), kind="-static-pie"):
    """Links the sample enclave with text replaced in its linker script and assembly added to its source."""
    script = (HERE / "sample.ld").read_text(encoding="utf-8")
    for old, new in script_edits:
        tap.require(old in script, f"sample.ld has no {old!r}")
        script = script.replace(old, new)
    source = (HERE / "sample_enclave.S").read_text(encoding="utf-8") + assembly
    (ROOM / f"{name}.ld").write_text(script, encoding="utf-8")
    (ROOM / f"{name}.S").write_text(source, encoding="utf-8")
    elf = ROOM / f"{name}.elf"
    arguments = ["-nostdlib", kind, f"-Wl,-T,{ROOM}/{name}.ld", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
    command("gcc", *arguments, *options, "-o", elf, ROOM / f"{name}.S")
    return elf


def sign(elf, out=None, key=KEY):
    out = out or ROOM / (elf.stem + ".sgx")
    return "image", "--elf", elf, "--key", key, *IDENTITY, "--out", out


def refuses_elf(elf, saying):
    out = ROOM / "never.sgx"
    out.unlink(missing_ok=True)
    refuses(*sign(elf, out), saying=rf"{re.escape(elf.name)}: .*{saying}")
    tap.require(not out.exists(), "it wrote an image nevertheless")


def edited(source, name, edits):
    """A copy of a file with bytes replaced at offsets."""
    content = bytearray(source.read_bytes())
    for offset, value in edits:
        content[offset:offset + len(value)] = value
    copy = ROOM / name
    copy.write_bytes(content)
    return copy


def elf_edited(name, pattern, edit):
    """The sample ELF with its first program header of a type changed: edit gets the 56 bytes, returns new ones."""
    content = bytearray(ELF.read_bytes())
    table = int.from_bytes(content[32:40], "little")
    for index in range(int.from_bytes(content[56:58], "little")):
        place = table + 56 * index
        if int.from_bytes(content[place:place + 4], "little") == pattern:
            content[place:place + 56] = edit(bytes(content[place:place + 56]))
            break
    else:
        raise AssertionError(f"no program header of type {pattern:#x}")
    copy = ROOM / name
    copy.write_bytes(content)
    return copy


def set_up():
    succeeds("key", KEY)
    link("sample")
    succeeds(*sign(ELF, IMAGE))


def segments(image):
    content = image.read_bytes()
    count = int.from_bytes(content[56:60], "little")
    fields = [[int.from_bytes(content[64 + 40 * i + 8 * j:72 + 40 * i + 8 * j], "little") for j in range(5)]
              for i in range(count)]
    return [tuple(field) for field in fields]


# ---------------------------------------------------------------------------------------------------- the key

@tap.test
def key_is_rsa_3072_with_exponent_3():
    text = command("openssl", "pkey", "-in", KEY, "-noout", "-text")
    tap.require("3072 bit" in text and "publicExponent: 3 (0x3)" in text, text[:300])


@tap.test
def key_is_readable_by_its_owner_only():
    mode = stat.S_IMODE(KEY.stat().st_mode)
    tap.require(mode == 0o600, f"mode {mode:o}")


@tap.test
def key_is_never_overwritten():
    before = KEY.read_bytes()
    refuses("key", KEY, saying="key.pem: there is a file already")
    tap.require(KEY.read_bytes() == before, "the key has changed")


@tap.test
def key_where_no_file_can_be_made_is_refused():
    refuses("key", ROOM / "nowhere" / "key.pem", saying="nowhere/key.pem: No such file")


@tap.test
def two_keys_differ():
    succeeds("key", ROOM / "other.pem")
    tap.require((ROOM / "other.pem").read_bytes() != KEY.read_bytes(), "the same key twice")


# --------------------------------------------------------------------------------------------- the image

@tap.test
def image_has_the_segments_of_the_linker_script():
    expected = [  # offset, size, file offset, SECINFO, 1 measured + 2 public
        (0x0000, 0x1000, 0x4000, 0x205, 3),
        (0x1000, 0x1000, 0x5000, 0x201, 3),
        (0x2000, 0x1000, 0x6000, 0x203, 3),
        (0x3000, 0x1000, 0x7000, 0x203, 1),
        (0x4000, 0x2000, 0, 0x203, 1),
        (0x7000, 0x3000, 0, 0x203, 0),
        (0xB000, 0x2000, 0, 0x203, 1),
        (0xE000, 0x2000, 0, 0x203, 1),
        (0x11000, 0x1000, 0, 0x203, 1),
        (0x13000, 0x1000, 0x8000, 0x100, 1),
    ]
    tap.require(segments(IMAGE) == expected, f"{segments(IMAGE)}")


@tap.test
def tcs_points_to_entry_frames_and_thread_page():
    tcs = IMAGE.read_bytes()[0x8000:0x9000]
    number = lambda offset, size: int.from_bytes(tcs[offset:offset + size], "little")
    found = number(16, 8), number(28, 4), number(32, 8), number(48, 8), number(56, 8), number(64, 4), number(68, 4)
    tap.require(found == (0xE000, 2, 0x40, 0x11000, 0x11000, 0xFFFFFFFF, 0xFFFFFFFF), f"{found}")
    tap.require(not any(tcs[72:]), "the reserved part is not zero")


@tap.test
def mrenclave_is_what_the_manual_says():
    """Computed here once more from the file, by the records of ECREATE, EADD and EEXTEND."""
    content = IMAGE.read_bytes()
    measured = hashlib.sha256(b"ECREATE\0" + (1).to_bytes(4, "little") + content[24:32] + bytes(44))
    for offset, size, place, flags, kind in segments(IMAGE):
        for page in range(0, size, PAGE):
            measured.update(b"EADD\0\0\0\0" + (offset + page).to_bytes(8, "little") + flags.to_bytes(8, "little") +
                            bytes(40))
            data = content[place + page:place + page + PAGE] if place else bytes(PAGE)
            for chunk in range(0, PAGE, 256) if kind & 1 else ():
                measured.update(b"EEXTEND\0" + (offset + page + chunk).to_bytes(8, "little") + bytes(48))
                measured.update(data[chunk:chunk + 256])
    shown = json.loads(succeeds("show", "--json", IMAGE))["mrenclave"]
    tap.require(shown == measured.hexdigest(), f"{shown} is shown, {measured.hexdigest()} is right")


@tap.test
def sigstructs_state_what_was_asked_for():
    content = IMAGE.read_bytes()
    for index, xfrm in enumerate((0x3, 0x7, 0xE7)):
        s = content[PAGE * (1 + index):PAGE * (1 + index) + 1808]
        tap.require(s[16:24] == bytes.fromhex("0000000001012520"), "VENDOR or DATE")
        tap.require(s[900:908] == bytes(4) + b"\xff" * 4, "MISCSELECT or its mask")
        tap.require(s[928:944] == (4).to_bytes(8, "little") + xfrm.to_bytes(8, "little"), "ATTRIBUTES")
        tap.require(s[944:960] == b"\xff" * 16, "ATTRIBUTEMASK")
        tap.require(s[1024:1028] == bytes.fromhex("07000300"), "ISVPRODID or ISVSVN")


@tap.test
def openssl_verifies_every_signature():
    command("openssl", "pkey", "-in", KEY, "-pubout", "-out", ROOM / "public.pem")
    for index in range(3):
        s = IMAGE.read_bytes()[PAGE * (1 + index):PAGE * (1 + index) + 1808]
        (ROOM / "signed").write_bytes(s[:128] + s[900:1028])
        (ROOM / "signature").write_bytes(s[516:900][::-1])
        command("openssl", "dgst", "-sha256", "-verify", ROOM / "public.pem", "-signature", ROOM / "signature",
                ROOM / "signed")


@tap.test
def same_input_gives_the_same_bytes():
    other = ROOM / "again.sgx"
    succeeds(*sign(ELF, other))
    tap.require(other.read_bytes() == IMAGE.read_bytes(), "two runs differ")


@tap.test
def date_is_taken_from_source_date_epoch():
    out = ROOM / "epoch.sgx"
    arguments = ("image", "--elf", ELF, "--key", KEY, "--prodid", 7, "--svn", 3, "--out", out)
    succeeds(*arguments, environment={"SOURCE_DATE_EPOCH": "951825600"})
    tap.require(json.loads(succeeds("show", "--json", out))["date"] == "2000-02-29", "not the 29th of February 2000")


@tap.test
def date_and_key_do_not_change_mrenclave():
    succeeds("key", ROOM / "second.pem")
    out = ROOM / "second.sgx"
    succeeds("image", "--elf", ELF, "--key", ROOM / "second.pem", "--prodid", 7, "--svn", 3, "--date", "20301231",
             "--out", out)
    first, second = (json.loads(succeeds("show", "--json", image)) for image in (IMAGE, out))
    tap.require(first["mrenclave"] == second["mrenclave"], "MRENCLAVE differs")
    tap.require(first["mrsigner"] != second["mrsigner"], "MRSIGNER does not differ")


@tap.test
def packed_relocations_are_accepted():
    succeeds(*sign(link("packed", options=["-Wl,-z,pack-relative-relocs"])))


@tap.test
def failed_run_leaves_the_old_image_and_no_other_file():
    folder = ROOM / "folder"
    folder.mkdir()
    old = folder / "old.sgx"
    old.write_text("old", encoding="utf-8")
    refuses(*sign(ROOM / "missing.elf", old), saying="missing.elf: No such file")
    tap.require(os.listdir(folder) == ["old.sgx"] and old.read_text(encoding="utf-8") == "old", f"{os.listdir(folder)}")


@tap.test
def image_into_a_missing_folder_is_refused():
    refuses(*sign(ELF, ROOM / "nowhere" / "x.sgx"), saying="nowhere/x.sgx: No such file")


# ----------------------------------------------------------------------------------------------- the two steps

def two_steps(signatures, out, key=None):
    command("openssl", "pkey", "-in", key or KEY, "-pubout", "-out", ROOM / "public.pem")
    options = [part for signature in signatures for part in ("--signature", signature)]
    return "attach", "--elf", ELF, "--public-key", ROOM / "public.pem", *options, *IDENTITY, "--out", out


def signed_messages():
    """As vtpm-sign(1) shows it."""
    succeeds("message", "--elf", ELF, *IDENTITY, "--out", ROOM / "message")
    command("split", "-b", "256", "-d", "-a", "1", ROOM / "message", f"{ROOM}/message.")
    for index in range(3):
        command("openssl", "dgst", "-sha256", "-sign", KEY, "-out", ROOM / f"signature.{index}",
                ROOM / f"message.{index}")
    return [ROOM / f"signature.{index}" for index in range(3)]


@tap.test
def two_steps_give_the_bytes_of_one():
    out = ROOM / "two.sgx"
    succeeds(*two_steps(signed_messages(), out))
    tap.require(out.read_bytes() == IMAGE.read_bytes(), "the images differ")


@tap.test
def signatures_may_come_in_one_file():
    out = ROOM / "joined.sgx"
    (ROOM / "joined").write_bytes(b"".join(path.read_bytes() for path in signed_messages()))
    succeeds(*two_steps([ROOM / "joined"], out))
    tap.require(out.read_bytes() == IMAGE.read_bytes(), "the images differ")


@tap.test
def message_prints_the_digests_that_a_token_shows():
    printed = succeeds("message", "--elf", ELF, *IDENTITY, "--out", ROOM / "message")
    message = (ROOM / "message").read_bytes()
    tap.require(len(message) == 768, f"{len(message)} bytes")
    for index in range(3):
        digest = hashlib.sha256(message[256 * index:256 * index + 256]).hexdigest()
        tap.require(re.search(rf"SHA-256 of {index} +{digest}\n", printed), f"{digest} is not in {printed}")


@tap.test
def signatures_in_another_order_are_refused():
    out = ROOM / "order.sgx"
    refuses(*two_steps(signed_messages()[::-1], out), saying="signature 0 is not that of message 0")
    tap.require(not out.exists(), "it wrote an image nevertheless")


@tap.test
def signature_for_another_date_is_refused():
    arguments = list(map(str, two_steps(signed_messages(), ROOM / "date.sgx")))
    arguments[arguments.index("20250101")] = "20250102"
    refuses(*arguments, saying="signature 0 is not that of message 0 .*--date")


@tap.test
def signature_by_another_key_is_refused():
    signatures = signed_messages()
    succeeds("key", ROOM / "third.pem")
    refuses(*two_steps(signatures, ROOM / "key.sgx", ROOM / "third.pem"), saying="signature 0 is not that of message 0")


@tap.test
def signature_of_zeros_and_of_ones_is_refused():
    for byte in (b"\0", b"\xff"):
        (ROOM / "bad").write_bytes(byte * 1152)
        refuses(*two_steps([ROOM / "bad"], ROOM / "bad.sgx"), saying="signature 0 is not that of message 0")


@tap.test
def missing_signature_is_refused():
    refuses(*two_steps(signed_messages()[:2], ROOM / "few.sgx"), saying="2 signatures were given; there are 3")


@tap.test
def signature_of_another_size_is_refused():
    (ROOM / "short").write_bytes(bytes(383))
    refuses(*two_steps([ROOM / "short"], ROOM / "short.sgx"), saying="short: 383 bytes")


@tap.test
def private_key_in_place_of_the_public_one_is_refused():
    arguments = list(two_steps(signed_messages(), ROOM / "private.sgx"))
    arguments[arguments.index(ROOM / "public.pem")] = KEY
    refuses(*arguments, saying="key.pem: holds no public key in PEM")


# ------------------------------------------------------------------------------------------------------- show

@tap.test
def show_prints_the_identity():
    shown = json.loads(succeeds("show", "--json", IMAGE))
    s = IMAGE.read_bytes()[PAGE:PAGE + 1808]
    expected = {
        "mrenclave": s[960:992].hex(), "mrsigner": hashlib.sha256(s[128:512]).hexdigest(), "isvprodid": 7, "isvsvn": 3,
        "attributes": ["MODE64BIT"], "xfrm": ["0x3", "0x7", "0xe7"], "miscselect": 0, "date": "2025-01-01",
        "size": 0x20000, "file_size": IMAGE.stat().st_size,
        "pages": {"code": 1, "constants": 1, "writable": 12, "tcs": 1, "unmeasured": 3, "public": 3},
    }
    tap.require(shown == expected, f"{shown}")


@tap.test
def show_prints_a_table_for_people():
    table = succeeds("show", IMAGE)
    for line in (r"MRENCLAVE +[0-9a-f]{64}", r"MRSIGNER +[0-9a-f]{64}", r"ISVSVN +3", r"XFRM +0x3 0x7 0xe7",
                 r"pages +1 code, 1 constants, 12 writable, 1 TCS", r"of these +3 not measured, 3 public"):
        tap.require(re.search(f"^{line}$", table, re.MULTILINE), f"no line {line!r} in {table}")


@tap.test
def show_refuses_a_changed_page():
    changed = edited(IMAGE, "page.sgx", [(0x7800, b"\x01")])
    refuses("show", changed, saying="page.sgx: SIGSTRUCT 0 was made for another enclave")


@tap.test
def show_refuses_a_changed_signature():
    changed = edited(IMAGE, "signature.sgx", [(2 * PAGE + 600, b"\x01\x02\x03")])
    refuses("show", changed, saying="signature.sgx: SIGSTRUCT 1 is not validly signed")


@tap.test
def show_refuses_debug_that_was_not_signed():
    changed = edited(IMAGE, "debug.sgx", [(40, b"\x06")])
    refuses("show", changed, saying="debug.sgx: SIGSTRUCT 0 was made for another enclave")


@tap.test
def show_refuses_two_signers_in_one_image():
    succeeds("key", ROOM / "fourth.pem")
    succeeds(*sign(ELF, ROOM / "fourth.sgx", ROOM / "fourth.pem"))
    other = (ROOM / "fourth.sgx").read_bytes()[2 * PAGE:3 * PAGE]
    refuses("show", edited(IMAGE, "mixed.sgx", [(2 * PAGE, other)]), saying="SIGSTRUCTs 0 and 1 differ in signer")


@tap.test
def show_refuses_what_is_no_image():
    refuses("show", ELF, saying="sample.elf: this is not an enclave image")


@tap.test
def show_refuses_a_cut_image():
    cut = ROOM / "cut.sgx"
    cut.write_bytes(IMAGE.read_bytes()[:-PAGE])
    refuses("show", cut, saying="cut.sgx: .*malformed header")


@tap.test
def show_fails_when_its_output_cannot_be_written():
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run([VTPM_SIGN, "show", IMAGE], stdout=full, stderr=subprocess.PIPE, check=False)
    tap.require(result.returncode == 1 and b"standard output: No space left" in result.stderr, f"{result}")


# ------------------------------------------------------------------------------------------- keys of other kinds

def refuses_key(name, saying, *genpkey):
    command("openssl", "genpkey", "-out", ROOM / name, *genpkey)
    refuses(*sign(ELF, ROOM / "never.sgx", ROOM / name), saying=saying)


@tap.test
def key_of_another_size_is_refused():
    refuses_key("small.pem", "small.pem: a key of 2048 bits; SGX wants RSA-3072", "-algorithm", "RSA",
                "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3")


@tap.test
def key_with_another_exponent_is_refused():
    refuses_key("f4.pem", "f4.pem: the public exponent is not 3", "-algorithm", "RSA", "-pkeyopt",
                "rsa_keygen_bits:3072")


@tap.test
def key_of_another_kind_is_refused():
    refuses_key("ec.pem", "ec.pem: not an RSA key", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


@tap.test
def file_that_is_no_key_is_refused():
    refuses(*sign(ELF, ROOM / "never.sgx", ELF), saying="sample.elf: holds no private key in PEM")


# ------------------------------------------------------------------------------------------------ ELF files

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_TLS = 1, 2, 3, 7
PT_GNU_STACK, PT_GNU_RELRO = 0x6474E551, 0x6474E552


def with_type(kind):
    return lambda header: kind.to_bytes(4, "little") + header[4:]


def with_flags(flags):
    return lambda header: header[:4] + flags.to_bytes(4, "little") + header[8:]


def with_field(offset, value):
    return lambda header: header[:offset] + value.to_bytes(8, "little") + header[offset + 8:]


@tap.test
def file_that_is_no_elf_is_refused():
    refuses_elf(edited(ELF, "no.elf", [(0, b"\x7fOLF")]), "not an ELF file")


@tap.test
def empty_file_is_refused():
    (ROOM / "empty.elf").write_bytes(b"")
    refuses_elf(ROOM / "empty.elf", "not an ELF file")


@tap.test
def every_cut_of_the_file_ends_in_an_error_or_the_same_image():
    """The parts that matter: a cut in them is refused; a cut in symbols may be either, never a crash."""
    content = ELF.read_bytes()
    for size in range(64, len(content), 509):
        (ROOM / "cut.elf").write_bytes(content[:size])
        result = run(*sign(ROOM / "cut.elf"))
        tap.require(result.returncode == 1, f"cut at {size}: status {result.returncode}: {result.stderr}")


@tap.test
def other_machine_is_refused():
    refuses_elf(edited(ELF, "arm.elf", [(18, b"\xb7\x00")]), "not for 64-bit x86")


@tap.test
def fixed_address_executable_is_refused():
    refuses_elf(edited(ELF, "fixed.elf", [(16, b"\x02\x00")]), "not position-independent")


@tap.test
def interpreter_is_refused():
    refuses_elf(elf_edited("interp.elf", PT_DYNAMIC, with_type(PT_INTERP)), "PT_INTERP")


@tap.test
def thread_local_variables_are_refused():
    refuses_elf(elf_edited("tls.elf", PT_DYNAMIC, with_type(PT_TLS)), "PT_TLS")


@tap.test
def executable_stack_is_refused():
    refuses_elf(elf_edited("stack.elf", PT_GNU_STACK, with_flags(7)), "executable stack")


@tap.test
def writable_code_is_refused():
    refuses_elf(elf_edited("wx.elf", PT_LOAD, with_flags(7)), "segment at 0x0 is both writable and executable")


@tap.test
def unreadable_code_is_refused():
    refuses_elf(elf_edited("x.elf", PT_LOAD, with_flags(1)), "segment at 0x0 is not readable")


@tap.test
def segment_outside_the_file_is_refused():
    refuses_elf(elf_edited("outside.elf", PT_LOAD, with_field(8, 0xFFFFFFFFFFFFF000)),
                "segment at 0x0 lies outside the file")


@tap.test
def segment_larger_in_the_file_than_in_memory_is_refused():
    refuses_elf(elf_edited("larger.elf", PT_LOAD, with_field(40, 8)), "segment at 0x0 lies outside the file")


@tap.test
def segment_of_a_gigabyte_is_refused():
    refuses_elf(elf_edited("huge.elf", PT_LOAD, with_field(40, 1 << 30)), "above the limit of 64 MiB")


@tap.test
def segment_that_wraps_around_is_refused():
    refuses_elf(elf_edited("wrap.elf", PT_LOAD, with_field(16, 0xFFFFFFFFFFFFF000)), "above the limit of 64 MiB")


@tap.test
def segments_that_share_a_page_are_refused():
    refuses_elf(elf_edited("share.elf", PT_LOAD, with_field(40, 0x1001)),
                "two parts of the enclave lie in the page at 0x1000")


@tap.test
def relro_of_half_a_page_is_refused():
    refuses_elf(elf_edited("relro.elf", PT_GNU_RELRO, with_field(40, 0x800)), "PT_GNU_RELRO .* not made of whole pages")


@tap.test
def relro_outside_writable_segments_is_refused():
    refuses_elf(elf_edited("relro2.elf", PT_GNU_RELRO, with_field(16, 0x1000)),
                "PT_GNU_RELRO at 0x1000 lies in no writable")


@tap.test
def entry_point_in_data_is_refused():
    refuses_elf(edited(ELF, "entry.elf", [(24, (0x3000).to_bytes(8, "little"))]),
                "entry point 0x3000 lies in no executable")


@tap.test
def missing_section_is_refused():
    refuses_elf(link("noheap", [(".enclave.heap", ".enclave.haep")]), "there is no section .enclave.heap")


@tap.test
def section_that_is_there_twice_is_refused():
    content = ELF.read_bytes()
    (ROOM / "twice.elf").write_bytes(content.replace(b".data.rel.ro\0", b".enclave.tls\0"))
    refuses_elf(ROOM / "twice.elf", "there are two sections .enclave.tls")


@tap.test
def section_of_half_a_page_is_refused():
    refuses_elf(link("half", [(". += 3 * PAGE;", ". += 2048;")]), "section .enclave.heap .* not made of whole pages")


@tap.test
def thread_page_of_two_pages_is_refused():
    refuses_elf(link("tls2", [(".enclave.tls (NOLOAD) : { . += PAGE; }",
                               ".enclave.tls (NOLOAD) : { . += 2 * PAGE; }")]),
                "section .enclave.tls has 0x2000 bytes; it is exactly one page")


@tap.test
def sections_over_each_other_are_refused():
    elf = link("over", [("    . += PAGE;\n    .enclave.stack", "    . -= PAGE;\n    .enclave.stack")],
               options=["-Wl,--no-check-sections"])
    refuses_elf(elf, "two parts of the enclave lie in the page at 0x9000")


@tap.test
def image_without_the_stub_is_refused():
    refuses_elf(edited(ELF, "stub.elf", [(0x1000, b"\x90")]), "section .enclave.stub does not hold the ENCLU stub")


@tap.test
def stub_in_constants_is_refused():
    elf = link("stubro", [("    .enclave.stub : { KEEP(*(.enclave.stub)) } :code\n", ""),
                          ("    .rodata :",
                           "    .enclave.stub : { KEEP(*(.enclave.stub)) } :constants\n    .rodata :")])
    refuses_elf(elf, r"section .enclave.stub \(0x1000\) does not begin a page of an executable segment")


@tap.test
def relocation_in_constants_is_refused():
    elf = link("textrel", assembly='.section .rodata, "a", @progbits\n.balign 8\n.quad entry\n',
               options=["-Wl,-z,notext"])
    refuses_elf(elf, "the relocation at 0x1010 is not in a writable page")


@tap.test
def packed_relocation_in_constants_is_refused():
    """The one address in .relr.dyn is moved into the constants."""
    elf = link("packed2", options=["-Wl,-z,pack-relative-relocs"])
    content = bytearray(elf.read_bytes())
    place = content.index((0x2000).to_bytes(8, "little") + (0x3).to_bytes(8, "little"))
    content[place:place + 8] = (0x1000).to_bytes(8, "little")
    elf.write_bytes(content)
    refuses_elf(elf, "the relocation at 0x1000 is not in a writable page")


@tap.test
def packed_relocation_behind_the_data_is_refused():
    """The address in .relr.dyn is moved to the last word of .bss, so that its bitmap leads into the guard page."""
    elf = link("packed3", options=["-Wl,-z,pack-relative-relocs"])
    content = bytearray(elf.read_bytes())
    place = content.index((0x2000).to_bytes(8, "little") + (0x3).to_bytes(8, "little"))
    content[place:place + 8] = (0x5FF8).to_bytes(8, "little")
    elf.write_bytes(content)
    refuses_elf(elf, "the relocation at 0x6000 is not in a writable page")


@tap.test
def relocations_without_addends_are_refused():
    content = bytearray(ELF.read_bytes())
    table, count = int.from_bytes(content[40:48], "little"), int.from_bytes(content[60:62], "little")
    types = [table + 64 * index + 4 for index in range(count)]
    rela = [place for place in types if content[place:place + 4] == (4).to_bytes(4, "little")]
    refuses_elf(edited(ELF, "rel.elf", [(rela[0], (9).to_bytes(4, "little"))]),
                "section .rela.dyn holds relocations without")


@tap.test
def relocations_that_are_not_loaded_are_ignored():
    succeeds(*sign(link("emitted", options=["-Wl,--emit-relocs"])))


@tap.test
def indirect_function_is_refused():
    elf = link("ifunc", assembly=".text\n.type f, @gnu_indirect_function\nf: ret\n.data\n.balign 8\n.quad f\n",
               script_edits=[("*(.rela.*)", "*(.rela.*) *(.rela.iplt)")])
    refuses_elf(elf, "the relocation at 0x30[0-9a-f]+ has type 37; only R_X86_64_RELATIVE")


@tap.test
def undefined_symbol_is_refused():
    refuses_elf(link("undefined", assembly=".data\n.quad missing\n", kind="-shared"), "the symbol missing is undefined")


@tap.test
def relocation_that_does_nothing_is_refused():
    """What ld leaves of a call of a symbol that it was told to ignore."""
    elf = link("none", assembly=".text\ncall missing\n", options=["-Wl,--unresolved-symbols=ignore-all"])
    refuses_elf(elf, "the relocation at 0x0 has type 0")


@tap.test
def needed_library_is_refused():
    """DT_NEEDED takes the place of the first entry of the dynamic section."""
    content = ELF.read_bytes()
    place = 0x3000 + 16  # .dynamic lies behind two relocated words
    tap.require(int.from_bytes(content[place:place + 8], "little") != 1, "there is a DT_NEEDED already")
    refuses_elf(edited(ELF, "needed.elf", [(place, (1).to_bytes(8, "little"))]), "DT_NEEDED")


@tap.test
def page_kinds_that_alternate_too_often_are_refused():
    pages = "".join(".balign 4096\n.skip 4096, 0x5a\n.skip 4096\n" for _ in range(25))
    refuses(*sign(link("stripes", assembly=".data\n" + pages)), saying="changes its kind of page more than 48 times")


# ---------------------------------------------------------------------------------------------- the command line

@tap.test
def no_command_prints_the_usage():
    result = run()
    tap.require(result.returncode == 2 and result.stderr.startswith("usage: "), f"{result}")


@tap.test
def help_goes_to_standard_output():
    for arguments in (("--help",), ("image", "--help")):
        tap.require(succeeds(*arguments).startswith("usage: vtpm-sign key FILE"), f"{arguments}")


@tap.test
def wrong_command_lines_are_refused():
    cases = [
        (("sing",), "sing: unknown command"),
        (("key",), "key takes the name of one file"),
        (("key", "a", "b"), "key takes the name of one file"),
        (("key", "a", "--json"), "key does not take --json"),
        (("show", IMAGE, "--jsno"), "--jsno: unknown option"),
        (("image",), "image needs --elf"),
        (("image", "--elf"), "--elf: a value is missing"),
        ((*sign(ELF), "more"), "image takes options only"),
        ((*sign(ELF), "--signature", "x"), "image does not take --signature"),
        ((*sign(ELF), "--prodid", "65536"), "--prodid 65536: not a number from 0 to 65535"),
        ((*sign(ELF), "--svn", "-1"), "--svn -1: not a number"),
        ((*sign(ELF), "--svn", "3x"), "--svn 3x: not a number"),
        ((*sign(ELF), "--svn", ""), "--svn : not a number"),
        ((*sign(ELF), "--date", "20250229"), "--date 20250229: not a day"),
        ((*sign(ELF), "--date", "2025-1-1"), "--date 2025-1-1: not a day"),
        ((*sign(ELF), "--date", "today"), "--date today: not a day"),
        (("message", "--elf", ELF, "--key", KEY, *IDENTITY, "--out", "x"), "message does not take --key"),
        (two_steps(["a", "b", "c", "d"], "x"), "--signature was given more than 3 times"),
    ]
    for arguments, saying in cases:
        refuses(*arguments, saying=saying, status=2)


@tap.test
def wrong_source_date_epoch_is_refused():
    arguments = ("message", "--elf", ELF, "--prodid", 7, "--svn", 3, "--out", ROOM / "x")
    for value in ("yesterday", "-1", "99999999999999999999", "999999999999"):
        refuses(*arguments, saying=f"SOURCE_DATE_EPOCH={value}", status=2, environment={"SOURCE_DATE_EPOCH": value})


if __name__ == "__main__":
    try:
        set_up()
        tap.run()
    finally:
        shutil.rmtree(ROOM)
