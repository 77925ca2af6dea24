"""A function of fixed shapes as a CUDA graph: launched as one, without the host in between."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from caddtree.core.runner import Outputs, StaticFunction

logger = logging.getLogger(__name__)


class GraphCapture:
    """Makes captured functions that share one pool of device memory; calling it is the runner's ``capture``.

    The pool is safe to share because one graph is replayed after the other, and what a graph returns is read before
    the next is replayed: a graph may use the place of another's outputs for its own intermediate results.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            # one stream for all captures: work of a model on another device than the current would not be captured on
            # the current one's, and libraries keep a workspace for every stream they have met
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # a pool whose last graph has died cannot be captured into again: this one lives as long as the pool
        self._keeper = self(lambda inputs: (inputs + 1,))
        self._keeper(torch.zeros(1))

    def __call__(self, function: StaticFunction) -> CapturedFunction:
        """Return the captured form; the capture itself happens at its first call."""
        return CapturedFunction(function, self)


class CapturedFunction:
    """Copies its input to a fixed place and replays the graph; any later replay may overwrite the outputs.

    A function that cannot be captured, because it waits for the device, runs as it is written, with one warning.
    """

    def __init__(self, function: StaticFunction, capture: GraphCapture) -> None:
        self._function, self._owner = function, capture
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_plain = False
        self._input = torch.empty(0)
        self._outputs: Outputs = ()

    def __call__(self, inputs: Tensor) -> Outputs:
        """Return what the function returns for ``inputs``, which may lie on the host; always of one shape."""
        if self._graph is None and not self._is_plain:
            self._prepare(inputs)
        self._input.copy_(inputs, non_blocking=True)
        if self._graph is None:
            return self._function(self._input)
        self._graph.replay()
        return self._outputs

    def _prepare(self, inputs: Tensor) -> None:
        owner = self._owner
        with torch.cuda.device(owner.device):
            self._input = torch.empty_like(inputs, device=owner.device)
            self._input.copy_(inputs)
            # what is made at first use (compiled code, library handles) must not be captured
            self._on_stream(self._function)
            try:
                self._on_stream(self._checked)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=owner.pool, stream=owner.stream):
                    self._outputs = self._function(self._input)
                self._graph = graph
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._is_plain = True
                logger.warning(
                    "a forward cannot be captured as a CUDA graph (%s: %s) and is launched piece by piece. To silence "
                    "this: runtime: {graphs: never}",
                    type(error).__name__,
                    " ".join(str(error).split()[:30]),
                )

    def _on_stream(self, function: StaticFunction) -> None:
        stream, current = self._owner.stream, torch.cuda.current_stream(self._owner.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            function(self._input)
        current.wait_stream(stream)

    def _checked(self, inputs: Tensor) -> Outputs:
        """Run once more and raise where the host would wait: in a capture that would break more than this call."""
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return self._function(inputs)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
