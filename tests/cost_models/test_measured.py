"""Table and convex models over one profile; the profile's own repairs and refusals. FT-15, FT-18."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from caddtree.core.errors import CostModelError
from caddtree.core.profile import Profile, RoundSeconds, read_profile
from caddtree.cost_models.convex import fit_convex
from tests.cost_models.profiles import profile


def test_a_profile_reads_back_as_written(tmp_path):
    """JSON there and back, under a name that appears whole."""
    path = tmp_path / "a" / "profile.json"
    profile().write(path)
    again = read_profile(path)

    assert again.to_json() == profile().to_json()
    assert [entry.name for entry in path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"after_seconds": [[0.01, -0.02, 0.03], [0.01, 0.02, 0.03]]}, "after_seconds must be seconds"),
        ({"after_seconds": [[0.01, float("nan"), 0.03], [0.01, 0.02, 0.03]]}, "after_seconds must be seconds"),
        ({"after_seconds": [[0.0, 0.02, 0.03], [0.01, 0.02, 0.03]]}, "zero"),
        ({"draft_seconds": [0.001, float("inf")]}, "draft_seconds must be seconds"),
        ({"counts": (0,), "after_seconds": [[0.1], [0.1]], "spread_seconds": [[0], [0]]}, "at least one more"),
        ({"counts": (), "after_seconds": [[], []], "spread_seconds": [[], []]}, "counts must ascend"),
        ({"counts": (1, 2, 3)}, "counts must be 0"),
        ({"counts": (0, 8, 4)}, "counts must ascend"),
        ({"contexts": (64,)}, "shape"),
        ({"spread_seconds": [[0.0]]}, "spread_seconds must have shape"),
    ],
)
def test_ft18_numbers_that_are_no_seconds_are_refused(changes, message):
    """FT-18: negative, NaN, zero, one point, no points, wrong order and shape."""
    with pytest.raises(CostModelError, match=message):
        profile(**changes)


def test_ft18_a_decreasing_table_is_repaired_and_large_dips_are_told(caplog):
    """FT-18: isotonic per context; the rule says when it speaks up."""
    dip = profile(after_seconds=[[0.010, 0.030, 0.020], [0.011, 0.022, 0.033]])
    with caplog.at_level(logging.WARNING, logger="caddtree"):
        repaired = dip.repaired()

    assert repaired.after_seconds[0].tolist() == pytest.approx([0.010, 0.025, 0.025])
    assert repaired.after_seconds[1].tolist() == [0.011, 0.022, 0.033]
    assert "2 of 6 medians dip" in caplog.text


def test_small_dips_are_repaired_silently(caplog):
    """Within the spread a dip is noise."""
    with caplog.at_level(logging.WARNING, logger="caddtree"):
        profile(
            after_seconds=[[0.010, 0.0201, 0.0200], [0.011, 0.022, 0.033]], spread_seconds=np.full((2, 3), 0.001)
        ).repaired()

    assert not caplog.text


def test_ft15_a_pickle_is_no_profile(tmp_path):
    """FT-15: not opened as anything but JSON, no side effect."""
    trace = tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    path = tmp_path / "profile.json"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CostModelError, match="only JSON"):
        read_profile(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "key": 3}'])
def test_files_that_are_no_profiles_are_named(tmp_path, content):
    """One line with the file."""
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(CostModelError, match=r"profile.json"):
        read_profile(path)


def curves():
    found = profile()
    return RoundSeconds(found.contexts, found.draft_seconds, found.counts, found.after_seconds)


def test_measured_points_are_returned_as_they_are():
    """At the grid itself there is nothing to interpolate."""
    assert curves().after_seconds(np.array([0, 4, 10]), 100).tolist() == pytest.approx([0.010, 0.020, 0.030])
    assert curves().draft_seconds(100) == pytest.approx(0.002)


def test_between_counts_and_contexts_it_is_linear():
    """Half way between everything, by hand: (0.010 + 0.020) / 2 at 100, (0.020 + 0.040) / 2 at 300."""
    assert curves().after_seconds(np.array([2]), 200)[0] == pytest.approx((0.015 + 0.030) / 2)
    assert curves().draft_seconds(200) == pytest.approx(0.003)


def test_beyond_the_last_count_the_last_slope_goes_on():
    """(0.030 - 0.020) / 6 per node."""
    assert curves().after_seconds(np.array([16]), 100)[0] == pytest.approx(0.030 + 6 * 0.010 / 6)


def test_outside_the_contexts_only_the_level_moves(caplog):
    """Increments of the nearest context, level by the slope, never below zero; said once."""
    found = curves()
    with caplog.at_level(logging.INFO, logger="caddtree"):
        beyond = found.after_seconds(np.array([0, 4, 10]), 500)
        found.after_seconds(np.array([0]), 600)

    # level at 0 nodes: 0.020 at 300, slope 0.010 per 200
    assert beyond.tolist() == pytest.approx([0.030, 0.050, 0.070])
    assert caplog.text.count("beyond") == 1
    before = found.after_seconds(np.array([0, 4, 10]), 0)
    assert before.tolist() == pytest.approx([0.005, 0.015, 0.025])


def test_a_single_context_holds_everywhere():
    """No slope can be told from one context."""
    found = RoundSeconds((64,), np.array([0.001]), (0, 2), np.array([[0.01, 0.02]]))

    assert found.after_seconds(np.array([0, 1, 2]), 9999).tolist() == pytest.approx([0.01, 0.015, 0.02])


def test_convex_data_are_fitted_exactly():
    """A convex curve is in the family."""
    counts = np.array([0, 1, 4, 9, 20])
    seconds = 0.01 + 0.0001 * counts + 0.00005 * counts**2

    assert fit_convex(counts, seconds) == pytest.approx(seconds, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 0.1), min_size=5, max_size=5))
def test_the_fit_is_convex_monotone_and_optimal(values):
    """Against a general solver over the same constraints."""
    counts = np.array([0, 2, 5, 6, 12])
    seconds = np.array(values)
    fitted = fit_convex(counts, seconds)
    slopes = np.diff(fitted) / np.diff(counts)

    assert (slopes >= -1e-9).all()
    assert (np.diff(slopes) >= -1e-9).all()
    constraints = [
        {"type": "ineq", "fun": lambda x: np.diff(np.diff(x) / np.diff(counts))},
        {"type": "ineq", "fun": lambda x: np.diff(x)},
        {"type": "ineq", "fun": lambda x: x},
    ]
    other = minimize(
        lambda x: 1e4 * ((x - seconds) ** 2).sum(), np.full(5, seconds.mean()), constraints=constraints, method="SLSQP"
    )
    # the solver breaks its constraints by about 1e-7, and gains by it
    assert ((fitted - seconds) ** 2).sum() <= ((other.x - seconds) ** 2).sum() * (1 + 1e-3) + 1e-7


def test_a_truth_that_is_not_convex_has_a_misfit():
    """On CPUs the curve is concave: the fit cannot follow it."""
    counts = np.array([0, 1, 4, 16, 64])
    concave = np.sqrt(counts + 1.0)

    assert (np.abs(fit_convex(counts, concave) - concave) / concave).max() > 0.05


def test_the_stored_format_is_plain_json():
    """Readable without the package."""
    assert json.loads(profile().to_json())["counts"] == [0, 4, 10]
    assert isinstance(profile(), Profile)
