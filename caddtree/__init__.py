"""Lossless speculative decoding with cost-aware draft trees.

``caddtree.load("demo").generate("def main(")`` is the whole of it; see the README.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder
    from caddtree.core.errors import CaddtreeError
    from caddtree.core.options import GenerationOptions
    from caddtree.core.records import Chunk, Generation, Round
    from caddtree.core.target import Target
    from caddtree.loading import load
    from caddtree.plugins.recipe import Recipe, load_recipe

# imported on first use: the command line starts without torch
_HOMES = {
    "CaddtreeError": "caddtree.core.errors",
    "GenerationOptions": "caddtree.core.options",
    "Decoder": "caddtree.core.decoder",
    "Chunk": "caddtree.core.records",
    "Generation": "caddtree.core.records",
    "Round": "caddtree.core.records",
    "Target": "caddtree.core.target",
    "load": "caddtree.loading",
    "Recipe": "caddtree.plugins.recipe",
    "load_recipe": "caddtree.plugins.recipe",
}

__all__ = [
    "CaddtreeError", "Chunk", "Decoder", "Generation", "GenerationOptions", "Recipe", "Round", "Target", "load",
    "load_recipe",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'caddtree' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
