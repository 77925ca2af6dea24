from __future__ import annotations

import pytest
import torch

from caddtree.kernels import availability
from tests.kernels.interpreter import quicken

quicken()

SENTINEL = 0x5EADBEEF


@pytest.fixture
def on_triton(monkeypatch):
    """Wrap a door: it takes its Triton path, into memory that was full of something else."""
    empty = torch.empty

    def poisoned(*size, dtype, device):
        return empty(*size, dtype=dtype, device=device).fill_(torch.nan if dtype.is_floating_point else SENTINEL)

    def wrap(door):
        def call(*arguments, **keywords):
            with monkeypatch.context() as patch:
                patch.setattr(availability, "takes_triton", lambda tensor: True)
                patch.setattr(torch, "empty", poisoned)
                return door(*arguments, **keywords)

        return call

    return wrap
