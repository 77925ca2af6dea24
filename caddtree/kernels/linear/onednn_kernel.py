"""The same through oneDNN's matrix kernels, from weights that are repacked once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caddtree.kernels.linear.reference import linear

_ROW_TILE = 8
_LEAST_WORK = 1 << 20
"""Multiply-adds from which oneDNN is faster; below, a call's fixed cost of about 10 us outweighs it.

The rule looks at shapes only: a choice by the clock would round differently from run to run.
"""
_TYPICAL_ROWS = 16


class PackedLinear:
    """One layer; it replaces the ``forward`` of its module.

    Args:
        module: Float32, on the CPU.
        is_packed: Keep a repacked copy of the weights; without it oneDNN reads the module's own.
    """

    def __init__(self, module: nn.Linear, *, is_packed: bool) -> None:
        self._module = module
        self._is_packed = is_packed
        self._inputs, self._size = module.in_features, module.in_features * module.out_features
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self._pack()

    def __call__(self, rows: Tensor) -> Tensor:
        """Return what the module's own forward would, by the faster way."""
        if self.takes_packed(rows.numel() // self._inputs):
            return self.packed(rows)
        return linear(rows, self._module.weight, self._module.bias)

    def takes_packed(self, num_rows: int) -> bool:
        """Tell which way is faster for so many rows."""
        # the default way works in tiles of 8 rows; a lone row is a matrix-vector product and no tile
        padded = num_rows if num_rows == 1 else -(-num_rows // _ROW_TILE) * _ROW_TILE
        return padded * self._size >= _LEAST_WORK

    def packed(self, rows: Tensor) -> Tensor:
        """Return the product through oneDNN, whatever the shape."""
        result: Tensor = self._linear(rows, self._weight, self._module.bias, "none", [], "")
        return result

    def refresh(self) -> None:
        """Pack anew if the weights were changed in place or replaced."""
        if self._seen != _identity(self._module.weight):
            self._pack()

    def _pack(self) -> None:
        weight = self._module.weight.detach()
        self._seen = _identity(self._module.weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS) if self._is_packed else weight


def _identity(weight: Tensor) -> tuple[int, int]:
    # a tensor made in inference mode counts no versions
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
