"""A roofline computed from the target's config: no profile, only three rates of the machine."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from caddtree.core.errors import CostModelError
from caddtree.plugins.hooks import KindRegistry, hookimpl

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder

logger = logging.getLogger(__name__)

_PROBE_ROUNDS = 12


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise CostModelError(f"{attribute.name} must be a number above 0, found {value!r}")


@attrs.frozen
class ModelWork:
    """Floating-point operations and bytes of one forward of a decoder-only model with gated MLPs."""

    weights: int
    """Matrix entries that one forward reads, the output head included, the embedding table not."""
    layers: int
    query_size: int
    """Query heads times head size."""
    key_value_size: int
    """Key/value heads times head size."""
    bytes_per_value: int

    @classmethod
    def from_config(cls, config: Any, bytes_per_value: int) -> ModelWork:
        """Count the matrices of a Hugging Face text config."""
        size, heads = config.hidden_size, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or size // heads
        key_value_heads = getattr(config, "num_key_value_heads", None) or heads
        query_size, key_value_size = heads * head_dim, key_value_heads * head_dim
        attention = size * query_size * 2 + size * key_value_size * 2
        mlp = 3 * size * config.intermediate_size
        weights = config.num_hidden_layers * (attention + mlp) + size * config.vocab_size
        return cls(weights, config.num_hidden_layers, query_size, key_value_size, bytes_per_value)

    def flops(self, rows: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return operations of a forward over ``rows`` new rows: two per weight and row, and the attention."""
        seen = context_length + rows
        attention = 4.0 * self.layers * self.query_size * rows * seen
        return np.asarray(2.0 * self.weights * rows + attention)

    def bytes(self, rows: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return bytes moved: every weight once, the keys and values that are seen once."""
        cache = 2.0 * self.layers * self.key_value_size * (context_length + rows)
        return np.asarray((self.weights + cache) * self.bytes_per_value)


@attrs.define(eq=False)
class AnalyticCostModel:
    """Price rounds by ``max(FLOPs / rate, bytes / bandwidth) + overhead``.

    What is left out of the options is measured in a second: the rates by one matrix product and one copy, the
    overhead and the draft by a few rounds without draft nodes.
    """

    flops_per_second: float | None = attrs.field(default=None, validator=_positive)
    """Arithmetic rate; measured by one matrix product when None."""
    bytes_per_second: float | None = attrs.field(default=None, validator=_positive)
    """Memory bandwidth; measured by one copy when None."""
    overhead_seconds: float | None = attrs.field(default=None, validator=_positive)
    """What a round costs besides; measured on rounds without draft nodes when None."""
    draft_seconds: float | None = attrs.field(default=None, validator=_positive)
    """Cost of drafting; measured on rounds without draft nodes when None."""
    _work: ModelWork | None = attrs.field(default=None, init=False)
    _rates: tuple[float, float, float, float] = attrs.field(default=(1.0, 1.0, 1.0, 1.0), init=False)

    def prepare(self, decoder: Decoder) -> None:
        """Count the target's work and measure the rates that the options leave out."""
        target = decoder.target
        work = ModelWork.from_config(target.config, target.dtype.itemsize)
        flops = self.flops_per_second or _matmul_rate(target.dtype, target.device)
        bandwidth = self.bytes_per_second or _copy_rate(target.device)
        overhead, draft = self.overhead_seconds, self.draft_seconds
        if overhead is None or draft is None:
            measured_draft, measured_after = _probe(decoder)
            floor = _roofline(work, flops, bandwidth, np.array([1]), 64)[0]
            draft = draft or measured_draft
            overhead = overhead or max(1e-6, measured_after - float(floor))
        self._work, self._rates = work, (flops, bandwidth, overhead, draft)
        logger.info(
            "analytic cost model: %.1f GFLOP/s, %.1f GB/s, %.2f ms overhead, %.2f ms draft",
            flops / 1e9,
            bandwidth / 1e9,
            overhead * 1e3,
            draft * 1e3,
        )

    def before_choice_seconds(self, context_length: int) -> float:
        """Return the seconds of drafting."""
        return self._rates[3]

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the roofline of the forward plus the overhead for every count."""
        if self._work is None:
            return np.ones(len(num_draft_nodes))
        flops, bandwidth, overhead, _ = self._rates
        return _roofline(self._work, flops, bandwidth, num_draft_nodes + 1, context_length) + overhead


def _roofline(
    work: ModelWork, flops: float, bandwidth: float, rows: NDArray[np.int64], context_length: int
) -> NDArray[np.float64]:
    return np.maximum(work.flops(rows, context_length) / flops, work.bytes(rows, context_length) / bandwidth)


def _probe(decoder: Decoder) -> tuple[float, float]:
    """Return median seconds before and after the choice in rounds without draft nodes, at context 64."""
    limit = decoder.target.position_limit
    prompt = [index % decoder.target.vocabulary_size for index in range(min(64, limit // 2))]
    seconds = []
    with decoder.measuring():
        session = decoder.open(prompt, max_new_tokens=min(_PROBE_ROUNDS + 4, limit - len(prompt)))
        while session.finish_reason is None:
            round_ = session.step(candidate_counts=(0,)).round
            if round_ is not None:
                seconds.append((round_.seconds.before_choice, round_.seconds.after_choice))
    # the first rounds are slow, and the last one has no room for a draft; a tiny context leaves no others
    draft, after = np.median(np.array(seconds[2:-1] or seconds), axis=0)
    return float(max(draft, 1e-6)), float(after)


def _matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    size = 512 if device.type == "cpu" else 4096
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    return 2.0 * size**3 / _best_seconds(lambda: matrix @ matrix, device)


def _copy_rate(device: torch.device) -> float:
    source = torch.ones(16 << 20, dtype=torch.uint8, device=device)
    return 2.0 * len(source) / _best_seconds(source.clone, device)


def _best_seconds(work: Any, device: torch.device) -> float:
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return max(best, 1e-9)


@hookimpl
def register_cost_models(registry: KindRegistry) -> None:
    """Register the roofline."""
    registry.add("analytic", AnalyticCostModel)
