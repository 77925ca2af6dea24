"""Dense attention masks of a verification pass, in the form the target's architecture takes them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from caddtree.core.errors import CompatibilityError
from caddtree.core.tree_packet import PacketRows

Masks = Tensor | dict[str, Tensor | None] | None
"""One mask for all layers, one per layer type, or none where plain causal attention is meant."""

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class MaskFormat:
    """How one target wants its masks: one tensor or one per layer type, bool or additive, with what window."""

    def __init__(self, config: Any, attention: str, device: torch.device) -> None:
        """Read the text config of a target.

        Args:
            config: ``model.config.get_text_config(decoder=True)``.
            attention: ``config._attn_implementation``: ``sdpa`` or ``eager``.
            device: Where the target runs.

        Raises:
            CompatibilityError: If a layer type or an attention back-end cannot take a tree.
        """
        types = getattr(config, "layer_types", None)
        if types is not None and set(types) - _LAYER_TYPES:
            raise CompatibilityError(
                f"target: layers of type {sorted(set(types) - _LAYER_TYPES)} cannot verify a draft tree; "
                f"supported are {sorted(_LAYER_TYPES)}"
            )
        if getattr(config, "num_kv_shared_layers", 0) or getattr(config, "kv_sharing_modes", None):
            raise CompatibilityError("target: layers that share keys and values cannot verify a draft tree")
        if attention not in ("sdpa", "eager"):
            raise CompatibilityError(
                f"verifier sdpa: the target's attention implementation is {attention!r}, which takes no dense "
                f"mask. Load the model with attn_implementation='sdpa' (or 'eager')."
            )
        if attention == "sdpa" and getattr(config, "attn_logit_softcapping", None):
            raise CompatibilityError(
                "verifier sdpa: the target caps its attention logits, which SDPA drops without a word. "
                "Load the model with attn_implementation='eager'."
            )
        self.layer_types = None if types is None else tuple(sorted(set(types)))
        self.window: int | None = getattr(config, "sliding_window", None)
        self.is_eager = attention == "eager"
        # eager attention adds its mask: a bool mask would be wrong there without an error. On a CPU SDPA turns a
        # bool mask into an additive one in every layer: once is enough (8 layers, 17 rows, context 200: 35 us saved)
        self.is_additive = self.is_eager or device.type == "cpu"

    def build(self, visible: Tensor, depths: Tensor, length: int, dtype: torch.dtype) -> Masks:
        """Return the masks of query nodes on top of ``length`` committed rows.

        Args:
            visible: ``(nodes, nodes)`` bool.
            depths: ``(nodes,)`` int64; node ``i`` sits at position ``length + depths[i]``.
            length: Committed KV rows, all visible but for a sliding window.
            dtype: Of additive masks.

        Returns:
            ``(1, 1, nodes, length + nodes)`` per layer type, or one for all.
        """
        num_nodes = len(depths)
        if self.is_additive and self.window is None:
            # the common case on a CPU: one allocation, one fill of the tail
            mask = torch.zeros(1, 1, num_nodes, length + num_nodes, dtype=dtype, device=depths.device)
            mask[0, 0, :, length:].masked_fill_(~visible, torch.finfo(dtype).min)
            return mask if self.layer_types is None else dict.fromkeys(self.layer_types, mask)
        full = visible.new_ones((num_nodes, length + num_nodes))
        full[:, length:] = visible
        sliding = full
        if self.window is not None:
            # windows count positions, not rows: two nodes of one depth share a position
            position = torch.cat([torch.arange(length, device=depths.device), length + depths])
            sliding = full & (length + depths[:, None] - position < self.window)
        return self._per_layer_type(full, sliding, dtype)

    has_fixed_shapes = False

    def applied(self) -> AbstractContextManager[None]:
        """Return nothing to enter: the model attends as it was loaded."""
        return nullcontext()

    def arguments(self, rows: PacketRows, capacity: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return the masks over the whole buffers of a cache, by operations of fixed shape."""
        num_rows, device = rows.num_rows, rows.tokens.device
        column = torch.arange(capacity, device=device)
        # the place of a column among the tree's rows; clamped where it is not one of them
        place = column - rows.context_length
        in_tree = (place >= 0) & (place < num_rows)
        place = place.clamp(0, num_rows - 1)
        full = (column < rows.context_length) | (in_tree & rows.visible()[:, place])
        sliding = full
        if self.window is not None:
            position = torch.where(in_tree, rows.context_length + rows.depths[place], column)
            sliding = full & (rows.context_length + rows.depths[:, None] - position < self.window)
        return {"attention_mask": self._per_layer_type(full, sliding, dtype)}

    def single_row(self, length: int) -> tuple[bool, Masks]:
        """Return whether a lone row may see all ``length + 1`` rows, and what to pass so that no mask is built."""
        if self.is_eager or (self.window is not None and length >= self.window):
            return False, None
        return True, None if self.layer_types is None else dict.fromkeys(self.layer_types)

    def _per_layer_type(self, full: Tensor, sliding: Tensor, dtype: torch.dtype) -> Masks:
        if self.layer_types is None:
            return self._shape(sliding, dtype)
        return {
            layer_type: self._shape(sliding if layer_type == "sliding_attention" else full, dtype)
            for layer_type in self.layer_types
        }

    def _shape(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        if self.is_additive:
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        return mask[None, None]
