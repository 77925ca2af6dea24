"""The tree attention kernel inside Hugging Face models, through Transformers' own attention interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor

from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError
from caddtree.core.runner import PlainRunner
from caddtree.core.target import Target
from caddtree.core.tree_packet import PacketRows
from caddtree.kernels.tree_attention import tree_attention

# no "flash", "sdpa" or "/" in it: Transformers reads a meaning into these
INTERFACE_NAME = "caddtree_tree"

LARGEST_HEAD_DIM = 256
_TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Of the self-check, relative to the largest logit: a wrong mask or scale is off by far more in every dtype."""


@attrs.frozen(eq=False)
class TreeMetadata:
    """What every layer is told about the tree; made once per round."""

    visibility: Tensor  # (1, rows, words) int64
    depths: Tensor  # (1, rows) int64
    context_lengths: Tensor  # (1,) int64
    layers_called: list[Any] | None = None
    """Takes every layer that attends, where somebody wants to know."""


class KernelAttention:
    """The kernel as the attention of one target, in its forwards over draft trees only.

    Args:
        target: Its layers must attend through Transformers' attention interface.

    Raises:
        CompatibilityError: If they do not, or compute something that the kernel does not know.
    """

    has_fixed_shapes = True

    def __init__(self, target: Target) -> None:
        configs = (getattr(module, "config", None) for layer in target.layers for module in layer.modules())
        self._configs = list({id(config): config for config in configs if config is not None}.values())
        self._layer_types = target.mask_format.layer_types
        self._layers_called: list[Any] | None = None
        _register()
        self._check(target)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the layers attend by the kernel; whoever else runs the model finds it as it was loaded."""
        before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = INTERFACE_NAME
        try:
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation = name

    def arguments(self, rows: PacketRows, capacity: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return the metadata as the keyword that reaches every attention call, and no mask."""
        tree = TreeMetadata(rows.visibility[None], rows.depths[None], rows.context_length, self._layers_called)
        masks = None if self._layer_types is None else dict.fromkeys(self._layer_types)
        return {"attention_mask": masks, "tree": tree}

    @torch.inference_mode()
    def _check(self, target: Target) -> None:
        """Compare a small tree with the target's own attention, and count the layers that took part."""
        head_dim = getattr(target.config, "head_dim", None) or target.hidden_size // target.config.num_attention_heads
        if head_dim > LARGEST_HEAD_DIM:
            raise CompatibilityError(
                f"verifier triton: the target's head_dim is {head_dim}, but the kernel goes up to {LARGEST_HEAD_DIM}; "
                f"use verifier: {{name: sdpa}}"
            )
        tree = DraftTree.from_parents([1, 0, 1, 0], [-1, 0, 0, 1])
        state = target.start(8)
        target.prefill(state, [0, 1], lambda *_: None)
        expected = target.forward_view(state, tree)
        self._layers_called = []
        # not compiled: a list that grows from layer to layer would be compiled into each
        execution, target.layer_execution = target.layer_execution, nullcontext()
        try:
            found = PlainRunner().forward(target, state, tree, self)
        finally:
            target.layer_execution = execution
            num_called, self._layers_called = len(self._layers_called), None
        if num_called != target.num_layers:
            raise CompatibilityError(
                f"verifier triton: {num_called} of {target.num_layers} layers of {type(target.model).__name__} attend "
                f"through Transformers' attention interface; use verifier: {{name: sdpa}}"
            )
        error = float((found[: tree.num_nodes] - expected).abs().max() / expected.abs().max())
        # numbers that are not finite are for the first round to report; elsewhere a NaN is an error: it compares false
        if bool(torch.isfinite(expected).all()) and not error <= _TOLERANCES.get(target.dtype, 1e-1):
            raise CompatibilityError(
                f"verifier triton: on {type(target.model).__name__} the kernel's logits differ from the model's own by "
                f"{error:.1%} of the largest; its attention does something the kernel does not know. "
                f"Use verifier: {{name: sdpa}}."
            )


def _register() -> None:
    # its import takes longer than torch's, and whoever checks a recipe binds nothing
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(INTERFACE_NAME, _attend)
    # the kernel reads the packed bits: no mask is built
    AttentionMaskInterface.register(INTERFACE_NAME, lambda *_args, **_kwargs: None)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: TreeMetadata | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_keywords: Any,
) -> tuple[Tensor, None]:
    """Return the attention ``(1, rows, heads, head_dim)`` of ``(1, heads, rows, head_dim)`` over whole buffers."""
    if tree is None:
        raise CompatibilityError(
            f"verifier triton: {type(module).__name__} does not pass keywords on to its attention; "
            f"use verifier: {{name: sdpa}}"
        )
    if tree.layers_called is not None:
        tree.layers_called.append(module)
    out = tree_attention(
        query,
        key,
        value,
        tree.visibility,
        tree.context_lengths,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        depths=None if sliding_window is None else tree.depths,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return out, None
