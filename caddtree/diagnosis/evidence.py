"""What the checks look at: a decoder, texts that it decoded, and its drafter's checkpoint, read anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.errors import GroupError, InputError
from caddtree.core.pipeline import Session
from caddtree.core.records import Generation
from caddtree.core.text import encode_prompt
from caddtree.diagnosis.kept_profile import KeptProfile, kept_profile
from caddtree.drafters import dflash_checkpoint
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork

NUM_TOKENS = 64
"""Tokens decoded per prompt at most."""
_FIXED_COUNT = 31
"""Draft nodes of a round where nothing says what a round costs: where cost curves are still flat."""


@attrs.frozen
class Text:
    """One prompt and the target's own greedy continuation."""

    tokens: tuple[int, ...]
    num_prompt: int


@attrs.frozen(eq=False)
class DraftModel:
    """A DFlash checkpoint as its files say it, apart from the drafter that runs it."""

    folder: Path
    raw: dict[str, Any]
    """``config.json`` as it stands."""
    config: DFlashConfig
    network: DFlashNetwork


@attrs.frozen(eq=False)
class Evidence:
    """Gathered once, looked at by every check."""

    decoder: Decoder
    generations: tuple[Generation, ...]
    texts: tuple[Text, ...]
    draft_model: DraftModel | None
    """None where the drafter is no DFlash."""
    kept: KeptProfile | None
    """None where no profile is asked for."""
    fixed_count: int | None
    """Draft nodes of every round, where no usable profile could choose; None where the builder chose."""
    failure: Exception | None
    """Why decoding ended early."""

    @property
    def drafter_name(self) -> str:
        """The class of the drafter."""
        return type(self.decoder.drafter).__name__

    def decoded(self) -> tuple[Text, ...]:
        """Return the texts.

        Raises:
            Exception: What decoding raised, where it did not get to its end.
        """
        if self.failure is not None:
            raise self.failure
        return self.texts


def gather(decoder: Decoder, prompts: Sequence[Any], on_prompt: Callable[[], object] = lambda: None) -> Evidence:
    """Decode the prompts greedily and read the drafter's checkpoint.

    A profile that is missing is not measured, because that takes a minute: trees then have a fixed size.

    Args:
        decoder: The pipeline.
        prompts: What :meth:`Decoder.generate` takes.
        on_prompt: Called after each.

    Raises:
        InputError: If a prompt cannot be used.
    """
    kept = decoder.group.share(lambda: kept_profile(decoder))
    fixed = _fixed_count(decoder) if kept is not None and kept.problem else None
    generations: list[Generation] = []
    texts: list[Text] = []
    failure: Exception | None = None
    for prompt in prompts:
        try:
            session = _decode(decoder, prompt, fixed)
        except (InputError, GroupError):
            raise
        except Exception as error:
            failure = error
            break
        generations.append(session.generation())
        texts.append(Text(tuple(session.tokens), session.num_prompt_tokens))
        session.close()
        on_prompt()
    return Evidence(decoder, tuple(generations), tuple(texts), _draft_model(decoder), kept, fixed, failure)


def _decode(decoder: Decoder, prompt: Any, fixed: int | None) -> Session:
    tokens = encode_prompt(prompt, decoder.tokenizer, decoder.target.vocabulary_size)
    room = max(1, decoder.target.position_limit - len(tokens))
    wanted = min(room, NUM_TOKENS, decoder.options.max_new_tokens or NUM_TOKENS)
    options: dict[str, Any] = {"max_new_tokens": wanted, "temperature": 0.0, "ignore_eos": decoder.options.ignore_eos}
    if fixed is None:
        session = decoder.open(tokens, **options)
        while session.finish_reason is None:
            session.step()
        return session
    # as the profiler does it: no cost model is waited for
    with decoder.measuring():
        session = decoder.open(tokens, **options)
        while session.finish_reason is None:
            session.step(candidate_counts=(fixed,))
    return session


def _fixed_count(decoder: Decoder) -> int:
    counts = decoder.candidate_counts or (_FIXED_COUNT,)
    return max((count for count in counts if count <= _FIXED_COUNT), default=min(counts))


def _draft_model(decoder: Decoder) -> DraftModel | None:
    drafter, target = decoder.drafter, decoder.target
    if not isinstance(drafter, DFlash):
        return None
    folder = dflash_checkpoint.locate(drafter.model)
    config = dflash_checkpoint.read_config(folder)
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = target.dtype if drafter.dtype == "auto" else getattr(torch, drafter.dtype)
    return DraftModel(folder, raw, config, dflash_checkpoint.load_network(folder, config, dtype, target.device))
