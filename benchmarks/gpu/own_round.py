"""Our round: a real session of a real decoder, held at one context length.

Weights are random, so hardly a drafted token would be accepted and no row would ever be moved: behind the walk, whose
work is done as ever, an accepted path takes its place. After every round the context is as long as before.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import attrs
import torch
from torch import Tensor

from caddtree.core.acceptance import AcceptanceRule, Walk
from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.frontier import heaviest_prefixes
from caddtree.core.marginals import Marginals
from caddtree.core.pipeline import Session
from caddtree.core.protocols import Drafter, DraftRequest, TreeBuilder, Verifier
from caddtree.core.sampler import Sampler
from caddtree.core.target import Target, TargetState
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.none import NoDrafter
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.triton import TritonVerifier

from .device import Device, Timing
from .stages import StageClock, accepted_path, measure_rounds, measure_stages

_PROMPT = (1, 2, 3, 4, 5)
_MOST_NEW_TOKENS = 1024
_TREE_ROWS = 257
_FEATURE_ROWS = 512
"""Rows of features that the drafter takes at once, as in a prefill."""


@attrs.frozen(eq=False)
class MarkedDrafter:
    """A drafter whose pass and whose selection of candidates are told apart on a clock."""

    inner: Drafter
    clock: StageClock

    @property
    def required_layers(self) -> tuple[int, ...]:
        """The inner drafter's."""
        return self.inner.required_layers

    @property
    def block_size(self) -> int:
        """The inner drafter's."""
        return self.inner.block_size

    def bind(self, target: Target) -> None:
        """Bind the inner drafter."""
        self.inner.bind(target)

    def start(self) -> Any:
        """Return the inner drafter's state."""
        return self.inner.start()

    def commit(self, state: Any, tokens: Any, features: Tensor | None) -> None:
        """Commit to the inner drafter."""
        self.inner.commit(state, tokens, features)

    def draft(self, state: Any, request: DraftRequest) -> Marginals | None:
        """Return the inner drafter's marginals."""
        if not self.clock.is_on:
            return self.inner.draft(state, request)
        from_logits, are_told_apart = Marginals.from_logits, False

        def marked(*arguments: Any, **keywords: Any) -> Marginals:
            nonlocal are_told_apart
            self.clock.mark("draft")
            are_told_apart = True
            return from_logits(*arguments, **keywords)

        with mock.patch.object(Marginals, "from_logits", marked):
            marginals = self.inner.draft(state, request)
        # a drafter that selects its candidates within its pass has one stage
        self.clock.mark("candidates" if are_told_apart else "draft")
        return marginals


@attrs.define(eq=False)
class MarkedBuilder:
    """A builder that keeps the marginals it was given last."""

    inner: TreeBuilder
    clock: StageClock
    marginals: Marginals | None = None

    @property
    def needs_cost_model(self) -> bool:
        """The inner builder's."""
        return self.inner.needs_cost_model

    def build(self, marginals: Marginals, context: Any) -> DraftTree:
        """Return the inner builder's tree."""
        self.marginals = marginals
        tree = self.inner.build(marginals, context)
        self.clock.mark("tree")
        return tree


@attrs.frozen(eq=False)
class ReplacedPath:
    """A verifier whose walk is replaced by an accepted path once it is done."""

    inner: Verifier
    clock: StageClock

    def bind(self, target: Target) -> None:
        """Bind the inner verifier."""
        self.inner.bind(target)

    def verify(self, state: TargetState, tree: DraftTree, rule: AcceptanceRule) -> Walk:
        """Return a walk along the path, with the target's own last choice."""
        if self.clock.is_on:
            marked = MarkedRule(rule, self.clock)
            walk = self.inner.verify(state, tree, marked)
            if not marked.was_asked:
                self.clock.mark("forward")
        else:
            # nothing stands in the way of a whole round
            walk = self.inner.verify(state, tree, rule)
        path = accepted_path(tree.parents)
        return Walk(path, (*tree.tokens[list(path[1:])].tolist(), walk.tokens[-1]))


@attrs.define(eq=False)
class MarkedRule:
    """A rule that marks where the forward ends and where the walk does."""

    inner: AcceptanceRule
    clock: StageClock
    was_asked: bool = False

    def walk(self, tree: DraftTree, logits: Tensor, context_length: int) -> Walk:
        """Return the inner rule's walk."""
        self.was_asked = True
        self.clock.mark("forward")
        walk = self.inner.walk(tree, logits, context_length)
        self.clock.mark("walk")
        return walk


