"""The tree and its size that promise the most tokens per second at the measured cost of a round."""

from __future__ import annotations

from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError, CostModelError
from caddtree.core.frontier import Frontier, heaviest_prefixes, tree_from_selection
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import CostModel
from caddtree.core.provider import named
from caddtree.core.stages import stage
from caddtree.plugins.hooks import hookimpl
from caddtree.tree_builders.options import allowed_counts, at_least, one_of

_FIRST_NODES = 24
_FIRST_NODES_ON_DEVICE = 63
_GROWTH = 2
"""Nodes ranked first, and by what factor more: most rounds choose fewer, and ranking more may need wider marginals. On
a device a second look costs more than the nodes of the first."""


@attrs.frozen
class CaDDTree:
    """Draft the heaviest prefixes, as many as pay at the cost of this round; none is a legal answer.

    Source: CaDDTree, arXiv:2606.01813. It departs from the paper in three places: the cost is that of the whole
    round and of ``n + 1`` rows, the stop rule is kept in product form, and the default search scans every size,
    because measured costs are not convex.
    """

    max_node_budget: int = attrs.field(
        default=256, validator=at_least(1, hint="Set the largest number of draft nodes, e.g. 256.")
    )
    """Draft nodes of a round at most, the root not counted."""
    search: Literal["scan", "first_stop"] = attrs.field(default="scan", validator=one_of("scan", "first_stop"))
    """``scan`` compares every size, exact for any cost; ``first_stop`` ends at the first size that does not gain."""
    objective: Literal["ratio", "price"] = attrs.field(default="price", validator=one_of("ratio", "price"))
    """``ratio`` maximises tokens per second of this round. ``price`` does the same in rounds that are faster than the
    long run; in the others it maximises tokens minus the long-run speed times seconds, which is a smaller tree. Many
    rounds together would want larger trees in the fast ones too, but an estimate that starts low would then keep itself
    low. Replayed on the demo pair ``price`` gains 1 to 2 % over ``ratio``."""

    @property
    def needs_cost_model(self) -> bool:
        """Always."""
        return True

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        """Return the tree of the best size.

        Raises:
            CompatibilityError: If the round has no cost model.
            CostModelError: If a cost is no positive finite number.
        """
        if context.cost_model is None:
            raise CompatibilityError("tree_builder caddtree needs a cost_model, found none")
        marginals = marginals.clip(context.max_depth)
        if marginals.depth == 0:
            return DraftTree.root_only(context.root_token)
        counts = self._counts(context)
        seconds = round_seconds(context.cost_model, counts, context)
        speed = context.tokens_per_second if self.objective == "price" else None
        frontier, count = self._search(marginals, counts, seconds, speed, context.stop_tokens)
        return tree_from_selection(frontier, count, context)

    def _counts(self, context: RoundContext) -> NDArray[np.int64]:
        if context.candidate_counts is None:
            return np.arange(self.max_node_budget + 1)
        return np.array(allowed_counts(context.candidate_counts, self.max_node_budget))

    def _search(
        self,
        marginals: Marginals,
        counts: NDArray[np.int64],
        seconds: NDArray[np.float64],
        speed: float | None,
        stop_tokens: frozenset[int],
    ) -> tuple[Frontier, int]:
        """Rank nodes until no larger tree can be chosen; return them and the chosen count."""
        num_ranked = _FIRST_NODES_ON_DEVICE if marginals.is_ranked_on_device else _FIRST_NODES
        while True:
            frontier = heaviest_prefixes(marginals, min(num_ranked, int(counts[-1])), stop_tokens)
            num_found = len(frontier)
            is_complete = num_found < num_ranked or num_ranked >= counts[-1]
            tokens = _expected_tokens(frontier, counts, is_complete=is_complete)
            # all sizes beyond the last node of the block are the same tree, padded
            num_sizes = np.searchsorted(counts, num_found) + 1 if is_complete else len(counts)
            count = int(counts[self._choose(tokens[:num_sizes], seconds[:num_sizes], speed)])
            if is_complete or count <= num_found:
                return frontier, count
            num_ranked *= _GROWTH
            marginals = frontier.marginals

    def _choose(self, tokens: NDArray[np.float64], seconds: NDArray[np.float64], speed: float | None) -> int:
        """Return the index of the chosen size among ascending sizes; of equally good ones the smallest.

        Args:
            tokens: ``(sizes,)`` expected tokens of the round, the bonus token included.
            seconds: ``(sizes,)`` seconds of the round.
            speed: Tokens per second that a second is worth elsewhere, or None if only this round counts.
        """
        ratio = tokens / seconds
        if self.search == "scan":
            # where this round is the faster use of time, its own speed is the price, and the ratio's best size its tree
            if speed is None or float(ratio.max()) >= speed:
                return int(ratio.argmax())
            return int((tokens - speed * seconds).argmax())
        price = ratio[:-1] if speed is None else np.maximum(ratio[:-1], speed)
        # product form: an increment of the cost may be zero or negative
        improves = np.diff(tokens) > price * np.diff(seconds)
        return len(improves) if improves.all() else int(improves.argmin())


