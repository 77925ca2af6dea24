"""All pictures of a run, in the order of a report; those without data are left out."""

from __future__ import annotations

import re
from collections.abc import Callable

from caddtree.experiments.store import RunData
from caddtree.experiments.summary import Summary
from caddtree.reports.figures.budgets import tau_picture, throughput_picture
from caddtree.reports.figures.chosen import chosen_picture
from caddtree.reports.figures.depths import depths_picture
from caddtree.reports.figures.prediction import prediction_picture
from caddtree.reports.figures.reliability import reliability_picture
from caddtree.reports.figures.speedup import speedup_picture
from caddtree.reports.figures.style import Picture, drawing

_OF_SUMMARY: dict[str, Callable[[Summary, str, str], Picture | None]] = {
    "speedup": speedup_picture,
    "throughput": throughput_picture,
    "tau": tau_picture,
    "chosen": chosen_picture,
    "depths": depths_picture,
    "reliability": reliability_picture,
}


def draw_pictures(data: RunData, summary: Summary) -> tuple[Picture, ...]:
    """Return the pictures of every setting."""
    found: list[Picture | None] = []
    with drawing():
        for number, setting in enumerate(summary.settings, 1):
            ending = f"-{number}-{_slug(setting)}" if len(summary.settings) > 1 else ""
            found += [draw(summary, setting, kind + ending) for kind, draw in _OF_SUMMARY.items()]
            found.append(prediction_picture(data, summary, setting, f"prediction{ending}"))
    return tuple(picture for picture in found if picture is not None)


def _slug(setting: str) -> str:
    """Return a setting's label as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", setting).strip("-.") or "setting"
