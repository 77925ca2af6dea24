"""The four strategy kinds and the observers, each a protocol of a few methods.

A strategy holds options and weights. What belongs to one sequence lives in the state object that the strategy
hands out; what is learned while running belongs to the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals

if TYPE_CHECKING:
    from caddtree.core.acceptance import AcceptanceRule, Walk
    from caddtree.core.decoder import Decoder
    from caddtree.core.records import Generation, Round
    from caddtree.core.target import Target, TargetState

DraftState = Any
"""Whatever a drafter keeps for one sequence; only the drafter looks inside."""


@attrs.frozen
class DraftRequest:
    """What a drafter is asked for in one round."""

    root_token: int
    context_length: int
    """Position of the root: committed tokens before it."""
    max_depth: int
    """Positions wanted at most; a drafter may return fewer rows, never more."""
    temperature: float = 0.0


@runtime_checkable
class Drafter(Protocol):
    """Committed tokens and tapped features of the target -> :class:`Marginals`.

    A drafter may also have an int attribute ``weight_bytes``: bytes of weights that every draft reads.
    """

    @property
    def required_layers(self) -> tuple[int, ...]:
        """Target decoder layers (0-based, ascending) whose outputs ``commit`` wants; empty for none."""

    @property
    def block_size(self) -> int:
        """Anchor plus drafted positions; 1 for a drafter that never drafts."""

    def bind(self, target: Target) -> None:
        """Take what is shared with the target (embedding, head, sizes) or refuse the pair.

        Raises:
            CompatibilityError: If drafter and target cannot work together; names both values.
        """

    def start(self) -> DraftState:
        """Return the state of a new sequence."""

    def commit(self, state: DraftState, tokens: Sequence[int], features: Tensor | None) -> None:
        """Append committed tokens; prefill chunks enter the same way as accepted paths.

        Args:
            state: What ``start`` returned; the tokens take its next positions.
            tokens: Committed token ids, the root of the round included, its bonus token excluded.
            features: ``(len(tokens), len(required_layers) * hidden_size)`` in the target's dtype, the layers
                concatenated in ascending order; None when ``required_layers`` is empty.
        """

    def draft(self, state: DraftState, request: DraftRequest) -> Marginals | None:
        """Return the marginals of the positions after the root, or None to draft nothing this round."""


@runtime_checkable
class TreeBuilder(Protocol):
    """:class:`Marginals` -> :class:`DraftTree`."""

    @property
    def needs_cost_model(self) -> bool:
        """Whether ``build`` asks ``context.cost_model``."""

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        """Return the tree to verify: at most ``context.max_depth`` deep, root ``context.root_token``."""


@runtime_checkable
class CostModel(Protocol):
    """(draft nodes, context) -> seconds of a whole round, in two parts around the choice of the tree.

    A model may also have a float attribute ``switch_seconds``: what a round costs more when its forward runs other
    (padded) rows than the one before.
    """

    def prepare(self, decoder: Decoder) -> None:
        """Get ready for this decoder: load, measure or compute what the seconds come from; may take long."""

    def before_choice_seconds(self, context_length: int) -> float:
        """Return the seconds of a round that are spent before its tree is chosen: drafting."""

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the seconds after the choice (tree, forward, walk, commit) for every count, 0 included."""


@runtime_checkable
class Verifier(Protocol):
    """:class:`DraftTree` -> accepted path and bonus token, by one forward of the target."""

    def bind(self, target: Target) -> None:
        """Check, and prepare, the attention back-end for this target.

        Raises:
            CompatibilityError: If the target's attention cannot verify a tree.
        """

    def verify(self, state: TargetState, tree: DraftTree, rule: AcceptanceRule) -> Walk:
        """Run the target once over the tree and walk it from the root.

        Raises:
            NumericalError: If any row of the logits is not finite.
        """


@runtime_checkable
class RoundObserver(Protocol):
    """An observer that sees every round after it happened."""

    def on_round(self, round_: Round) -> None:
        """Take note of a round; an exception here ends the request."""


@runtime_checkable
class FinishObserver(Protocol):
    """An observer that sees every request that comes to an end, a cancelled one too."""

    def on_finish(self, generation: Generation) -> None:
        """Take note of what came out; an exception here ends the request. One that fails halfway is not seen."""


@runtime_checkable
class StopRule(Protocol):
    """An observer that says where a text ends, besides stop tokens and stop strings.

    It is asked token by token, so that a text ends at the same token whatever was drafted. That holds only if the
    answer follows from ``tokens`` alone: what a rule remembers, or reads off a clock, depends on the rounds.
    """

    def ends_text(self, tokens: Sequence[int]) -> bool:
        """Tell whether the last of the answer's token ids so far is the last one; the prompt is not in ``tokens``."""


Observer = RoundObserver | FinishObserver | StopRule
"""What watches a decoder: one or more of the three, in one class. It never changes a token, only where a text ends."""
