"""A plugin, found on the path like any other, whose builder waits for the worker beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals
from caddtree.plugins.hooks import KindRegistry, hookimpl

PATIENCE_SECONDS = 120


@attrs.frozen
class Meeting:
    """Draft nothing; from one context length on, wait until two processes have come here."""

    from_context: int
    place: str
    """A folder with one file per process."""

    @property
    def needs_cost_model(self) -> bool:
        return False

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        if context.context_length >= self.from_context:
            (Path(self.place) / str(os.getpid())).touch()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(list(Path(self.place).iterdir())) < 2:
                if time.monotonic() > deadline:
                    raise TimeoutError("nobody else came")
                time.sleep(0.01)
        return DraftTree.root_only(context.root_token)


@hookimpl
def register_tree_builders(registry: KindRegistry) -> None:
    registry.add("meeting", Meeting)
