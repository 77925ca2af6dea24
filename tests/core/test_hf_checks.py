"""Every field of GenerationConfig, by iteration over the installed class: honoured, without a say, or refused."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CompileConfig,
    ContinuousBatchingConfig,
    GenerationConfig,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

from caddtree.core import hf_checks
from caddtree.core.errors import InputError
from caddtree.core.hf_checks import HONOURED, NEUTRAL, REFUSED
from tests.core.hf_calls import PROMPTS, make_both

FIELDS = sorted(name for name in vars(GenerationConfig()) if not name.startswith("_"))
EOS = 49
SAMPLED = {"do_sample": True, "top_k": 0}

# every entry must change what plain generate says, or it would prove nothing
HONOURED_SETTINGS = {
    "max_length": [{"max_new_tokens": None, "max_length": 17}],
    "max_new_tokens": [{"max_new_tokens": 1}, {"max_new_tokens": 13}],
    "min_length": [{"eos_token_id": EOS, "min_length": 15}],
    "min_new_tokens": [{"eos_token_id": EOS, "min_new_tokens": 14}],
    "eos_token_id": [{"eos_token_id": EOS}, {"eos_token_id": [60, EOS]}],
    "do_sample": [{"do_sample": True}],
    "temperature": [{**SAMPLED, "temperature": 0.5}, {**SAMPLED, "temperature": 1.7}],
    "top_k": [{**SAMPLED, "top_k": 3}],
    "top_p": [{**SAMPLED, "top_p": 0.5}],
    "min_p": [{**SAMPLED, "min_p": 0.3}],
    "top_h": [{**SAMPLED, "top_h": 0.3}],
    "typical_p": [{**SAMPLED, "typical_p": 0.3}],
    "epsilon_cutoff": [{**SAMPLED, "epsilon_cutoff": 0.1}],
    "eta_cutoff": [{**SAMPLED, "eta_cutoff": 0.2}],
    "repetition_penalty": [{"repetition_penalty": 1.5}, {**SAMPLED, "repetition_penalty": 1.5}],
    "encoder_repetition_penalty": [{"encoder_repetition_penalty": 3.0}],
    "no_repeat_ngram_size": [{"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2}],
    "encoder_no_repeat_ngram_size": [{"encoder_no_repeat_ngram_size": 1}],
    "bad_words_ids": [{"bad_words_ids": [[EOS], [42, 55]]}],
    "suppress_tokens": [{"suppress_tokens": [EOS]}],
    "begin_suppress_tokens": [{"begin_suppress_tokens": list(range(40))}],
    "sequence_bias": [{"sequence_bias": [[[EOS], -20.0], [[42, 55], -20.0]]}],
    "forced_bos_token_id": [{"forced_bos_token_id": 4}],
    "forced_eos_token_id": [{"forced_eos_token_id": 4}],
    "exponential_decay_length_penalty": [{"eos_token_id": 4, "exponential_decay_length_penalty": (5, 1.5)}],
    "renormalize_logits": [{"renormalize_logits": True, "return_dict_in_generate": True, "output_scores": True}],
    "watermarking_config": [
        {"watermarking_config": WatermarkingConfig(bias=9.0)},
        {"watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[654, 400, 836]), **SAMPLED},
    ],
}
ELSEWHERE = {"max_time", "stop_strings", "return_dict_in_generate", "output_scores", "output_logits"}
"""Tested in test_hf_generate.py."""

NEUTRAL_VALUES = {
    "early_stopping": True,
    "length_penalty": 2.0,
    "diversity_penalty": 0.5,
    "low_memory": True,
    "num_assistant_tokens": 7,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
    "max_matching_ngram_size": 4,
    "use_cache": False,
    "cache_config": {"nbits": 4},
    "max_cache_len": 64,
    "prefill_chunk_size": 2,
    "compile_config": CompileConfig(),
    "disable_compile": True,
    "continuous_batching_config": ContinuousBatchingConfig(),
    "pad_token_id": 9,
    "bos_token_id": 4,
    "decoder_start_token_id": 4,
    "transformers_version": "5.0.0",
}

REFUSED_SETTINGS = {
    "num_beams": {"num_beams": 2},
    "num_beam_groups": {"num_beam_groups": 2},
    "num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "constraints": {"constraints": [object()]},
    "force_words_ids": {"force_words_ids": [[4]]},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "low"},
    "use_mtp": {"use_mtp": True},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "speculation_type": {"speculation_type": "dflash"},
    "assistant_early_exit": {"assistant_early_exit": 2},
    "assistant_ensemble_weight": {"assistant_ensemble_weight": 0.5},
    "is_assistant": {"is_assistant": True},
    "guidance_scale": {"guidance_scale": 2.0},
    "output_attentions": {"output_attentions": True, "return_dict_in_generate": True},
    "output_hidden_states": {"output_hidden_states": True, "return_dict_in_generate": True},
    "cache_implementation": {"cache_implementation": "static"},
    "token_healing": {"token_healing": True},
    "remove_invalid_values": {"remove_invalid_values": True},
}
BY_TRANSFORMERS = {"token_healing": "token healing"}
"""Refused by generate itself before the callable is called, in its own words."""


@pytest.fixture(scope="module")
def both():
    return make_both()


@pytest.fixture(scope="module")
def untouched(both):
    return [both.plain(prompt) for prompt in PROMPTS]


def test_every_field_of_the_installed_version_is_classified():
    """A new one fails here until somebody has looked at it."""
    classes = (HONOURED, NEUTRAL, frozenset(REFUSED))

    assert [name for name in FIELDS if sum(name in names for names in classes) != 1] == []
    assert sum(map(len, classes)) == len(frozenset.union(*classes))


def test_every_class_is_tested_field_by_field():
    """No field is called honoured or neutral without a value that was tried."""
    assert set(HONOURED_SETTINGS) | ELSEWHERE == HONOURED
    assert set(NEUTRAL_VALUES) == NEUTRAL
    assert set(REFUSED_SETTINGS) == set(REFUSED)


def tokens(output):
    return output.tolist() if isinstance(output, torch.Tensor) else output.sequences.tolist()


@pytest.mark.parametrize("name", sorted(set(HONOURED_SETTINGS) & set(FIELDS)))
def test_an_honoured_field_gives_what_plain_generate_gives(both, untouched, name):
    """Token for token, through accepted paths of several tokens; and the value makes a difference."""
    both.rounds.clear()
    for options in HONOURED_SETTINGS[name]:
        plain = [both.plain(prompt, **options) for prompt in PROMPTS]
        ours = [both.ours(prompt, found, **options) for prompt, found in zip(PROMPTS, plain, strict=True)]

        assert [tokens(output) for output in ours] == [tokens(output) for output in plain]
        if name == "renormalize_logits":
            for a, b in zip(ours, plain, strict=True):
                torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-4)
        else:
            without = {key: value for key, value in options.items() if key != name}
            other = [both.plain(prompt, **without) for prompt in PROMPTS]
            assert any(tokens(a) != tokens(b) for a, b in zip(other, plain, strict=True)), options
    if both.rounds:
        assert any(round_.num_accepted > 1 for round_ in both.rounds)


@pytest.mark.parametrize("name", sorted(NEUTRAL & set(FIELDS)))
def test_a_neutral_field_changes_nothing_there_or_here(both, untouched, name):
    """Plain generate with the value says what it says without it."""
    options = {name: NEUTRAL_VALUES[name]}

    assert both.plain(PROMPTS[1], **options).tolist() == untouched[1].tolist()
    assert both.ours(PROMPTS[1], untouched[1], **options).tolist() == untouched[1].tolist()


@pytest.mark.parametrize("name", sorted(set(REFUSED) & set(FIELDS)))
def test_a_refused_field_is_named_with_what_to_do(both, name):
    """One line; at the default nothing is said."""
    message = BY_TRANSFORMERS.get(name, rf"{name}=.* is not supported by custom_generate: .*Leave it at ")
    with pytest.raises(ValueError, match=message) as caught:
        both.ours(PROMPTS[0], **REFUSED_SETTINGS[name])
    assert name in BY_TRANSFORMERS or isinstance(caught.value, InputError)


@pytest.mark.parametrize("options", [{"guidance_scale": 1.0}, {"cache_implementation": "dynamic"}, {"num_beams": 1}])
def test_values_that_ask_for_nothing_are_no_fault(both, untouched, options):
    """As in configs that models bring along."""
    assert both.ours(PROMPTS[0], untouched[0], **options).tolist() == untouched[0].tolist()


def test_a_field_that_nobody_knows_is_refused_when_it_is_set(both, untouched, monkeypatch):
    """As one of a later Transformers would be; an entry that is no field of the class is let pass, as there."""
    monkeypatch.setattr(hf_checks, "HONOURED", HONOURED - {"top_h"})
    config = GenerationConfig(max_new_tokens=18, pad_token_id=0, somebody_wrote_this=True)

    assert both.ours(PROMPTS[0], untouched[0], generation_config=config, max_new_tokens=18).tolist() == (
        untouched[0].tolist()
    )
    with pytest.raises(InputError, match=r"top_h=0\.5 is not supported .* newer than this version"):
        both.ours(PROMPTS[0], do_sample=True, top_h=0.5)
