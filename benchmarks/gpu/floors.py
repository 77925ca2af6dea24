"""What a round cannot be faster than: its bytes over the device's bandwidth, its products over the device's rate.

Counted from the tensors. Of weights everything that a round must read, once: an embedding table only where it is the
head too, because of a table a round reads a few rows. The head is read twice in a round with a draft, by the drafter's
slots and by the target's nodes, and no cache holds it in between. Of keys and values the committed rows of all layers;
activations, and what is written, are left out as small.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from caddtree.drafters.dflash_network import DFlashNetwork

from .device import Device

_COPY_BYTES = (256 << 20, 1 << 30, 4 << 30)
_TOY_COPY_BYTES = (1 << 16,)
_PRODUCT_SIZE, _TOY_PRODUCT_SIZE = 8192, 64
_REPEATS = 20


@attrs.frozen
class Ceilings:
    """What the device reaches here and now."""

    bytes_per_second: float
    """Of a large copy within its memory: bytes read and bytes written count alike."""
    flops_per_second: float
    """Of a large matrix product in the dtype of the weights, on random data."""
    copies: tuple[tuple[int, float], ...]
    """Every copy that was tried: bytes moved, bytes per second."""


@attrs.frozen
class RoundBytes:
    """Bytes that one round reads."""

    target_layers: int
    """Weights of the target but for embedding table and head."""
    head: int
    """The output head, read once."""
    head_reads: int
    drafter: int
    target_row: int
    """Keys and values of one committed position in all layers of the target."""
    draft_row: int

    def total(self, context_length: int) -> int:
        """Return the bytes of a round on top of so many committed positions."""
        weights = self.target_layers + self.head_reads * self.head + self.drafter
        return weights + context_length * (self.target_row + self.draft_row)

    def to_dict(self) -> dict[str, int]:
        """Return JSON-ready values."""
        return attrs.asdict(self)


@attrs.frozen
class RoundFlops:
    """Multiplications and additions of one round."""

    target_row: int
    """Of one query row through the target's matrices, head included."""
    target_pair: int
    """Of one query row with one row of keys and values, in all layers of the target."""
    draft: int
    """Of the drafter's pass through its matrices and the head."""
    draft_pair: int
    """Of its block with one row of keys and values."""

    def total(self, num_rows: int, context_length: int) -> int:
        """Return the operations of a round with so many query rows."""
        target = num_rows * (self.target_row + (context_length + num_rows) * self.target_pair)
        return target + self.draft + context_length * self.draft_pair


def round_bytes(model: Any, network: DFlashNetwork | None) -> RoundBytes:
    """Return the bytes of a round.

    Args:
        model: The target.
        network: The draft model; None for plain decoding.
    """
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    layers = sum(weight.nbytes for weight in model.parameters() if weight is not table and weight is not head)
    config = model.config
    # keys and values
    row = 2 * config.num_key_value_heads * config.head_dim * head.element_size()
    if network is None:
        return RoundBytes(layers, head.nbytes, 1, 0, config.num_hidden_layers * row, 0)
    drafter = sum(weight.nbytes for weight in network.parameters())
    draft_row = network.config.num_layers * row
    return RoundBytes(layers, head.nbytes, 2, drafter, config.num_hidden_layers * row, draft_row)


def round_flops(model: Any, network: DFlashNetwork | None) -> RoundFlops:
    """Return the operations of a round; arguments as in :func:`round_bytes`."""
    head, config = model.get_output_embeddings().weight, model.config
    pair = 4 * config.num_attention_heads * config.head_dim
    target_row = 2 * (_matrix_elements(model.get_decoder().layers) + head.numel())
    if network is None:
        return RoundFlops(target_row, config.num_hidden_layers * pair, 0, 0)
    block = network.config.block_size
    # the block's rows, and as many rows of new features, pass the key and value projections: counted as all of a layer
    draft = 2 * block * (_matrix_elements(network) + head.numel())
    return RoundFlops(target_row, config.num_hidden_layers * pair, draft, block * network.config.num_layers * pair)


def measure_ceilings(device: Device) -> Ceilings:
    """Return the bandwidth of the best of several copies and the rate of one large product."""
    copies = tuple(_copy(device, size) for size in (_TOY_COPY_BYTES if device.is_toy else _COPY_BYTES))
    size = _TOY_PRODUCT_SIZE if device.is_toy else _PRODUCT_SIZE
    left, right, out = (torch.empty(size, size, dtype=device.dtype, device=device.torch_device) for _ in range(3))
    # random: products of zeros are faster than any real ones
    left.normal_()
    right.normal_()
    product = device.call_seconds(lambda: torch.mm(left, right, out=out), repeats=_REPEATS)
    return Ceilings(max(rate for _, rate in copies), 2 * size**3 / product.median, copies)


def _copy(device: Device, num_bytes: int) -> tuple[int, float]:
    source = torch.empty(num_bytes // 4, dtype=torch.float32, device=device.torch_device).normal_()
    place = torch.empty_like(source)
    timing = device.call_seconds(lambda: place.copy_(source), repeats=_REPEATS)
    return 2 * source.nbytes, 2 * source.nbytes / timing.median


def _matrix_elements(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if isinstance(weight, Tensor) and weight.ndim == 2)
