"""The profile: do the costs that choose the trees still hold?"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import numpy as np

from caddtree.core.protocols import CostModel
from caddtree.core.records import Round
from caddtree.core.tree_packet import padded_rows
from caddtree.diagnosis.evidence import Evidence
from caddtree.diagnosis.findings import Finding, Notes, percent
from caddtree.diagnosis.kept_profile import KeptProfile

NAME = "profile"

_DAYS_OLD = 30
"""Drivers, firmware and neighbours change within a month, and nothing in the key of a profile tells."""
_OFF = 0.15
"""Beyond, the choice between sizes loses more than a few percent: neighbours on the grid differ by about as much."""
_OUTLIERS = 0.05
"""Of a cell with the fewest repeats, three, the median is an outlier when two are: at this share in one cell of 130,
which is one cell of a whole profile."""
_MEDIAN_ERROR = 0.05
"""Relative; sizes four to an octave differ by about as much, so that a larger error orders them by chance."""
_HALF_QUARTILES = 0.674
"""Half the middle 50 % of a normal law, in standard deviations."""
_MEDIAN_OVER_MEAN = 1.25
"""Standard error of a median over that of a mean."""
_ADVICE = "Measure anew with nothing else running: caddtree profile"


def check(evidence: Evidence) -> Finding:
    """Return age and quality of the profile, and how well it predicts the rounds that were just decoded."""
    model, kept = evidence.decoder.cost_model, evidence.kept
    if kept is None or model is None:
        name = type(model).__name__
        if not evidence.decoder.tree_builder.needs_cost_model:
            builder = type(evidence.decoder.tree_builder).__name__
            return Finding(NAME, "not applicable", f"tree_builder {builder} asks no cost model")
        return Finding(NAME, "not applicable", f"cost_model {name} keeps no profile")
    notes = Notes(NAME)
    notes.figures["path"] = str(kept.path)
    if kept.profile is None or kept.problem:
        _tell_problem(evidence, notes, kept)
        return notes.finding()
    _check_age(notes, kept)
    _check_quality(notes, kept, getattr(model, "misfit", None))
    rounds = [round_ for generation in evidence.generations for round_ in generation.rounds]
    _check_predictions(notes, model, rounds, evidence.decoder.target.runner.row_buckets)
    return notes.finding()


def _tell_problem(evidence: Evidence, notes: Notes, kept: KeptProfile) -> None:
    words = f"{kept.problem}; rounds were decoded with {evidence.fixed_count} draft nodes for want of costs"
    if getattr(evidence.decoder.cost_model, "path", None) is None:
        notes.attention(words, "The next answer waits while rounds are measured; do it now: caddtree profile")
    else:
        notes.wrong(words, "Measure here (caddtree profile -o FILE), or leave cost_model.path out")


def _check_age(notes: Notes, kept: KeptProfile) -> None:
    days = max(0.0, time.time() - kept.path.stat().st_mtime) / 86400
    notes.figures |= {"age_days": days, "differing": list(kept.differing)}
    if days > _DAYS_OLD:
        notes.attention(f"measured {days:.0f} days ago", _ADVICE)
    else:
        notes.fine(f"measured {days:.1f} days ago")
    if kept.differing:
        notes.attention(
            f"measured with other {', '.join(kept.differing)}, used because cost_model.force is set", _ADVICE
        )
    else:
        notes.fine("on this pipeline and machine")


def _check_quality(notes: Notes, kept: KeptProfile, misfit: float | None) -> None:
    profile = kept.profile
    assert profile is not None
    error = _MEDIAN_OVER_MEAN * profile.spread_seconds / _HALF_QUARTILES / math.sqrt(max(1, profile.repeats))
    relative = float(np.median(error / profile.after_seconds))
    notes.figures |= {"median_error": relative, "outlier_share": profile.outlier_share, "misfit": misfit}
    words = f"medians known to {percent(relative)}, {percent(profile.outlier_share)} outliers"
    if relative > _MEDIAN_ERROR or profile.outlier_share > _OUTLIERS:
        notes.attention(f"{words}: the machine was busy", _ADVICE)
    else:
        notes.fine(words)
    if misfit is None:
        return
    if misfit > _OFF:
        notes.attention(
            f"the convex fit is off by up to {percent(misfit)}", "Use cost_model table, which follows every step"
        )
    else:
        notes.fine(f"the convex fit is off by at most {percent(misfit)}")


def _check_predictions(
    notes: Notes, model: CostModel, rounds: Sequence[Round], buckets: tuple[int, ...] | None
) -> None:
    # predictions of the loop follow the machine by a learned factor, so the model itself is asked
    ratios = [
        predicted_seconds(model, round_, buckets) / round_.seconds.total
        for round_ in rounds
        if round_.seconds.total > 0
    ]
    if not ratios:
        notes.attention("no round to compare with", "Give longer prompts (--prompts)")
        return
    ratio = statistics.median(ratios)
    notes.figures["predicted_over_measured"] = ratio
    words = f"it predicts {ratio:.2f} times what {len(ratios)} rounds took, in the median"
    if abs(ratio - 1) > _OFF:
        notes.attention(words, _ADVICE)
    else:
        notes.fine(words)


def predicted_seconds(model: CostModel, round_: Round, buckets: tuple[int, ...] | None) -> float:
    """Return what the cost model says of a round; one that was padded costs what the tree that fills it costs."""
    count = padded_rows(round_.num_draft_nodes + 1, buckets) - 1
    after = model.after_choice_seconds(np.array([count], dtype=np.int64), round_.context_length)
    return model.before_choice_seconds(round_.context_length) + float(after[0])
