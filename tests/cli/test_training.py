"""``train``: target and drafter at toy size, and what cannot be trained from."""

from __future__ import annotations

import functools
import re

import pytest

import caddtree as package
from caddtree.training import corpus, drafter, target
from tests.cli.runner import caddtree, lines
from tests.training.test_training import DRAFTER, TARGET


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The shipped models take hours: the same commands with small defaults."""
    monkeypatch.setattr(corpus, "code_pieces", lambda **_: ["def f():\n    return 1\n" * 20])
    monkeypatch.setattr(target, "TargetTraining", functools.partial(target.TargetTraining, **TARGET))
    monkeypatch.setattr(drafter, "DrafterTraining", functools.partial(drafter.DrafterTraining, **DRAFTER))


def test_target_and_drafter_are_trained_and_make_a_pair(tmp_path):
    """--steps counts, the last line is the folder of the model, and the two decode together."""
    first = caddtree("train", "target", "--folder", tmp_path / "t", "--steps", 2)
    second = caddtree(
        "train", "drafter", "--target", tmp_path / "t" / "target", "--folder", tmp_path / "d", "--steps", 3
    )

    assert (first.exit_code, second.exit_code) == (0, 0), first.stderr + second.stderr
    assert lines(first.stdout) == [f"target written to {tmp_path / 't' / 'target'}"]
    assert lines(second.stdout) == [f"drafter written to {tmp_path / 'd' / 'drafter'}"]
    assert re.findall(r"step (\d+)", first.stderr) == ["2"]
    decoder = package.load(
        {
            "target": {"model": str(tmp_path / "t" / "target")},
            "drafter": {"name": "dflash", "model": str(tmp_path / "d" / "drafter")},
            "tree_builder": {"name": "chain"},
        }
    )
    assert len(decoder.generate("Sam has", max_new_tokens=5, ignore_eos=True).token_ids) == 5


def test_the_seed_chooses_the_weights(tmp_path):
    """Another seed, another model."""
    weights = []
    for seed in (1, 2):
        caddtree("train", "target", "--folder", tmp_path / str(seed), "--steps", 1, "--seed", seed)
        weights.append((tmp_path / str(seed) / "target" / "model.safetensors").read_bytes())

    assert weights[0] != weights[1]


def test_a_missing_target_is_one_line_and_exit_code_2(tmp_path):
    """The folder is named."""
    found = caddtree("train", "drafter", "--target", tmp_path / "nowhere", "--folder", tmp_path / "d")

    assert found.exit_code == 2
    assert lines(found.stderr) == [
        f"error: {tmp_path / 'nowhere'}: no config.json there; give the folder of a finished target"
    ]


@pytest.mark.parametrize("steps", ["0", "-3", "many"])
@pytest.mark.parametrize("command", [["target"], ["drafter", "--target", "t"]])
def test_steps_must_be_a_count(tmp_path, command, steps):
    """Refused before anything is made."""
    found = caddtree("train", *command, "--folder", tmp_path / "x", "--steps", steps)

    assert found.exit_code == 2
    assert "--steps" in found.stderr
    assert not (tmp_path / "x").exists()


def test_a_card_needs_a_pair(tmp_path):
    """A folder without target and drafter is one line and exit code 2."""
    found = caddtree("train", "card", "--pair", tmp_path)

    assert found.exit_code == 2
    assert len(lines(found.stderr)) == 1
    assert str(tmp_path) in found.stderr
