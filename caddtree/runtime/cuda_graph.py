"""A function of fixed shapes as a CUDA graph: launched as one, without the host in between."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from caddtree.core.runner import Outputs, StaticFunction

logger = logging.getLogger(__name__)

_WARM_UPS = 2
"""Calls before the capture: what is made at first use (compiled code, library handles) must not be captured."""


class GraphCapture:
    """Makes captured functions that share one pool of device memory; calling it is the runner's ``capture``.

    The pool is safe to share because one stream replays one graph after the other, and what a graph returns stays
    allocated for as long as the graph lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        # a pool whose last graph has died cannot be captured into again: this one lives as long as the pool
        self._keeper = CapturedFunction(lambda inputs: (inputs + 1,), device, self.pool)
        self._keeper(torch.zeros(1))

    def __call__(self, function: StaticFunction) -> CapturedFunction:
        """Return the captured form; the capture itself happens at its first call."""
        return CapturedFunction(function, self.device, self.pool)


class CapturedFunction:
    """Copies its input to a fixed place and replays the graph; the outputs are overwritten by the next call."""

    def __init__(self, function: StaticFunction, device: torch.device, pool: object) -> None:
        self._function, self._device, self._pool = function, device, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input = torch.empty(0)
        self._outputs: Outputs = ()

    def __call__(self, inputs: Tensor) -> Outputs:
        """Return what the function returns for ``inputs``, which may lie on the host; always of one shape."""
        if self._graph is None:
            self._capture(inputs)
        assert self._graph is not None
        self._input.copy_(inputs, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _capture(self, inputs: Tensor) -> None:
        self._input = torch.empty_like(inputs, device=self._device)
        self._input.copy_(inputs)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._function(self._input)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):  # type: ignore[arg-type]
            self._outputs = self._function(self._input)
        self._graph = graph
