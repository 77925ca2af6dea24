"""The whole examination: every check, in order, and none that hides another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from caddtree.core.decoder import Decoder
from caddtree.core.errors import InputError
from caddtree.diagnosis import examination
from caddtree.diagnosis.evidence import gather
from caddtree.diagnosis.examination import CHECKS, examine, examine_recipe
from caddtree.diagnosis.findings import Diagnosis, Finding, Notes
from caddtree.diagnosis.prompts import default_prompts
from caddtree.loading import load
from caddtree.plugins.recipe import load_recipe
from tests.diagnosis.planted import DEMO, PROMPTS, copy_drafter, dflash, says
from tests.tiny_pair import write_pair

NAMES = [name for name, _ in CHECKS]


def by_name(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


@pytest.fixture
def own_models(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a recipe of the demo target takes the one that is held."""
    model, tokenizer = held
    monkeypatch.setattr(examination, "load", lambda recipe: load(recipe, model=model, tokenizer=tokenizer))


@pytest.mark.usefixtures("own_models")
def test_the_shipped_demo_pair_is_fine() -> None:
    """Nothing wrong, nothing to look at, every check in its place, JSON-ready."""
    steps: list[tuple[str, int]] = []
    diagnosis = examine_recipe(load_recipe("demo-ddtree"), on_step=lambda *step: steps.append(step))
    findings = by_name(diagnosis)

    assert diagnosis.is_sound
    assert list(findings) == NAMES
    assert findings.pop("profile").status == "not applicable"
    assert {name: finding.status for name, finding in findings.items()} == dict.fromkeys(findings, "fine")
    assert diagnosis.num_prompts == 9
    assert len(steps) == 9 + len(CHECKS)
    assert {total for _, total in steps} == {len(steps)}
    assert json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))["sound"] is True


@pytest.mark.parametrize("name", ["demo-ngram", "demo-plain"])
@pytest.mark.usefixtures("own_models")
def test_other_drafters_get_the_checks_that_apply(name: str) -> None:
    """No checkpoint, no layers: said as such, and nothing fails."""
    diagnosis = examine_recipe(load_recipe(name), PROMPTS[:2])
    statuses = {finding.name: finding.status for finding in diagnosis.findings}

    assert diagnosis.is_sound
    assert [statuses[check] for check in ("layer ids", "RoPE", "mask token", "head and embedding")] == [
        "not applicable"
    ] * 4
    assert {statuses[check] for check in ("vocabulary", "dtype", "kernels")} == {"fine"}
    assert (statuses["acceptance"] == "not applicable") == (name == "demo-plain")


@pytest.mark.usefixtures("own_models")
def test_a_check_that_raises_is_a_finding_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed, with what was raised; the pipeline does not count as sound."""

    def broken(_: Any) -> Finding:
        raise ZeroDivisionError("by\nzero")

    checks = tuple((name, broken if name == "vocabulary" else check) for name, check in CHECKS)
    monkeypatch.setattr(examination, "CHECKS", checks)
    diagnosis = examine_recipe(load_recipe("demo-ngram"), PROMPTS[:1])
    findings = by_name(diagnosis)

    says(findings.pop("vocabulary"), "failed", "ZeroDivisionError: by zero", "the other checks do not depend on this")
    assert "failed" not in {finding.status for finding in findings.values()}
    assert len(findings) == len(CHECKS) - 1
    assert not diagnosis.is_sound


class _Breaks:
    """A builder that raises in the second round."""

    needs_cost_model = False

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def build(self, marginals: Any, context: Any) -> Any:
        if context.round_index == 1:
            raise ValueError("broken builder")
        return self._builder.build(marginals, context)


def test_a_decoding_that_fails_leaves_the_checks_that_need_none(held: Any) -> None:
    """What needs texts fails with the reason; the vocabulary, say, is looked at all the same."""
    model, tokenizer = held
    decoder = load("demo-ddtree", model=model, tokenizer=tokenizer)
    broken = Decoder(
        target=decoder.target,
        tokenizer=tokenizer,
        drafter=decoder.drafter,
        tree_builder=_Breaks(decoder.tree_builder),
        verifier=decoder.verifier,
    )
    findings = by_name(examine(broken, PROMPTS[:2]))
    decoder.target.close()

    says(findings["acceptance"], "failed", "broken builder", "Decoding itself fails")
    says(findings["RoPE"], "failed", "broken builder")
    assert findings["vocabulary"].status == findings["kernels"].status == "fine"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dflash(target_layer_ids=[3, 6, 8]), "target_layer_ids must be ascending layers in 0..7, found [3, 6, 8]"),
        (dflash(target_layer_ids=[5, 2, 7]), "target_layer_ids must be ascending"),
        (dflash(mask_token_id=5000), "mask_token_id is 5000, but the target has 4096 tokens"),
        (lambda raw: raw.update(vocab_size=4000), "vocab_size of"),
        (lambda raw: raw.update(rope_parameters={"rope_type": "yarn"}), "rope type 'yarn' is not supported"),
    ],
)
@pytest.mark.usefixtures("own_models")
def test_a_pair_that_cannot_be_loaded_is_the_only_finding(tmp_path: Path, config: Any, words: str) -> None:
    """The loader's own words: what it refuses is no silent fault."""
    folder = copy_drafter(tmp_path / "drafter", config)
    diagnosis = examine_recipe(load_recipe("demo", {"drafter": {"model": str(folder)}}), PROMPTS[:1])

    assert [finding.name for finding in diagnosis.findings] == ["loading"]
    says(diagnosis.findings[0], "wrong", words)
    assert not diagnosis.is_sound


