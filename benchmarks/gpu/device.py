"""All that depends on the device, in one place: CUDA, or a CPU that plays one at toy sizes.

Every call below that CUDA alone has is in :class:`CudaDevice`; :class:`ToyDevice` is the same face without a device.
"""

from __future__ import annotations

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol
from unittest import mock

import attrs
import torch
from torch._dynamo.utils import counters

from caddtree.core.options import RuntimeOptions
from caddtree.core.runner import TargetRunner
from caddtree.kernels import availability, candidates
from caddtree.runtime import choose_runner

TOY_WIDTH = 4
"""Candidates that a kernel selects at most at toy sizes."""
_WARM_UPS = 3
_SMALLEST_L2_BYTES = 32 << 20
"""Stands in where a device does not tell the size of its cache; at least as large as any that is measured here."""


@attrs.frozen
class Timing:
    """Seconds of one thing, measured several times."""

    median: float
    lower_quartile: float
    upper_quartile: float
    repeats: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Return the summary of at least one sample."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, lower, upper, len(samples))

    def to_dict(self) -> dict[str, float]:
        """Return JSON-ready values."""
        return attrs.asdict(self)


class Device(Protocol):
    """What the benchmark asks of a device."""

    is_toy: bool
    torch_device: torch.device
    dtype: torch.dtype
    """Of weights, keys and values."""

    def facts(self) -> dict[str, Any]:
        """Return what identifies the device, JSON-ready."""

    def active(self) -> AbstractContextManager[None]:
        """Return a context in which kernels run here."""

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    def runner(self, buckets: Sequence[int]) -> TargetRunner:
        """Return the runtime that is measured, with forwards padded to these rows."""

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a compiled form for one shape, or the function itself."""

    def forget_compiled(self) -> None:
        """Drop compiled code: what was compiled for one model shall not count against the next one's limit."""

    def compiler_facts(self) -> dict[str, Any]:
        """Return how often something was compiled since :meth:`forget_compiled`, JSON-ready."""

    def call_seconds(self, call: Callable[[], Any], *, repeats: int, calls: int = 1) -> Timing:
        """Return the seconds of one call, or of one of the ``calls`` that it makes, as the device's clock has them."""

    def graph_seconds(self, calls: Sequence[Callable[[], Any]], *, repeats: int) -> Timing:
        """Return the seconds of one of these calls, run one behind the other without the host in between."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of the last cache before the memory."""

    def peak_bytes(self) -> int:
        """Return the most bytes that tensors took since :meth:`start_peak`."""

    def start_peak(self) -> None:
        """Begin a new count of the peak."""

    def free(self) -> None:
        """Give back memory that nothing needs."""


