"""Damaged target folders are refused by the name of the tensor. FT-17."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import caddtree
from caddtree.core.errors import CheckpointError
from tests.tiny_pair import write_pair


def drop(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def add(tensors):
    tensors["model.layers.1.mlp.extra.weight"] = torch.zeros(2)


def spoil(tensors):
    tensors["model.layers.2.self_attn.o_proj.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"missing tensor model\.layers\.1\.mlp\.up_proj\.weight"),
        (add, r"unexpected tensor model\.layers\.1\.mlp\.extra\.weight"),
        (spoil, r"model\.layers\.2\.self_attn\.o_proj\.weight holds NaN"),
    ],
)
def test_ft17_a_damaged_target_names_the_tensor(tmp_path, damage, message):
    """FT-17: never a partly initialised model, which Transformers would only warn about."""
    recipe = write_pair(tmp_path)
    path = tmp_path / "target" / "model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=message):
        caddtree.load(recipe)


def test_ft17_a_truncated_target_is_one_error(tmp_path):
    """FT-17: half a file."""
    recipe = write_pair(tmp_path)
    path = tmp_path / "target" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        caddtree.load(recipe)
