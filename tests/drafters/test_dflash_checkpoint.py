"""Reading checkpoints: what is honoured, what is refused, and that nothing else is opened. FT-13, 15, 16, 17."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from caddtree.core.errors import CheckpointError
from caddtree.drafters import dflash_checkpoint
from caddtree.drafters.dflash_network import DFlashNetwork
from tests.drafters.checkpoints import tiny_checkpoint, tiny_weights


def load(folder):
    config = dflash_checkpoint.read_config(folder)
    return dflash_checkpoint.load_network(folder, config, torch.float32, torch.device("cpu"))


def test_what_is_written_reads_back(tmp_path):
    """Our own checkpoints go through the same door as public ones."""
    network = load(tiny_checkpoint(tmp_path / "a", layers=2))
    dflash_checkpoint.write_checkpoint(tmp_path / "b", network, dtype=torch.float32)
    again = load(tmp_path / "b")

    assert again.config == network.config
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


def test_block_size_inside_dflash_config_wins(tmp_path):
    """Newer files."""
    assert dflash_checkpoint.read_config(tiny_checkpoint(tmp_path, dflash={"block_size": 4})).block_size == 4


@pytest.mark.parametrize(
    ("layers", "num_target", "found"), [(1, 36, (18,)), (5, 36, (1, 9, 17, 25, 33)), (3, 8, (1, 3, 5))]
)
def test_layers_that_are_not_written_spread_evenly(tmp_path, layers, num_target, found):
    """Older files: the rule of the public code."""
    folder = tiny_checkpoint(tmp_path, layers=layers, dflash={"target_layer_ids": ...}, num_target_layers=num_target)

    assert dflash_checkpoint.read_config(folder).target_layer_ids == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dflash": {"surprise": 1}}, "dflash_config.surprise is unknown"),
        ({"markov_rank": 8}, "markov_rank"),
        ({"architectures": ["Qwen3DSparkModel"]}, "Qwen3DSparkModel"),
        ({"model_type": "llama"}, "llama"),
        ({"rope_theta": ...}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"block_size": 1}, "block_size"),
        ({"block_size": "6"}, "block_size"),
        ({"dflash": {"mask_token_id": -1}}, "mask_token_id"),
        ({"dflash": {"target_layer_ids": [2, 1]}}, "target_layer_ids"),
        ({"dflash": {"target_layer_ids": [0, 4]}}, "0..3"),
        ({"layer_types": ["linear_attention"]}, "layer_types"),
        ({"layer_types": ["sliding_attention"]}, "sliding_window"),
        ({"hidden_size": True}, "hidden_size"),
    ],
)
def test_ft13_configs_that_would_load_wrongly_are_refused(tmp_path, changes, message):
    """FT-13: by the name of the field."""
    folder = tiny_checkpoint(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        dflash_checkpoint.read_config(folder)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_ft15_a_pickle_is_never_opened(tmp_path, name):
    """FT-15: no side effect, and the message says what is accepted."""
    folder, trace = tiny_checkpoint(tmp_path / "x"), tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(str(trace))))
    with pytest.raises(CheckpointError, match="safetensors"):
        load(folder)
    assert not trace.exists()


def test_ft16_remote_code_beside_the_weights_is_not_run(tmp_path):
    """FT-16: ``auto_map`` names a module that would leave a trace."""
    folder = tiny_checkpoint(tmp_path / "x")
    (folder / "dflash.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    load(folder)
    assert not (tmp_path / "trace").exists()


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def forge(folder):
    path = folder / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


def rewrite(change):
    def apply(folder):
        weights = tiny_weights(1, 2)
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "damaged safetensors"),
        (forge, "damaged safetensors"),
        (rewrite(lambda w: w.pop("fc.weight")), "fc.weight is missing"),
        (rewrite(lambda w: w.update(extra=torch.zeros(2))), "unexpected tensor extra"),
        (rewrite(lambda w: w.update({"norm.weight": torch.zeros(31)})), r"norm.weight has shape \(31,\)"),
        (rewrite(lambda w: w.update({"norm.weight": torch.zeros(32, dtype=torch.int64)})), "norm.weight is of type"),
        (rewrite(lambda w: w["norm.weight"].fill_(float("nan"))), "norm.weight holds NaN"),
    ],
)
def test_ft17_damaged_weights_name_the_tensor(tmp_path, damage, message):
    """FT-17: never a partly initialised model."""
    folder = tiny_checkpoint(tmp_path)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"hidden_size": 3}'])
def test_a_broken_config_is_one_clear_error(tmp_path, content):
    """The file is named."""
    folder = tiny_checkpoint(tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json"):
        dflash_checkpoint.read_config(folder)


def test_a_folder_that_does_not_exist_is_named():
    """Before anything is fetched."""
    with pytest.raises(CheckpointError, match="no such folder"):
        dflash_checkpoint.locate("./nowhere/at/all")


def test_parameter_names_are_those_of_the_public_checkpoints(tmp_path):
    """The strict loader needs them equal, name by name."""
    config = dflash_checkpoint.read_config(tiny_checkpoint(tmp_path, layers=2))

    assert set(DFlashNetwork(config).state_dict()) == set(tiny_weights(2, 2))


def test_the_printed_line_holds_what_fails_silently(tmp_path):
    """Layer ids, mask token, rope base, block size."""
    line = dflash_checkpoint.describe(json_config := dflash_checkpoint.read_config(tiny_checkpoint(tmp_path)))

    assert "[0, 2]" in line
    assert "60" in line
    assert "5000" in line
    assert json.loads(str(json_config.block_size)) == 6
