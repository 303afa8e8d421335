#!/usr/bin/python3
"""The rules of the house hold in this tree, and the tools that say so notice when they do not."""

import json
import os
import stat
import subprocess
import sys

from harness import new_directory
from tap import require, run, test

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
TOOLS = os.path.join(ROOT, "tools")
HEAD = "/* A head. */\n#pragma once\n"


def tool(name, *arguments):
    result = subprocess.run([os.path.join(TOOLS, name), *arguments], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@test
def the_layering_holds():
    status, output = tool("check-rooms")
    require(status == 0, output)


@test
def every_file_is_formatted():
    status, output = tool("check-format")
    require(status == 0, output)


def rooms(files):
    """Runs check-rooms over a tree made of the given files."""
    root = new_directory()
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)
    return tool("check-rooms", root)


def including(path, target):
    """A tree with one file that includes another."""
    return {target: HEAD, path: f'{HEAD}#include "{target}"\n'}


FORBIDDEN = [
    ("trusted/door/a.h", "untrusted/sgx/b.h"),
    ("untrusted/sgx/a.h", "trusted/door/b.h"),
    ("trusted/runtime/a.h", "trusted/door/b.h"),
    ("trusted/tpm/a.h", "trusted/instance/b.h"),
    ("untrusted/host/a.h", "untrusted/sgx/b.h"),
    ("untrusted/front/a.h", "untrusted/instance/b.h"),
    ("untrusted/front/a.h", "abi/b.h"),
    ("base/a.h", "abi/b.h"),
    ("abi/a.h", "untrusted/host/b.h"),
    ("bin/a.h", "trusted/door/b.h"),
    ("untrusted/host/a.h", "tests/fakes/b.h"),
    ("trusted/nowhere/a.h", "trusted/door/b.h"),
    ("trusted/instance/a.h", "trusted/manager/b.h"),
    ("crypto/a.h", "link/b.h"),
    ("link/a.h", "abi/b.h"),
    ("link/a.h", "trusted/session/b.h"),
    ("untrusted/wire/a.h", "abi/b.h"),
    ("untrusted/store/a.h", "untrusted/daemon/b.h"),
    ("untrusted/cli/a.h", "untrusted/swtpm/b.h"),
]
ALLOWED = [
    ("trusted/door/a.h", "trusted/runtime/b.h"),
    ("trusted/instance/a.h", "abi/b.h"),
    ("untrusted/instance/a.h", "untrusted/front/b.h"),
    ("untrusted/front/a.h", "base/b.h"),
    ("tests/unit/a.h", "trusted/door/b.h"),
    ("bin/a.h", "untrusted/cli/b.h"),
    ("trusted/session/a.h", "link/b.h"),
    ("untrusted/front/a.h", "link/b.h"),
    ("untrusted/daemon/a.h", "untrusted/store/b.h"),
    ("untrusted/swtpm/a.h", "untrusted/cli/b.h"),
]


@test
def a_planted_violation_of_the_layering_is_found():
    for path, target in FORBIDDEN:
        status, output = rooms(including(path, target))
        require(status == 1 and path in output and target in output, f"{path} includes {target}: {output or 'accepted'}")


@test
def what_the_layering_allows_is_accepted():
    for path, target in ALLOWED:
        status, output = rooms(including(path, target))
        require(status == 0, f"{path} includes {target}: {output}")


@test
def an_include_that_is_not_written_from_the_root_is_found():
    status, _ = rooms({"base/b.h": HEAD, "base/a.h": HEAD + '#include "b.h"\n'})
    require(status == 1, "accepted")


@test
def a_file_without_a_head_is_found():
    require(rooms({"base/a.c": "int a;\n"})[0] == 1, "a source without a head was accepted")
    require(rooms({"base/a.h": "/* A head. */\n"})[0] == 1, "a header without #pragma once was accepted")
    require(rooms({"base/a.h": HEAD, "base/a.c": '#include "base/a.h"\n'})[0] == 0, "a head in the header was refused")


@test
def a_file_that_is_not_formatted_is_found():
    path = os.path.join(new_directory(), "a.c")
    with open(path, "w", encoding="utf-8") as file:
        file.write("int  a( void ) {return 1;}\n")
    require(tool("check-format", path)[0] != 0, "accepted")


