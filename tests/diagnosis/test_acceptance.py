"""Acceptance in words: what a tau is made of, and what is the matter with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from caddtree.core.records import Generation, Round, StageSeconds
from caddtree.diagnosis.checks import acceptance
from caddtree.diagnosis.evidence import Evidence, gather
from caddtree.diagnosis.findings import Finding
from tests.diagnosis.planted import PROMPTS, copy_drafter, decoder_of, dflash, says


def round_of(accepted: int, *, nodes: int = 8, depth: int = 8, expected: float | None = None) -> Round:
    return Round(
        index=0,
        context_length=10,
        num_draft_nodes=nodes,
        tree_depth=depth if nodes else 0,
        tokens=(1,) * (accepted + 1),
        path=tuple(range(accepted + 1)),
        expected_acceptance=float(accepted) if expected is None else expected,
        seconds=StageSeconds(1e-3, 1e-3, 1e-3, 1e-3),
        predicted_seconds=None,
    )


def judged(*rounds: Round, layers: tuple[int, ...] = (2,), block_size: int = 9) -> Finding:
    drafter = SimpleNamespace(block_size=block_size, required_layers=layers)
    evidence: Any = SimpleNamespace(
        decoder=SimpleNamespace(drafter=drafter),
        generations=(Generation("", (), "length", 1, 0.0, rounds),),
        drafter_name="Some",
        decoded=lambda: (),
    )
    return acceptance.check(evidence)


def test_the_demo_pair_is_fine_with_its_figures(healthy: Evidence) -> None:
    """Tau and the shares depth by depth, ready for JSON."""
    finding = acceptance.check(healthy)

    says(finding, "fine", "tau ", "first position accepted", "the drafter expected")
    assert finding.figures["tau"] > 4
    assert finding.figures["reached"][0] > 0.7
    assert finding.figures["given_reached"][0] == pytest.approx(finding.figures["reached"][0], abs=0.05)


def test_a_first_position_that_fails_most_of_the_time_is_named() -> None:
    """The drafter does not know the text."""
    finding = judged(*[round_of(3)] * 17, *[round_of(0)] * 33)

    says(finding, "attention", "first position accepted 34 %: the drafter hardly knows this text", "--prompts")


def test_the_depth_at_which_paths_end_is_named() -> None:
    """Good at depth 1 and 2, and then most end."""
    finding = judged(*[round_of(0)] * 4, *[round_of(1)] * 2, *[round_of(2)] * 30, *[round_of(3)] * 14)

    says(finding, "fine", "first position accepted 92 %: good at depth 1, dies at depth 3 (32 % of the paths")


def test_a_tree_that_ends_is_no_draft_that_fails() -> None:
    """Paths that reach the bottom of their tree were not refused."""
    finding = judged(*[round_of(2, depth=2)] * 40, *[round_of(5)] * 7)

    says(finding, "fine", "good as deep as the trees go")


def test_hardly_any_acceptance_is_wrong_for_a_drafter_of_this_target() -> None:
    """One that is conditioned on layers of the target was made for one; n-grams were not."""
    rounds = [round_of(0)] * 99 + [round_of(1)]

    says(judged(*rounds), "wrong", "tau 1.01", "hardly made for this target")
    says(judged(*rounds, layers=()), "attention", "tau 1.01")


def test_little_gain_and_empty_rounds_are_told() -> None:
    """Tau bounds the speed-up; rounds without nodes are plain decoding."""
    says(judged(*[round_of(1)] * 15, *[round_of(0)] * 10), "attention", "tau 1.60", "cannot be larger than tau")
    says(judged(*[round_of(3)] * 10, *[round_of(0, nodes=0)] * 30), "attention", "75 % of rounds drafted nothing")
    says(judged(*[round_of(0, nodes=0)] * 30), "wrong", "not one of 30 rounds had draft nodes")


@pytest.mark.parametrize(("expected", "status"), [(2.1, "fine"), (4.4, "fine"), (1.9, "attention"), (4.6, "attention")])
def test_an_expectation_that_is_off_by_half_is_told(expected: float, status: Any) -> None:
    """Of three accepted nodes."""
    says(
        judged(*[round_of(3, expected=expected)] * 20),
        status,
        f"expected {expected:.2f} accepted nodes per round, 3.00",
    )


def test_plain_decoding_has_no_acceptance() -> None:
    """Not applicable is not fine."""
    says(judged(round_of(0, nodes=0), block_size=1), "not applicable", "drafter Some drafts nothing")


def test_a_multiplier_that_spoils_the_expectation_is_named(held: Any, tmp_path: Path) -> None:
    """The ranks stay, the probabilities do not."""
    folder = copy_drafter(tmp_path / "drafter", dflash(output_multiplier=0.5))
    with decoder_of(held, folder) as decoder:
        says(acceptance.check(gather(decoder, PROMPTS[:3])), "attention", "Its probabilities are off")


def test_a_decoding_that_fails_fails_the_check(healthy: Evidence) -> None:
    """With what it raised."""
    with pytest.raises(RuntimeError, match="no"):
        acceptance.check(attrs.evolve(healthy, failure=RuntimeError("no")))
