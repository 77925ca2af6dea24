"""The other stages of a pipeline around the strategy under test: a drafter that knows the text, and plain prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.plugins.hooks import Kind
from caddtree.plugins.registry import default_registry

_RIGHT = 0.7
"""Probability that the true token is the likeliest of its position: walks of every length happen."""


def built_in(kind: Kind, name: str, **options: Any) -> Any:
    """Return a strategy of the registry."""
    return default_registry().create(kind, name, options)


@attrs.define(eq=False)
class PartnerDrafter:
    """Drafts noise with the text's true continuation mixed in."""

    known: Sequence[Sequence[int]]
    """Whole texts: a prompt and its plain continuation."""
    required_layers: tuple[int, ...] = ()
    block_size: int = 7
    _vocabulary_size: int = attrs.field(default=0, init=False)

    def bind(self, target: Any) -> None:
        """Take the size of the vocabulary."""
        self._vocabulary_size = target.vocabulary_size

    def start(self) -> list[int]:
        """Return an empty text."""
        return []

    def commit(self, state: list[int], tokens: Sequence[int], features: Tensor | None) -> None:
        """Append to the text."""
        state.extend(tokens)

    def draft(self, state: list[int], request: DraftRequest) -> Marginals:
        """Return noise that depends on the length of the text, and the truth in most positions."""
        so_far = [*state, request.root_token]
        future = next((text[len(so_far) :] for text in self.known if list(text[: len(so_far)]) == so_far), ())
        generator = torch.Generator().manual_seed(len(so_far))
        depth = min(self.block_size - 1, request.max_depth)
        logits = torch.randn(depth, self._vocabulary_size, generator=generator) * 2
        for row, token in zip(logits, future, strict=False):
            if torch.rand((), generator=generator) < _RIGHT:
                row[token] = row.max() + 1.5
        return Marginals.from_logits(logits, 8, temperature=request.temperature)


def cheap(num_draft_nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return seconds that hardly rise: nearly every node pays."""
    return np.asarray(0.01 + 1e-6 * num_draft_nodes)


def steep(num_draft_nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return seconds at which no node pays."""
    return np.asarray(0.001 + 1.0 * num_draft_nodes)


def stairs(num_draft_nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return seconds that rise with every 16th node, as tiles of rows do."""
    return np.asarray(0.2 + 0.02 * (num_draft_nodes // 16))


def concave(num_draft_nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return seconds that rise ever more slowly, as on a CPU."""
    return np.asarray(0.01 * np.sqrt(1.0 + num_draft_nodes))


@attrs.define(eq=False)
class PartnerCosts:
    """Prices rounds by a curve that is spelt out, and notes that it was asked."""

    curve: Callable[[NDArray[np.int64]], NDArray[np.float64]] = cheap
    was_asked: bool = False

    def prepare(self, decoder: Any) -> None:
        """Nothing to measure."""

    def before_choice_seconds(self, context_length: int) -> float:
        """Return a millisecond."""
        self.was_asked = True
        return 0.001

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the curve's seconds."""
        self.was_asked = True
        return self.curve(num_draft_nodes)
