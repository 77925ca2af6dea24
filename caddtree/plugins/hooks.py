"""The hooks that a plugin implements; built-in strategies register through the very same ones.

A plugin is a module, named in the entry-point group ``caddtree`` of its distribution, that implements one or more
of these hooks::

    from caddtree.plugins.hooks import hookimpl

    @hookimpl
    def register_tree_builders(registry):
        registry.add("random", RandomTree)

``registry.add`` inside a hook adds to the kind of that hook. A strategy class is an attrs class, and the fields of
its constructor are the options that a recipe may give.

A plugin may state the version of the hooks that it was written for, as ``caddtree_hook_api = 1`` in its module; it is
refused, with both numbers, where the hooks have another one. ``caddtree plugins --verbose`` shows every strategy with
its origin and options, and every plugin that was refused with the reason.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import pluggy

PROJECT_NAME = "caddtree"
"""Name of the pluggy project and of the entry-point group."""

HOOK_API_VERSION = 1
"""Rises with every change of a hook that breaks a plugin written before it; a new hook or argument breaks none."""

Stage = Literal["drafter", "tree_builder", "cost_model", "verifier"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The four kinds that make a pipeline, in its order; a recipe has one strategy of each."""

Extension = Literal["observer", "preprocessor", "report_section"]
EXTENSIONS: tuple[Extension, ...] = get_args(Extension)
"""The kinds around a pipeline; recipes and experiments list as many of each as they want."""

Kind = Literal[Stage, Extension]
KINDS: tuple[Kind, ...] = (*STAGES, *EXTENSIONS)
"""Everything that a plugin may register."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class KindRegistry(Protocol):
    """What a hook is given: the registry, narrowed to the kind of the hook."""

    def add(self, name: str, strategy_class: type) -> None:
        """Register ``strategy_class`` under the name that recipes use."""


@hookspec
def register_drafters(registry: KindRegistry) -> None:
    """Add drafters: committed tokens and tapped features -> marginals."""


@hookspec
def register_tree_builders(registry: KindRegistry) -> None:
    """Add tree builders: marginals -> draft tree."""


@hookspec
def register_cost_models(registry: KindRegistry) -> None:
    """Add cost models: draft nodes and context -> seconds of a round."""


@hookspec
def register_verifiers(registry: KindRegistry) -> None:
    """Add verifiers: draft tree -> accepted path and bonus token."""


@hookspec
def register_observers(registry: KindRegistry) -> None:
    """Add observers: they see every round and every finished request, and may say where a text ends."""


@hookspec
def register_preprocessors(registry: KindRegistry) -> None:
    """Add pre-processors of recipes: the sections as they were written -> what is to be changed in them."""


@hookspec
def register_report_sections(registry: KindRegistry) -> None:
    """Add sections of reports: the records of a run -> title, text and tables."""
