"""How the models are executed: eagerly, through compiled layers, or as captured graphs of fixed shapes."""

from __future__ import annotations

from caddtree.runtime.buckets import DEFAULT_BUCKETS
from caddtree.runtime.choice import choose_runner
from caddtree.runtime.static_runner import StaticRunner

__all__ = ["choose_runner", "StaticRunner", "DEFAULT_BUCKETS"]
