"""Acceptance itself: is it low, at which depth, and does the drafter know?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from caddtree.core.records import Round
from caddtree.diagnosis.evidence import Evidence
from caddtree.diagnosis.findings import Finding, Notes, percent
from caddtree.experiments.acceptance import acceptance

NAME = "acceptance"

_HARDLY_EVER = 1.05
"""Tokens per round of a drafter for another target: the figure of the alarm that decoding raises."""
_LITTLE_GAIN = 2.0
"""A speed-up is never larger than the tokens per round, and drafting and wider forwards are still to be paid."""
_HALF = 0.5
_FEWEST_ROUNDS = 8
"""Below, a share of one half is known to no better than 0.35 either way, two standard errors."""
_CALIBRATION = (2 / 3, 1.5)
"""The demo pair expects 0.82 to 1.04 times what is accepted, over three domains, chains and trees: a product of
per-position probabilities is not exact. Half as much again is no domain's doing; halved logits give 0.1 to 0.4."""


def check(evidence: Evidence) -> Finding:
    """Return tau, how it comes about depth by depth, and whether the drafter's own expectation fits."""
    evidence.decoded()
    if evidence.decoder.drafter.block_size == 1:
        found = f"drafter {evidence.drafter_name} drafts nothing: every round is one token of plain decoding"
        return Finding(NAME, "not applicable", found)
    rounds = [round_ for generation in evidence.generations for round_ in generation.rounds]
    drafted = [round_ for round_ in rounds if round_.num_draft_nodes]
    notes = Notes(NAME)
    if not drafted:
        notes.wrong(
            f"not one of {len(rounds)} rounds had draft nodes",
            "Look at the profile: at the costs in it no draft node seems to pay. A drafter that knows no continuation "
            "drafts nothing either",
        )
        return notes.finding()
    _tell_tau(evidence, notes, drafted)
    _tell_empty_rounds(notes, rounds, len(drafted))
    _tell_calibration(notes, drafted)
    return notes.finding()


def _tell_tau(evidence: Evidence, notes: Notes, drafted: Sequence[Round]) -> None:
    found = acceptance(evidence.generations)
    tau, first = found.mean_acceptance_length, found.reached[0]
    given = _given_reached(drafted)
    notes.figures |= {"rounds": found.num_rounds, "tau": tau, "reached": list(found.reached), "given_reached": given}
    reading = f"tau {tau:.2f} over {found.num_rounds} rounds that drafted; {_reading(first, given)}"
    if tau < _HARDLY_EVER and evidence.decoder.drafter.required_layers:
        notes.wrong(reading, "The drafter was hardly made for this target: look at the checks below, from the top")
    elif first < _HALF:
        notes.attention(
            reading,
            "Compare with prompts that the drafter was trained for (--prompts). Where those are accepted, this text is "
            "unknown to it: train on such text, or draft from the text itself (drafter ngram)",
        )
    elif tau < _LITTLE_GAIN:
        notes.attention(reading, "The speed-up cannot be larger than tau: shorten the draft (draft_length), or train")
    else:
        notes.fine(reading)


def _given_reached(drafted: Sequence[Round]) -> list[float]:
    """Return, by depth, the share of accepted paths that went on, among those that a tree so deep let go on."""
    shares = []
    for depth in range(1, max(round_.tree_depth for round_ in drafted) + 1):
        here = [round_ for round_ in drafted if round_.tree_depth >= depth and round_.num_accepted >= depth - 1]
        if len(here) < _FEWEST_ROUNDS:
            break
        shares.append(sum(round_.num_accepted >= depth for round_ in here) / len(here))
    return shares


def _reading(first: float, given: Sequence[float]) -> str:
    if first < _HALF:
        return f"first position accepted {percent(first)}: the drafter hardly knows this text"
    for depth, share in enumerate(given, start=1):
        if depth > 1 and share < _HALF:
            rest = f"good at depth 1, dies at depth {depth} ({percent(share)} of the paths that come so far)"
            return f"first position accepted {percent(first)}: {rest}"
    return f"first position accepted {percent(first)}: good as deep as the trees go"


def _tell_empty_rounds(notes: Notes, rounds: Sequence[Round], num_drafted: int) -> None:
    share = 1 - num_drafted / len(rounds)
    nodes = statistics.fmean(round_.num_draft_nodes for round_ in rounds)
    notes.figures |= {"share_without_nodes": share, "mean_draft_nodes": nodes}
    words = f"{percent(share)} of rounds drafted nothing, {nodes:.1f} draft nodes per round"
    if share > _HALF:
        notes.attention(
            words, "Most rounds are plain decoding: the drafter had nothing to say, or no node seemed to pay"
        )
    else:
        notes.fine(words)


def _tell_calibration(notes: Notes, drafted: Sequence[Round]) -> None:
    expected = statistics.fmean(round_.expected_acceptance for round_ in drafted)
    accepted = statistics.fmean(round_.num_accepted for round_ in drafted)
    notes.figures |= {"expected": expected, "accepted": accepted}
    words = f"the drafter expected {expected:.2f} accepted nodes per round, {accepted:.2f} were"
    low, high = _CALIBRATION
    if low * accepted <= expected <= high * accepted:
        notes.fine(words)
    else:
        notes.attention(
            words,
            "Its probabilities are off, so trees are chosen too large or too small: look at head and embedding "
            "(output_multiplier), or fix the budget (tree_builder ddtree)",
        )
