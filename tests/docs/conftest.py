"""A process to run the code of pages in, and a folder as a reader has it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.nursery import Nursery
from tests.docs.pages import ROOT

LINKED = ("benchmarks", "caddtree")
COPIED = ("examples",)
LIMIT_SECONDS = 240


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    started = Nursery(tmp_path_factory.mktemp("nursery"))
    yield started
    started.close()


@pytest.fixture
def run_page(nursery, tmp_path) -> Callable[[Path], tuple[int, str]]:
    """Run the blocks of a page in a folder with what a reader finds in the repository; give exit code and output."""
    clone, site = tmp_path / "clone", tmp_path / "site"
    for folder in (clone, site):
        folder.mkdir()
    for name in LINKED:
        (clone / name).symlink_to(ROOT / name)
    for name in COPIED:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))

    def run(page: Path) -> tuple[int, str]:
        # the example's README speaks of its own folder, every other page of the repository's
        inside = page.is_relative_to(ROOT / "examples")
        folder = clone / page.parent.relative_to(ROOT) if inside else clone
        command = ("python", "-m", "tests.docs.run_page", str(page))
        return nursery.run(
            *command, folder=folder, environment=nursery.environment(PYTHONPATH=str(site)), timeout=LIMIT_SECONDS
        )

    return run
