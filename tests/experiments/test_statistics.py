"""Ratios of speeds: paired, resampled over prompts, judged by an interval that covers as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caddtree.experiments.statistics import MIN_PROMPTS, Ratio, geometric_mean, paired_log_ratios, speed_ratio


def speeds(values, *, datasets=("a",)):
    """Return blocks with one seed and repeat; ``values`` holds a list of speeds per data set."""
    return {
        ("", dataset, f"p{index}", 0, 0): speed
        for dataset, column in zip(datasets, values, strict=True)
        for index, speed in enumerate(column)
    }


def against_one(logs, **options):
    """Return the ratio of variants whose log ratios are these."""
    mine = speeds([list(np.exp(column)) for column in logs], **options)
    return speed_ratio(mine, dict.fromkeys(mine, 1.0))


def test_ratios_are_paired_within_a_block():
    """Prompts of very different speeds: what counts is the ratio in each of them."""
    found = speed_ratio(speeds([[2.0, 200.0]]), speeds([[1.0, 100.0]]))

    assert found.value == pytest.approx(2.0)
    assert (found.num_prompts, found.num_datasets, found.num_pairs) == (2, 1, 2)


def test_the_mean_over_data_sets_is_of_their_means():
    """Two prompts of ratio 2 and one of ratio 8: the data sets weigh the same, not the prompts."""
    mine = speeds([[2.0, 2.0], [8.0]], datasets="ab")
    found = speed_ratio(mine, dict.fromkeys(mine, 1.0))

    assert found.value == pytest.approx(4.0)


def test_repeats_give_their_median_and_seeds_their_mean():
    """By hand: seed 0 has ratios 1, 2 and 16, seed 1 has 8; the prompt counts as the geometric mean of 2 and 8."""
    mine = {("", "a", "p", 0, 0): 1.0, ("", "a", "p", 0, 1): 2.0, ("", "a", "p", 0, 2): 16.0, ("", "a", "p", 1, 0): 8.0}
    found = paired_log_ratios(mine, dict.fromkeys(mine, 1.0))

    assert found == {"a": {"p": pytest.approx(math.log(4.0))}}


def test_blocks_without_a_partner_or_a_round_are_left_out():
    """A missing block, and a text that ended with prefill on either side."""
    found = speed_ratio(speeds([[2.0, 3.0, 0.0, 5.0]]), speeds([[1.0, 0.0, 1.0]]))

    assert found.value == pytest.approx(2.0)
    assert found.num_pairs == found.num_prompts == 1


def test_nothing_to_pair_is_no_ratio():
    """No figure, no verdict."""
    assert speed_ratio({}, speeds([[1.0]])) == Ratio(None, None, None, 0, 0, 0, None)
    assert speed_ratio({}, {}).verdict is None


def test_few_prompts_have_no_interval_and_no_verdict():
    """Not even when the ratio is large; one small data set is enough to take the interval of the mean away."""
    few = against_one([[1.0, 1.1, 0.9, 1.2]])
    mixed = against_one([list(np.linspace(0.9, 1.1, 9)), [1.0, 1.1, 0.9, 1.2]], datasets="ab")

    for found in (few, mixed):
        assert (found.low, found.high, found.verdict) == (None, None, None)
    assert against_one([np.linspace(0.9, 1.1, MIN_PROMPTS)]).verdict == "faster"


@pytest.mark.parametrize(
    ("log", "verdict"), [(0.1, "faster"), (-0.1, "slower"), (0.0, "not distinguishable")], ids=["up", "down", "same"]
)
def test_equal_ratios_have_an_interval_of_one_point(log, verdict):
    """Degenerate samples need no bootstrap."""
    found = against_one([[log] * 6, [log] * 7], datasets="ab")

    assert found.low == found.high == pytest.approx(math.exp(log))
    assert found.verdict == verdict


def test_a_data_set_may_be_degenerate_beside_another():
    """All of one equal, the other not: still an interval."""
    found = against_one([[0.1] * 6, list(np.linspace(0.0, 0.3, 6))], datasets="ab")

    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.01, 1.2, "faster"),
        (0.8, 0.99, "slower"),
        (1.0, 1.2, "not distinguishable"),
        (0.8, 1.0, "not distinguishable"),
        (None, None, None),
    ],
)
def test_the_interval_decides(low, high, verdict):
    """An end that touches 1 holds it."""
    assert Ratio(1.0, low, high, 9, 1, 9, None).verdict == verdict


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 8), (5, 12)], ids=str)
def test_intervals_cover_as_often_as_they_say(sizes):
    """300 simulated experiments of true ratio 1.1: 95 % intervals hold it in 90 to 99 % of them."""
    rng = np.random.default_rng(3)
    names = "abc"[: len(sizes)]
    hits = 0
    for _ in range(300):
        logs = [math.log(1.1) + rng.normal(0, 0.05, size) for size in sizes]
        found = against_one(logs, datasets=names)
        hits += found.low <= 1.1 <= found.high

    assert 270 <= hits <= 297


def test_an_interval_is_near_students_where_values_are_normal():
    """Half its width, for 8 values and for 40."""
    from scipy.stats import t

    rng = np.random.default_rng(5)
    for size in (8, 40):
        logs = rng.normal(0, 0.1, size)
        found = against_one([logs])
        student = t.ppf(0.975, size - 1) * logs.std(ddof=1) / math.sqrt(size)

        assert math.log(found.high / found.low) / 2 == pytest.approx(student, rel=0.12)


def test_the_p_value_is_that_of_the_signed_ranks():
    """Five ratios above 1: one sign pattern of 32 is as extreme, on either side."""
    assert against_one([[0.1, 0.2, 0.3, 0.4, 0.5]]).p_value == pytest.approx(2 / 32)
    assert against_one([[0.0] * 5]).p_value is None


def test_the_same_speeds_give_the_same_interval():
    """The bootstrap has a seed of its own and leaves NumPy's alone."""
    logs = np.random.default_rng(1).normal(0, 0.1, 9)
    np.random.seed(7)
    before = np.random.get_state()[1].copy()

    assert against_one([logs]) == against_one([logs])
    assert (np.random.get_state()[1] == before).all()


def test_geometric_mean_is_the_one_of_compare():
    """The old place still names it."""
    from caddtree.experiments import compare

    assert compare.geometric_mean is geometric_mean
