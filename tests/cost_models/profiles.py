"""A small profile with round numbers."""

from __future__ import annotations

from typing import Any

from caddtree.core.profile import Profile


def profile(**changes: Any) -> Profile:
    """Two contexts, three counts; the second context costs twice the first."""
    fields: dict[str, Any] = {
        "key": {"device": "test"},
        "contexts": (100, 300),
        "counts": (0, 4, 10),
        "draft_seconds": [0.002, 0.004],
        "after_seconds": [[0.010, 0.020, 0.030], [0.020, 0.040, 0.060]],
        "spread_seconds": [[0.0001] * 3] * 2,
        "max_count": 10,
        "repeats": 5,
        "outlier_share": 0.0,
        **changes,
    }
    return Profile(**fields)
