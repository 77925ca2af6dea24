"""The one decoding loop: prefill, then per round draft, build, verify, commit.

Start reading at :meth:`Session.step`, which is one round: an attempt, then what stays of it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
import numpy as np
import torch

from caddtree.core.acceptance import AcceptanceRule, MatchChoice, Walk, check_finite
from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError, InputError, ResourceError
from caddtree.core.learned import AcceptanceAlarm, CostScale, LongRunSpeed
from caddtree.core.marginals import Marginals
from caddtree.core.options import GenerationOptions
from caddtree.core.protocols import CostModel, Drafter, DraftRequest, DraftState, TreeBuilder, Verifier
from caddtree.core.provider import named, provider_of
from caddtree.core.records import Chunk, Generation, Round, StageSeconds
from caddtree.core.returned import check_draft, check_marginals, check_tree, check_walk
from caddtree.core.sampler import Processor, Sampler
from caddtree.core.stages import setting_up, stage
from caddtree.core.streamer import Streamer, streaming
from caddtree.core.target import Target, TargetState
from caddtree.core.text import TextStream, encode_prompt
from caddtree.core.tree_packet import padded_rows

logger = logging.getLogger(__name__)

_UNUSABLE_DRAFTS_ALLOWED = 8
_INITIAL_NEW_ROWS = 1024
_TREE_ROWS = 257
"""Room behind the text for the tree of a round, so that the cache does not grow because of the last ones."""
_PROMPT_SHOWN = 60


TokenIsLast = Callable[[int, Sequence[int]], bool]
"""Tokens of the sequence so far and the tokens after them -> whether the last one ends the text."""


class Observer(Protocol):
    """Sees every round after it happened."""

    def on_round(self, round_: Round) -> None:
        """Take note of a round; an exception here ends the request."""


class Decoder:
    """One pipeline of strategies around one target; sequences live in :class:`Session`.

    Args:
        target: A raw Hugging Face causal LM, or a :class:`Target`.
        tokenizer: Its tokenizer; None if prompts are token ids.
        drafter: Proposes marginals.
        tree_builder: Chooses a tree from them.
        verifier: Runs the target over the tree.
        cost_model: Seconds of a round; needed by builders that ask for it.
        options: Defaults of a request.
        observers: Called after every round.

    Raises:
        CompatibilityError: If two parts cannot work together.
    """

    def __init__(
        self,
        *,
        target: Any,
        drafter: Drafter,
        tree_builder: TreeBuilder,
        verifier: Verifier,
        tokenizer: Any = None,
        cost_model: CostModel | None = None,
        options: GenerationOptions | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.target = target if isinstance(target, Target) else Target(target)
        self.group = self.target.group
        self.tokenizer = tokenizer
        self.drafter, self.tree_builder, self.verifier = drafter, tree_builder, verifier
        self.cost_model = cost_model
        self.options = options or GenerationOptions()
        self.speed, self.cost_scale = LongRunSpeed(), CostScale()
        self.observers: list[Observer] = [self.speed, self.cost_scale, AcceptanceAlarm(), *observers]
        with setting_up("tree_builder", tree_builder):
            needs_cost_model = tree_builder.needs_cost_model
        if needs_cost_model and cost_model is None:
            raise CompatibilityError(f"tree_builder {named(tree_builder)} needs a cost_model, found none")
        with setting_up("drafter", drafter):
            self.target.tap(drafter.required_layers)
            drafter.bind(self.target)
        with setting_up("verifier", verifier):
            verifier.bind(self.target)
        # where forwards are padded every budget fills its rows; elsewhere a fixed one meets one size and may have any,
        # and one that is chosen anew every round keeps to those that pay
        is_padded = self.target.runner.row_buckets is not None
        self.candidate_counts = self.target.candidate_counts if is_padded or needs_cost_model else None
        self.eos_token_ids = _eos_token_ids(self.target.model, tokenizer)
        self._is_prepared = not needs_cost_model

    def generate(
        self,
        prompt: Any,
        *,
        streamer: Streamer | None = None,
        should_stop: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Generation:
        """Return the target's own continuation of ``prompt``.

        Args:
            prompt: Text, token ids, or chat messages.
            streamer: Gets the prompt's token ids and then every new one, as Transformers' ``TextStreamer`` takes them;
                the token that completes a stop string too.
            should_stop: Asked before every round; true ends the request as ``cancelled``.
            **options: Fields of :class:`GenerationOptions` that differ from the decoder's own.

        Raises:
            InputError: If the prompt or an option cannot be used.
            NumericalError: If the target's logits are not finite.
            StageError: If a strategy raises.
        """
        with streaming(streamer) as put:
            session = self.open(prompt, should_stop=should_stop, **options)
            if streamer is not None:
                streamer.put(torch.tensor([session.tokens[: session.num_prompt_tokens]]))
            put(session.first_chunk.token_ids)
            while session.finish_reason is None:
                put(session.step().token_ids)
        return session.generation()

    def stream(self, prompt: Any, *, should_stop: Callable[[], bool] | None = None, **options: Any) -> Iterator[Chunk]:
        """Yield the answer as it is made: the chunk of prefill, then one chunk per round."""
        session = self.open(prompt, should_stop=should_stop, **options)
        yield session.first_chunk
        while session.finish_reason is None:
            yield session.step()

    def open(
        self,
        prompt: Any,
        *,
        should_stop: Callable[[], bool] | None = None,
        processors: Sequence[Processor] = (),
        **options: Any,
    ) -> Session:
        """Check the request, run prefill and return the session, to be stepped until it finishes."""
        self.group.meet(
            "a request", lambda: _request_facts(prompt, {**options, "should_stop": should_stop is not None})
        )
        unknown = set(options) - {field.name for field in attrs.fields(GenerationOptions)}
        if unknown:
            known = ", ".join(field.name for field in attrs.fields(GenerationOptions))
            raise InputError(f"unknown option {sorted(unknown)[0]!r}; known are {known}")
        request = attrs.evolve(self.options, **options)
        if request.stop and self.tokenizer is None:
            raise InputError(f"stop strings {list(request.stop)} need a tokenizer, but this decoder has none")
        tokens = encode_prompt(prompt, self.tokenizer, self.target.vocabulary_size)
        num_new = self._new_tokens_allowed(len(tokens), request, explicit="max_new_tokens" in options)
        self.prepare()
        sampler = attrs.evolve(Sampler.from_options(request), processors=tuple(processors))
        return Session(self, tokens, request, sampler, num_new, should_stop=should_stop)

    def open_with(
        self,
        tokens: list[int],
        sampler: Sampler,
        *,
        max_new_tokens: int,
        token_is_last: TokenIsLast | None = None,
    ) -> Session:
        """Return a session with a sampler and a stop rule of the caller's own, as other frameworks bring them."""
        self.group.meet("a request", lambda: _request_facts(tokens, {"max_new_tokens": max_new_tokens}))
        request = GenerationOptions(ignore_eos=token_is_last is not None)
        tokens = encode_prompt(tokens, None, self.target.vocabulary_size)
        num_new = self._new_tokens_allowed(
            len(tokens), attrs.evolve(request, max_new_tokens=max_new_tokens), explicit=True
        )
        self.prepare()
        return Session(self, tokens, request, sampler, num_new, token_is_last=token_is_last)

    def prepare(self) -> None:
        """Get the cost model ready; the first call may measure this machine."""
        if not self._is_prepared and self.cost_model is not None:
            # set first: measuring drives this very decoder
            self._is_prepared = True
            try:
                with self.group.together("preparing the cost model"), setting_up("cost_model", self.cost_model):
                    self.cost_model.prepare(self)
            except BaseException:
                self._is_prepared = False
                raise

    def follow(self, speed: LongRunSpeed) -> None:
        """Learn into, and price time by, another long-run speed from now on: that of another stream of requests."""
        self.observers = [speed if observer is self.speed else observer for observer in self.observers]
        self.speed = speed

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Run greedy rounds that wait for no cost model, stop for nothing and teach nothing, as the profiler needs."""
        kept = self.observers, self._is_prepared, self.options
        self.observers, self._is_prepared, self.options = [], True, GenerationOptions(ignore_eos=True)
        try:
            yield
        finally:
            self.observers, self._is_prepared, self.options = kept

    def custom_generate(self, model: Any, input_ids: Any, *, stop_strings: Any = None, **arguments: Any) -> Any:
        """Serve ``model.generate(..., custom_generate=decoder.custom_generate)``; see ``core/hf_generate.py``."""
        from caddtree.core.hf_generate import custom_generate

        # named here, because generate hands over what the signature names
        return custom_generate(self, model, input_ids, stop_strings=stop_strings, **arguments)

    def _new_tokens_allowed(self, num_prompt: int, request: GenerationOptions, *, explicit: bool) -> int:
        limit = self.target.position_limit
        if num_prompt >= limit:
            raise InputError(
                f"the prompt has {num_prompt} tokens, but the context is {limit}; "
                f"at most {limit - 1} leave room for an answer"
            )
        wanted = request.max_new_tokens
        if wanted is None:
            return limit - num_prompt
        if explicit and num_prompt + wanted > limit:
            raise InputError(
                f"the prompt's {num_prompt} tokens and max_new_tokens {wanted} make {num_prompt + wanted}, "
                f"but the context is {limit}; ask for at most {limit - num_prompt}"
            )
        if num_prompt + wanted > limit:
            logger.info("the context of %d leaves room for %d new tokens, not %d", limit, limit - num_prompt, wanted)
        return min(wanted, limit - num_prompt)


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
        self.last_tree: DraftTree | None = None
        """The tree of the last round, for those who want to look at it."""
        self._sampler = sampler
        stop_tokens = frozenset() if options.ignore_eos else decoder.eos_token_ids
        self._stop = _StopRule(self.tokens, stop_tokens, token_is_last)
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
        group, where = self.decoder.group, f"round {len(self.rounds)}"
        with group.together(where):
            if self._should_stop is not None and group.share(self._should_stop):
                return self._end("cancelled")
            context = self._context(candidate_counts)
            round_ = self._attempt(context)
            if isinstance(round_, str):
                self._make_room(context, round_)
                round_ = self._attempt(attrs.evolve(context, candidate_counts=self._allowed(context.candidate_counts)))
            if isinstance(round_, str):
                raise self._out_of_memory(where, context.context_length, round_)
            return self._finish(context, round_)

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
        if self.finish_reason is None:
            self._end("cancelled")
        del self.target_state, self.draft_state

    def generation(self) -> Generation:
        """Return the result so far."""
        return Generation(
            text="".join(self._pieces),
            token_ids=tuple(self.tokens[self.num_prompt_tokens :]),
            finish_reason=self.finish_reason or "cancelled",
            num_prompt_tokens=self.num_prompt_tokens,
            prefill_seconds=self.prefill_seconds,
            rounds=tuple(self.rounds),
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
        count, reason = self._count_until_stop(walk.tokens)
        used, text = self._text.push(walk.tokens[:count])
        if self._text.found_stop:
            count, reason = used, "stop"
        self.tokens.extend(walk.tokens[:count])
        if reason is None and len(self.tokens) - self.num_prompt_tokens >= self.max_new_tokens:
            reason = "length"
        if reason is not None:
            text += self._text.finish()
            # the bytes that were held back may complete a stop string
            self.finish_reason = "stop" if self._text.found_stop else reason
        self._pieces.append(text)
        return walk.cut(count), text

    def _count_until_stop(self, tokens: Sequence[int]) -> tuple[int, str | None]:
        if self._stop.token_is_last is not None:
            # a rule of the caller's own may look at a clock
            return self.decoder.group.share(lambda: self._first_stop(tokens))
        return self._first_stop(tokens)

    def _first_stop(self, tokens: Sequence[int]) -> tuple[int, str | None]:
        for count in range(1, len(tokens) + 1):
            if self._stop(tokens[:count]):
                return count, "stop"
        return len(tokens), None

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
            with stage("observer", observer, f"round {round_.index}"):
                observer.on_round(round_)
        return Chunk(text, walk.tokens, round_)

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

    def _end(self, reason: str) -> Chunk:
        self.finish_reason = reason
        text = self._text.finish()
        self._pieces.append(text)
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
class _StopRule:
    """Tells whether the last of some new tokens, behind those emitted, ends the text.

    It is no method of the session: a cycle of references would keep a session's buffers from the next one.
    """

    tokens: Sequence[int]
    stop_tokens: frozenset[int]
    token_is_last: TokenIsLast | None

    def __call__(self, new: Sequence[int]) -> bool:
        if new[-1] in self.stop_tokens:
            return True
        return self.token_is_last is not None and self.token_is_last(len(self.tokens), new)


def _request_facts(prompt: Any, options: dict[str, Any]) -> dict[str, str]:
    """Return what must be the same in all processes that decode a request together."""
    text = repr(prompt.tolist() if isinstance(prompt, torch.Tensor) else prompt)
    shown = text if len(text) <= _PROMPT_SHOWN else f"{text[:_PROMPT_SHOWN]}... ({len(text)} characters)"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"prompt": f"{shown} ({digest})", **{name: repr(value) for name, value in options.items()}}


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if configured is None:
        configured = getattr(model.config, "eos_token_id", None)
    if configured is None and tokenizer is not None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return frozenset()
    return frozenset(configured if isinstance(configured, list | tuple) else [configured])
