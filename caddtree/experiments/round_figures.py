"""What the rounds of many cells say together: tau, node budgets, stages, predictions, acceptance, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from caddtree.experiments.acceptance import Acceptance
from caddtree.experiments.records import LoadedVariant, Reliability, RoundColumns


@attrs.frozen
class Budget:
    """Draft nodes per round, over all rounds."""

    mean: float
    deviation: float
    """Standard deviation."""
    histogram: dict[int, int]
    """Rounds by number of draft nodes, ascending."""


@attrs.frozen
class StageMeans:
    """Mean seconds of the four stages of a round."""

    draft: float
    build: float
    verify: float
    commit: float

    @property
    def total(self) -> float:
        """Mean seconds of a round."""
        return self.draft + self.build + self.verify + self.commit


@attrs.frozen
class Prediction:
    """Error of the predicted seconds of whole rounds: predicted / measured - 1."""

    num_rounds: int
    median_signed: float
    median_absolute: float


@attrs.frozen
class BytesMoved:
    """Bytes of weights and cache that a round reads: computed from shapes, not measured."""

    per_round: float
    per_token: float


@attrs.frozen(eq=False)
class RoundArrays:
    """The rounds of many cells behind one another, one array per column."""

    context_length: NDArray[np.int64]
    num_draft_nodes: NDArray[np.int64]
    tree_depth: NDArray[np.int64]
    num_gained: NDArray[np.int64]
    num_accepted: NDArray[np.int64]
    stage_seconds: NDArray[np.float64]  # (stages, rounds)
    predicted_seconds: NDArray[np.float64]
    """NaN where nothing was predicted."""

    @classmethod
    def of(cls, cells: Sequence[RoundColumns]) -> RoundArrays:
        """Return the rounds of all cells, in their order."""

        def column(name: str, dtype: type) -> NDArray[Any]:
            return np.concatenate([np.empty(0, dtype), *(np.array(getattr(cell, name), dtype) for cell in cells)])

        return cls(
            context_length=column("context_length", np.int64),
            num_draft_nodes=column("num_draft_nodes", np.int64),
            tree_depth=column("tree_depth", np.int64),
            num_gained=column("num_gained", np.int64),
            num_accepted=column("num_accepted", np.int64),
            stage_seconds=np.stack(
                [column(f"{stage.name}_seconds", np.float64) for stage in attrs.fields(StageMeans)],
            ),
            predicted_seconds=column("predicted_seconds", np.float64),  # None becomes NaN
        )

    @property
    def total_seconds(self) -> NDArray[np.float64]:
        """Measured seconds of whole rounds."""
        return np.asarray(self.stage_seconds.sum(axis=0))

    @property
    def tau(self) -> float | None:
        """Tokens gained per round; None without a round."""
        return float(self.num_gained.mean()) if len(self.num_gained) else None

    @property
    def budget(self) -> Budget | None:
        """Draft nodes per round; None without a round."""
        counts = self.num_draft_nodes
        if not len(counts):
            return None
        nodes, rounds = np.unique(counts, return_counts=True)
        histogram = dict(zip(nodes.tolist(), rounds.tolist(), strict=True))
        return Budget(float(counts.mean()), float(counts.std()), histogram)

    @property
    def stages(self) -> StageMeans | None:
        """Mean seconds per stage; None without a round."""
        return StageMeans(*self.stage_seconds.mean(axis=1).tolist()) if self.stage_seconds.size else None

    @property
    def is_predicted(self) -> NDArray[np.bool_]:
        """Rounds whose seconds were predicted, and took any."""
        return np.isfinite(self.predicted_seconds) & (self.total_seconds > 0)

    @property
    def prediction(self) -> Prediction | None:
        """How far predictions were off; None where nothing was predicted."""
        known = self.is_predicted
        if not known.any():
            return None
        errors = self.predicted_seconds[known] / self.total_seconds[known] - 1.0
        return Prediction(len(errors), float(np.median(errors)), float(np.median(np.abs(errors))))

    @property
    def acceptance(self) -> Acceptance:
        """Acceptance over the rounds that drafted something, as :func:`acceptance.acceptance` counts it."""
        drafted = self.num_draft_nodes > 0
        if not drafted.any():
            return Acceptance(0, 0.0, ())
        accepted = self.num_accepted[drafted]
        reached = [float((accepted >= depth).mean()) for depth in range(1, int(self.tree_depth[drafted].max()) + 1)]
        return Acceptance(int(drafted.sum()), float(self.num_gained[drafted].mean()), tuple(reached))

    def bytes_moved(self, loaded: LoadedVariant | None) -> BytesMoved | None:
        """Return the bytes that a round reads; None without a round, or where the shapes are not known.

        A forward of the target reads its weights once, and the cache of the context and of the nodes; a round that
        drafts reads the drafter's weights.
        """
        if loaded is None or loaded.target_bytes is None or loaded.key_value_bytes is None or not len(self.num_gained):
            return None
        drafted = self.num_draft_nodes > 0
        if drafted.any() and loaded.drafter_bytes is None:
            return None
        rows = self.context_length + self.num_draft_nodes + 1
        moved = loaded.target_bytes + loaded.key_value_bytes * rows + (loaded.drafter_bytes or 0) * drafted
        return BytesMoved(float(moved.mean()), float(moved.sum() / self.num_gained.sum()))


def merged(reliabilities: Sequence[Reliability | None]) -> Reliability | None:
    """Return the observations of all cells together; None where no cell has any."""
    known = [entry for entry in reliabilities if entry is not None]
    if not known:
        return None
    return Reliability(
        count=[sum(bins) for bins in zip(*(entry.count for entry in known), strict=True)],
        right=[sum(bins) for bins in zip(*(entry.right for entry in known), strict=True)],
        probability_sum=[sum(bins) for bins in zip(*(entry.probability_sum for entry in known), strict=True)],
    )
