"""Which runner fits the options and the device."""

from __future__ import annotations

import logging
from typing import Any

import torch

from caddtree.core.errors import CompatibilityError
from caddtree.core.options import RuntimeOptions
from caddtree.core.runner import PlainRunner, TargetRunner
from caddtree.core.target import is_sharded
from caddtree.runtime.buckets import DEFAULT_BUCKETS
from caddtree.runtime.compiled_layers import CompiledFunction
from caddtree.runtime.cuda_graph import GraphCapture
from caddtree.runtime.static_runner import StaticRunner

logger = logging.getLogger(__name__)


def runner_for(model: Any, options: RuntimeOptions) -> TargetRunner:
    """Return how to run a Hugging Face model where it lies.

    Raises:
        CompatibilityError: If layers that are sharded over processes are to be compiled.
    """
    if is_sharded(model):
        return _sharded_runner(options)
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        logger.info("runtime: the model lies on %d devices and runs plainly", len(devices))
        return PlainRunner()
    return choose_runner(options, devices.pop())


def _sharded_runner(options: RuntimeOptions) -> TargetRunner:
    """Return how to run a model that other processes hold the rest of: as it is written, padded if it is asked for."""
    if options.compile == "always":
        raise CompatibilityError(
            "runtime.compile is always, but layers that are sharded over processes run as they are written; "
            "set it to auto or never"
        )
    logger.info("runtime: the target is sharded over several processes: no graphs, no compiled layers")
    return PlainRunner() if options.buckets is None else StaticRunner(options.buckets)


def choose_runner(options: RuntimeOptions, device: torch.device) -> TargetRunner:
    """Return how to run the models on this device.

    ``auto`` means graphs and compiled layers on a CUDA device. On a CPU it means neither: the linear layers run
    through oneDNN there already, and against that compiled layers gain nothing (``benchmarks/cpu_runtime.py``).
    """
    has_graphs = options.graphs == "auto" and device.type == "cuda"
    is_compiled = options.compile == "always" or (options.compile == "auto" and device.type == "cuda")
    if not has_graphs and not is_compiled and options.buckets is None:
        return PlainRunner()
    parts: dict[str, Any] = {}
    if has_graphs:
        parts["capture"] = GraphCapture(device)
    if is_compiled:
        parts["compile"] = CompiledFunction
    logger.info("runtime: %s, buckets of rows", " and ".join(["fixed shapes", *parts]))
    return StaticRunner(options.buckets or DEFAULT_BUCKETS, **parts)
