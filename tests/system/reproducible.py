#!/usr/bin/python3
"""The same source gives the same MRENCLAVE of both images in another directory, whoever signs them."""

import os
import re
import shutil
import subprocess

from harness import IMAGE, MANAGER_IMAGE, new_directory, program
from tap import note, require, run, test

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


def identity(image):
    shown = subprocess.run([program("vtpm-sign"), "show", image], check=True, capture_output=True, text=True).stdout
    return [re.search(rf"{name}\W+([0-9a-f]{{64}})", shown).group(1) for name in ("MRENCLAVE", "MRSIGNER")]


def without_builds(directory, names):
    """Neither what was built nor a signing key."""
    built = [name for name in names if name.startswith("build") and directory == ROOT]
    return built + [name for name in names if name in (".git", "__pycache__") or name.endswith(".pem")]


@test
def another_directory_and_another_key_give_the_same_mrenclave():
    copy = os.path.join(new_directory("vtpm-elsewhere-"), "a", "longer", "path")
    shutil.copytree(ROOT, copy, ignore=without_builds)
    names = [os.path.join("enclave", os.path.basename(image)) for image in (IMAGE, MANAGER_IMAGE)]
    for arguments in (["meson", "setup", "build"], ["ninja", "-C", "build", *names]):
        result = subprocess.run(arguments, cwd=copy, capture_output=True, text=True, check=False)
        require(result.returncode == 0, result.stdout + result.stderr)
    for name, image in zip(names, (IMAGE, MANAGER_IMAGE)):
        here, there = identity(image), identity(os.path.join(copy, "build", name))
        note(f"{name}: MRENCLAVE {here[0]}")
        require(here[0] == there[0], f"{name}: MRENCLAVE is {here[0]} here and {there[0]} there")
        require(here[1] != there[1], "both were signed by the same key: the second build found the first one's")


if __name__ == "__main__":
    run()
