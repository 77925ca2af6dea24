"""What decoding reports: one :class:`Round` per round, one :class:`Generation` per request."""

from __future__ import annotations

import statistics
from typing import Any

import attrs


@attrs.frozen
class StageSeconds:
    """Measured seconds of the four stages of a round; together they are the whole round."""

    draft: float
    build: float
    verify: float
    commit: float

    @property
    def before_choice(self) -> float:
        """Seconds until the tree is chosen: drafting."""
        return self.draft

    @property
    def after_choice(self) -> float:
        """Seconds from the choice of the tree to the end of the round."""
        return self.build + self.verify + self.commit

    @property
    def total(self) -> float:
        """Seconds of the whole round."""
        return self.draft + self.build + self.verify + self.commit


@attrs.frozen
class Round:
    """One round of decoding."""

    index: int
    context_length: int
    """KV rows before the round."""
    num_draft_nodes: int
    tree_depth: int
    tokens: tuple[int, ...]
    """Tokens gained: the accepted draft tokens, then the bonus token."""
    path: tuple[int, ...]
    """Accepted node indices, root first."""
    expected_acceptance: float
    """Phi of the chosen tree: the drafter's own expectation of ``num_accepted``."""
    seconds: StageSeconds
    predicted_seconds: float | None
    """What the cost model expected of the whole round; None without a cost model."""
    unusable_draft: bool = False
    """The drafter returned NaN or infinity and the round went on without draft nodes."""

    @property
    def num_accepted(self) -> int:
        """Accepted draft tokens."""
        return len(self.path) - 1

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return attrs.asdict(self)


@attrs.frozen
class Generation:
    """The result of one request."""

    text: str
    """What was generated, without the prompt, the stop token and the stop string."""
    token_ids: tuple[int, ...]
    finish_reason: str
    """``stop`` (a stop token or string, or the rule of an observer), ``length`` or ``cancelled``."""
    num_prompt_tokens: int
    prefill_seconds: float
    rounds: tuple[Round, ...]
    stopped_by: str | None = None
    """Class of the observer whose rule ended the text; None where it ended by itself or by the request."""

    @property
    def decode_seconds(self) -> float:
        """Seconds of all rounds; prefill and the token it gives are in neither count."""
        return sum(round_.seconds.total for round_ in self.rounds)

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 when no round was needed."""
        seconds = self.decode_seconds
        return sum(len(round_.tokens) for round_ in self.rounds) / seconds if seconds > 0 else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tau: tokens gained per round, the bonus token counts; 0 when no round was needed."""
        return statistics.fmean(len(round_.tokens) for round_ in self.rounds) if self.rounds else 0.0

    @property
    def mean_draft_nodes(self) -> float:
        """Draft nodes per round; 0 when no round was needed."""
        return statistics.fmean(round_.num_draft_nodes for round_ in self.rounds) if self.rounds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the generation, its figures and its rounds as JSON-ready values."""
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "stopped_by": self.stopped_by,
            "num_prompt_tokens": self.num_prompt_tokens,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "tokens_per_second": self.tokens_per_second,
            "mean_acceptance_length": self.mean_acceptance_length,
            "mean_draft_nodes": self.mean_draft_nodes,
            "rounds": [round_.to_dict() for round_ in self.rounds],
        }


@attrs.frozen
class Chunk:
    """A piece of a streamed answer: what prefill or one round added."""

    text: str
    token_ids: tuple[int, ...]
    round: Round | None
    """None for the chunk that prefill gives."""
