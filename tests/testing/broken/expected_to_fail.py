"""A pytest plugin that collects the checks that should fail alone; of a class with a ``*``, or with none, all."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: object, name: str) -> list[pytest.Item] | None:
    """Take nothing for the other checks; deselecting them later costs more than running what is left."""
    if not isinstance(collector, pytest.Class) or not name.startswith("test_"):
        return None
    caught_by = collector.obj.caught_by
    return None if not caught_by or "*" in caught_by or name in caught_by else []
