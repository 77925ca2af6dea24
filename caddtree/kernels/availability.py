"""Whether Triton kernels can run where a tensor lives, and if not, why."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def takes_triton(tensor: Tensor) -> bool:
    """Tell whether work on this tensor goes to a Triton kernel: it lies on a device that Triton compiles for.

    Where it should but cannot, one warning says why and plain torch does the work.
    """
    if tensor.device.type != "cuda":
        return False
    problem = triton_problem("cuda")
    if problem is not None:
        _warn_once(problem)
    return problem is None


@functools.cache
def triton_problem(device_type: str) -> str | None:
    """Return why Triton kernels cannot run on devices of this type (``cuda`` means ROCm too), or None."""
    if device_type != "cuda":
        return f"Triton compiles for GPUs and this device is of type {device_type}"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if not torch.cuda.is_available():
        return "this machine shows no CUDA or ROCm device"
    try:
        # a launch needs a C compiler, Python's headers and a driver that fits: all of them are missing somewhere
        probe().run_probe(device_type)
    except Exception as error:
        return f"Triton cannot run a kernel here ({type(error).__name__}: {' '.join(str(error).split()[:30])})"
    return None


def probe() -> Any:
    """Return the module with the smallest kernel; importing it imports Triton."""
    from caddtree.kernels import probe as module

    return module


@functools.cache
def _warn_once(problem: str) -> None:
    logger.warning("device kernels are not used: %s; plain torch does their work", problem)
