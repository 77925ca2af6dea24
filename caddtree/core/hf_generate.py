"""Transformers' own entry for custom decoding: ``model.generate(..., custom_generate=decoder.custom_generate)``.

``generate`` has prepared everything: logits processors and stopping criteria come as its own loop would ask them. They
are asked at the nodes of the accepted path alone, once per emitted token and in order, each time with the text up to
that node; so those that remember their calls are served too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from caddtree.core.errors import InputError
from caddtree.core.hf_checks import check_call, withheld_by_generate
from caddtree.core.sampler import Processor, Sampler
from caddtree.core.stages import stage
from caddtree.core.streamer import Streamer, streaming

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder


@attrs.frozen(eq=False)
class TorchSampler(Sampler):
    """Draws as ``model.generate`` does: one ``torch.multinomial`` per emitted token, in order, and none elsewhere.

    With the same ``torch.manual_seed`` the text is that of plain ``generate``.
    """

    def choose(self, logits: Tensor, position: int, prefix: Sequence[int] = ()) -> int:
        """Return the next token; asked only for nodes on the accepted path, root first."""
        probabilities = self.scores(logits, prefix).softmax(dim=-1)
        return int(torch.multinomial(probabilities, num_samples=1))  # host sync: one token id

    @property
    def is_argmax(self) -> bool:
        """Never: the draws must happen one by one."""
        return False

    @property
    def is_keyed(self) -> bool:
        """Never: the draws are torch's own."""
        return False


def custom_generate(
    decoder: Decoder,
    model: Any,
    input_ids: Tensor,
    *,
    generation_config: Any,
    logits_processor: Sequence[Processor] = (),
    stopping_criteria: Any = None,
    streamer: Streamer | None = None,
    stop_strings: str | Sequence[str] | None = None,
    **model_kwargs: Any,
) -> Any:
    """Decode one sequence the way ``generate`` asked for.

    Args:
        decoder: Its target is ``model``.
        model: The model whose ``generate`` was called.
        input_ids: ``(1, length)`` int64.
        generation_config: Complete, as ``generate`` made it.
        logits_processor: All of them, in order.
        stopping_criteria: A ``StoppingCriteriaList``.
        streamer: Another than the one that ``generate`` was given; gets the prompt first, as there.
        stop_strings: End the text with the token that completes one of them; need the decoder's tokenizer.
        **model_kwargs: What ``generate`` made for forwards of its own.

    Returns:
        ``(1, prompt + new)`` int64, or ``GenerateDecoderOnlyOutput`` under ``return_dict_in_generate``.

    Raises:
        InputError: For whatever cannot be honoured, by its name.
        StageError: If a processor, a criterion or a strategy raises.
    """
    withheld = withheld_by_generate(model)
    own_streamer = withheld.get("streamer")
    # from here on, so that a streamer hears of its end after a refusal too
    with streaming(own_streamer if streamer is None else streamer) as put:
        check_call(
            decoder.target.model,
            model,
            input_ids,
            generation_config=generation_config,
            logits_processor=logits_processor,
            withheld=withheld,
            model_kwargs=model_kwargs,
        )
        if streamer is not None and streamer is not own_streamer:
            streamer.put(input_ids.cpu())
        kept = _KeptRows.asked_for(generation_config)
        criteria = _with_stop_strings(stopping_criteria, stop_strings, decoder.tokenizer)
        limit = generation_config.max_length
        kind = TorchSampler if generation_config.do_sample else Sampler
        session = decoder.open_with(
            input_ids[0].tolist(),  # host sync: the prompt
            kind(processors=kept.around(logits_processor)),
            max_new_tokens=limit - input_ids.shape[1],
            token_is_last=_StopCheck(criteria, input_ids, kept.scores) if criteria else None,
        )
        put(session.first_chunk.token_ids)
        while session.finish_reason is None:
            put(session.step().token_ids)
    new = torch.tensor([session.tokens[session.num_prompt_tokens :]], device=input_ids.device)
    return _answer(torch.cat([input_ids, new], dim=1), kept, generation_config)


