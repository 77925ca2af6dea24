"""The figures of a run: against small runs by hand, and against the truth of a planted one."""

from __future__ import annotations

import json
import random

import attrs
import pytest

from caddtree.core.records import Generation, Round, StageSeconds
from caddtree.experiments.acceptance import acceptance
from caddtree.experiments.records import (
    Cell,
    Difference,
    Environment,
    Failed,
    LoadedVariant,
    Reliability,
    Result,
    RoundColumns,
)
from caddtree.experiments.round_figures import Budget, BytesMoved, Prediction, merged
from caddtree.experiments.store import Plan, RunData
from caddtree.experiments.summary import FailedCell, Place, first_difference, summarise
from tests.reports.synthetic_run import synthetic_run

EMPTY = RoundColumns([], [], [], [], [], [], [], [], [], [], [])


def columns(*rounds, predicted=None):
    """Return rounds of (draft nodes, depth, accepted, seconds), of which verification takes seven tenths."""
    nodes, depths, accepted, seconds = (list(column) for column in zip(*rounds, strict=True))
    tenths = [0.1 * second for second in seconds]
    return RoundColumns(
        context_length=[10 + index for index in range(len(rounds))],
        num_draft_nodes=nodes,
        tree_depth=depths,
        num_gained=[1 + count for count in accepted],
        num_accepted=accepted,
        expected_acceptance=[0.0] * len(rounds),
        draft_seconds=tenths,
        build_seconds=tenths,
        verify_seconds=[0.7 * second for second in seconds],
        commit_seconds=tenths,
        predicted_seconds=predicted or [None] * len(rounds),
    )


def run_of(rounds, *, tokens=None, baseline="plain"):
    """Return a run of one data set ``d``: the rounds of every prompt by variant, ``plain`` first.

    Args:
        rounds: Variant to one :class:`RoundColumns` per prompt; None is a missing cell.
        tokens: Token ids by variant, in place of ``[1, 2, 3]``.
        baseline: Of the verdicts.
    """
    cells, results = [], {}
    for variant, prompts in rounds.items():
        for index, given in enumerate(prompts):
            cell = Cell(f"{variant}{index}", variant, "", "d", f"p{index}", 0, 0)
            cells.append(cell)
            if given is not None:
                ids = (tokens or {}).get(variant, [1, 2, 3])
                results[cell.id] = Result(cell, "now", "w", 0, "", "length", 5, ids, 0.5, 0.25, given, None)
    plan = Plan(
        "tiny", "", baseline, "plain", {name: {} for name in rounds}, {"": {}}, ("d",), {}, tuple(cells), ""
    )  # fmt: skip
    return RunData(plan, results, {}, {}, {}, {"w": Environment("w", {"device": "x", "process": 1})}, {}, 0)


def outcome(data, variant):
    return next(row for row in summarise(data).rows if row.variant == variant).overall


def test_a_planted_effect_is_found_and_a_null_effect_is_not_called():
    """10 % faster, 20 % slower and equal, against ddtree-16, in both settings; the baseline is not judged."""
    summary = summarise(synthetic_run())

    for setting in summary.settings:
        found = {row.variant: row.overall.ratio for row in summary.rows_of(setting)}
        assert {name: ratio and ratio.verdict for name, ratio in found.items()} == {
            "plain": "slower",
            "chain": "slower",
            "ddtree-16": None,
            "ddtree-64": "not distinguishable",
            "caddtree": "faster",
        }
        assert found["caddtree"].value == pytest.approx(1.10, rel=0.03)
        assert found["chain"].value == pytest.approx(0.80, rel=0.03)
        assert found["ddtree-64"].p_value > 0.05 > found["caddtree"].p_value


def test_speed_ups_are_over_plain_decoding_whatever_the_baseline():
    """Planted 2.75 over plain; per data set, too."""
    (row,) = (row for row in summarise(synthetic_run()).rows_of("temperature=0") if row.variant == "caddtree")

    for found in (row.overall, *row.datasets.values()):
        assert found.speedup.value == pytest.approx(2.75, rel=0.04)
        assert found.speedup.low < found.speedup.value < found.speedup.high


def test_figures_of_rounds_by_hand():
    """Three rounds of 2, 4 and 2 seconds that gain 1, 3 and 2 tokens with 0, 6 and 3 draft nodes."""
    rounds = columns((0, 0, 0, 2.0), (6, 3, 2, 4.0), (3, 1, 1, 2.0), predicted=[None, 5.0, 2.0])
    found = outcome(run_of({"plain": [EMPTY], "tree": [rounds]}), "tree")

    assert found.tau == 2.0
    assert found.budget == Budget(3.0, pytest.approx(6**0.5), {0: 1, 3: 1, 6: 1})
    assert attrs.astuple(found.stages) == pytest.approx((0.8 / 3, 0.8 / 3, 5.6 / 3, 0.8 / 3))
    assert found.stages.total == pytest.approx(8 / 3)
    assert found.prediction == Prediction(2, pytest.approx(0.125), pytest.approx(0.125))
    assert found.tokens_per_second == pytest.approx(6 / 8)
    assert found.seconds_per_token == pytest.approx(8 / 6)
    assert found.prefill_seconds == 0.5
    assert found.harness_share == pytest.approx(0.25 / 8.5)


