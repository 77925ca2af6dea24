"""The roofline: work counted by hand, and what every option changes."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import Qwen3Config

from caddtree.core.decoder import Decoder
from caddtree.cost_models.analytic import AnalyticCostModel, ModelWork
from caddtree.drafters.ngram import Ngram
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import plain_greedy, tiny_model

OPTIONS = {"flops_per_second": 1e9, "bytes_per_second": 1e9, "overhead_seconds": 0.001, "draft_seconds": 0.002}


def test_work_of_qwen3_4b_equals_a_hand_count():
    """Per layer: q and o 2560 x 4096 each, k and v 2560 x 1024 each, MLP 3 x 2560 x 9728; head 2560 x 151936."""
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    work = ModelWork.from_config(config, bytes_per_value=2)
    per_layer = 2 * 10_485_760 + 2 * 2_621_440 + 3 * 24_903_680
    weights = 36 * per_layer + 388_956_160

    assert work.weights == weights == 4_022_272_000
    # one row at context 1000: 2 per weight, and 4 x 36 layers x 4096 x 1001 in attention
    assert work.flops(np.array([1]), 1000)[0] == 2 * weights + 4 * 36 * 4096 * 1001
    assert work.flops(np.array([17]), 1000)[0] == 17 * 2 * weights + 4 * 36 * 4096 * 17 * 1017
    # weights once, keys and values of 36 layers x 1024 for 1001 rows, two bytes each
    assert work.bytes(np.array([1]), 1000)[0] == 2 * (weights + 2 * 36 * 1024 * 1001)


def decoder(model, **options):
    return Decoder(
        target=model,
        drafter=Ngram(),
        tree_builder=CaDDTree(max_node_budget=16),
        verifier=SdpaVerifier(),
        cost_model=AnalyticCostModel(**options),
    )


def test_the_roofline_is_the_larger_of_operations_and_bytes():
    """With given rates nothing is measured and the figures are exact."""
    model = tiny_model()
    made = decoder(model, **OPTIONS)
    made.prepare()
    work = ModelWork.from_config(made.target.config, 4)
    rows = np.array([1, 9])
    floor = np.maximum(work.flops(rows, 50) / 1e9, work.bytes(rows, 50) / 1e9)

    assert made.cost_model.after_choice_seconds(np.array([0, 8]), 50) == pytest.approx(floor + 0.001)
    assert made.cost_model.before_choice_seconds(50) == 0.002


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_price(name):
    """Flipped to another value, some price moves."""
    model = tiny_model()
    prices = []
    for options in (OPTIONS, {**OPTIONS, name: OPTIONS[name] / 1000 if "per_second" in name else 5.0}):
        made = decoder(model, **options)
        made.prepare()
        prices.append(
            (
                made.cost_model.before_choice_seconds(9),
                made.cost_model.after_choice_seconds(np.array([0, 30]), 9).tolist(),
            )
        )
    assert prices[0] != prices[1]


def test_without_options_the_machine_is_measured():
    """Positive, finite, growing; and decoding stays exact."""
    model = tiny_model()
    made = decoder(model)
    tokens = list(made.generate([1, 2, 3], max_new_tokens=20).token_ids)
    seconds = made.cost_model.after_choice_seconds(np.arange(17), 30)

    assert tokens == plain_greedy(model, [1, 2, 3], 20)
    assert np.isfinite(seconds).all()
    assert (np.diff(seconds) >= 0).all()
    assert seconds[0] > 0
