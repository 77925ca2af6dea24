"""What a tree builder may know about the round it builds for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from caddtree.core.tree_packet import padded_rows

if TYPE_CHECKING:
    from caddtree.core.protocols import CostModel


@attrs.frozen(eq=False)
class RoundContext:
    """The facts of one round, as far as they bear on the choice of a tree."""

    root_token: int
    context_length: int
    """KV rows in the cache: committed tokens before the root."""
    remaining_tokens: int
    """Tokens that may still be emitted; a tree deeper than ``remaining_tokens - 1`` cannot be used."""
    position_limit: int
    """Positions that the target can take."""
    temperature: float = 0.0
    cost_model: CostModel | None = None
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end the text: nodes behind one cannot be used."""
    candidate_counts: tuple[int, ...] | None = None
    """Draft-node counts that the runtime runs well, without padding or new kernels; None means all."""
    row_buckets: tuple[int, ...] | None = None
    """Rows that a forward over the tree is padded to, ascending; None where nothing is padded."""
    previous_rows: int | None = None
    """Rows of the forward in the round before, padding included; None in the first round."""
    cost_scale: float = 1.0
    """Factor on the cost model's seconds that this decoder has learned."""
    round_index: int = 0
    """Rounds of this sequence before this one."""
    tokens_per_second: float | None = None
    """Long-run speed of this decoder (lambda of the priced objective), None before the first round."""

    def num_rows(self, num_draft_nodes: int) -> int:
        """Return the rows of a forward over a tree of so many draft nodes, root and padding included."""
        return padded_rows(num_draft_nodes + 1, self.row_buckets)

    @property
    def max_depth(self) -> int:
        """Deepest node that can still be emitted and has a position."""
        return max(0, min(self.remaining_tokens - 1, self.position_limit - 1 - self.context_length))
