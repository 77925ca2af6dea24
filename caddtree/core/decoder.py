"""One pipeline of strategies around one target, and what outlives a request; the loop is in ``core/pipeline.py``."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from caddtree.core.errors import CompatibilityError, InputError
from caddtree.core.learned import AcceptanceAlarm, CostScale, LongRunSpeed
from caddtree.core.options import GenerationOptions
from caddtree.core.pipeline import Session, TokenIsLast
from caddtree.core.protocols import CostModel, Drafter, Observer, TreeBuilder, Verifier
from caddtree.core.provider import named
from caddtree.core.records import Chunk, Generation
from caddtree.core.sampler import Processor, Sampler
from caddtree.core.stages import setting_up
from caddtree.core.streamer import Streamer, streaming
from caddtree.core.target import Target
from caddtree.core.text import encode_prompt

logger = logging.getLogger(__name__)

_PROMPT_SHOWN = 60


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
        observers: See rounds and finished requests, or say where a text ends.

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
        for observer in observers:
            if not any(hasattr(observer, name) for name in ("on_round", "on_finish", "ends_text")):
                raise CompatibilityError(f"observer {named(observer)} has none of on_round, on_finish and ends_text")
        self._alarm = AcceptanceAlarm()
        self.observers: list[Observer] = [self.speed, self.cost_scale, self._alarm, *observers]
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
            try:
                put(session.first_chunk.token_ids)
                while session.finish_reason is None:
                    put(session.step().token_ids)
            except BaseException:
                session.close()
                raise
        return session.generation()

    def stream(self, prompt: Any, *, should_stop: Callable[[], bool] | None = None, **options: Any) -> Iterator[Chunk]:
        """Yield the answer as it is made: the chunk of prefill, then one chunk per round."""
        session = self.open(prompt, should_stop=should_stop, **options)
        try:
            yield session.first_chunk
            while session.finish_reason is None:
                yield session.step()
        except BaseException:
            # nobody listens any more: that is an end, too; but at the exit of the interpreter nobody can be told
            if not sys.is_finalizing():
                session.close()
            raise

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

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Decode without the observers that were given, for rounds that are nobody's request, such as warming up."""
        kept, own = self.observers, (self.speed, self.cost_scale, self._alarm)
        self.observers = [observer for observer in kept if any(observer is each for each in own)]
        try:
            yield
        finally:
            self.observers = kept

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
