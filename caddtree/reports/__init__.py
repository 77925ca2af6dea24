"""Reports of a run: Markdown, LaTeX, one page of HTML, pictures, and every figure as CSV and JSON."""

from caddtree.reports.write import FORMATS, write_report

__all__ = ["FORMATS", "write_report"]
