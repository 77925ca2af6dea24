"""Linear layers over few rows: torch's default against oneDNN, packed and not; the ground of ``kernels/linear``.

OMP_NUM_THREADS=2 python benchmarks/linear_layers.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from caddtree.kernels.linear import linear
from caddtree.kernels.linear.onednn_kernel import PackedLinear

SHAPES = {
    "demo q": (256, 256), "demo k": (256, 128), "demo mlp": (256, 640), "demo head": (256, 4096),
    "0.6B mlp": (1024, 3072), "4B mlp": (2560, 9728),
}  # fmt: skip
ROWS = (1, 2, 8, 16, 17, 32, 64)


def microseconds(work: Callable[[], object], repeats: int = 60) -> float:
    """Return the median duration of a call."""
    for _ in range(10):
        work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times)


@torch.inference_mode()
def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; microseconds, * marks what decoding takes")
    print(f"{'layer':12s}{'rows':>6s}{'default':>10s}{'unpacked':>10s}{'packed':>10s}")
    for name, (inputs, outputs) in SHAPES.items():
        with torch.inference_mode(False):
            module = nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
        ways = {packed: PackedLinear(module, is_packed=packed) for packed in (False, True)}
        for count in ROWS:
            rows = torch.randn(count, inputs)
            default = microseconds(lambda rows=rows, module=module: linear(rows, module.weight))
            raw, packed = (microseconds(lambda rows=rows, layer=layer: layer.packed(rows)) for layer in ways.values())
            chosen = ways[True].takes_packed(count)
            print(
                f"{name:12s}{count:6d}{default:9.1f}{' ' if chosen else '*'}{raw:10.1f}"
                f"{packed:9.1f}{'*' if chosen else ' '}"
            )


if __name__ == "__main__":
    main()
