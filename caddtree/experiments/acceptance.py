"""How often drafts are accepted, by depth: what a tau is made of."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs

from caddtree.core.records import Generation, Round


@attrs.frozen
class Acceptance:
    """Acceptance over many rounds; rounds that had no room to draft are left out."""

    num_rounds: int
    mean_acceptance_length: float
    """Tau: tokens gained per round, the bonus token counts."""
    reached: tuple[float, ...]
    """Share of rounds whose accepted path is at least 1, 2, 3, ... nodes deep."""

    @property
    def given_reached(self) -> tuple[float, ...]:
        """Share of the rounds that accepted depth d among those that accepted depth d - 1."""
        before = (1.0, *self.reached)  # one longer: nothing comes after the deepest
        return tuple(share / above if above else 0.0 for share, above in zip(self.reached, before, strict=False))


def acceptance(generations: Sequence[Generation]) -> Acceptance:
    """Return the acceptance over the rounds of all generations that drafted something.

    The last round of a text may be cut short by its end; it counts as it is.
    """
    rounds = [round_ for generation in generations for round_ in generation.rounds if round_.num_draft_nodes]
    if not rounds:
        return Acceptance(0, 0.0, ())
    depth = max(round_.tree_depth for round_ in rounds)
    return Acceptance(
        len(rounds),
        statistics.fmean(len(round_.tokens) for round_ in rounds),
        tuple(_share_at_least(rounds, wanted) for wanted in range(1, depth + 1)),
    )


def tau_over_rounds(generations: Sequence[Generation]) -> float:
    """Return the tokens gained per round over every round of all generations; 0 without a round."""
    gained = [len(round_.tokens) for generation in generations for round_ in generation.rounds]
    return statistics.fmean(gained) if gained else 0.0


def _share_at_least(rounds: Sequence[Round], depth: int) -> float:
    return sum(round_.num_accepted >= depth for round_ in rounds) / len(rounds)
