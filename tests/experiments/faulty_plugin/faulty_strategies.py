"""A plugin, found on the path like any other, whose builder does what ruins a run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

import attrs

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.frozen
class Faulty:
    """Draft nothing, and do something terrible at one context length."""

    do: Literal["kill", "hang", "raise", "exhaust"]
    at_context: int
    times: int = 1_000_000
    """How often; counted in a file, because the process does not live to remember."""
    counter: str = ""

    @property
    def needs_cost_model(self) -> bool:
        return False

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        if context.context_length == self.at_context and self._is_due():
            self._ruin()
        return DraftTree.root_only(context.root_token)

    def _is_due(self) -> bool:
        if not self.counter:
            return True
        with Path(self.counter).open("a") as file:
            file.write("x")
            return file.tell() <= self.times

    def _ruin(self) -> None:
        if self.do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.do == "hang":
            time.sleep(600)
        if self.do == "exhaust":
            import torch

            raise torch.OutOfMemoryError("planted")
        raise ValueError("planted")


@hookimpl
def register_tree_builders(registry: KindRegistry) -> None:
    registry.add("faulty", Faulty)
