"""Distributions as an installer leaves them: a module and a ``dist-info`` folder with an entry point."""

from __future__ import annotations

import textwrap
from pathlib import Path

BUILDER = """
    import attrs
    from caddtree.plugins.hooks import hookimpl

    @attrs.frozen
    class Extra:
        "Build something."
        needs_cost_model = False
        node_budget: int = 1
        def build(self, marginals, context): ...

    @hookimpl
    def register_tree_builders(registry):
        registry.add({name!r}, Extra)
"""


class Site:
    """A folder of fake installed distributions at the front of the search path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, source: str, version: str = "1.0", *, entry_point: str = "") -> None:
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[caddtree]\n{module} = {entry_point or module}\n")
