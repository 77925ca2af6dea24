"""No drafter: plain decoding in the very same loop, cache and runtime, which is the baseline of every figure."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import Tensor

from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.frozen
class NoDrafter:
    """Draft nothing; every round is one token of plain decoding."""

    @property
    def required_layers(self) -> tuple[int, ...]:
        """No taps."""
        return ()

    @property
    def weight_bytes(self) -> int:
        """No weights."""
        return 0

    @property
    def block_size(self) -> int:
        """The anchor alone."""
        return 1

    def bind(self, target: Target) -> None:
        """Every target will do."""

    def start(self) -> None:
        """Return no state."""

    def commit(self, state: None, tokens: Sequence[int], features: Tensor | None) -> None:
        """Forget the tokens."""

    def draft(self, state: None, request: DraftRequest) -> Marginals | None:
        """Return None: no draft nodes this round."""
        return None


@hookimpl
def register_drafters(registry: KindRegistry) -> None:
    """Register plain decoding."""
    registry.add("none", NoDrafter)
