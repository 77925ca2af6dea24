"""Measures whole rounds by driving the decoder, and keeps the profiles."""

from caddtree.profiling.measure import measure_profile
from caddtree.profiling.store import load_or_measure, profile_key, profile_path

__all__ = ["load_or_measure", "measure_profile", "profile_key", "profile_path"]
