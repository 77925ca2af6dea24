"""The wheel holds the package as the repository has it: no file too few, none too many."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tracked():
    """The package's files as git knows them."""
    found = subprocess.run(["git", "ls-files", "-z", "caddtree"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode != 0 or not found.stdout:
        pytest.skip("this is no git checkout: nothing says which files belong to the package")
    return {name for name in found.stdout.split("\0") if name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel that is built in an environment of its own, and its archive."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("caddtree-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.slow
def test_the_wheel_holds_exactly_the_files_of_the_package(wheel):
    """Recipes, models, prompts and py.typed included; nothing that git does not know."""
    names = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}

    assert names == tracked()


@pytest.mark.slow
def test_the_wheel_installs_the_command_and_the_license(wheel):
    """The entry point of ``caddtree``; the license travels along."""
    (points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))

    assert "caddtree = caddtree.cli:main" in wheel.read(points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