COUNTS = [
    ("each line is counted", "echo 1..3; echo ok 1; echo ok 2 - b; echo 'ok 3 # SKIP no'", "2 passed, 0 failed, 1 skipped"),
    ("cmocka's way to skip", "echo 1..1; echo 'not ok 1 # SKIP a'", "0 passed, 0 failed, 1 skipped"),
    ("a failure", "echo 1..2; echo ok 1; echo not ok 2; exit 1", "1 passed, 1 failed, 0 skipped"),
    ("two groups in one program", "echo 1..1; echo ok 1; echo 1..1; echo ok 1", "2 passed, 0 failed, 0 skipped"),
    ("a crash", "echo 1..2; echo ok 1; kill -SEGV $$", "1 passed, 1 failed, 0 skipped"),
    ("an exit status without a failure", "echo 1..1; echo ok 1; exit 3", "1 passed, 1 failed, 0 skipped"),
    ("fewer tests than planned", "echo 1..2; echo ok 1", "1 passed, 1 failed, 0 skipped"),
    ("no plan", "echo ok 1", "1 passed, 1 failed, 0 skipped"),
    ("no test", "echo 1..0", "0 passed, 1 failed, 0 skipped"),
    ("nothing at all", "true", "0 passed, 1 failed, 0 skipped"),
    ("everything skipped", "echo '1..0 # SKIP no device'", "0 passed, 0 failed, 1 skipped"),
    ("a program that hangs", "echo 1..1; echo ok 1; sleep 30", "1 passed, 1 failed, 0 skipped"),
]


FLAGS = "-Wall -Wextra -Werror -Wshadow"


def built(root, name, compiler, compiled, flags=FLAGS):
    """A build directory of the two sources in root; those in compiled have their object file."""
    build = os.path.join(root, name)
    os.mkdir(build)
    entries = []
    for source in ("one.c", "two.c"):
        entries.append({"directory": build, "file": "../" + source, "output": source + ".o",
                        "command": f"ccache {compiler} {flags} -o {source}.o -c ../{source}"})
        if source in compiled:
            open(os.path.join(build, source + ".o"), "wb").close()
    with open(os.path.join(build, "compile_commands.json"), "w", encoding="utf-8") as file:
        json.dump(entries, file)
    return build


@test
def clang_looks_at_what_it_has_not_compiled():
    root = new_directory()
    for source in ("one.c", "two.c"):
        with open(os.path.join(root, source), "w", encoding="utf-8") as file:
            file.write("int value(int a);\nint value(int a) { { int a = 1; (void)a; } return a; }\n")
    gcc = built(root, "gcc", "cc", [])
    for arguments, looked_at in [
            ([gcc], 2),
            ([gcc, os.path.join(root, "none")], 2),
            ([gcc, built(root, "half", "clang-14", ["one.c"])], 1),
            ([gcc, built(root, "other", "cc", ["one.c", "two.c"])], 2),
            ([gcc, built(root, "lax", "clang-14", ["one.c", "two.c"], "-Wall -Wextra")], 2),
    ]:
        status, output = tool("check-clang", *arguments)
        require(status == 1 and output.count("[-Werror,-Wshadow]") == looked_at, f"{arguments}: {output}")
    status, output = tool("check-clang", gcc, built(root, "whole", "clang-14", ["one.c", "two.c"]))
    require(status == 0, output)


def programs(scripts):
    """A build directory with one test for each (shell script, protocol), named case-00 and so on."""
    directory = new_directory()
    lines = ["project('sample')"]
    for number, (script, protocol) in enumerate(scripts):
        path = os.path.join(directory, f"case-{number:02}")
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path, stat.S_IRWXU)
        lines.append(f"test('case-{number:02}', find_program('case-{number:02}'), suite: 'unit', "
                     f"protocol: '{protocol}', timeout: 2)")
    with open(os.path.join(directory, "meson.build"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    build = os.path.join(directory, "build")
    subprocess.run(["meson", "setup", build, directory], check=True, capture_output=True)
    return build


def counted(build, number):
    """The last line and the exit status of run-tests over one of the programs."""
    result = subprocess.run([sys.executable, os.path.join(TOOLS, "run-tests"), "--only", f"case-{number:02}",
                             f"{build}:unit"], capture_output=True, text=True, check=False,
                            env=dict(os.environ, CHECK_LONG="0"))
    return result.stdout.splitlines()[-1], result.returncode


@test
def run_tests_counts_every_line_and_every_fault():
    build = programs([(script, "tap") for _, script, _ in COUNTS])
    for number, (name, _, expected) in enumerate(COUNTS):
        line, status = counted(build, number)
        require(line == expected, f"{name}: {line}")
        require((status == 0) == (", 0 failed" in expected), f"{name}: exit status {status}")


@test
def run_tests_takes_a_program_without_tap_as_one_test():
    build = programs([("exit 0", "exitcode"), ("exit 5", "exitcode")])
    require(counted(build, 0) == ("1 passed, 0 failed, 0 skipped", 0), "success")
    require(counted(build, 1) == ("0 passed, 1 failed, 0 skipped", 1), "failure")


@test
def what_a_fuzzer_finds_is_a_failure():
    fuzzer = """for one; do case $one in -error_exitcode=*) exit "${one#*=}";; esac; done\nexit 77\n"""
    script = f"printf '#!/bin/sh\\n%s' '{fuzzer}' >fuzzer; chmod +x fuzzer; exec {ROOT}/fuzz/run ./fuzzer {ROOT}/fuzz"
    build = programs([(script, "exitcode")])
    require(counted(build, 0) == ("0 passed, 1 failed, 0 skipped", 1), "it counts as something else")


if __name__ == "__main__":
    run()
