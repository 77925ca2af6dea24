"""The smallest kernel: whether Triton compiles and launches anything here."""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl

_ANSWER = 42


def run_probe(device: torch.device | str) -> None:
    """Compile and launch a kernel.

    Raises:
        RuntimeError: If it runs but computes nothing.
        Exception: Whatever Triton raises where a driver, a compiler or a header is missing.
    """
    out = torch.zeros(1, dtype=torch.int32, device=device)
    _probe_kernel[(1,)](out, _ANSWER)
    # host sync: once per process
    if int(out) != _ANSWER:
        raise RuntimeError("a kernel was launched but wrote nothing")


@triton.jit(do_not_specialize=["answer"])
def _probe_kernel(out, answer):
    """Write the answer."""
    tl.store(out, answer)
