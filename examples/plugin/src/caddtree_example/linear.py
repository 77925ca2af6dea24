"""Prices that are known beforehand: nothing is measured, so the same trees are chosen on every machine."""

import math

import attrs
import numpy as np
from attrs.validators import ge, gt, instance_of, lt
from caddtree.core.decoder import Decoder
from caddtree.plugins.hooks import KindRegistry, hookimpl
from numpy.typing import NDArray


@attrs.frozen
class Linear:
    """Price a round at a fixed part and as much again for every draft node, whatever the context."""

    draft_seconds: float = attrs.field(default=0.002, validator=[instance_of((int, float)), ge(0), lt(math.inf)])
    """Seconds of drafting."""
    base_seconds: float = attrs.field(default=0.01, validator=[instance_of((int, float)), gt(0), lt(math.inf)])
    """Seconds of a verification of the root alone."""
    node_seconds: float = attrs.field(default=0.0005, validator=[instance_of((int, float)), ge(0), lt(math.inf)])
    """Seconds that every draft node adds."""

    def prepare(self, decoder: Decoder) -> None:
        """Nothing to get ready."""

    def before_choice_seconds(self, context_length: int) -> float:
        """Return the seconds of drafting."""
        return self.draft_seconds

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return a straight line over the draft nodes."""
        return np.asarray(self.base_seconds + self.node_seconds * num_draft_nodes, np.float64)


@hookimpl
def register_cost_models(registry: KindRegistry) -> None:
    """Register the straight line."""
    registry.add("linear", Linear)
