"""How the models are executed: eagerly, through compiled layers, or as captured graphs of fixed shapes."""

from __future__ import annotations

from caddtree.runtime.buckets import DEFAULT_BUCKETS
from caddtree.runtime.choice import choose_runner, runner_for
from caddtree.runtime.static_runner import StaticRunner

__all__ = ["choose_runner", "runner_for", "StaticRunner", "DEFAULT_BUCKETS"]
