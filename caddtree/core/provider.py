"""Which installed plugin a component comes from, for errors that name it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

PLUGIN_GROUP = "caddtree"
"""The entry-point group of plugins."""


def named(component: object) -> str:
    """Return the class of a component and, where a plugin brought it, distribution and version."""
    name, provider = type(component).__name__, provider_of(component)
    return f"{name} ({provider})" if provider else name


def provider_of(component: object) -> str:
    """Return ``distribution version`` of the plugin that holds a component's class.

    Empty for what is caddtree's own, and for a class that no plugin holds, such as one of the user's script. The
    metadata of every distribution is read anew, which takes milliseconds: ask when an error is made, not before.
    """
    module = type(component).__module__
    if module.partition(".")[0] == "caddtree":
        return ""
    # in a namespace package it is the longest common path that tells distributions apart
    found = {name: max(_num_shared(module, held) for held in modules) for name, modules in _plugins()}
    most = max(found.values(), default=0)
    best = [name for name, shared in found.items() if shared == most]
    # to name the wrong one is worse than to name none
    return best[0] if most > 0 and len(best) == 1 else ""


def _plugins() -> Iterator[tuple[str, list[str]]]:
    """Yield ``distribution version`` of every plugin and the modules that are known to be in it."""
    for distribution in importlib.metadata.distributions():
        try:
            entry_points = distribution.entry_points.select(group=PLUGIN_GROUP)
            if not entry_points:
                continue
            modules = [entry_point.value.partition(":")[0].strip() for entry_point in entry_points]
            # an editable installation lists no modules among its files, which is why entry points come first
            modules += [file.as_posix().removesuffix(".py").replace("/", ".") for file in distribution.files or ()]
            yield f"{distribution.name} {distribution.version}", modules
        except Exception:
            continue


def _num_shared(module: str, other: str) -> int:
    """Return how many leading parts two dotted names share."""
    count = 0
    for left, right in zip(module.split("."), other.split("."), strict=False):
        if left != right:
            break
        count += 1
    return count
