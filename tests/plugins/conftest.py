from __future__ import annotations

import pytest

from caddtree.plugins.registry import Registry
from tests.plugins.fakes import fake_registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    return fake_registry()