def test_tokens_per_second_is_the_median_of_prompts():
    """Speeds of 1, 2 and 10."""
    rounds = [columns((0, 0, 0, 1.0)), columns((0, 0, 0, 0.5)), columns((0, 0, 0, 0.1))]

    assert outcome(run_of({"plain": rounds}), "plain").tokens_per_second == pytest.approx(2.0)


def test_bytes_are_counted_from_shapes():
    """A plain round at context 10 and a drafting one at 11: weights 1000, cache 10 a row, drafter 100."""
    data = run_of({"plain": [EMPTY], "tree": [columns((0, 0, 0, 1.0), (4, 2, 2, 1.0))]})
    data.loaded["tree"] = LoadedVariant("tree", "now", "w", {}, None, 1000, 100, 10, 0.0, 0.0)

    first, second = 1000 + 10 * 11, 1000 + 10 * 16 + 100
    assert outcome(data, "tree").bytes_moved == BytesMoved((first + second) / 2, (first + second) / 4)


@pytest.mark.parametrize("unknown", ["target_bytes", "key_value_bytes", "drafter_bytes"])
def test_unknown_shapes_give_no_bytes(unknown):
    """Rather no figure than one without a part of it."""
    data = run_of({"plain": [EMPTY], "tree": [columns((4, 2, 2, 1.0))]})
    loaded = LoadedVariant("tree", "now", "w", {}, None, 1000, 100, 10, 0.0, 0.0)
    data.loaded["tree"] = attrs.evolve(loaded, **{unknown: None})

    assert outcome(data, "tree").bytes_moved is None
    assert outcome(run_of({"plain": [EMPTY]}), "plain").bytes_moved is None


def test_acceptance_means_what_it_means_for_generations():
    """The same rounds as a generation, counted by ``acceptance``."""
    shapes = [(0, 0, 0), (6, 3, 2), (4, 3, 3), (5, 2, 0)]
    stages = StageSeconds(0.1, 0.1, 0.1, 0.1)
    rounds = tuple(
        Round(0, 9, nodes, depth, (0,) * (1 + accepted), tuple(range(1 + accepted)), 0.0, stages, None)
        for nodes, depth, accepted in shapes
    )
    expected = acceptance([Generation("", (), "length", 9, 0.0, rounds)])
    data = run_of({"plain": [EMPTY], "tree": [columns(*((*shape, 1.0) for shape in shapes))]})

    assert outcome(data, "tree").acceptance == expected
    assert outcome(data, "plain").acceptance.num_rounds == 0


def test_reliability_is_merged_bin_by_bin():
    """Cells without drafts have none."""
    one, two = Reliability([1, 2], [1, 0], [0.5, 1.5]), Reliability([3, 4], [0, 4], [1.0, 2.0])

    assert attrs.asdict(merged([one, None, two])) == {
        "count": [4, 6],
        "right": [1, 4],
        "probability_sum": [1.5, 3.5],
    }
    assert merged([None]) is None


def test_cells_without_a_speed_or_a_partner_are_left_out_and_counted():
    """p0 needed no round; p1 lacks plain decoding's cell; p2 failed; p3 is missing; p4 counts."""
    ran = columns((0, 0, 0, 1.0))
    fast = columns((0, 0, 0, 0.5))
    data = run_of({"plain": [ran, None, ran, ran, ran], "tree": [EMPTY, fast, None, None, fast]})
    failed = next(cell for cell in data.plan.cells if cell.id == "tree2")
    data.failed["tree2"] = Failed(failed, "now", "out of memory")
    found = outcome(data, "tree")

    assert found.speedup.value == pytest.approx(2.0)
    assert (found.speedup.num_pairs, found.num_left_out, found.num_without_rounds) == (1, 3, 1)
    assert (found.num_cells, found.num_results, found.num_failed, found.num_missing) == (5, 3, 1, 1)
    assert found.failures == (FailedCell(Place("d", "p2", 0, 0), "out of memory"),)


def test_different_outputs_are_named_with_their_gap():
    """From its record where there is one, else counted here."""
    ran = columns((0, 0, 0, 1.0))
    data = run_of({"plain": [ran, ran], "tree": [ran, ran]}, tokens={"tree": [1, 9, 3]})
    data.differences["tree1"] = Difference(data.results["tree1"].cell, "now", 7, 0.5)
    found = outcome(data, "tree")

    assert (found.num_compared, found.num_identical) == (2, 0)
    assert [(entry.place.prompt, entry.position, entry.gap) for entry in found.differences] == [
        ("p0", 1, None),
        ("p1", 7, 0.5),
    ]
    assert "Outputs differ from plain decoding's: tree 2." in summarise(data).notes


