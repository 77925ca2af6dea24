"""What of a call of Transformers' ``generate`` is honoured, has no say, or is refused by name.

A field of ``GenerationConfig`` that stands nowhere here, of a Transformers newer than this module, is refused when it
is set.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from caddtree.core.errors import InputError

HONOURED = frozenset({
    # how long
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time", "eos_token_id", "stop_strings",
    # which token: generate makes logits processors of these
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id",
    "forced_eos_token_id", "exponential_decay_length_penalty", "renormalize_logits", "watermarking_config",
    # what comes back
    "return_dict_in_generate", "output_scores", "output_logits",
})  # fmt: skip
"""Fields with which the result is that of plain ``generate``."""

NEUTRAL = frozenset({
    # parts of methods that are refused themselves
    "early_stopping", "length_penalty", "diversity_penalty", "low_memory", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "max_matching_ngram_size",
    # how Transformers' own loop runs
    "use_cache", "cache_config", "max_cache_len", "prefill_chunk_size", "compile_config", "disable_compile",
    "continuous_batching_config",
    # for batches, for prompts of no tokens, for encoders, for the reader of a file
    "pad_token_id", "bos_token_id", "decoder_start_token_id", "transformers_version",
})  # fmt: skip
"""Fields that have no say in the tokens of one sequence, there or here."""

_SEVERAL = "one sequence is decoded at a time"
_OTHER_METHOD = "it asks for another way of decoding, and the decoder has its drafter"
_ROWS = "the rows of a draft tree are not those of the text"
_SECOND_PASS = "it runs the model once more for every token, which no draft tree saves"

REFUSED = {
    "num_beams": _SEVERAL,
    "num_beam_groups": _SEVERAL,
    "num_return_sequences": _SEVERAL,
    "constraints": _SEVERAL,
    "force_words_ids": _SEVERAL,
    "penalty_alpha": _OTHER_METHOD,
    "dola_layers": _OTHER_METHOD,
    "use_mtp": _OTHER_METHOD,
    "prompt_lookup_num_tokens": _OTHER_METHOD,
    "speculation_type": _OTHER_METHOD,
    "assistant_early_exit": _OTHER_METHOD,
    "assistant_ensemble_weight": _OTHER_METHOD,
    "is_assistant": "a decoder is nobody's assistant",
    "guidance_scale": _SECOND_PASS,
    "output_attentions": _ROWS,
    "output_hidden_states": _ROWS,
    "cache_implementation": "a decoder keeps a cache of its own",
    "token_healing": "it rewrites the prompt with a tokenizer that generate keeps to itself",
    "remove_invalid_values": "logits that are not finite end the request with an error",
}
"""Fields that must keep their defaults, and why."""

_ALSO_OFF = {"guidance_scale": 1.0, "cache_implementation": "dynamic"}
"""Values that ask for nothing and are not the default."""
_EXPECTED = ("attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep")
"""What ``generate`` adds by itself for the forwards of its own loop."""
_WITHHELD = ("streamer", "assistant_model", "synced_gpus")
_SECOND_PASS_PROCESSOR = "UnbatchedClassifierFreeGuidanceLogitsProcessor"


def withheld_by_generate(model: Any) -> Mapping[str, Any]:
    """Return the arguments that ``model.generate`` hands to loops of its own, but not to a callable.

    It says nothing of it: a streamer would get the prompt and never an end, for which its reader waits, and an
    assistant would be forgotten. They stand in the frame of ``generate`` and nowhere else.
    """
    frame = inspect.currentframe()
    while frame is not None:
        is_generate = frame.f_code.co_name == "generate" and frame.f_globals.get("__name__") == _GENERATE_MODULE
        if is_generate and frame.f_locals.get("self") is model:
            return {name: frame.f_locals.get(name) for name in _WITHHELD}
        frame = frame.f_back
    return {}


_GENERATE_MODULE = "transformers.generation.utils"


def check_call(
    target_model: Any,
    model: Any,
    input_ids: Tensor,
    *,
    generation_config: Any,
    logits_processor: Sequence[Any],
    withheld: Mapping[str, Any],
    model_kwargs: Mapping[str, Any],
) -> None:
    """Refuse a call that asks for what a draft tree cannot give.

    Raises:
        InputError: Naming the argument or the field, and what to do.
    """
    if model is not _inner(target_model):
        raise InputError("custom_generate must be called on the decoder's own target model")
    # adapters are made in training mode, also inside a model that is not
    if any(module.training for module in model.modules()):
        raise InputError("the model is in training mode, where forwards may differ by chance; call model.eval() first")
    _check_config(generation_config)
    for processor in logits_processor:
        if type(processor).__name__ == _SECOND_PASS_PROCESSOR:
            raise _refusal(f"the logits processor {_SECOND_PASS_PROCESSOR}", f"{_SECOND_PASS}. Leave it out.")
    if withheld.get("assistant_model") is not None:
        raise _refusal("assistant_model", "the decoder has its drafter. Leave out one of the two.")
    if withheld.get("synced_gpus"):
        raise _refusal("synced_gpus", "no other process waits for these forwards. Leave it out.")
    _check_model_kwargs(model_kwargs)
    _check_rows(input_ids, model_kwargs)


def _inner(model: Any) -> Any:
    """Return the model whose ``generate`` runs: the wrappers of torch.compile and PEFT pass the call on to it."""
    model = getattr(model, "_orig_mod", model)
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def _check_config(config: Any) -> None:
    from transformers import GenerationConfig

    # entries of a config that are no fields mean nothing to plain generate either
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    defaults = GenerationConfig._get_default_generation_params()
    for name in sorted(fields - HONOURED - NEUTRAL):
        value, default = getattr(config, name, None), defaults.get(name)
        if value is not None and value is not False and value not in (default, _ALSO_OFF.get(name)):
            reason = REFUSED.get(name, "it is newer than this version of caddtree")
            raise _refusal(f"{name}={value!r}", f"{reason}. Leave it at {default!r}.")


def _check_model_kwargs(model_kwargs: Mapping[str, Any]) -> None:
    if getattr(model_kwargs.get("past_key_values"), "_is_user_defined", False):
        raise _refusal(
            "past_key_values",
            "a decoder neither reads nor fills a cache of the caller's. Pass the whole text as input_ids.",
        )
    for name, value in model_kwargs.items():
        if name not in _EXPECTED and value is not None:
            raise _refusal(name, "a decoder's forwards do not take it. Leave it out, and pass the prompt as input_ids.")


def _check_rows(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> None:
    num_rows, length = input_ids.shape
    if num_rows != 1:
        raise InputError(
            f"input_ids has {num_rows} rows, but custom_generate decodes one sequence at a time; call generate for each"
        )
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    # host syncs: two small reads before anything runs
    if mask is not None and not bool(mask.all()):
        raise _refusal(
            "attention_mask with zeros",
            "one sequence needs no padding. Pass input_ids[:, attention_mask[0].bool()]; where no mask was passed, "
            "generate has taken pad_token_id in the prompt for padding: pass a mask of ones.",
        )
    if positions is not None and positions[0].tolist() != list(range(length)):
        raise _refusal("position_ids", "a decoder counts 0, 1, 2, ... Leave it out.")


def _refusal(what: str, why: str) -> InputError:
    return InputError(f"{what} is not supported by custom_generate: {why}")
