"""Transformers' own entry for custom decoding: ``model.generate(..., custom_generate=decoder.custom_generate)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from caddtree.core.errors import InputError
from caddtree.core.sampler import Sampler

if TYPE_CHECKING:
    from caddtree.core.pipeline import Decoder

_REFUSED = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "guidance_scale": 1.0,
    "token_healing": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "watermarking_config": None,
}
_STATEFUL = ("SynthIDTextWatermarkLogitsProcessor", "UnbatchedClassifierFreeGuidanceLogitsProcessor")


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
    logits_processor: Sequence[Any] = (),
    stopping_criteria: Any = None,
    generation_config: Any = None,
    streamer: Any = None,
    attention_mask: Tensor | None = None,
    **_model_kwargs: Any,
) -> Any:
    """Decode one sequence the way ``generate`` asked for.

    Returns:
        ``(1, prompt + new)`` int64, or ``GenerateDecoderOnlyOutput`` under ``return_dict_in_generate``.

    Raises:
        InputError: For more than one sequence, padding, or a generation mode that is not plain decoding.
    """
    if model is not decoder.target.model:
        raise InputError("custom_generate must be called on the decoder's own target model")
    if input_ids.shape[0] != 1:
        raise InputError(f"one sequence at a time, found {input_ids.shape[0]} (beams or several return sequences?)")
    if attention_mask is not None and not bool(attention_mask.all()):
        raise InputError("padded input is not supported; pass one unpadded sequence")
    _refuse_other_modes(generation_config)
    _refuse_stateful(logits_processor)

    does_sample = bool(generation_config.do_sample)
    kind = TorchSampler if does_sample else Sampler
    sampler = kind(processors=tuple(logits_processor))
    prompt = input_ids[0].tolist()
    limit = generation_config.max_length or decoder.target.position_limit
    session = decoder.open_with(
        prompt,
        sampler,
        max_new_tokens=max(1, limit - len(prompt)),
        token_is_last=_StopCheck(stopping_criteria, input_ids, limit) if stopping_criteria else None,
    )
    try:
        _put(streamer, session.first_chunk.token_ids)
        while session.finish_reason is None:
            _put(streamer, session.step().token_ids)
    finally:
        # whoever iterates over a streamer waits for its end, after an error too
        if streamer is not None:
            streamer.end()
    tokens = torch.tensor([session.tokens], dtype=input_ids.dtype, device=input_ids.device)
    if generation_config.return_dict_in_generate:
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=tokens)
    return tokens


def _refuse_other_modes(config: Any) -> None:
    for name, plain in _REFUSED.items():
        value = getattr(config, name, None)
        if value is not None and value != plain:
            raise InputError(f"{name}={value!r} is not supported by custom_generate; leave it at {plain!r}")


def _refuse_stateful(processors: Sequence[Any]) -> None:
    for processor in processors:
        name = type(processor).__name__
        if name in _STATEFUL:
            raise InputError(
                f"the logits processor {name} is not supported by custom_generate: it remembers its calls, and a tree "
                f"asks in another order"
            )


class _StopCheck:
    """Asks stopping criteria after every token of a path: they look at the last token only."""

    def __init__(self, criteria: Any, prompt: Tensor, limit: int) -> None:
        self._criteria = criteria
        # one buffer that grows with the text: a new tensor of all tokens per token would cost their square
        self._ids = prompt.new_zeros((1, limit))
        self._ids[:, : prompt.shape[1]] = prompt

    def __call__(self, num_before: int, new: Sequence[int]) -> bool:
        end = num_before + len(new)
        self._ids[0, num_before:end] = torch.tensor(new)
        return bool(self._criteria(self._ids[:, :end], None).all())


def _put(streamer: Any, token_ids: Sequence[int]) -> None:
    if streamer is not None:
        for token in token_ids:
            streamer.put(torch.tensor([token]))
