"""Whether Triton kernels can run where a tensor lives, and if not, why."""

from __future__ import annotations

import functools
import logging
import os

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
    """Return why Triton kernels cannot run on devices of this type (``cuda`` means ROCm too), or None.

    On a CPU they run in Triton's interpreter only, which is for tests: far slower than plain torch.
    """
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    is_interpreting = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else _asks_for_interpreter()
    if device_type == "cpu":
        return None if is_interpreting else "Triton compiles for GPUs only and this device is a CPU"
    if device_type != "cuda":
        return f"Triton does not compile for devices of type {device_type}"
    if not torch.cuda.is_available():
        return "this machine shows no CUDA or ROCm device"
    return None


def _asks_for_interpreter() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0", "false", "off")


@functools.cache
def _warn_once(problem: str) -> None:
    logger.warning("device kernels are not used: %s; plain torch does their work", problem)
