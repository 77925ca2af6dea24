"""Drafts from the text itself: what followed the current suffix earlier in prompt and output.

Needs no weights and works with every target and tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from attrs.validators import ge, gt, instance_of
from torch import Tensor

from caddtree.core.errors import InputError
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.define(eq=False)
class NgramState:
    """One sequence: its tokens, and where every short suffix was followed by something."""

    tokens: list[int] = attrs.field(factory=list)
    ends: dict[tuple[int, ...], list[int]] = attrs.field(factory=dict)
    """n-gram -> indices of the tokens that followed it, oldest first."""


@attrs.frozen
class Ngram:
    """Continue the longest suffix that occurred before; several continuations become candidates of a position.

    A continuation counts once per occurrence. What never occurred keeps the mass of ``unseen`` occurrences, so a
    single sighting is not taken for certainty; each further position is trusted a little less.
    """

    max_suffix_length: int = attrs.field(default=4, validator=[instance_of(int), ge(1)])
    """Longest suffix looked up."""
    min_suffix_length: int = attrs.field(default=1, validator=[instance_of(int), ge(1)])
    """Shortest suffix trusted."""
    draft_length: int = attrs.field(default=8, validator=[instance_of(int), ge(1)])
    """Positions drafted at most."""
    max_occurrences: int = attrs.field(default=16, validator=[instance_of(int), ge(1)])
    """Latest occurrences looked at."""
    unseen: float = attrs.field(default=0.5, validator=[instance_of((int, float)), gt(0)])
    """Occurrences that are credited to tokens never seen after the suffix."""

    def __attrs_post_init__(self) -> None:
        if self.min_suffix_length > self.max_suffix_length:
            raise InputError(
                f"min_suffix_length must be at most max_suffix_length ({self.max_suffix_length}), "
                f"found {self.min_suffix_length}"
            )

    @property
    def required_layers(self) -> tuple[int, ...]:
        """No taps: tokens are enough."""
        return ()

    @property
    def weight_bytes(self) -> int:
        """No weights."""
        return 0

    @property
    def block_size(self) -> int:
        """The anchor and the drafted positions."""
        return self.draft_length + 1

    def bind(self, target: Target) -> None:
        """Every target will do."""

    def start(self) -> NgramState:
        """Return an empty index."""
        return NgramState()

    def commit(self, state: NgramState, tokens: Sequence[int], features: Tensor | None) -> None:
        """Index the new tokens; the old ones are not looked at again."""
        for token in tokens:
            self._index(state, token)

    def draft(self, state: NgramState, request: DraftRequest) -> Marginals | None:
        """Return marginals from the occurrences of the longest known suffix, or None if there is none."""
        text = [*state.tokens, request.root_token]
        for length in range(min(self.max_suffix_length, len(text)), self.min_suffix_length - 1, -1):
            suffix = tuple(text[-length:])
            starts = state.ends.get(suffix, [])[-self.max_occurrences :]
            # the root is not indexed yet, but it follows what stands before it
            if tuple(text[-length - 1 : -1]) == suffix:
                starts = [*starts, len(state.tokens)][-self.max_occurrences :]
            if starts:
                return self._marginals(text, starts, request.max_depth)
        return None

    def _index(self, state: NgramState, token: int) -> None:
        position = len(state.tokens)
        for length in range(self.min_suffix_length, min(self.max_suffix_length, position) + 1):
            state.ends.setdefault(tuple(state.tokens[position - length : position]), []).append(position)
        state.tokens.append(token)

    def _marginals(self, text: Sequence[int], starts: Sequence[int], max_depth: int) -> Marginals | None:
        rows: list[list[tuple[int, float]]] = []
        for offset in range(min(self.draft_length, max_depth)):
            counts = Counter(text[start + offset] for start in starts if start + offset < len(text))
            if not counts:
                break
            total = sum(counts.values()) + self.unseen * (offset + 1)
            best = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
            rows.append([(token, count / total) for token, count in best])
        if not rows:
            return None
        width = max(len(row) for row in rows)
        tokens = np.zeros((len(rows), width), np.int64)
        log_probs = np.full((len(rows), width), -np.inf, np.float32)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = [token for token, _ in row]
            log_probs[index, : len(row)] = np.log([share for _, share in row])
        return Marginals(torch.from_numpy(tokens), torch.from_numpy(log_probs))


@hookimpl
def register_drafters(registry: KindRegistry) -> None:
    """Register the n-gram drafter."""
    registry.add("ngram", Ngram)
