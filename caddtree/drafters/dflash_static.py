"""One draft by operations of fixed shape, so that a runner can compile and capture it as a whole.

New features are projected into the context's keys and values, the block runs behind them, and the head gives the logits
of all its slots. How many features are new, and where they start, is read on the device.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from caddtree.core.runner import StaticFunction
from caddtree.core.target import Target
from caddtree.core.tree_packet import num_words
from caddtree.drafters.dflash_network import DFlashNetwork, DraftLayer
from caddtree.kernels import availability
from caddtree.kernels.tree_attention import tree_attention

Rotation = tuple[Tensor, Tensor]


@attrs.define(eq=False)
class DraftBuffers:
    """Keys and values of one sequence's context at fixed addresses, and the place where new features go."""

    keys: list[Tensor]  # per layer (1, key/value heads, capacity, head_dim)
    values: list[Tensor]
    features: Tensor  # (block size, layers * hidden)
    capacity: int
    captured: StaticFunction | None = None

    def discard(self) -> None:
        """Drop what was captured over the buffers."""
        self.captured = None

    def clear(self) -> None:
        """Forget the sequence: stale rows that held NaN would spread under a dense mask."""
        for rows in (*self.keys, *self.values, self.features):
            rows.zero_()


class StaticDraft:
    """Runs a draft model with fixed shapes for one target.

    Args:
        network: The draft model.
        target: Gives embedding, head and runner.
    """

    def __init__(self, network: DFlashNetwork, target: Target) -> None:
        self._network, self._target, self._config = network, target, network.config
        self._run_layer = target.runner.compile(_run_layer)

    def start(self, capacity: int) -> DraftBuffers:
        """Return empty buffers for at least ``capacity`` positions, the block behind the context included."""
        largest = self._target.position_limit + self._config.block_size
        buffers: DraftBuffers = self._target.runner.borrow(self, capacity, self._new_buffers, largest=largest)
        return buffers

    def release(self, buffers: DraftBuffers) -> None:
        """Take buffers back."""
        self._target.runner.give_back(self, buffers)

    def logits(self, buffers: DraftBuffers, start: int, features: Sequence[Tensor], root_token: int) -> Tensor:
        """Return logits ``(block size - 1, vocabulary)``, which hold until anything captured is run again.

        Args:
            buffers: Of the sequence; they gain the rows of ``features``.
            start: Positions projected so far.
            features: Raw rows ``(rows, layers * hidden)``, the block size together at most.
            root_token: Sits behind them.
        """
        num_new = 0
        for rows in features:
            buffers.features[num_new : num_new + len(rows)] = rows
            num_new += len(rows)
        packet = torch.tensor([start, num_new, root_token])
        if self._target.device.type != "cpu":
            packet = packet.pin_memory()
        if buffers.captured is None:
            # weak: what is kept for a draft model must not keep it
            me = weakref.proxy(self)
            buffers.captured = self._target.runner.capture(lambda packet: (me._step(buffers, packet),))
        return buffers.captured(packet)[0]

    def _new_buffers(self, capacity: int) -> DraftBuffers:
        config, device = self._config, self._target.device
        like = self._network.norm.weight
        shape = (1, config.num_key_value_heads, capacity, config.head_dim)
        width = len(config.target_layer_ids) * self._target.hidden_size
        return DraftBuffers(
            [like.new_zeros(shape) for _ in range(config.num_layers)],
            [like.new_zeros(shape) for _ in range(config.num_layers)],
            torch.zeros(config.block_size, width, dtype=self._target.dtype, device=device),
            capacity,
        )

    def _step(self, buffers: DraftBuffers, packet: Tensor) -> Tensor:
        config, network, target = self._config, self._network, self._target
        # a runner without capture hands the packet over as it is; a captured one lies on the device already
        packet = packet.to(target.device, non_blocking=True)
        start, num_new, root = packet[0:1], packet[1:2], packet[2:3]
        row = torch.arange(config.block_size, device=packet.device)
        context_length = start + num_new
        # rows of features that are not new write behind the context, where the block's own rows overwrite them
        context_slots, block_slots = start + row, context_length + row
        features = network.context_features(buffers.features.to(network.norm.weight.dtype)[None])
        tokens = torch.where(row == 0, root, config.mask_token_id)
        hidden = target.embed(tokens).to(features.dtype)[None] * config.input_embedding_scale
        rotations = network.rotation(context_slots), network.rotation(block_slots)
        windows = [config.window(index) for index in range(config.num_layers)]
        reaches = {window: _reach(context_length, row, buffers.capacity, window) for window in set(windows)}
        for index, layer in enumerate(network.layers):
            hidden = self._run_layer(
                layer, features, hidden, rotations, (context_slots, block_slots),
                (buffers.keys[index], buffers.values[index]), reaches[windows[index]],
            )  # fmt: skip
        return target.head_logits(network.norm(hidden)[0, 1:].to(target.dtype))


@attrs.frozen(eq=False)
class _Reach:
    """What the slots of the block attend to in one layer: as packed bits for the kernel, or as a dense mask."""

    context_length: Tensor  # (1,) int64
    bits: Tensor  # (1, slots, words) int64
    depths: Tensor  # (1, slots) int64
    window: int | None
    mask: Tensor | None  # (slots, capacity) bool, None where the kernel runs


def _reach(context_length: Tensor, row: Tensor, capacity: int, window: int | None) -> _Reach:
    num_slots = len(row)
    slots = torch.ones(num_slots, num_slots, dtype=torch.bool, device=row.device)
    # sliding layers are causal within the block
    slots = slots if window is None else slots.tril()
    mask = None
    if not availability.takes_triton(row):
        column = torch.arange(capacity, device=row.device)
        place = column - context_length
        mask = (place < 0) | ((place < num_slots) & slots[:, place.clamp(0, num_slots - 1)])
        if window is not None:
            mask = mask & (row[:, None] - place < window)
    words = F.pad(slots.long(), (0, 64 * num_words(num_slots) - num_slots)).view(num_slots, -1, 64)
    bits = (words << torch.arange(64, device=row.device)).sum(dim=-1)
    return _Reach(context_length, bits[None], row[None], window, mask)


def _run_layer(
    layer: DraftLayer,
    features: Tensor,
    hidden: Tensor,
    rotations: tuple[Rotation, Rotation],
    slots: tuple[Tensor, Tensor],
    buffers: tuple[Tensor, Tensor],
    reach: _Reach,
) -> Tensor:
    """Return the hidden states behind one layer, whose buffers gain the rows of the context and of the block."""
    attention, (keys, values) = layer.self_attn, buffers
    normed = layer.input_layernorm(hidden)
    for rows, rotation, places in zip((features, normed), rotations, slots, strict=True):
        row_keys, row_values = attention.keys_values(rows, *rotation)
        keys.index_copy_(2, places, row_keys)
        values.index_copy_(2, places, row_values)
    queries = attention.queries(normed, *rotations[1])
    if reach.mask is None:
        mixed = tree_attention(
            queries,
            keys,
            values,
            reach.bits,
            reach.context_length,
            scale=attention.head_dim**-0.5,
            depths=None if reach.window is None else reach.depths,
            window=reach.window,
        )
    else:
        is_grouped = attention.num_heads != attention.num_key_value_heads
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=reach.mask, enable_gqa=is_grouped)
        mixed = mixed.transpose(1, 2)
    hidden = hidden + attention.o_proj(mixed.flatten(2))
    output: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return output
