"""Drafts from the text itself: what followed the last two tokens when they last stood side by side."""

import math
from collections.abc import Sequence

import attrs
import torch
from attrs.validators import ge, gt, instance_of, lt
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.define(eq=False)
class RepeatState:
    """One sequence."""

    tokens: list[int] = attrs.field(factory=list)
    """The committed text."""
    follows: dict[tuple[int, int], int] = attrs.field(factory=dict)
    """Two tokens -> where the text went on when they last stood side by side."""


@attrs.frozen
class Repeat:
    """Propose the tokens that followed the last two the last time; one candidate per position."""

    draft_length: int = attrs.field(default=8, validator=[instance_of(int), ge(1)])
    """Positions drafted at most."""
    confidence: float = attrs.field(default=0.7, validator=[instance_of((int, float)), gt(0), lt(1)])
    """Probability that every drafted token is given; builders weigh longer drafts by it."""

    required_layers = ()

    @property
    def block_size(self) -> int:
        """The anchor and the drafted positions."""
        return self.draft_length + 1

    def bind(self, target: Target) -> None:
        """Every target will do."""

    def start(self) -> RepeatState:
        """Return the state of a new sequence."""
        return RepeatState()

    def commit(self, state: RepeatState, tokens: Sequence[int], features: torch.Tensor | None) -> None:
        """Append to the text, and remember where every pair of tokens ends."""
        for token in tokens:
            if state.tokens:
                state.follows[state.tokens[-1], token] = len(state.tokens) + 1
            state.tokens.append(token)

    def draft(self, state: RepeatState, request: DraftRequest) -> Marginals | None:
        """Return what followed the last committed token and the root, or None where they are a new pair."""
        pair = (state.tokens[-1], request.root_token) if state.tokens else None
        start = state.follows.get(pair) if pair else None
        depth = min(self.draft_length, request.max_depth)
        if start is None or depth < 1:
            return None
        # the root is not committed yet, and ends the text
        drafted = [*state.tokens[start : start + depth], request.root_token][:depth]
        log_probs = torch.full((len(drafted), 1), math.log(self.confidence))
        return Marginals(torch.tensor(drafted)[:, None], log_probs)


@hookimpl
def register_drafters(registry: KindRegistry) -> None:
    """Register the drafter of repetitions."""
    registry.add("repeat", Repeat)
