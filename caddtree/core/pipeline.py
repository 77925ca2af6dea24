"""The one decoding loop: prefill, then per round draft, build, verify, commit.

Start reading at :meth:`Session.step`, which is one round: an attempt, then what stays of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import attrs
import numpy as np
import torch

from caddtree.core.acceptance import AcceptanceRule, MatchChoice, Walk, check_finite
from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import InputError, ResourceError
from caddtree.core.marginals import Marginals
from caddtree.core.options import GenerationOptions
from caddtree.core.protocols import DraftRequest, DraftState, StopRule
from caddtree.core.provider import provider_of
from caddtree.core.records import Chunk, Generation, Round, StageSeconds
from caddtree.core.returned import check_draft, check_ends_text, check_marginals, check_tree, check_walk
from caddtree.core.sampler import Sampler
from caddtree.core.stages import stage
from caddtree.core.target import TargetState
from caddtree.core.text import TextStream
from caddtree.core.tree_packet import padded_rows

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder

logger = logging.getLogger(__name__)

_UNUSABLE_DRAFTS_ALLOWED = 8
_INITIAL_NEW_ROWS = 1024
_TREE_ROWS = 257
"""Room behind the text for the tree of a round, so that the cache does not grow because of the last ones."""


TokenIsLast = Callable[[int, Sequence[int]], bool]
"""Tokens of the sequence so far and the tokens after them -> whether the last one ends the text."""


class Session:
    """One sequence: its caches, its tokens, and where it stands."""

    def __init__(
        self,
        decoder: Decoder,
        prompt: list[int],
        options: GenerationOptions,
        sampler: Sampler,
        max_new_tokens: int,
        *,
        should_stop: Callable[[], bool] | None = None,
        token_is_last: TokenIsLast | None = None,
    ) -> None:
        self.decoder = decoder
        self.options = options
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.max_new_tokens = max_new_tokens
        self.rounds: list[Round] = []
        self.finish_reason: str | None = None
        self._has_failed = False
        self.last_tree: DraftTree | None = None
        """The tree of the last round, for those who want to look at it."""
        self._sampler = sampler
        stop_tokens = frozenset() if options.ignore_eos else decoder.eos_token_ids
        rules = tuple(cast("StopRule", each) for each in decoder.observers if hasattr(each, "ends_text"))
        self._stop = _Stop(self.tokens, len(prompt), stop_tokens, token_is_last, rules)
        self._stopped_by: str | None = None
        self._rule: AcceptanceRule = MatchChoice(sampler, self.tokens, self._stop)
        self._should_stop = should_stop
        self._text = TextStream(decoder.tokenizer, options.stop)
        self._pieces: list[str] = []
        self._unusable_drafts = 0
        self._largest_count: int | None = None
        """Draft nodes that fit the memory, once a round has run out of it."""
        self._num_tried: int | None = None
        """Draft nodes of the round that is being run, once its tree is there."""
        capacity = len(prompt) + min(max_new_tokens, _INITIAL_NEW_ROWS) + _TREE_ROWS
        self.target_state: TargetState = decoder.target.start(capacity)
        self.draft_state: DraftState = None
        with decoder.group.together("prefill"):
            try:
                self.first_chunk = self._prefill(prompt)
            except torch.OutOfMemoryError as error:
                raise self._out_of_memory("prefill", len(prompt), str(error).strip().partition("\n")[0]) from error

    @torch.inference_mode()
    def step(self, *, candidate_counts: tuple[int, ...] | None = None) -> Chunk:
        """Run one round and return what it added.

        Args:
            candidate_counts: Restrict the builder to these draft-node counts, as the profiler does.
        """
        if self.finish_reason is not None or self._has_failed:
            raise InputError("the request has ended; open another session")
        group, where = self.decoder.group, f"round {len(self.rounds)}"
        try:
            with group.together(where):
                if self._should_stop is not None and group.share(self._should_stop):
                    return self._cancel()
                context = self._context(candidate_counts)
                round_ = self._attempt(context)
                if isinstance(round_, str):
                    self._make_room(context, round_)
                    smaller = self._allowed(context.candidate_counts)
                    round_ = self._attempt(attrs.evolve(context, candidate_counts=smaller))
                if isinstance(round_, str):
                    raise self._out_of_memory(where, context.context_length, round_)
                return self._finish(context, round_)
        except BaseException:
            self._has_failed = True
            raise

    def _attempt(self, context: RoundContext) -> _Verified | str:
        """Draft, build and verify, which change nothing that stays; where memory runs out return what was said."""
        decoder, where = self.decoder, f"round {len(self.rounds)}"
        self._num_tried = None
        try:
            started = time.perf_counter()
            with stage("drafter", decoder.drafter, where):
                marginals = self._draft(context)
            drafted = time.perf_counter()
            with stage("tree_builder", decoder.tree_builder, where):
                tree, is_unusable = decoder.group.share(lambda: self._build(marginals, context))
            if is_unusable:
                self._note_unusable()
            self._num_tried = tree.num_drafts
            built = time.perf_counter()
            with stage("verifier", decoder.verifier, where):
                found = decoder.verifier.verify(self.target_state, tree, self._rule)
                check_walk(found, tree, decoder.target.vocabulary_size)
            walk = decoder.group.share(lambda: found)
            return _Verified(tree, walk, is_unusable, started, drafted, built, time.perf_counter())
        except torch.OutOfMemoryError as error:
            # not handled here: while the error is alive, so is all that the failed attempt has allocated
            return str(error).strip().partition("\n")[0]

    def _finish(self, context: RoundContext, done: _Verified) -> Chunk:
        """Emit the tokens, commit them and record the round."""
        walk, text = self._emit(done.walk)
        self._commit(context, walk)
        with stage("cost_model", self.decoder.cost_model, f"round {len(self.rounds)}"):
            predicted = self._predicted_seconds(done.tree.num_drafts, context)
        seconds = StageSeconds(
            done.drafted - done.started,
            done.built - done.drafted,
            done.verified - done.built,
            time.perf_counter() - done.verified,
        )
        return self._record(context, done.tree, walk, seconds, predicted, done.is_unusable, text)

    def close(self) -> None:
        """Give caches back at once, where the session itself is still referred to; it cannot be stepped any more."""
        try:
            if self.finish_reason is None and not self._has_failed:
                self._cancel()
        finally:
            for name in ("target_state", "draft_state"):
                self.__dict__.pop(name, None)

    def generation(self) -> Generation:
        """Return the result so far."""
        return Generation(
            text="".join(self._pieces),
            token_ids=tuple(self.tokens[self.num_prompt_tokens :]),
            finish_reason=self.finish_reason or "cancelled",
            num_prompt_tokens=self.num_prompt_tokens,
            prefill_seconds=self.prefill_seconds,
            rounds=tuple(self.rounds),
            stopped_by=self._stopped_by,
        )

    @torch.inference_mode()
    def _prefill(self, prompt: list[int]) -> Chunk:
        decoder = self.decoder
        started = time.perf_counter()
        with stage("drafter", decoder.drafter, "prefill"):
            self.draft_state = decoder.drafter.start()
        with stage("target", decoder.target.model, "prefill"):
            logits = decoder.target.prefill(
                self.target_state, prompt, lambda tokens, features: self._commit_draft(tokens, features, "prefill")
            )
        context_length = len(prompt)
        check_finite(logits.max()[None], context_length)
        choice = decoder.group.share(lambda: self._sampler.choose(logits, context_length - 1, prompt))
        _, text = self._emit(Walk((0,), (choice,)))
        self.prefill_seconds = time.perf_counter() - started
        self._tell_finish()
        return Chunk(text, (choice,), None)

    def _make_room(self, context: RoundContext, said: str) -> None:
        """Free what can be freed, and let this request keep to half the draft nodes from now on."""
        if self.decoder.group.size > 1:
            # the others are in the middle of a pass that they cannot finish without this process: nobody can try again
            raise self._out_of_memory(f"round {len(self.rounds)}", context.context_length, said)
        tried = self._num_tried
        if tried is None:
            tried = max(context.candidate_counts or (_TREE_ROWS - 1,))
        self._largest_count = tried // 2
        self.decoder.target.free_memory()
        logger.warning(
            "round %d: out of memory (%s); tried again, from now on with at most %d draft nodes",
            len(self.rounds),
            said,
            self._largest_count,
        )

    def _out_of_memory(self, where: str, context_length: int, said: str) -> ResourceError:
        tried = "" if self._largest_count is None else f", also with at most {self._largest_count} draft nodes"
        return ResourceError(
            f"{where}: out of memory at context length {context_length}{tried}. "
            f"Lower max_new_tokens, the builder's budget or target.prefill_chunk, or use a smaller dtype. ({said})"
        )

    def _allowed(self, counts: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if self._largest_count is None:
            return counts
        if counts is None:
            return tuple(range(self._largest_count + 1))
        return tuple(count for count in counts if count <= self._largest_count) or (0,)

    def _context(self, candidate_counts: tuple[int, ...] | None) -> RoundContext:
        runner, last = self.decoder.target.runner, self.rounds[-1] if self.rounds else None
        return RoundContext(
            root_token=self.tokens[-1],
            context_length=self.target_state.context_length,
            remaining_tokens=self.max_new_tokens - (len(self.tokens) - self.num_prompt_tokens),
            position_limit=self.decoder.target.position_limit,
            temperature=self.options.temperature,
            cost_model=self.decoder.cost_model,
            stop_tokens=self._stop.stop_tokens,
            candidate_counts=self._allowed(candidate_counts or self.decoder.candidate_counts),
            row_buckets=runner.row_buckets,
            previous_rows=None if last is None else padded_rows(last.num_draft_nodes + 1, runner.row_buckets),
            cost_scale=self.decoder.cost_scale.scale,
            round_index=len(self.rounds),
            tokens_per_second=self.decoder.speed.tokens_per_second,
        )

    def _draft(self, context: RoundContext) -> Marginals | None:
        if context.max_depth == 0 or self._unusable_drafts >= _UNUSABLE_DRAFTS_ALLOWED:
            return None
        request = DraftRequest(context.root_token, context.context_length, context.max_depth, context.temperature)
        marginals = self.decoder.drafter.draft(self.draft_state, request)
        check_draft(marginals)
        return None if marginals is None or marginals.depth == 0 else marginals.clip(context.max_depth)

    def _build(self, marginals: Marginals | None, context: RoundContext) -> tuple[DraftTree, bool]:
        """Return the tree, and whether the draft had to be thrown away."""
        root_only = DraftTree.root_only(context.root_token)
        if marginals is None:
            return root_only, False
        # on a device the ranking says it on the way; elsewhere no builder has to cope with such numbers
        if not marginals.is_ranked_on_device and not marginals.is_usable():
            return root_only, True
        vocabulary_size = self.decoder.target.vocabulary_size
        try:
            tree = self.decoder.tree_builder.build(marginals, context)
            if marginals.is_usable():
                check_tree(tree, context, vocabulary_size)
                return tree, False
        except Exception:
            if marginals.is_usable():
                # who was given candidates that nobody can use is not to blame
                with stage("drafter", self.decoder.drafter, f"round {len(self.rounds)}"):
                    check_marginals(marginals, vocabulary_size)
                raise
        return root_only, True

    def _note_unusable(self) -> None:
        self._unusable_drafts += 1
        provider = provider_of(self.decoder.drafter)
        whose = f"the drafter's output ({provider})" if provider else "the drafter's output"
        logger.warning("round %d: %s is not finite; no draft nodes", len(self.rounds), whose)
        if self._unusable_drafts == _UNUSABLE_DRAFTS_ALLOWED:
            logger.warning("the drafter is switched off for this request after %d such rounds", self._unusable_drafts)

    def _commit(self, context: RoundContext, walk: Walk) -> None:
        where, tokens = f"round {len(self.rounds)}", [context.root_token, *walk.tokens[:-1]]
        features: list[torch.Tensor | None] = []
        said = self._try_commit(walk, tokens, features, where)
        if said is not None:
            self._make_room(context, said)
            said = self._try_commit(walk, tokens, features, where)
        if said is not None:
            raise self._out_of_memory(where, context.context_length, said)

    def _try_commit(
        self, walk: Walk, tokens: Sequence[int], features: list[torch.Tensor | None], where: str
    ) -> str | None:
        """Commit what is not committed yet; where memory runs out return what was said, else None.

        The tokens are out already, so nothing that is done is done again: ``features`` keeps what the target gave.
        """
        try:
            if not features:
                with stage("target", self.decoder.target.model, where):
                    features.append(self.decoder.target.commit(self.target_state, walk.path))
            self._commit_draft(tokens, features[0], where)
        except torch.OutOfMemoryError as error:
            return str(error).strip().partition("\n")[0]
        return None

    def _commit_draft(self, tokens: Sequence[int], features: torch.Tensor | None, where: str) -> None:
        with stage("drafter", self.decoder.drafter, where):
            self.decoder.drafter.commit(self.draft_state, tokens, features)

    def _emit(self, walk: Walk) -> tuple[Walk, str]:
        """Append tokens up to the first stop; return the walk cut there and the text to show."""
        count, reason, self._stopped_by = self._count_until_stop(walk.tokens)
        used, text = self._text.push(walk.tokens[:count])
        if self._text.found_stop:
            count, reason, self._stopped_by = used, "stop", None
        self.tokens.extend(walk.tokens[:count])
        if reason is None and len(self.tokens) - self.num_prompt_tokens >= self.max_new_tokens:
            reason = "length"
        if reason is not None:
            text += self._text.finish()
            # the bytes that were held back may complete a stop string
            self.finish_reason = "stop" if self._text.found_stop else reason
        self._pieces.append(text)
        return walk.cut(count), text

    def _count_until_stop(self, tokens: Sequence[int]) -> tuple[int, str | None, str | None]:
        if self._stop.token_is_last is not None or self._stop.rules:
            # a rule that somebody else wrote may look at a clock
            return self.decoder.group.share(lambda: self._first_stop(tokens))
        return self._first_stop(tokens)

    def _first_stop(self, tokens: Sequence[int]) -> tuple[int, str | None, str | None]:
        """Return how many tokens there are up to the first stop, the reason, and the rule that gave it."""
        for count in range(1, len(tokens) + 1):
            if self._stop.is_asked_for(tokens[:count]):
                return count, "stop", None
            if (rule := self._stop.rule_that_ends(tokens[:count])) is not None:
                return count, "stop", type(rule).__name__
        return len(tokens), None, None

    def _record(
        self,
        context: RoundContext,
        tree: DraftTree,
        walk: Walk,
        seconds: StageSeconds,
        predicted_seconds: float | None,
        is_unusable: bool,
        text: str,
    ) -> Chunk:
        round_ = Round(
            index=len(self.rounds),
            context_length=context.context_length,
            num_draft_nodes=tree.num_drafts,
            tree_depth=tree.depth,
            tokens=walk.tokens,
            path=walk.path,
            expected_acceptance=tree.expected_acceptance,
            seconds=seconds,
            predicted_seconds=predicted_seconds,
            unusable_draft=is_unusable,
        )
        self.rounds.append(round_)
        self.last_tree = tree
        for observer in self.decoder.observers:
            # isinstance of a protocol takes 15 us, a percent of a small model's round
            if hasattr(observer, "on_round"):
                with stage("observer", observer, f"round {round_.index}"):
                    observer.on_round(round_)
        self._tell_finish()
        return Chunk(text, walk.tokens, round_)

    def _tell_finish(self) -> None:
        """Show the finished request to those who want to see it."""
        if self.finish_reason is None:
            return
        for observer in self.decoder.observers:
            if hasattr(observer, "on_finish"):
                with stage("observer", observer, "on_finish"):
                    observer.on_finish(self.generation())

    def _predicted_seconds(self, num_draft_nodes: int, context: RoundContext) -> float | None:
        model = self.decoder.cost_model
        if model is None or not self.decoder.tree_builder.needs_cost_model:
            return None
        num_rows, switch = context.num_rows(num_draft_nodes), 0.0
        if context.previous_rows is not None and num_rows != context.previous_rows:
            switch = float(getattr(model, "switch_seconds", 0.0))
        # a padded round costs what the tree that fills it costs
        after = model.after_choice_seconds(np.array([num_rows - 1], dtype=np.int64), context.context_length)
        return (model.before_choice_seconds(context.context_length) + float(after[0]) + switch) * context.cost_scale

    def _cancel(self) -> Chunk:
        self.finish_reason = "cancelled"
        text = self._text.finish()
        self._pieces.append(text)
        self._tell_finish()
        return Chunk(text, (), None)


@attrs.frozen(eq=False)
class _Verified:
    """A round up to its walk; the clock's readings are seconds."""

    tree: DraftTree
    walk: Walk
    is_unusable: bool
    started: float
    drafted: float
    built: float
    verified: float


@attrs.frozen(eq=False)
class _Stop:
    """Tells whether the last of some new tokens, behind those emitted, ends the text.

    It is no method of the session: a cycle of references would keep a session's buffers from the next one.
    """

    tokens: Sequence[int]
    num_prompt_tokens: int
    stop_tokens: frozenset[int]
    token_is_last: TokenIsLast | None
    rules: tuple[StopRule, ...]

    def __call__(self, new: Sequence[int]) -> bool:
        return self.is_asked_for(new) or self.rule_that_ends(new) is not None

    def is_asked_for(self, new: Sequence[int]) -> bool:
        """Tell whether the target or the caller ends the text here."""
        if new[-1] in self.stop_tokens:
            return True
        return self.token_is_last is not None and self.token_is_last(len(self.tokens), new)

    def rule_that_ends(self, new: Sequence[int]) -> StopRule | None:
        """Return the first observer by whose rule the text ends here."""
        if not self.rules:
            return None
        answer = [*self.tokens[self.num_prompt_tokens :], *new]
        for rule in self.rules:
            with stage("observer", rule, "ends_text"):
                found = rule.ends_text(answer)
                check_ends_text(found)
            if found:
                return rule
        return None
