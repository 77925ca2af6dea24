"""Linear layers over the few rows of a round, on a CPU."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from caddtree.kernels.linear import onednn_kernel
from caddtree.kernels.linear.reference import linear

logger = logging.getLogger(__name__)

__all__ = ["FastLinears", "linear"]

_LARGEST_PACKED_BYTES = 2 << 30
"""Repacked weights of one model together; what is beyond runs from its own memory layout, slower but at no cost."""
_TOLERANCE = 1e-4


class FastLinears:
    """While entered, the float32 linear layers of a model on a CPU run through oneDNN where that is faster.

    Outside the ``with`` block the model is untouched: other users of it see the modules as they were. Layers that
    are no plain ``nn.Linear``, or whose forward somebody replaced already, are left alone.

    Measured on two Zen 4 cores against torch's default (MKL): 16 rows of a 640 x 256 layer in 21 us instead of 36,
    one row of a 9,728 x 2,560 layer in 1.0 to 1.8 ms instead of 4.6 (``benchmarks/linear_layers.py``).

    Args:
        model: Any module with frozen weights; weights that change are seen at the next :meth:`refresh`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[tuple[dict[str, Any], onednn_kernel.PackedLinear]] = []
        layers = [module for module in model.modules() if type(module) is nn.Linear and _can_run(module)]
        if not layers or not _works(layers[0]):
            return
        packed_bytes = 0
        for module in layers:
            packed_bytes += module.weight.nbytes
            layer = onednn_kernel.PackedLinear(module, is_packed=packed_bytes <= _LARGEST_PACKED_BYTES)
            self._layers.append((module.__dict__, layer))

    def __enter__(self) -> None:
        # the dictionaries directly: nn.Module's own attribute checks would cost more than they find here
        for attributes, layer in self._layers:
            attributes["forward"] = layer

    def __exit__(self, *_: object) -> None:
        for attributes, _layer in self._layers:
            del attributes["forward"]

    def __len__(self) -> int:
        return len(self._layers)

    def refresh(self) -> None:
        """Pack anew what was changed in place since it was packed."""
        for _, layer in self._layers:
            layer.refresh()


def _can_run(module: nn.Linear) -> bool:
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and "forward" not in module.__dict__


def _works(module: nn.Linear) -> bool:
    """Tell whether this torch has the operations, and whether they compute what the reference does."""
    rows = torch.linspace(-1, 1, 3 * module.in_features).view(3, -1)
    try:
        found: Tensor = onednn_kernel.PackedLinear(module, is_packed=True).packed(rows)
    except (AttributeError, RuntimeError) as error:
        logger.info("oneDNN's packed linear layers are not available (%s): torch's own are used", error)
        return False
    with torch.no_grad():
        expected = linear(rows, module.weight, module.bias)
    return bool(torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE * float(expected.abs().max())))
