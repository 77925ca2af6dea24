"""Faults planted in the demo drafter, each named by the check for it; the pair as it is shipped is fine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch

from caddtree.core.target import Target
from caddtree.diagnosis import agreement
from caddtree.diagnosis.checks import head, layer_ids, mask_token, rope, vocabulary
from caddtree.diagnosis.evidence import Evidence, gather
from caddtree.diagnosis.findings import Finding
from caddtree.loading import load, load_model
from caddtree.plugins.recipe import load_recipe
from tests.diagnosis.planted import (
    DEMO,
    PROMPTS,
    copy_drafter,
    dflash,
    evidence_of,
    says,
    shuffled_features,
    top,
)

CHECKS = (vocabulary, layer_ids, rope, mask_token, head)


@pytest.mark.parametrize("module", CHECKS, ids=lambda module: module.NAME)
def test_the_shipped_pair_is_fine(healthy: Evidence, module: Any) -> None:
    """With numbers in what was found, and nothing to do."""
    finding = module.check(healthy)

    says(finding, "fine")
    assert finding.advice == ""
    assert finding.name == module.NAME


@pytest.mark.parametrize("module", [layer_ids, rope, mask_token, head], ids=lambda module: module.NAME)
def test_a_drafter_without_a_checkpoint_has_nothing_to_check(healthy: Evidence, module: Any) -> None:
    """n-grams, plain decoding, drafters of plugins."""
    says(module.check(attrs.evolve(healthy, draft_model=None)), "not applicable", "has no DFlash checkpoint")


def planted(
    healthy: Evidence, held: Any, folder: Path, module: Any, config: Any = None, weights: Any = None
) -> Finding:
    with evidence_of(healthy, held, copy_drafter(folder / "drafter", config, weights)) as evidence:
        finding: Finding = module.check(evidence)
    return finding


def test_layer_ids_off_by_one_are_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """Both lists, both figures, and the file to mend."""
    finding = planted(healthy, held, tmp_path, layer_ids, dflash(target_layer_ids=[1, 4, 6]))

    says(finding, "wrong", "layers [2, 5, 7] agree", "the configured [1, 4, 6]", "off by one")
    says(finding, "wrong", f"to [2, 5, 7] in {tmp_path / 'drafter' / 'config.json'}")
    figures = finding.figures
    assert figures["one higher"]["mean_length"] > figures["configured"]["mean_length"]


def test_taps_on_other_layers_are_named(healthy: Evidence, held: Any) -> None:
    """The ids are right, but what arrives is another layer's output, or the final norm's."""
    model, tokenizer = held
    decoder = load("demo-ddtree", model=model, tokenizer=tokenizer)
    target = decoder.target
    try:
        for module, words in (
            (target.layers[6], "what is tapped as layer 5 is nearest to the raw output of layer 6"),
            (None, "what is tapped as layer 5 is nearest to the raw output of layer 5"),
        ):
            target.close()
            target.tap((2, 5, 7))
            target._taps[1].remove()
            hooked = module or target.layers[5]
            keep = (
                target._keep
                if module
                else (lambda module_, inputs, output: target._keep(module_, inputs, output * 1.3))
            )
            target._taps[1] = hooked.register_forward_hook(keep)
            finding = layer_ids.check(attrs.evolve(healthy, decoder=decoder))

            says(finding, "wrong", words, "hooks the target's layers")
    finally:
        target.close()


def test_a_tap_behind_the_final_norm_is_named(healthy: Evidence, held: Any) -> None:
    """The last entry of ``output_hidden_states`` is normed; a raw output is not."""
    model, tokenizer = held
    decoder = load("demo-ddtree", model=model, tokenizer=tokenizer)
    target = decoder.target
    try:
        target._taps[2].remove()
        target._taps[2] = model.get_decoder().norm.register_forward_hook(target._keep)
        says(
            layer_ids.check(attrs.evolve(healthy, decoder=decoder)),
            "wrong",
            "as layer 7 is nearest to the output of the",
        )
    finally:
        target.close()


def test_taps_that_were_taken_off_are_named(healthy: Evidence, held: Any) -> None:
    """Nothing is tapped at all."""
    model, tokenizer = held
    decoder = load("demo-ddtree", model=model, tokenizer=tokenizer)
    decoder.target.close()

    says(layer_ids.check(attrs.evolve(healthy, decoder=decoder)), "wrong", "decoding taps 0 numbers per token")


def test_a_drafter_that_ignores_the_layers_is_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """Features in another order: no shift helps, and layers far off do as well."""
    finding = planted(healthy, held, tmp_path, layer_ids, weights=shuffled_features)

    says(finding, "wrong", "with layers [6, 1, 3]", "makes nothing of the target's layers", "made for another target")


def test_looping_texts_are_no_evidence_against_the_layers(healthy: Evidence, held: Any) -> None:
    """Where the last token is enough to go on, layers that are far off do as well."""
    model, tokenizer = held
    decoder = load("demo-chain", model=model, tokenizer=tokenizer)
    finding = layer_ids.check(gather(decoder, ["zqx vvv 77 ## kkk", "Der Zug nach Hamburg faehrt um neun", "Le chat"]))
    decoder.target.close()

    says(finding, "attention", "with layers [6, 1, 3]", "do not tell layers apart")


def test_few_places_are_no_evidence(healthy: Evidence) -> None:
    """Said, not judged."""
    finding = layer_ids.check(attrs.evolve(healthy, texts=healthy.texts[:1]))

    says(finding, "attention", "only 16 places", "--prompts")


@pytest.mark.parametrize("base", [1e6, 1e5, 2500.0])
def test_another_rope_base_is_named(healthy: Evidence, held: Any, tmp_path: Path, base: float) -> None:
    """The target's base does better; both spellings are to be set."""
    fields = {"rope_theta": base, "rope_parameters": {"rope_type": "default", "rope_theta": base}}
    finding = planted(healthy, held, tmp_path, rope, top(**fields))

    says(finding, "wrong", "with the target's base 10000 drafts agree", f"with the configured {base:g}")
    says(finding, "wrong", f"to 10000 in {tmp_path / 'drafter' / 'config.json'}")


