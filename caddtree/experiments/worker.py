"""Runs blocks: holds the models, decodes every cell of a block, and says what came out.

A worker knows no store and no queue. The engines (``engines/``) carry blocks to it and its messages back.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.errors import CaddtreeError, InputError
from caddtree.core.learned import LongRunSpeed
from caddtree.core.options import GenerationOptions
from caddtree.core.pipeline import Session
from caddtree.core.records import Generation
from caddtree.core.text import encode_prompt
from caddtree.experiments.engines.messages import Began, Loading, Message
from caddtree.experiments.fingerprint import machine_facts
from caddtree.experiments.planning import Block, Job
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.records import (
    Cell,
    Difference,
    Environment,
    Failed,
    LoadedVariant,
    Record,
    Result,
    RoundColumns,
)
from caddtree.experiments.reliability import ReliabilityCount
from caddtree.loading import load, load_model

logger = logging.getLogger(__name__)


class Worker:
    """Models and decoders of one job on one device.

    Args:
        job: What to run.
        device: Device of the target in place of the recipes' own; None keeps theirs.

    Raises:
        CaddtreeError: If the target cannot be loaded; a variant that cannot be loaded fails cell by cell instead.
    """

    def __init__(self, job: Job, *, device: str | None = None) -> None:
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.job = job
        self.environment = uuid.uuid4().hex[:12]
        target = next(iter(job.variants.values())).target
        self._model, self._tokenizer = load_model(target if device is None else attrs.evolve(target, device=device))
        self._decoders: dict[str, Decoder] = {}
        self._speeds: dict[tuple[str, str, str], LongRunSpeed] = {}
        self._unusable: dict[str, str] = {}
        """Why a variant could not be loaded or warmed up."""

    def load(self) -> Iterator[Loading | Record]:
        """Load and warm up every variant; yield the environment, then each variant as it begins and what was loaded."""
        facts = machine_facts()
        facts["device_of_target"] = str(self._model.device)
        facts["dtype"] = str(self._model.dtype).removeprefix("torch.")
        yield Environment(self.environment, facts)
        for name in self.job.variants:
            if name in self.job.unusable:
                self._unusable[name] = f"cannot be loaded: {self.job.unusable[name]}"
                continue
            yield Loading(name)
            try:
                yield self._load(name)
            except Exception as error:
                self._unusable[name] = f"cannot be loaded: {_said(error)}"

    def run(self, block: Block) -> Iterator[Message]:
        """Decode the cells of a block; yield each as it begins and as it ends."""
        tokens: dict[str, list[int]] = {}
        cells = [*block.cells, *block.references]
        if block.references:
            random.Random(json.dumps([cell.id for cell in cells])).shuffle(cells)
        for position, cell in enumerate(cells):
            yield Began(cell)
            fingerprint = self.job.fingerprints[cell.variant]
            if cell.variant in self._unusable:
                yield Failed(cell, fingerprint, self._unusable[cell.variant])
                continue
            try:
                result = self._decode(block, cell, position)
            except Exception as error:
                yield Failed(cell, fingerprint, _said(error))
                continue
            tokens[cell.variant] = result.token_ids
            yield result
        yield from self._differences(block, tokens)

    def _load(self, name: str) -> LoadedVariant:
        started = time.perf_counter()
        recipe = self.job.variants[name]
        decoder = load(recipe, model=self._model, tokenizer=self._tokenizer)
        loaded = time.perf_counter()
        decoder.prepare()
        for request in self.job.requests:
            with decoder.unwatched():
                _warm_up(decoder, request, self.job.prompts, self.job.warm_up_tokens)
        self._decoders[name] = decoder
        profile = getattr(decoder.cost_model, "profile", None)
        return LoadedVariant(
            variant=name,
            fingerprint=self.job.fingerprints[name],
            environment=self.environment,
            recipe=recipe.to_mapping(),
            profile=None if profile is None else profile.to_values(),
            target_bytes=_target_bytes(decoder),
            drafter_bytes=getattr(decoder.drafter, "weight_bytes", None),
            key_value_bytes=_key_value_bytes(decoder),
            load_seconds=loaded - started,
            warm_up_seconds=time.perf_counter() - loaded,
        )

    def _decode(self, block: Block, cell: Cell, position: int) -> Result:
        started, stamp = time.perf_counter(), datetime.datetime.now(datetime.UTC)
        decoder = self._decoders[cell.variant]
        # every data set is met as by a decoder that serves it alone: interleaving must not teach one about another
        speed = self._speeds.setdefault((cell.variant, cell.setting, cell.dataset), LongRunSpeed())
        decoder.follow(speed)
        turns, reliability = _turns(decoder, block)
        rounds = RoundColumns.of(turns[0])
        for turn in turns[1:]:
            rounds = rounds.joined(RoundColumns.of(turn))
        inside = sum(turn.prefill_seconds + turn.decode_seconds for turn in turns)
        return Result(
            cell=cell,
            fingerprint=self.job.fingerprints[cell.variant],
            environment=self.environment,
            position=position,
            started=stamp.isoformat(timespec="milliseconds"),
            finish_reason=turns[-1].finish_reason,
            num_prompt_tokens=turns[-1].num_prompt_tokens,
            token_ids=[token for turn in turns for token in turn.token_ids],
            prefill_seconds=sum(turn.prefill_seconds for turn in turns),
            harness_seconds=time.perf_counter() - started - inside,
            rounds=rounds,
            reliability=reliability.result(),
        )

    def _differences(self, block: Block, tokens: dict[str, list[int]]) -> Iterator[Difference]:
        plain = tokens.get(self.job.plain)
        if plain is None:
            return
        for cell in block.cells:
            mine = tokens.get(cell.variant)
            if mine is not None and mine != plain:
                position = next(
                    (index for index, (a, b) in enumerate(zip(mine, plain, strict=False)) if a != b),
                    min(len(mine), len(plain)),
                )
                try:
                    gap = self._gap(block, plain[:position])
                except Exception as error:
                    # memory, or a model that takes no such call: the difference itself is what counts
                    logger.warning("the gap of a differing output cannot be computed: %s", _said(error))
                    gap = None
                yield Difference(cell, self.job.fingerprints[cell.variant], position, gap)

    @torch.inference_mode()
    def _gap(self, block: Block, common: list[int]) -> float | None:
        """Return how far apart the target's two best logits are behind the common text, in units of the last place."""
        if block.request.temperature > 0 or block.prompt.later_turns:
            return None
        vocabulary_size = self._decoders[self.job.plain].target.vocabulary_size
        prompt = encode_prompt(block.prompt.prompt, self._tokenizer, vocabulary_size)
        tokens = torch.tensor([[*prompt, *common]], device=self._model.device)
        logits = self._model(tokens, use_cache=False, logits_to_keep=1).logits[0, -1]
        best, second = logits.topk(2).values.double().tolist()
        last_place = torch.finfo(self._model.dtype).eps * 2.0 ** math.floor(math.log2(abs(best) or 1.0))
        return float((best - second) / last_place)