class CudaDevice:
    """The current CUDA device."""

    is_toy = False
    dtype = torch.bfloat16

    def __init__(self) -> None:
        self.torch_device = torch.device("cuda", torch.cuda.current_device())
        # float32 products shall be float32: the checks compare tokens
        torch.backends.cuda.matmul.allow_tf32 = False

    def facts(self) -> dict[str, Any]:
        """Return name, memory and versions."""
        properties = torch.cuda.get_device_properties(self.torch_device)
        return {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cache_bytes": self.cache_bytes,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
        }

    def active(self) -> AbstractContextManager[None]:
        """Return nothing to enter."""
        return nullcontext()

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize(self.torch_device)

    def runner(self, buckets: Sequence[int]) -> TargetRunner:
        """Return compiled layers and captured graphs, as ``auto`` chooses them."""
        return choose_runner(RuntimeOptions(buckets=tuple(buckets)), self.torch_device)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the form compiled for the shapes of its first call."""
        compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
        return compiled

    def forget_compiled(self) -> None:
        """Drop what Dynamo keeps and has counted; graphs captured before must be gone."""
        torch.compiler.reset()
        counters.clear()

    def compiler_facts(self) -> dict[str, Any]:
        """Return Dynamo's count of graphs and of breaks in them."""
        return {"graphs": int(counters["stats"]["unique_graphs"]), "breaks": dict(counters["graph_break"])}

    def call_seconds(self, call: Callable[[], Any], *, repeats: int, calls: int = 1) -> Timing:
        """Return seconds between two events around the call."""
        for _ in range(_WARM_UPS):
            call()
        make_event = partial(torch.cuda.Event, enable_timing=True)
        events = [(make_event(), make_event()) for _ in range(repeats)]
        for start, end in events:
            start.record()
            call()
            end.record()
        # events can be read once the device has passed them
        self.synchronize()
        return Timing.of([start.elapsed_time(end) / 1e3 / calls for start, end in events])

    def graph_seconds(self, calls: Sequence[Callable[[], Any]], *, repeats: int) -> Timing:
        """Return the seconds of a captured graph of all calls, divided by their number."""
        stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.torch_device))
        with torch.cuda.stream(stream):
            # twice: what is compiled or made at first use must not be captured
            for call in (*calls, *calls):
                call()
        torch.cuda.current_stream(self.torch_device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return self.call_seconds(graph.replay, repeats=repeats, calls=len(calls))

    @property
    def cache_bytes(self) -> int:
        """Bytes of the L2 cache."""
        properties = torch.cuda.get_device_properties(self.torch_device)
        return max(int(getattr(properties, "L2_cache_size", 0)), _SMALLEST_L2_BYTES)

    def peak_bytes(self) -> int:
        """Return the peak of the allocator's bytes."""
        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def start_peak(self) -> None:
        """Reset the allocator's peak."""
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def free(self) -> None:
        """Collect garbage and empty the allocator's cache."""
        gc.collect()
        torch.cuda.empty_cache()


class ToyDevice:
    """A CPU with kernels in Triton's interpreter, the host's clock, and no graphs: for tests of this very script."""

    is_toy = True
    # the interpreter is wrong for bfloat16
    dtype = torch.float32
    torch_device = torch.device("cpu")
    cache_bytes = 1 << 10

    def facts(self) -> dict[str, Any]:
        """Return the processor."""
        return {"name": platform.processor() or platform.machine(), "cache_bytes": self.cache_bytes}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the doors of the kernels take their Triton path, as on a device."""
        with (
            mock.patch.object(availability, "takes_triton", return_value=True),
            # the widths of real rounds take the interpreter most of a second
            mock.patch.object(candidates, "LARGEST_KERNEL_WIDTH", TOY_WIDTH),
        ):
            yield

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def runner(self, buckets: Sequence[int]) -> TargetRunner:
        """Return fixed shapes without graphs."""
        return choose_runner(RuntimeOptions(compile="never", buckets=tuple(buckets)), self.torch_device)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function."""
        return function

    def forget_compiled(self) -> None:
        """Nothing was compiled."""

    def compiler_facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def call_seconds(self, call: Callable[[], Any], *, repeats: int, calls: int = 1) -> Timing:
        """Return seconds by the host's clock."""
        samples = []
        for _ in range(repeats):
            started = time.perf_counter()
            call()
            samples.append((time.perf_counter() - started) / calls)
        return Timing.of(samples)

    def graph_seconds(self, calls: Sequence[Callable[[], Any]], *, repeats: int) -> Timing:
        """Return seconds of one call by the host's clock."""

        def run_all() -> None:
            for call in calls:
                call()

        return self.call_seconds(run_all, repeats=repeats, calls=len(calls))

    def peak_bytes(self) -> int:
        """Return 0: nobody counts here."""
        return 0

    def start_peak(self) -> None:
        """There is no count."""

    def free(self) -> None:
        """Collect garbage."""
        gc.collect()


def open_device(*, is_toy: bool) -> Device:
    """Return the device to measure.

    Raises:
        RuntimeError: If there is none, or kernels would silently be replaced by plain torch on it.
    """
    if is_toy:
        return ToyDevice()
    if not torch.cuda.is_available():
        raise RuntimeError("this machine shows no CUDA device; --toy runs the script at toy sizes on a CPU")
    problem = availability.triton_problem("cuda")
    if problem is not None:
        raise RuntimeError(f"no Triton kernel can run on this device: {problem}")
    return CudaDevice()


def copies_beyond_cache(device: Device, bytes_each: int) -> int:
    """Return how many buffers of so many bytes fill the cache four times: in turn, none is found there again."""
    return max(4, math.ceil(4 * device.cache_bytes / bytes_each))
