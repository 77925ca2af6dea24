"""Parts of ``gpu_round.py``: what is measured, by what clock, and against what floor.

They import one another relatively: a script finds this package beside itself, a test under ``benchmarks``.
"""