def _warm_up(decoder: Decoder, request: GenerationOptions, prompts: Sequence[PromptRecord], num_tokens: int) -> None:
    """Decode a little as it will be decoded: the same lengths asked for, so that buffers and what is captured over them
    are those of the cells, and every size that the runtime pads to and the builder may choose.
    """
    decoder.options = request
    session = _first_usable(decoder, prompts)
    while session.finish_reason is None and len(session.tokens) - session.num_prompt_tokens < num_tokens:
        session.step()
    if decoder.target.runner.row_buckets is not None:
        seen = max((round_.num_draft_nodes for round_ in session.rounds), default=0)
        limit = getattr(decoder.tree_builder, "max_node_budget", seen)
        for count in decoder.candidate_counts or ():
            if session.finish_reason is None and count <= limit:
                session.step(candidate_counts=(count,))
    session.close()


def _first_usable(decoder: Decoder, prompts: Sequence[PromptRecord]) -> Session:
    """Return the session of the first prompt that can be used: one that is too long is no fault of a variant."""
    for prompt in prompts[:-1]:
        try:
            return decoder.open(prompt.prompt)
        except InputError as error:
            logger.info("the prompt %s of %s cannot warm up: %s", prompt.id, prompt.domain, error)
    return decoder.open(prompts[-1].prompt)


def _turns(decoder: Decoder, block: Block) -> tuple[list[Generation], ReliabilityCount]:
    """Ask the prompt, and the later turns of a chat behind the answers to the earlier ones."""
    # as the decoder's own defaults: where the context leaves less room than is asked for, the answer is shorter
    decoder.options = block.request
    reliability, prompt = ReliabilityCount(), block.prompt.prompt
    turns = [_one_turn(decoder, prompt, reliability)]
    for text in block.prompt.later_turns:
        prompt = [*prompt, {"role": "assistant", "content": turns[-1].text}, {"role": "user", "content": text}]
        turns.append(_one_turn(decoder, prompt, reliability))
    return turns, reliability


def _one_turn(decoder: Decoder, prompt: Any, reliability: ReliabilityCount) -> Generation:
    session = decoder.open(prompt)
    while session.finish_reason is None:
        session.step()
        # the path of the last round may have been cut short: what lies behind the cut is unknown
        if session.finish_reason is None and session.last_tree is not None:
            reliability.add(session.last_tree, session.rounds[-1].path)
    return session.generation()


def _said(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said if isinstance(error, CaddtreeError) else f"{type(error).__name__}: {said}"


def _target_bytes(decoder: Decoder) -> int | None:
    """Return the bytes of weights that one forward reads: all, but of an embedding table only a few rows."""
    model = decoder.target.model
    config = model.config.get_text_config(decoder=True)
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None  # a mixture of experts reads a part that depends on the tokens
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is not None and head.weight is table.weight
    skipped = () if is_tied else (id(table.weight),)
    return int(sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in skipped))


def _key_value_bytes(decoder: Decoder) -> int | None:
    """Return the bytes of one cached position; None where layers do not keep, or read, all of them."""
    config = decoder.target.model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        return None
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * decoder.target.dtype.itemsize)
