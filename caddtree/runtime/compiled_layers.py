"""Decoder layers through ``torch.compile``, one layer compiled for all: seconds instead of minutes.

A whole model of 36 layers takes minutes to compile, and again for the next shape. Layers of one kind differ only in
their weights, which a compiled function takes as inputs, in their place in the cache, which is passed to each as an
object of its own, and in their number, which is hidden while they run.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from caddtree.core.kv_cache import TreeCache

logger = logging.getLogger(__name__)


class CompiledFunction:
    """A function that is compiled at its first call; where that fails it runs as it is written, with one warning.

    Args:
        function: Over tensors, modules and plain objects.
        dynamic: Whether one compiled form serves all sizes; False makes one per size.
    """

    def __init__(self, function: Callable[..., Any], *, dynamic: bool = True) -> None:
        self._plain = function
        self._function: Callable[..., Any] = torch.compile(_with_code_of_its_own(function), dynamic=dynamic)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Return what the function returns."""
        if self._function is self._plain:
            return self._plain(*arguments, **keywords)
        try:
            return self._function(*arguments, **keywords)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                # it was compiled when it was warmed up, and a broken capture is no reason to compile nothing
                raise
            # a missing C++ compiler, a Triton that does not fit the driver, code that cannot be traced; should the
            # function itself be at fault, it fails again below
            logger.warning(
                "torch.compile does not work here (%s: %s); the models run eagerly. To silence this: "
                "runtime: {compile: never}",
                type(error).__name__,
                " ".join(str(error).split()[:40]),
            )
            self._function = self._plain
        return self._plain(*arguments, **keywords)


def _with_code_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a plain function: the compiler counts its recompilations per code object, for all models."""
    assert isinstance(function, types.FunctionType), "a function, no method"
    assert function.__closure__ is None, "what a closure holds would be compiled in"
    code = function.__code__.replace(co_name=f"{function.__name__}_compiled")
    return types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__)


class LayerCache:
    """The cache as one compiled layer sees it: its own buffers and the slots of the new rows."""

    is_sliding = False
    is_compileable = False

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor | None) -> None:
        self.keys, self.values, self.slots = keys, values, slots

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the rows to their slots and return the whole buffers."""
        assert self.slots is not None, "compiled layers run with fixed shapes"
        self.keys.index_copy_(2, self.slots, key_states)
        self.values.index_copy_(2, self.slots, value_states)
        return self.keys, self.values


class CompiledLayers:
    """While entered, the decoder layers of a model run through one compiled function; see ``Target.layer_execution``.

    Only for forwards of fixed shapes, whose cache knows the slots of their rows.
    """

    def __init__(
        self, layers: Sequence[nn.Module], compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        run_layer = compile(_run_layer)
        self._patches: list[tuple[dict[str, Any], Callable[..., Any]]] = []
        self._numbered: list[tuple[dict[str, Any], int]] = []
        if any("forward" in layer.__dict__ for layer in layers):
            # hooks that move weights between devices work this way: what somebody put there stays in force
            logger.warning("the forward of the model's layers was replaced by others: the layers are not compiled")
            return
        for index, layer in enumerate(layers):
            self._patches.append((layer.__dict__, _bound(run_layer, layer, index)))
            for module in layer.modules():
                if isinstance(module.__dict__.get("layer_idx"), int):
                    self._numbered.append((module.__dict__, module.__dict__["layer_idx"]))

    def __enter__(self) -> None:
        for attributes, forward in self._patches:
            attributes["forward"] = forward
        for attributes, _ in self._numbered:
            # a number that differs from layer to layer would be compiled into each
            attributes["layer_idx"] = 0

    def __exit__(self, *_: object) -> None:
        for attributes, _forward in self._patches:
            del attributes["forward"]
        for attributes, index in self._numbered:
            attributes["layer_idx"] = index


def _bound(run_layer: Callable[..., Any], layer: nn.Module, index: int) -> Callable[..., Any]:
    def forward(*arguments: Any, **keywords: Any) -> Any:
        # some families pass the cache by position, some by name
        given = next(value for value in (*keywords.values(), *arguments) if isinstance(value, TreeCache))
        buffers = given.layers[index]
        view = LayerCache(buffers.keys, buffers.values, given.slots)
        arguments = tuple(view if value is given else value for value in arguments)
        keywords = {name: view if value is given else value for name, value in keywords.items()}
        return run_layer(layer, arguments, keywords)

    return forward


def _run_layer(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return type(layer).forward(layer, *arguments, **keywords)
