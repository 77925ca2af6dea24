"""Parts of ``docs_figures.py``: what is measured, how it is drawn, and the phrases that quote it.

They import one another relatively: a script finds this package beside itself, a test under ``benchmarks``.
"""
