"""How pictures look: size, colours that colour-blind readers tell apart, and the way to SVG and PDF."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import matplotlib
from matplotlib.figure import Figure

from caddtree.reports.variants import DrawnVariant

INK, MUTED, GRID, PAPER = "#1c2126", "#5b6571", "#dde2e7", "#ffffff"
"""Of text, axes and background; the page turns these four into its own, light or dark."""
FIXED, CHAIN = "#0072b2", "#7f858c"
_FAMILIES = (FIXED, "#56b4e9", "#3c5a99")
_ADAPTIVE = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#8c564b", "#b2182b")
_ADAPTIVE_MARKERS = "D^vPX*h"  # not as many as colours: a second round of colours has other marks
_SHADES = ("#a6cee8", "#7ab8dd", "#4f9fd0", "#2b83bd", "#1768a5", "#0d4d86")
"""Of fixed budgets where each is a line of its own, small to large."""

SHADING = ("#c6dbef", "#4292c6", "#08519c")
"""Few to many; no shade is near the paper of a light page or of a dark one."""

WIDTH = 9.5
"""Inches."""
_NAME = 34
"""Characters of a variant's name in one line."""
_SETTINGS: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # a variant may be called a$b$
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "caddtree",  # fixed ids: the same run gives the same file
    "pdf.fonttype": 42,
}


@attrs.frozen
class Mark:
    """How one variant is drawn."""

    color: str
    marker: str
    line: str = "-"


@attrs.frozen(eq=False)
class Picture:
    """A finished picture."""

    name: str
    """Of its files."""
    setting: str
    caption: str
    svg: str
    pdf: bytes
    width: float
    """Points."""


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Set the style, and leave what the process had set as it was."""
    with matplotlib.rc_context():
        # the backend is the one setting that the context does not restore, and no picture needs it
        defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if "backend" not in name}
        matplotlib.rcParams.update(defaults)
        matplotlib.rcParams.update(_SETTINGS)
        yield


def panels(count: int, *, height: float, columns: int = 3, **sharing: Any) -> tuple[Figure, list[Any]]:
    """Return a figure of ``count`` panels, ``columns`` in a row at most.

    Args:
        count: Panels.
        height: Inches of one row.
        columns: In a row, at most.
        **sharing: ``sharex`` and ``sharey`` of matplotlib.
    """
    across = min(count, columns)
    down = -(-count // across)
    width = WIDTH if across > 1 else 0.62 * WIDTH
    figure = Figure(figsize=(width, down * height), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, **sharing).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def marks(variants: Sequence[DrawnVariant]) -> dict[str, Mark]:
    """Return how every variant is drawn; a variant looks the same in all pictures of a report."""
    found = {variant.name: Mark(CHAIN, "s", ":") for variant in variants if variant.kind in ("plain", "chain")}
    families = list(dict.fromkeys(variant.family for variant in variants if variant.kind == "fixed"))
    for variant in variants:
        if variant.kind == "fixed":
            found[variant.name] = Mark(_FAMILIES[families.index(variant.family) % len(_FAMILIES)], "o")
    adaptive = [variant for variant in variants if variant.kind == "adaptive"]
    for index, variant in enumerate(adaptive):
        line = "-" if index < len(_ADAPTIVE) else "--"
        color = _ADAPTIVE[index % len(_ADAPTIVE)]
        found[variant.name] = Mark(color, _ADAPTIVE_MARKERS[index % len(_ADAPTIVE_MARKERS)], line)
    return found


def wrapped(text: str, width: int) -> str:
    """Return text in lines of ``width`` characters at most."""
    return textwrap.fill(text, width, break_on_hyphens=False)


def shades(count: int) -> list[str]:
    """Return colours from light to dark."""
    last = len(_SHADES) - 1
    return [_SHADES[round(index * last / max(1, count - 1))] for index in range(count)]


def key(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a key above the panels that reads line by line."""
    # about 14 characters to the inch, and 9 for mark and space
    longest = 9 + max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(14 * figure.get_figwidth() / longest)))
    # matplotlib fills a key column by column
    in_lines = [handle for start in range(columns) for handle in handles[start::columns]]
    figure.legend(handles=in_lines, loc="outside upper left", ncols=columns)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Make the vertical axis one row per name, the first on top."""
    axes.set_yticks(range(len(names)), [wrapped(name, _NAME) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def row_height(names: Sequence[str]) -> float:
    """Return the inches that a row needs so that the longest of the names does not meet its neighbours."""
    return max(0.27, 0.08 + 0.15 * max(wrapped(name, _NAME).count("\n") + 1 for name in names))


def finished(figure: Figure, *, name: str, setting: str, caption: str) -> Picture:
    """Return the picture as SVG and PDF; without a date, so that the same run gives the same bytes."""
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    # both have 72 points to the inch, so the places that were found for the first hold for the second
    figure.set_layout_engine("none")
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return Picture(name, setting, caption, svg.getvalue(), pdf.getvalue(), 72 * figure.get_figwidth())


def inline_svg(picture: Picture) -> str:
    """Return the SVG to stand in a page: no prolog, ids of its own, and the page's colours for text and axes."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", picture.svg[picture.svg.index("<svg") :], flags=re.DOTALL)
    # the page is its background
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # several pictures in one page must not share ids
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{picture.name}-", svg)
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"|^<svg height="[^"]*" width="[^"]*"', "<svg", svg)
    # hundredths of a point are enough; text, such as 0.005 at an axis, is left alone
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", ""), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for name, color in (("ink", INK), ("muted", MUTED), ("grid", GRID), ("paper", PAPER)):
        svg = svg.replace(color, f"var(--{name})")
    return svg
