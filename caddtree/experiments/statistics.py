"""Ratios of speeds and how sure they are: paired within a block, resampled over prompts.

Prompts are the unit that is resampled: repeats and seeds of one prompt are not independent of each other. Of the
repeats of a prompt and seed the median counts, of its seeds the mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

MIN_PROMPTS = 5
"""Prompts of a data set below which there is no interval."""
CONFIDENCE = 0.95
_RESAMPLES, _BATCH = 9999, 1000

Block = tuple[str, str, str, int, int]
"""Setting, data set, prompt, seed and repeat: what cells that are compared with each other share."""


@attrs.frozen
class Interval:
    """A figure with its 95 % interval; the ends equal the figure when there are too few prompts to tell."""

    value: float
    low: float
    high: float


@attrs.frozen
class Ratio:
    """A geometric mean of paired ratios of speeds."""

    value: float | None
    """None where nothing could be paired."""
    low: float | None
    """Lower end of the 95 % interval; None where a data set has fewer than :data:`MIN_PROMPTS` prompts."""
    high: float | None
    num_prompts: int
    num_datasets: int
    num_pairs: int
    """Cells that entered it, each with its partner of the same block."""
    p_value: float | None
    """Wilcoxon signed-rank test of the prompts' log ratios against 0, two-sided; None where all of them are 0."""

    @property
    def verdict(self) -> str | None:
        """``faster`` or ``slower`` where the interval leaves 1 out, else ``not distinguishable``; None without one."""
        if self.low is None or self.high is None:
            return None
        if self.low > 1.0:
            return "faster"
        return "slower" if self.high < 1.0 else "not distinguishable"


def speed_ratio(mine: Mapping[Block, float], base: Mapping[Block, float]) -> Ratio:
    """Return the ratio of speeds over data sets: the geometric mean of their geometric means over prompts.

    Args:
        mine: Tokens per second by block; 0 where no round was needed, which pairs with nothing.
        base: Those of the variant that is compared with.
    """
    by_dataset = paired_log_ratios(mine, base)
    samples = [list(prompts.values()) for prompts in by_dataset.values()]
    pairs = sum(block in base and mine[block] > 0 and base[block] > 0 for block in mine)
    if not samples:
        return Ratio(None, None, None, 0, 0, 0, None)
    value = math.exp(statistics.fmean(statistics.fmean(sample) for sample in samples))
    ends = _ends(samples) if min(map(len, samples)) >= MIN_PROMPTS else None
    low, high = (None, None) if ends is None else ends
    return Ratio(value, low, high, sum(map(len, samples)), len(samples), pairs, _p_value(samples))


def paired_log_ratios(mine: Mapping[Block, float], base: Mapping[Block, float]) -> dict[str, dict[str, float]]:
    """Return the log ratio of every prompt by data set and prompt: median over repeats, then mean over seeds.

    Blocks that one side lacks, or in which one side needed no round, are left out.
    """
    repeats: dict[tuple[str, str], dict[int, list[float]]] = {}
    for block, speed in mine.items():
        other = base.get(block, 0.0)
        if speed > 0 and other > 0:
            _setting, dataset, prompt, seed, _repeat = block
            repeats.setdefault((dataset, prompt), {}).setdefault(seed, []).append(math.log(speed / other))
    found: dict[str, dict[str, float]] = {}
    for (dataset, prompt), seeds in repeats.items():
        found.setdefault(dataset, {})[prompt] = statistics.fmean(map(statistics.median, seeds.values()))
    return found


def geometric_mean(log_ratios: Sequence[float]) -> Interval:
    """Return ``exp(mean)`` of log ratios with a bootstrap interval (BCa)."""
    if not log_ratios:
        return Interval(0.0, 0.0, 0.0)
    value = math.exp(statistics.fmean(log_ratios))
    ends = _ends([log_ratios]) if len(log_ratios) >= MIN_PROMPTS else None
    return Interval(value, value, value) if ends is None else Interval(value, *ends)


def _ends(samples: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the ends of the interval of ``exp`` of the mean of the samples' means; resampled within each sample."""
    if all(max(sample) - min(sample) < 1e-12 for sample in samples):
        value = math.exp(statistics.fmean(statistics.fmean(sample) for sample in samples))
        return value, value
    from scipy.stats import bootstrap

    interval = bootstrap(
        tuple(np.array(sample) for sample in samples),
        _mean_of_means,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=_level([len(sample) for sample in samples]),
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (math.exp(low), math.exp(high)) if math.isfinite(low) and math.isfinite(high) else None


def _mean_of_means(*samples: NDArray[np.float64], axis: int = -1) -> Any:
    # summed by hand: resamples of samples of several sizes do not stack
    return sum(sample.mean(axis=axis) for sample in samples) / len(samples)


def _level(sizes: Sequence[int]) -> float:
    """Return the level at which a bootstrap of so few values covers as often as it should.

    A bootstrap draws from the values themselves, whose spread is too small by ``(n - 1) / n``, and knows no t
    distribution: 95 % of 8 prompts would cover in 89 % of the cases.

    Source: expanded percentile interval, Hesterberg, arXiv:1411.5279; here pooled over the strata.
    """
    from scipy.stats import norm, t

    freedom = sum(size - 1 for size in sizes)
    spread = math.sqrt(sum(1 / (size - 1) for size in sizes) / sum(1 / size for size in sizes))
    return float(1 - 2 * norm.sf(spread * t.isf((1 - CONFIDENCE) / 2, freedom)))


def _p_value(samples: Sequence[Sequence[float]]) -> float | None:
    from scipy.stats import wilcoxon

    values = np.array([value for sample in samples for value in sample])
    return float(wilcoxon(values).pvalue) if np.any(values != 0) else None
