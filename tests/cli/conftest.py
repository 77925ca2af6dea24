from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_pair import write_pair


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(autouse=True)
def no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--debug`` sets a variable of the environment; in one process it must not outlive its test."""
    monkeypatch.setenv("CADDTREE_DEBUG", "")