def test_an_output_without_plain_decodings_is_not_compared():
    """Neither identical nor different."""
    ran = columns((0, 0, 0, 1.0))

    assert outcome(run_of({"plain": [None], "tree": [ran]}), "tree").num_compared == 0


@pytest.mark.parametrize(
    ("tokens", "others", "position"), [([1, 2], [1, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([1], [1], 1)]
)
def test_the_first_difference_is_found(tokens, others, position):
    """Where one list ends, the other differs."""
    assert first_difference(tokens, others) == position


def test_notes_say_what_is_not_there():
    """Missing, failed, stale, lost, few prompts."""
    ran = columns((0, 0, 0, 1.0))
    data = run_of({"plain": [ran, ran], "tree": [ran, None]})
    data.num_lost["tree0"] = 2
    notes = "\n".join(summarise(attrs.evolve(data, num_stale=4)).notes)

    assert "3 of 4 cells are there, 1 are missing" in notes
    assert "4 cells have results of other code" in notes
    assert "died or hung 2 times" in notes
    assert "Too few prompts for an interval, and so for a verdict: d; it takes 5" in notes
    assert "failed" not in notes.replace("failed or", "")


def test_a_whole_run_needs_no_note():
    """Nothing to warn of."""
    assert summarise(synthetic_run()).notes == ()


def test_mixed_environments_are_named_but_not_the_processes_of_one_machine():
    """Two workers of a machine are one environment; another host is not."""
    data = run_of({"plain": [columns((0, 0, 0, 1.0))]})
    data.environments["v"] = Environment("v", {"device": "x", "process": 2})
    assert summarise(data).mixed_facts == ()

    data.environments["u"] = Environment("u", {"device": "y", "process": 3, "host": "h"})
    assert summarise(data).mixed_facts == ("device", "host")
    assert any("which differ in device, host" in note for note in summarise(data).notes)


def test_a_part_of_the_data_sets_is_said():
    """One variant has not begun with the last data set."""
    data = synthetic_run()
    for cell in data.plan.cells:
        if cell.variant == "chain" and cell.dataset == "code":
            del data.results[cell.id]
    summary = summarise(data)

    assert "Geometric mean over a part of the data sets only: chain." in summary.notes
    assert next(row for row in summary.rows if row.variant == "chain").overall.speedup.num_datasets == 2


def test_records_in_another_order_give_the_same_bytes():
    """A run of several workers comes in any order."""
    data = synthetic_run(num_prompts=5)
    shuffled = list(data.results.items())
    random.Random(0).shuffle(shuffled)
    again = attrs.evolve(data, results=dict(shuffled))

    assert json.dumps(summarise(data).to_dict()) == json.dumps(summarise(again).to_dict())


def test_every_figure_is_in_the_json():
    """What a reviewer looks for; no NaN, keys are text."""
    values = json.loads(json.dumps(summarise(synthetic_run(num_prompts=5)).to_dict(), allow_nan=False))
    (row,) = (row for row in values["rows"] if (row["setting"], row["variant"]) == ("temperature=1", "caddtree"))

    assert set(row["datasets"]) == {"reasoning", "instructions", "code"}
    assert {"value", "low", "high", "verdict", "p_value", "num_pairs"} <= set(row["overall"]["ratio"])
    assert all(isinstance(nodes, str) for nodes in row["overall"]["budget"]["histogram"])
    assert len(row["overall"]["acceptance"]["given_reached"]) == len(row["overall"]["acceptance"]["reached"])
    assert row["overall"]["stages"]["total"] > 0
    assert values["environments"]["worker"]["device"] == "An Imaginary Processor"
    assert values["notes"] == []


def test_a_run_that_has_not_begun_has_no_figures():
    """Every cell is missing; nothing divides by zero."""
    data = attrs.evolve(synthetic_run(num_prompts=5), results={}, environments={}, loaded={})
    summary = summarise(data)

    assert summary.num_missing == len(data.plan.cells)
    assert all(row.overall.tau is None and row.overall.speedup.value is None for row in summary.rows)
    json.dumps(summary.to_dict(), allow_nan=False)


def test_ratios_are_taken_within_one_worker():
    """What another worker finished is left out until plain decoding was run there too; its own speed stays."""
    data = run_of({"plain": [timed(2.0)] * 6, "mine": [timed(1.0)] * 6})
    moved = {**data.results, "mine0": attrs.evolve(data.results["mine0"], environment="later")}
    data = attrs.evolve(data, results=moved)
    slower = attrs.evolve(data.results["plain0"], environment="later", rounds=timed(8.0))

    assert outcome(data, "mine").speedup.num_pairs == 5
    assert outcome(data, "mine").num_left_out == 1
    joined = attrs.evolve(data, references={("plain0", "later"): slower})
    assert outcome(joined, "mine").speedup.num_pairs == 6
    assert outcome(joined, "mine").speedup.value == pytest.approx((2.0**5 * 8.0) ** (1 / 6))
    assert outcome(joined, "plain").tokens_per_second == outcome(data, "plain").tokens_per_second


def timed(seconds):
    """One round of three tokens that takes so long."""
    return columns((3, 2, 2, seconds))
