"""How figures are written, in every table and picture alike."""

from __future__ import annotations

from caddtree.experiments.round_figures import Budget, Prediction
from caddtree.experiments.statistics import Ratio

ABSENT = "–"
"""Stands where there is no figure."""


def ratio(value: float | None) -> str:
    """Return a ratio of speeds."""
    return ABSENT if value is None else f"{value:.2f}"


def interval(found: Ratio) -> str:
    """Return the 95 % interval of a ratio; nothing where there is none."""
    return "" if found.low is None or found.high is None else f"[{found.low:.2f}, {found.high:.2f}]"


def speed(tokens_per_second: float | None) -> str:
    """Return tokens per second."""
    if tokens_per_second is None:
        return ABSENT
    return f"{tokens_per_second:.1f}" if tokens_per_second < 1000 else f"{tokens_per_second:.0f}"


def milliseconds(seconds: float | None) -> str:
    """Return seconds as milliseconds, to three significant digits or so."""
    if seconds is None:
        return ABSENT
    value = 1000 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def tau(value: float | None) -> str:
    """Return tokens per round."""
    return ABSENT if value is None else f"{value:.2f}"


def budget(found: Budget | None) -> str:
    """Return draft nodes per round, mean and standard deviation."""
    if found is None:
        return ABSENT
    return f"{found.mean:.1f}" if found.deviation < 0.05 else f"{found.mean:.1f} ± {found.deviation:.1f}"


def percent(share: float | None, *, signed: bool = False) -> str:
    """Return a share in per cent."""
    return ABSENT if share is None else f"{100 * share:{'+' if signed else ''}.1f} %"


def prediction(found: Prediction | None) -> str:
    """Return the median error of predicted seconds, signed and absolute."""
    if found is None:
        return ABSENT
    return f"{percent(found.median_signed, signed=True)}, {percent(found.median_absolute)}"


def megabytes(num_bytes: float | None) -> str:
    """Return bytes in MB."""
    return ABSENT if num_bytes is None else f"{num_bytes / 1e6:.1f}" if num_bytes < 1e9 else f"{num_bytes / 1e6:,.0f}"


def of(part: int, whole: int) -> str:
    """Return a count among another."""
    return f"{part} of {whole}" if whole else ABSENT