class OwnRounds:
    """One decoder around one model; contexts are opened one after the other.

    Args:
        model: The target.
        device: Where it runs.
        buckets: Query rows that are measured.
        drafter: Folder of the draft model; plain decoding when None.
    """

    def __init__(self, model: Any, device: Device, buckets: tuple[int, ...], drafter: str | None = None) -> None:
        self.device = device
        self.clock = StageClock(device.synchronize)
        self.builder = MarkedBuilder(DDTree(node_budget=max(1, buckets[-1] - 1)), self.clock)
        self.verifier = TritonVerifier()
        self.target = Target(model, runner=device.runner(buckets))
        self.decoder = Decoder(
            target=self.target,
            drafter=NoDrafter() if drafter is None else MarkedDrafter(DFlash(model=drafter), self.clock),
            tree_builder=self.builder,
            verifier=ReplacedPath(self.verifier, self.clock),
        )

    def close(self) -> None:
        """Leave the model as it was."""
        self.target.close()

    def open(self, context_length: int) -> HeldSession:
        """Return a session with so many committed rows, all of them random."""
        return HeldSession(self, context_length)


class HeldSession:
    """A session that is set back to its context length after every round."""

    @torch.inference_mode()
    def __init__(self, rounds: OwnRounds, context_length: int) -> None:
        self.rounds, self.context_length = rounds, context_length
        # they hold the logits of a graph that may have to go
        rounds.builder.marginals = None
        self.session: Session = rounds.decoder.open_with(list(_PROMPT), Sampler(), max_new_tokens=_MOST_NEW_TOKENS)
        self._num_tokens = len(self.session.tokens)
        self._fill_target()
        if self.session.draft_state is not None:
            self._fill_drafter()

    def step(self, num_drafts: int) -> None:
        """Run one round with so many draft nodes, then forget what it committed."""
        self.rounds.clock.start()
        self.session.step(candidate_counts=(num_drafts,))
        self.rounds.clock.mark("commit")
        self._set_back()

    def measure(self, num_drafts: int, *, warm_ups: int, repeats: int) -> tuple[Timing, dict[str, Timing]]:
        """Return the seconds of a whole round and, from rounds of their own, of its stages."""

        def run_round() -> None:
            self.step(num_drafts)

        whole = measure_rounds(run_round, warm_ups=warm_ups, repeats=repeats)
        clock = self.rounds.clock
        return whole, measure_stages(run_round, clock, warm_ups=warm_ups, repeats=repeats)

    def first_seconds(self, num_drafts: int) -> float:
        """Return the seconds of the first round of a size, in which it is compiled and captured."""
        started = time.perf_counter()
        self.step(num_drafts)
        self.rounds.device.synchronize()
        return time.perf_counter() - started

    @torch.inference_mode()
    def tree_facts(self, num_drafts: int) -> dict[str, Any]:
        """Return what the last tree looked like, and whether a round's candidates were wide enough for it."""
        tree, marginals, last = self.session.last_tree, self.rounds.builder.marginals, self.session.rounds[-1]
        assert tree is not None
        width = None
        if marginals is not None and num_drafts:
            width = heaviest_prefixes(marginals, num_drafts).marginals.width
        return {
            "nodes": tree.num_nodes,
            "depth": tree.depth,
            "expected_acceptance": tree.expected_acceptance,
            "width": width,
            "accepted_path": list(last.path),
        }

    def _fill_target(self) -> None:
        cache = self.session.target_state.cache
        # as a prompt of this length and an answer get it: powers of two
        capacity = 1 << (self.context_length + _MOST_NEW_TOKENS + _TREE_ROWS - 1).bit_length()
        cache.reserve(capacity - cache.length)
        for layer in cache.layers:
            for rows in (layer.keys, layer.values):
                rows[:, :, : self.context_length].normal_()
        cache.length = self.context_length

    def _fill_drafter(self) -> None:
        decoder, state = self.rounds.decoder, self.session.draft_state
        target = self.rounds.target
        width = len(decoder.drafter.required_layers) * target.hidden_size
        while (missing := self.context_length - self._num_drafter_rows()) > 0:
            num_rows = min(missing, _FEATURE_ROWS)
            features = torch.randn(num_rows, width, dtype=target.dtype, device=target.device)
            decoder.drafter.commit(state, [0] * num_rows, features)

    def _num_drafter_rows(self) -> int:
        state = self.session.draft_state
        return int(state.length) + sum(len(rows) for rows in state.waiting)

    def _set_back(self) -> None:
        session = self.session
        session.target_state.cache.length = self.context_length
        # the last token stays: it is the root of the next round
        session.tokens[self._num_tokens - 1 :] = session.tokens[-1:]
        if session.draft_state is not None:
            session.draft_state.length += self.context_length - self._num_drafter_rows()
