"""Target and drafter training end to end at toy size: block mask, resumption, loadable results."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from caddtree.core.decoder import Decoder
from caddtree.core.target import Target, target_fingerprint
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.dflash_checkpoint import read_config
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork
from caddtree.drafters.none import NoDrafter
from caddtree.training import corpus
from caddtree.training.drafter import Batch, DrafterTraining, block_loss, block_mask, train_drafter
from caddtree.training.optimization import Schedule
from caddtree.training.target import TargetTraining, train_target
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.drafters.checkpoints import tiny_weights
from tests.tiny_models import tiny_model

TARGET = {
    "steps": 4, "batch_size": 2, "sequence_length": 64, "vocabulary_size": 500, "hidden_size": 32, "num_layers": 4,
    "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "checkpoint_every": 2,
    "bfloat16": False, "compiled": False,
}  # fmt: skip
DRAFTER = {
    "steps": 4, "group_size": 2, "groups_per_step": 2, "anchors": 2, "block_size": 5, "num_layers": 1,
    "target_layer_ids": (0, 2),
    "responses": {"reasoning": 6, "instructions": 6}, "max_new_tokens": 8, "checkpoint_every": 2, "bfloat16": False,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_corpus():
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "code_pieces", lambda **_: ["def f():\n    return 1\n" * 20])
    yield
    patch.undo()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    target = train_target(TargetTraining(folder=folder / "t", **TARGET))
    drafter = train_drafter(DrafterTraining(target=target, folder=folder / "d", **DRAFTER))
    return target, drafter


def weights(folder):
    return load_file(folder / "model.safetensors")


def interrupt(at):
    def progress(step, steps, loss):
        if step == at:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_target_training_ends_in_the_same_weights(pair, tmp_path):
    """Resumed from the checkpoint of step 2 after an interruption in step 3."""
    options = TargetTraining(folder=tmp_path / "t", **TARGET)
    with pytest.raises(KeyboardInterrupt):
        train_target(options, interrupt(3))
    again = weights(train_target(options))

    for name, value in weights(pair[0]).items():
        assert torch.equal(value, again[name])


def test_an_interrupted_drafter_training_ends_in_the_same_weights(pair, tmp_path):
    """Responses are kept, batches follow from the seed, the optimiser's moments are in the checkpoint."""
    options = DrafterTraining(target=pair[0], folder=tmp_path / "d", **DRAFTER)
    with pytest.raises(KeyboardInterrupt):
        train_drafter(options, interrupt(3))
    again = weights(train_drafter(options))

    for name, value in weights(pair[1]).items():
        assert torch.equal(value, again[name])


def test_the_pair_loads_and_decodes_like_its_target(pair):
    """Through the public loaders, in float32; the fingerprint fits; config.json serves old and new readers."""
    model = AutoModelForCausalLM.from_pretrained(pair[0], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(pair[0])
    raw = json.loads((pair[0] / "config.json").read_text())
    fingerprint = target_fingerprint(model.config, tokenizer)

    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 10000.0
    assert read_config(pair[1]).target_fingerprint == fingerprint
    decoders = [
        Decoder(
            target=Target(model), tokenizer=tokenizer, drafter=drafter, tree_builder=builder, verifier=SdpaVerifier()
        )
        for drafter, builder in ((NoDrafter(), Chain()), (DFlash(model=str(pair[1])), DDTree(node_budget=8)))
    ]
    texts = [decoder.generate("Sam has 3 apples.", max_new_tokens=12, ignore_eos=True) for decoder in decoders]

    assert texts[0].token_ids == texts[1].token_ids


def test_the_block_mask_equals_explicit_loops():
    """A block sees the context strictly before its anchor, itself in both directions, and no other block."""
    anchors, length, size = torch.tensor([[2, 5, 0], [1, 1, 6]]), 7, 3
    mask = block_mask(anchors, length, size)

    for sequence in range(2):
        for row in range(9):
            for column in range(length + 9):
                if column < length:
                    expected = column < int(anchors[sequence, row // size])
                else:
                    expected = (column - length) // size == row // size
                assert bool(mask[sequence, row, column]) == expected


def network_and_batch():
    config = DFlashConfig(
        hidden_size=32, intermediate_size=40, num_layers=2, num_heads=4, num_key_value_heads=2, head_dim=8,
        vocabulary_size=61, block_size=4, mask_token_id=60, target_layer_ids=(0, 2), num_target_layers=4,
    )  # fmt: skip
    network = DFlashNetwork(config)
    network.load_state_dict(tiny_weights(2, 2))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 60, (2, 9), generator=generator)
    batch = Batch(0, tokens, torch.tensor([9, 7]), torch.tensor([[3, 5], [2, 4]]))
    return network.eval(), batch, torch.randn(2, 9, 64, generator=generator)


def test_the_packed_loss_equals_one_block_at_a_time():
    """Against the decoding forward of every block alone, slots beyond the sequence left out."""
    network, batch, features = network_and_batch()
    model = tiny_model()
    with torch.no_grad():
        loss, _ = block_loss(network, model, features, batch, 7.0)
        total = mass = 0.0
        for sequence in range(2):
            for anchor in batch.anchors[sequence].tolist():
                raw = features[sequence : sequence + 1, :anchor]
                context = network.context_keys_values(network.context_features(raw), torch.arange(anchor))
                tokens = torch.tensor([int(batch.tokens[sequence, anchor]), 60, 60, 60])
                block = model.get_input_embeddings()(tokens)[None]
                hidden = network(block, torch.arange(anchor, anchor + 4), context, [None, None])[0]
                for slot in range(1, 4):
                    if anchor + slot < int(batch.lengths[sequence]):
                        log_probs = model.get_output_embeddings()(hidden[slot]).log_softmax(-1)
                        weight = float(torch.exp(torch.tensor(-(slot - 1) / 7.0)))
                        total -= weight * float(log_probs[batch.tokens[sequence, anchor + slot]])
                        mass += weight

    assert float(loss) == pytest.approx(total / mass, rel=1e-4)


def test_a_block_that_saw_its_own_future_would_be_noticed():
    """The loss moves when context behind the anchor is let through: the mask is what the test above checks."""
    network, batch, features = network_and_batch()
    shifted = attrs.evolve(batch, anchors=batch.anchors + 1)
    model = tiny_model()
    with torch.no_grad():
        first, _ = block_loss(network, model, features, batch, 7.0)
        second, _ = block_loss(network, model, features, shifted, 7.0)

    assert abs(float(first) - float(second)) > 1e-3


def test_the_schedule_warms_up_and_ends_at_nothing():
    """Linear up, cosine down."""
    schedule = Schedule(100, 10, cosine=True)

    assert schedule.share(0) == pytest.approx(0.1)
    assert schedule.share(9) == schedule.share(10) == 1.0
    assert schedule.share(55) == pytest.approx(0.5)
    assert schedule.share(100) == pytest.approx(0.0, abs=1e-9)


def test_wrong_options_are_refused():
    """Type and range, by attrs."""
    with pytest.raises(ValueError, match="steps"):
        TargetTraining(folder="x", steps=0)
    with pytest.raises(ValueError, match="block_size"):
        DrafterTraining(target="x", folder="y", block_size=1)
