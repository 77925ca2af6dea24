"""Agreement: what a variant of the drafter would accept, and when a difference is none of chance."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import torch

from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.diagnosis.agreement import Agreement, DraftVariant, block_logits, layer_outputs, measure
from caddtree.diagnosis.evidence import DraftModel, Evidence
from caddtree.drafters.dflash import DFlash
from tests.drafters.checkpoints import tiny_checkpoint
from tests.tiny_models import tiny_model


def by_lengths(*lengths: int) -> Agreement:
    return Agreement(np.array(lengths), np.zeros(len(lengths)))


def model_of(evidence: Evidence) -> DraftModel:
    assert evidence.draft_model is not None
    return evidence.draft_model


def test_ten_places_one_way_are_no_chance_and_nine_are() -> None:
    """A sign test at one in a thousand: 2 ** -10 is below, 2 ** -9 above."""
    base = by_lengths(*[1] * 40)

    assert by_lengths(*[2] * 10, *[1] * 30).beats(base)
    assert not by_lengths(*[2] * 9, *[1] * 31).beats(base)
    assert not by_lengths(*[2] * 12, *[0] * 6, *[1] * 22).beats(base)
    assert not base.beats(base)
    assert not by_lengths().beats(by_lengths())


def test_more_places_that_gain_less_in_all_do_not_win() -> None:
    """The mean must be longer too: a few long drafts may be worth more than many short ones."""
    assert not by_lengths(*[2] * 30, *[0] * 10).beats(by_lengths(*[1] * 30, *[9] * 10))


def test_probability_is_compared_by_its_mean() -> None:
    """A drafter that is too sure gains at most places and loses more at the others."""
    rng = np.random.default_rng(0)
    base = rng.normal(-1, 0.3, 100)
    too_sure = base + np.where(np.arange(100) % 10 < 8, 0.1, -2.0)

    assert Agreement(np.ones(100), base + rng.normal(0.1, 0.05, 100)).is_likelier_than(Agreement(np.ones(100), base))
    assert not Agreement(np.ones(100), too_sure).is_likelier_than(Agreement(np.ones(100), base))
    assert not Agreement(np.ones(100), base).is_likelier_than(Agreement(np.ones(100), base))


@pytest.mark.parametrize(
    "dflash",
    [{}, {"output_multiplier": 0.5, "final_logit_softcapping": 3.0, "input_embedding_scale": 2.0}],
    ids=["plain", "scaled"],
)
@pytest.mark.parametrize("windows", [None, 5], ids=["full", "sliding"])
def test_blocks_by_hand_are_what_the_drafter_drafts(tmp_path: Any, dflash: Any, windows: int | None) -> None:
    """Scales, sliding layers, every place: the same log-probabilities as through caches."""
    changes: dict[str, Any] = {}
    if windows is not None:
        changes = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": windows}
    folder = tiny_checkpoint(tmp_path / "drafter", layers=2, dflash=dflash, **changes)
    drafter, target = DFlash(model=str(folder)), Target(tiny_model())
    target.tap(drafter.required_layers)
    drafter.bind(target)
    model = DraftModel(folder, {}, drafter.config, drafter._network)
    tokens, places = [7, 3, 60, 12, 9, 9, 31, 44, 2, 17, 5, 28], [1, 6, 10]
    outputs = layer_outputs(target, tokens, drafter.required_layers)

    found = dict(block_logits(target, model, DraftVariant(model.config), outputs, tokens, places))

    assert list(found) == places
    for place in places:
        state = drafter.start()
        target.prefill(target.start(place), tokens[:place], lambda new, rows, to=state: drafter.commit(to, new, rows))
        marginals = drafter.draft(state, DraftRequest(tokens[place], place, 5)).widen(61)
        by_hand = torch.log_softmax(found[place], dim=-1).gather(1, marginals.tokens)
        torch.testing.assert_close(by_hand, marginals.log_probs, rtol=0, atol=2e-4)


def test_the_layers_are_those_of_the_model(healthy: Evidence) -> None:
    """Raw outputs by number, the number of layers for what the final norm makes; no hook stays."""
    target, tokens = healthy.decoder.target, healthy.texts[0].tokens[:20]
    hooks = [len(layer._forward_hooks) for layer in target.layers]
    outputs = layer_outputs(target, tokens, [0, 8])
    hooks_after = [len(layer._forward_hooks) for layer in target.layers]
    with torch.no_grad():
        states = target.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states

    torch.testing.assert_close(outputs[0], states[1][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs[8], states[-1][0], rtol=1e-4, atol=1e-4)
    assert hooks_after == hooks


def test_the_configured_drafter_comes_first_and_a_right_one_agrees(healthy: Evidence) -> None:
    """On the demo pair four first tokens of five; the same variant gives the same figures."""
    model = model_of(healthy)
    configured, same, wrong = measure(
        healthy, model, [DraftVariant(model.config), DraftVariant(attrs.evolve(model.config, rope_theta=1e6))]
    )

    assert configured.first_share > 0.7
    assert (configured.lengths == same.lengths).all()
    assert (configured.log_probs == same.log_probs).all()
    assert configured.beats(wrong)
    assert not wrong.beats(configured)
    assert len(configured.lengths) > 64


def test_a_text_without_room_for_a_draft_is_left_out(healthy: Evidence) -> None:
    """One generated token has none behind it."""
    short = [attrs.evolve(text, tokens=text.tokens[: text.num_prompt + 1]) for text in healthy.texts]
    [found] = measure(attrs.evolve(healthy, texts=tuple(short)), model_of(healthy), [])

    assert len(found.lengths) == 0
    assert (found.first_share, found.mean_length) == (0.0, 0.0)
