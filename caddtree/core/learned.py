"""What a decoder learns while it runs: it outlives a request and never changes a token."""

from __future__ import annotations

import logging
import math

import attrs

from caddtree.core.records import Round

logger = logging.getLogger(__name__)

_SPEED_MEMORY_ROUNDS = 50
_PRIOR_ROUNDS = 4
_SCALE_STEP = 0.05
_LARGEST_ERROR = 0.2
_ALARM_ROUNDS = 50
_ALARM_ACCEPTANCE_LENGTH = 1.05


@attrs.define
class LongRunSpeed:
    """Moving estimate of tokens per second: the lambda of the priced objective.

    A new text may be of another kind: what came before it counts as a prior of a few rounds.
    """

    tokens: float = 0.0
    seconds: float = 0.0
    rounds: float = 0.0
    """Weight of what is remembered."""

    def on_round(self, round_: Round) -> None:
        """Add a round; old rounds fade."""
        keep = 1.0 - 1.0 / _SPEED_MEMORY_ROUNDS
        if round_.index == 0 and self.rounds > _PRIOR_ROUNDS:
            keep = _PRIOR_ROUNDS / self.rounds
        self.tokens = self.tokens * keep + len(round_.tokens)
        self.seconds = self.seconds * keep + round_.seconds.total
        self.rounds = self.rounds * keep + 1

    @property
    def tokens_per_second(self) -> float | None:
        """The estimate, or None before the first round."""
        return self.tokens / self.seconds if self.seconds > 0 else None


@attrs.define
class CostScale:
    """How much slower rounds are than the cost model says: a profile stays while the machine it was made on drifts.

    One factor for all sizes, so the choice by ratio does not depend on it; predictions and prices do.
    """

    log_scale: float = 0.0

    @property
    def scale(self) -> float:
        """The factor on the cost model's seconds."""
        return math.exp(self.log_scale)

    def on_round(self, round_: Round) -> None:
        """Move a little towards what the round took; a single slow one counts no more than its bound."""
        if round_.predicted_seconds and round_.seconds.total > 0:
            error = math.log(round_.seconds.total / round_.predicted_seconds)
            self.log_scale += _SCALE_STEP * max(-_LARGEST_ERROR, min(_LARGEST_ERROR, error))


@attrs.define
class AcceptanceAlarm:
    """Says once that nearly nothing of the drafts is accepted: the sign of a drafter for another target."""

    rounds: int = 0
    tokens: int = 0
    raised: bool = False

    def on_round(self, round_: Round) -> None:
        """Count rounds that had draft nodes."""
        if self.raised or round_.num_draft_nodes == 0:
            return
        self.rounds += 1
        self.tokens += len(round_.tokens)
        if self.rounds == _ALARM_ROUNDS:
            mean = self.tokens / self.rounds
            if mean < _ALARM_ACCEPTANCE_LENGTH:
                self.raised = True
                logger.warning(
                    "mean acceptance length is %.2f over %d rounds: the drafter hardly ever agrees with the target. "
                    "Check that it was trained for this target (layer ids, tokenizer, mask token).",
                    mean,
                    self.rounds,
                )
            self.rounds = self.tokens = 0
