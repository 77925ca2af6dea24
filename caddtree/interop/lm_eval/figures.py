"""How fast the answers came: the figures of all requests of an evaluation together."""

from __future__ import annotations

from typing import Any

import attrs

from caddtree.core.records import Generation


@attrs.frozen
class SpeedFigures:
    """Sums over requests; the token that prefill gives, and prefill itself, are no part of decoding."""

    num_requests: int = 0
    num_new_tokens: int = 0
    num_decoded_tokens: int = 0
    num_rounds: int = 0
    num_draft_nodes: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def plus(self, generation: Generation) -> SpeedFigures:
        """Return the figures with one more request."""
        rounds = generation.rounds
        return SpeedFigures(
            num_requests=self.num_requests + 1,
            num_new_tokens=self.num_new_tokens + len(generation.token_ids),
            num_decoded_tokens=self.num_decoded_tokens + sum(len(round_.tokens) for round_ in rounds),
            num_rounds=self.num_rounds + len(rounds),
            num_draft_nodes=self.num_draft_nodes + sum(round_.num_draft_nodes for round_ in rounds),
            prefill_seconds=self.prefill_seconds + generation.prefill_seconds,
            decode_seconds=self.decode_seconds + generation.decode_seconds,
        )

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 when no round was needed."""
        return self.num_decoded_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tau: tokens gained per round; 0 when no round was needed."""
        return self.num_decoded_tokens / self.num_rounds if self.num_rounds else 0.0

    @property
    def mean_draft_nodes(self) -> float:
        """Draft nodes per round; 0 when no round was needed."""
        return self.num_draft_nodes / self.num_rounds if self.num_rounds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return sums and means as JSON-ready values."""
        means = ("tokens_per_second", "mean_acceptance_length", "mean_draft_nodes")
        return {**attrs.asdict(self), **{name: getattr(self, name) for name in means}}

    def __str__(self) -> str:
        return (
            f"{self.num_requests} requests, {self.num_new_tokens} new tokens; decoding {self.tokens_per_second:.1f} "
            f"tokens/s, tau {self.mean_acceptance_length:.2f}, {self.mean_draft_nodes:.1f} draft nodes per round"
        )
