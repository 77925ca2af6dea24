"""A user's way from nothing to an own strategy, in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_COMMANDS = 10
"""From nothing to an own tree builder that passes the kit and decodes."""


class FreshEnvironment:
    """A virtual environment with caddtree and what it needs, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # as a user's shell after activation: nothing of the environment that runs the tests
        foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        self._environment = {name: value for name, value in os.environ.items() if name not in foreign} | {
            "PATH": os.pathsep.join((str(folder / ".venv" / "bin"), os.environ["PATH"])),
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
            "OMP_NUM_THREADS": "2",
        }

    def type(self, *commands: str, folder: Path | None = None) -> str:
        """Return what these commands of one shell print; the first that fails ends the test."""
        done = subprocess.run(
            ["sh", "-e", "-c", "\n".join(commands)],
            cwd=folder or self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The environment after the first two commands, and those commands."""
    environment = FreshEnvironment(tmp_path_factory.mktemp("fresh"))
    commands = (f"{sys.executable} -m venv .venv", f"python -m pip install --quiet {ROOT}")
    environment.type(*commands)
    return environment, commands


@pytest.mark.slow
def test_the_example_passes_its_tests_and_decodes_in_a_fresh_environment(fresh):
    """Installed beside caddtree; the text is that of plain decoding."""
    environment, _ = fresh
    project = environment.folder / "plugin"
    shutil.copytree(ROOT / "examples" / "plugin", project, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    tested = environment.type("python -m pip install --quiet '.[test]'", "python -m pytest --quiet", folder=project)
    listed = json.loads(environment.type("caddtree plugins caddtree-example --json"))
    generate = 'caddtree generate "def main(" --max-new-tokens 64 --recipe'
    texts = [environment.type(f"{generate} {recipe}", folder=project) for recipe in ("example.yaml", "demo-plain")]

    assert " passed" in tested
    assert "failed" not in tested
    assert {entry["name"] for entry in listed["strategies"]} == {"repeat", "threshold", "linear", "logged"}
    assert listed["broken"] == []
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_few_commands_lead_from_nothing_to_an_own_tree_builder(fresh):
    """Those that are printed, as they are printed."""
    environment, first = fresh
    record = json.loads(environment.type("caddtree plugins new mine --kind tree_builder --json"))
    shown = environment.type(*record["commands"])

    assert " passed" in shown
    assert "caddtree-mine" in environment.type("caddtree plugins mine --verbose")
    assert len([*first, "caddtree plugins new", *record["commands"]]) <= MOST_COMMANDS
