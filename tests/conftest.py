from __future__ import annotations

import os

# before any kernel module is imported: Triton decides at decoration whether a kernel is interpreted
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory):
    """Profiles that tests make stay out of the user's cache, also those of subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CADDTREE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