def test_a_base_of_the_wrong_field_is_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """The new spelling wins, and it is the wrong one."""
    fields = {"rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    finding = planted(healthy, held, tmp_path, rope, top(**fields))

    says(finding, "wrong", "with the target's base 10000", "two bases in one file: rope_theta 10000, rope_parameters")


def test_scaling_in_the_field_that_does_not_count_is_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """The old spelling asks for it, the new one does not, and wins."""
    finding = planted(healthy, held, tmp_path, rope, top(rope_scaling={"type": "yarn", "factor": 4.0}))

    says(finding, "attention", "rope_scaling yarn, rope_parameters default; the newer field counts")


def test_a_base_that_differs_but_is_that_of_the_training_is_fine(healthy: Evidence, held: Any) -> None:
    """A target that says another base is no fault where drafts agree."""
    model, _ = held
    before = model.config.rope_parameters
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    try:
        finding = rope.check(healthy)
    finally:
        model.config.rope_parameters = before

    says(finding, "fine", "base 10000 agrees", "1e+06", "the configured one is that of the training")


def test_what_short_texts_cannot_show_of_rope_is_said(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """Scaling of the target, and fewer positions than it has."""
    model, _ = held
    before = model.config.rope_parameters
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    try:
        finding = planted(healthy, held, tmp_path, rope, top(max_position_embeddings=4096))
    finally:
        model.config.rope_parameters = before

    says(finding, "attention", "the target scales its RoPE (yarn)", "knows 4096 positions, the target 8192")
    assert "context_limit to 4096" in finding.advice


@pytest.mark.parametrize("planted_offset", [-1, 1])
def test_slots_at_other_positions_are_named(
    healthy: Evidence, monkeypatch: pytest.MonkeyPatch, planted_offset: int
) -> None:
    """A block that is run one position off does better when it is moved back."""
    run = agreement._run_blocks

    def moved(*arguments: Any) -> Any:
        *others, offset = arguments
        return run(*others, offset + planted_offset)

    monkeypatch.setattr(agreement, "_run_blocks", moved)

    says(rope.check(healthy), "wrong", f"slots moved by {-planted_offset:+d} agree", "position context + k")


def test_sliding_layers_that_were_not_trained_are_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """Causal slots and a short window cost acceptance; full attention does better."""
    fields = {"layer_types": ["sliding_attention", "sliding_attention"], "sliding_window": 8}
    finding = planted(healthy, held, tmp_path, rope, top(**fields))

    says(finding, "wrong", "full attention agrees", "full_attention in the drafter's config")


@pytest.mark.parametrize(("token", "word"), [(0, "'<|endoftext|>'"), (500, "an ordinary token"), (4095, "ordinary")])
def test_another_mask_token_is_named(healthy: Evidence, held: Any, tmp_path: Path, token: int, word: str) -> None:
    """The tokenizer's own does better; what the configured one stands for is said."""
    finding = planted(healthy, held, tmp_path, mask_token, dflash(mask_token_id=token))

    says(finding, "wrong", "as a mask token 3 agrees", f"the configured {token}", word)
    says(finding, "wrong", "the tokenizer's own mask token is 3 ('<|mask|>')", "mask_token_id to 3")


def test_a_mask_token_that_only_reading_can_tell_is_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """The padding token's untrained embedding works as well, by luck."""
    finding = planted(healthy, held, tmp_path, mask_token, dflash(mask_token_id=4))

    says(finding, "attention", "the tokenizer's own mask token is 3 ('<|mask|>'), not 4", "mask_token_id to 3")


def test_an_embedding_of_zeros_is_named(healthy: Evidence, held: Any) -> None:
    """A row that no training has touched: drafts agree better with another."""
    model, _ = held
    table = model.get_input_embeddings().weight
    row = table[3].clone()
    try:
        with torch.no_grad():
            table[3] = 0
        says(mask_token.check(healthy), "wrong", "the embedding of token 3 is all zeros", "as a mask token 4 agrees")
        with torch.no_grad():
            table[3] = float("nan")
        says(mask_token.check(healthy), "wrong", "the embedding of token 3 is not finite")
    finally:
        with torch.no_grad():
            table[3] = row


def test_a_row_behind_the_tokenizer_is_a_mask_token(healthy: Evidence) -> None:
    """As public drafters have it, for targets without a mask token."""

    class Three:
        mask_token_id = None
        all_special_ids = (0,)

        def __len__(self) -> int:
            return 3

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 1, "c": 2}

    parts = {name: getattr(healthy.decoder, name) for name in ("target", "drafter", "group")}
    decoder = SimpleNamespace(tokenizer=Three(), **parts)
    finding = mask_token.check(attrs.evolve(healthy, decoder=decoder))

    says(finding, "fine", "3 is a row behind the tokenizer's 3 tokens")


class _Permuted:
    """A target whose head gives the logits of other tokens."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def head_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._target.head_logits(hidden).roll(1, dims=-1)


class _OtherEmbedding(_Permuted):
    def head_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._target.head_logits(hidden)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._target.embed((tokens + 1) % 4096)


@pytest.mark.parametrize("stand_in", [_Permuted, _OtherEmbedding])
def test_another_head_or_embedding_is_named(healthy: Evidence, held: Any, stand_in: Any) -> None:
    """The drafter speaks through tables that are not the target's."""
    with evidence_of(healthy, held, DEMO / "drafter") as evidence:
        drafter: Any = evidence.decoder.drafter
        drafter._target = stand_in(evidence.decoder.target)
        finding = head.check(evidence)

    says(finding, "wrong", "not what the target's embedding and head make of the checkpoint", "load anew")


def test_weights_that_were_replaced_are_named(healthy: Evidence, held: Any) -> None:
    """What runs is no longer what lies in the folder."""
    with evidence_of(healthy, held, DEMO / "drafter") as evidence:
        drafter: Any = evidence.decoder.drafter
        with torch.no_grad():
            drafter._network.norm.weight.copy_(drafter._network.norm.weight.flip(0))
        says(head.check(evidence), "wrong", "log-probabilities are off by", "weights were replaced")


@pytest.mark.parametrize(
    ("name", "value"), [("output_multiplier", 0.5), ("output_multiplier", 3.0), ("final_logit_softcapping", 2.0)]
)
def test_a_scale_that_was_not_trained_is_named(
    healthy: Evidence, held: Any, tmp_path: Path, name: str, value: float
) -> None:
    """It changes no rank, so that only probabilities give it away."""
    finding = planted(healthy, held, tmp_path, head, dflash(**{name: value}))

    says(finding, "wrong", f"without {name} drafts agree", f"Remove dflash_config.{name} from")


def test_a_scale_that_does_nothing_is_fine(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """The first norm takes the scale of an embedding out again."""
    finding = planted(healthy, held, tmp_path, head, dflash(input_embedding_scale=1.01))

    says(finding, "fine", "input_embedding_scale 1.01: without, drafts are no better")


def test_a_drafter_of_tied_tables_on_an_untied_target_is_named(held: Any) -> None:
    """The same target with signs moved from its head into its final norm: the embedding is no head any more, or is."""
    model, tokenizer = held
    untied, _ = load_model(load_recipe("demo").target)
    signs = 1.0 - 2.0 * (torch.arange(256) % 2)
    with torch.no_grad():
        untied.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * signs, requires_grad=False)
        untied.get_decoder().norm.weight *= signs
    decoder = load("demo-ddtree", model=untied, tokenizer=tokenizer)
    evidence = gather(decoder, PROMPTS[:3])
    finding = head.check(evidence)

    says(finding, "wrong", "through the target's embedding as its head drafts agree", "trained with tied tables")


def test_a_drafter_of_another_target_is_named(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """By the fingerprint it records; wrong where drafts do not agree either."""
    other = top(target_fingerprint="f" * 64)
    only_recorded = planted(healthy, held, tmp_path / "a", vocabulary, other)
    foreign = planted(healthy, held, tmp_path / "b", vocabulary, other, shuffled_features)

    says(only_recorded, "attention", "trained for another target: it records ffffffffffff", "all the same", "agree")
    says(foreign, "wrong", "it records ffffffffffff", "of its first tokens agree", "train a drafter for this one")


def test_a_drafter_that_records_nothing_is_fine(healthy: Evidence, held: Any, tmp_path: Path) -> None:
    """Public checkpoints do not."""
    says(
        planted(healthy, held, tmp_path, vocabulary, top(target_fingerprint=None)), "fine", "does not record the target"
    )


def test_a_tokenizer_that_is_larger_than_the_target_is_named(healthy: Evidence) -> None:
    """Tokens were added, the embedding was not resized."""
    decoder = SimpleNamespace(
        target=healthy.decoder.target, tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 5000})
    )
    finding = vocabulary.check(attrs.evolve(healthy, decoder=decoder, draft_model=None))

    says(finding, "wrong", "gives ids up to 5000, but the target has 4096 rows", "resizing the embedding")


def test_a_decoder_without_tokenizer_is_said(healthy: Evidence) -> None:
    """Prompts of token ids need none."""
    decoder = SimpleNamespace(target=healthy.decoder.target, tokenizer=None)

    says(vocabulary.check(attrs.evolve(healthy, decoder=decoder, draft_model=None)), "attention", "no tokenizer")
