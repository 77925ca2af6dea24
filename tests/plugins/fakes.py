"""Strategies that do nothing but declare options: what the registry and recipes need to see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import ge

from caddtree.plugins.hooks import hookimpl
from caddtree.plugins.registry import Provider, Registry


class _DrafterMembers:
    required_layers: tuple[int, ...] = ()
    block_size = 1

    def bind(self, target: Any) -> None: ...

    def start(self) -> None: ...

    def commit(self, state: Any, tokens: Any, features: Any) -> None: ...

    def draft(self, state: Any, request: Any) -> None: ...


@attrs.frozen
class Block(_DrafterMembers):
    """Draft a block.

    More words.
    """

    model: str
    """Folder or hub id."""
    draft_length: int | None = None
    _loaded: Any = attrs.field(default=None, init=False)


@attrs.frozen
class NoScores(_DrafterMembers):
    """Draft without scores."""

    lacks: ClassVar[tuple[str, ...]] = ("scores",)


class _BuilderMembers:
    needs_cost_model = False

    def build(self, marginals: Any, context: Any) -> None: ...


def _above_low(instance: Any, attribute: Any, value: Any) -> None:
    if value < instance.low:
        raise ValueError(f"{attribute.name} must be at least low, found {value} below {instance.low}")


@attrs.frozen
class Adaptive(_BuilderMembers):
    """Build as large as it pays."""

    requires: ClassVar[dict[str, tuple[str, ...]]] = {"verifier": ("branches",), "drafter": ("scores",)}

    max_node_budget: int = attrs.field(default=256, validator=ge(1))
    """Draft nodes at most."""
    search: Literal["scan", "first_stop"] = "scan"
    share: float = 0.5
    exact: bool = True
    low: int = 0
    high: int = attrs.field(default=9, validator=_above_low)
    weights: list[float] = attrs.field(factory=list)
    table: str | None = attrs.field(default=None, metadata={"path": True})


@attrs.frozen
class Line(_BuilderMembers):
    """Build a chain."""

    length: int | None = None


@attrs.frozen
class Table:
    """Look the seconds up."""

    path: str | None = attrs.field(default=None, metadata={"path": True})

    def prepare(self, decoder: Any) -> None: ...

    def before_choice_seconds(self, context_length: int) -> float:
        return 0.0

    def after_choice_seconds(self, num_draft_nodes: Any, context_length: int) -> Any:
        return num_draft_nodes


@attrs.frozen
class Dense:
    """Verify trees."""

    def bind(self, target: Any) -> None: ...

    def verify(self, state: Any, tree: Any, rule: Any) -> None: ...


@attrs.frozen
class ChainOnly(Dense):
    """Verify chains."""

    lacks: ClassVar[tuple[str, ...]] = ("branches",)


def plugin(**strategies: dict[str, Any]) -> Any:
    """Return a plugin object whose hooks register ``kind={name: class}``."""

    def hook(found: dict[str, Any]) -> Any:
        def register(registry: Any) -> None:
            for name, strategy_class in found.items():
                registry.add(name, strategy_class)

        return hookimpl(register)

    return SimpleNamespace(**{f"register_{kind}s": hook(found) for kind, found in strategies.items()})


def fake_registry() -> Registry:
    """Return a registry of the strategies above, under the names that recipes expect."""
    registry = Registry()
    built_in = plugin(
        drafter={"dflash": Block, "none": NoScores},
        tree_builder={"caddtree": Adaptive, "chain": Line},
        cost_model={"table": Table},
        verifier={"sdpa": Dense, "chain-only": ChainOnly},
    )
    registry.load_plugin(built_in, Provider("fakes", "1.0", "fakes"))
    return registry