@pytest.mark.usefixtures("own_models")
def test_a_checkpoint_with_a_head_of_its_own_is_named(tmp_path: Path) -> None:
    """The target's is to be used."""
    folder = copy_drafter(tmp_path / "drafter")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    diagnosis = examine_recipe(load_recipe("demo", {"drafter": {"model": str(folder)}}))

    says(diagnosis.findings[0], "wrong", "unexpected tensor lm_head.weight")


def test_a_prompt_that_cannot_be_used_is_the_users_error(held: Any) -> None:
    """Not a finding: an error, before anything is judged."""
    model, tokenizer = held
    decoder = load("demo-plain", model=model, tokenizer=tokenizer)
    with pytest.raises(InputError, match="context is 8192"):
        examine(decoder, [[5] * 9000])
    with pytest.raises(InputError, match="has no tokens"):
        examine(decoder, [""])
    with pytest.raises(InputError, match="there are no prompts"):
        examine(decoder, [])


def test_the_shortest_texts_are_examined(held: Any) -> None:
    """One token of prompt, two of answer: too little to judge layers by, and no check fails."""
    model, tokenizer = held
    decoder = load("demo-chain", {"generation": {"max_new_tokens": 2}}, model=model, tokenizer=tokenizer)
    findings = by_name(examine(decoder, [[300]]))
    decoder.target.close()

    says(findings["layer ids"], "attention", "only 1 places")
    assert "failed" not in {finding.status for finding in findings.values()}


def test_sampling_options_of_the_recipe_do_not_enter(held: Any) -> None:
    """Agreement is with greedy text; the request's length counts."""
    model, tokenizer = held
    sets = {"generation": {"temperature": 1.0, "seed": 3, "max_new_tokens": 9}}
    sampling = load("demo-chain", sets, model=model, tokenizer=tokenizer)
    greedy = load("demo-plain", model=model, tokenizer=tokenizer)
    [text] = gather(sampling, PROMPTS[:1]).texts
    plain = greedy.generate(PROMPTS[0], max_new_tokens=9, temperature=0.0)

    assert text.tokens[text.num_prompt :] == plain.token_ids
    sampling.target.close()


def test_the_prompts_suit_the_target(held: Any, tmp_path: Path) -> None:
    """The demo target's own; chats where there is a template; text elsewhere."""
    model, tokenizer = held
    demo = default_prompts(load("demo-plain", model=model, tokenizer=tokenizer))
    tiny = load(write_pair(tmp_path))
    chats = default_prompts(tiny)
    tiny.tokenizer.chat_template = None

    assert len(demo) == 9
    assert chats[0][0]["role"] == "user"
    assert default_prompts(tiny) == [chat[0]["content"] for chat in chats]
    assert len(examine(tiny).findings) == len(CHECKS)


def test_notes_say_the_worst_first() -> None:
    """And every advice once."""
    notes = Notes("x", {"a": 1})
    notes.fine("good")
    notes.attention("odd", "Do this")
    notes.wrong("bad", "Do that")
    notes.attention("odd too", "Do this")

    assert attrs.astuple(notes.finding()) == ("x", "wrong", "bad; odd; odd too; good", "Do that. Do this", {"a": 1})


def test_the_demo_prompts_are_found_wherever_the_package_lies() -> None:
    """The folder of the target decides, not the name of the recipe."""
    assert (DEMO / "prompts" / "demo.jsonl").is_file()
