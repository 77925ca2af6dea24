"""Row counts that forwards are padded to, so that a few captured graphs serve trees of every size."""

from __future__ import annotations

DEFAULT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Rows; a bucket of r rows holds r - 1 draft nodes beside the root. Each is captured when it is first met."""