def _with_stop_strings(criteria: Any, stop_strings: str | Sequence[str] | None, tokenizer: Any) -> Any:
    if stop_strings is None:
        return criteria
    if tokenizer is None:
        raise InputError(
            f"stop_strings={stop_strings!r} need a tokenizer, but this decoder has none; give it one, or pass "
            f"stopping_criteria=[StopStringCriteria(tokenizer, stop_strings)]"
        )
    from transformers import StoppingCriteriaList, StopStringCriteria

    return StoppingCriteriaList([*(criteria or ()), StopStringCriteria(tokenizer, stop_strings)])


@attrs.frozen(eq=False)
class _Named:
    """A logits processor whose errors carry its own name, not that of the strategy that happens to ask it."""

    processor: Processor

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        with stage("logits processor", self.processor, f"a text of {tokens.shape[1]} tokens"):
            return self.processor(tokens, scores)


@attrs.frozen(eq=False)
class _Keep:
    """A logits processor that changes nothing and keeps every row it is given."""

    rows: dict[int, Tensor] = attrs.field(factory=dict)
    """Number of tokens before -> ``(1, vocabulary)`` float32."""

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        # a copy: other processors may write into what they are given, and captured forwards overwrite their outputs
        self.rows[tokens.shape[1]] = scores.clone()
        return scores


@attrs.frozen(eq=False)
class _KeptRows:
    """What ``output_logits`` and ``output_scores`` ask for: the rows before and behind all other processors."""

    logits: _Keep | None
    scores: _Keep | None

    @classmethod
    def asked_for(cls, config: Any) -> _KeptRows:
        is_dict = bool(config.return_dict_in_generate)
        return cls(
            logits=_Keep() if is_dict and config.output_logits else None,
            scores=_Keep() if is_dict and config.output_scores else None,
        )

    def around(self, processors: Sequence[Processor]) -> tuple[Processor, ...]:
        before = () if self.logits is None else (self.logits,)
        behind = () if self.scores is None else (self.scores,)
        return (*before, *map(_Named, processors), *behind)


class _StopCheck:
    """Asks stopping criteria once after every token: they look at the last one only, and may count their calls."""

    def __init__(self, criteria: Any, prompt: Tensor, scores: _Keep | None) -> None:
        self._criteria, self._scores, self._num_prompt = criteria, scores, prompt.shape[1]
        # a buffer with room: a new tensor of all tokens per token would cost their square
        self._ids = prompt
        self._asked: list[int] = []
        self._is_last = False

    def __call__(self, num_before: int, new: Sequence[int]) -> bool:
        """Return what the criteria say, also where a path that was asked about in the walk is emitted."""
        end = num_before + len(new)
        count = end - self._num_prompt
        if count <= len(self._asked) and self._asked[count - 1] == new[-1]:
            return self._is_last and count == len(self._asked)
        # cut as well: a round that is run again may go another way
        self._asked[count - 1 :] = [new[-1]]
        if end > self._ids.shape[1]:
            self._ids = torch.cat([self._ids, torch.zeros_like(self._ids)], dim=1)
        self._ids[0, end - 1] = new[-1]
        scores = None if self._scores is None else tuple(self._scores.rows.values())
        with stage("stopping criteria", self._criteria, f"a text of {end} tokens"):
            self._is_last = bool(self._criteria(self._ids[:, :end], scores).all())  # host sync: one flag
        return self._is_last


def _answer(sequences: Tensor, kept: _KeptRows, config: Any) -> Any:
    if not config.return_dict_in_generate:
        return sequences
    from transformers.generation import GenerateDecoderOnlyOutput

    def rows(keep: _Keep | None) -> tuple[Tensor, ...] | None:
        if keep is None:
            return None
        # copies again: these were made in inference mode, and the caller may write into them
        return tuple(row.to(sequences.device, copy=True) for row in keep.rows.values())

    return GenerateDecoderOnlyOutput(sequences=sequences, scores=rows(kept.scores), logits=rows(kept.logits))
