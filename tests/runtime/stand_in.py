"""A captured graph as the CPU can play it: fixed input and output places, no look at anything that came later."""

from __future__ import annotations

import torch
from torch import Tensor

from caddtree.core.runner import Outputs, StaticFunction


class StandInGraphs:
    """The ``capture`` of a runner; counts what it captured and what it replayed.

    As with a CUDA graph, the function is given the very same input tensor at every replay and its outputs come back in
    the same places. Between replays the outputs of *other* graphs are spoilt, so that a result that is used too late
    does not go unnoticed.
    """

    def __init__(self) -> None:
        self.graphs: list[StandInGraph] = []

    def __call__(self, function: StaticFunction) -> StandInGraph:
        self.graphs.append(StandInGraph(function, self.graphs))
        return self.graphs[-1]


class StandInGraph:
    """One captured function."""

    def __init__(self, function: StaticFunction, graphs: list[StandInGraph]) -> None:
        self.function, self.graphs = function, graphs
        self.input = torch.empty(0)
        self.outputs: Outputs = ()
        self.num_replays = 0

    def __call__(self, inputs: Tensor) -> Outputs:
        if self.input.numel() == 0:
            self.input = torch.empty_like(inputs)
        # a captured graph has one shape; another one would be read beyond or short of its end
        assert self.input.shape == inputs.shape, f"captured {self.input.shape}, called with {inputs.shape}"
        self.input.copy_(inputs)
        fresh = self.function(self.input)
        for graph in self.graphs:
            if graph is not self:
                for place in graph.outputs:
                    place.fill_(torch.nan)
        if not self.outputs:
            self.outputs = tuple(torch.empty_like(output) for output in fresh)
        for place, output in zip(self.outputs, fresh, strict=True):
            assert place.shape == output.shape, "a captured output has one shape"
            place.copy_(output)
        self.num_replays += 1
        return self.outputs