def round_seconds(model: CostModel, counts: NDArray[np.int64], context: RoundContext) -> NDArray[np.float64]:
    """Return ``(sizes,)`` float64: seconds of a whole round for every number of draft nodes in ``counts``.

    Raises:
        CostModelError: If a cost is no positive finite number, or there is not one per size.
        StageError: If the cost model raises.
    """
    context_length = context.context_length
    with stage("cost_model", model, f"round {context.round_index}"):
        before = float(model.before_choice_seconds(context_length))
        after = np.asarray(model.after_choice_seconds(counts, context_length), np.float64)
    found = _fault(before, after, counts, context_length)
    if found:
        raise CostModelError(f"cost model {named(model)} gave {found}")
    seconds: NDArray[np.float64] = (before + after) * context.cost_scale
    return seconds + _switch_seconds(model, counts, context)


def _fault(before: float, after: NDArray[np.float64], counts: NDArray[np.int64], context_length: int) -> str:
    """Return what is wrong with the costs of a model, or nothing."""
    if after.shape != counts.shape:
        return f"costs of shape {after.shape} for {len(counts)} tree sizes"
    if not (np.isfinite(before) and before >= 0):
        return f"{before:g} seconds before the choice at context {context_length}"
    # a NaN compares false
    is_sound = (after > 0) & (after < np.inf)
    if is_sound.all():
        return ""
    index = int(is_sound.argmin())
    return (
        f"{after[index]:g} seconds for {counts[index]} draft nodes at context {context_length}; "
        "a cost must be finite and above 0. Measure the profile again."
    )


def _switch_seconds(model: CostModel, counts: NDArray[np.int64], context: RoundContext) -> NDArray[np.float64]:
    """Return ``(sizes,)`` float64: what it costs to run other rows than the round before."""
    # a model need not know: plugins that say nothing price every round alike
    switch = float(getattr(model, "switch_seconds", 0.0))
    if not switch or context.previous_rows is None:
        return np.zeros(len(counts))
    rows = np.array([context.num_rows(count) for count in counts.tolist()])
    return np.where(rows == context.previous_rows, 0.0, switch * context.cost_scale)


def _expected_tokens(frontier: Frontier, counts: NDArray[np.int64], *, is_complete: bool) -> NDArray[np.float64]:
    """Return ``(sizes,)`` float64: tokens of a round by tree size, the bonus token included.

    Where nodes beyond the frontier exist, sizes beyond it get an upper bound: no further node weighs more than the
    last one found. A size within the frontier that wins all the same is the true choice.
    """
    phi = frontier.expected_acceptance()
    tokens: NDArray[np.float64] = 1.0 + phi[np.minimum(counts, len(frontier))]
    if not is_complete:
        # the bound must not fall below a sum that is rounded node by node
        heaviest_left = float(np.exp(np.float64(frontier.log_weights[-1]))) * (1 + 1e-9)
        tokens += heaviest_left * np.maximum(counts - len(frontier), 0)
    return tokens


@hookimpl
def register_tree_builders(registry):  # type: ignore[no-untyped-def]
    """Register the tree of adaptive size."""
    registry.add("caddtree", CaDDTree)
