"""Linear layers through oneDNN against the plain reference, and a model that is left as it was. FT-27."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from caddtree.core.target import Target
from caddtree.kernels import linear as door
from caddtree.kernels.linear import FastLinears, linear, onednn_kernel
from caddtree.kernels.linear.onednn_kernel import PackedLinear
from tests.tiny_models import tiny_model


@pytest.fixture
def always(monkeypatch):
    """Small layers take the fast way too."""
    monkeypatch.setattr(onednn_kernel, "_LEAST_WORK", 0)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 33), (64, 96), (257, 129), (1024, 1030)])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16, 17, 65])
def test_every_shape_equals_the_reference(shape, rows, bias, is_packed):
    """Sizes of 1, odd ones and no powers of two; the error is that of a float32 sum."""
    torch.manual_seed(0)
    module = nn.Linear(*shape, bias=bias)
    data = torch.randn(1, rows, shape[0])
    with torch.inference_mode():
        found = PackedLinear(module, is_packed=is_packed).packed(data)
        expected = linear(data.double(), module.weight.double(), module.bias.double() if bias else None)

    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_shape_alone_decides_which_way_is_taken(monkeypatch):
    """Small products stay with torch; a lone row counts as one, more rows as whole tiles of eight."""
    taken = []
    monkeypatch.setattr(PackedLinear, "packed", lambda self, rows: taken.append(rows.shape[0]))
    layer = PackedLinear(nn.Linear(256, 640), is_packed=True)
    for rows in (1, 2, 8, 16):
        layer(torch.zeros(rows, 256))
    small = PackedLinear(nn.Linear(256, 128), is_packed=True)
    for rows in (1, 16, 24, 25):
        small(torch.zeros(rows, 256))

    assert taken == [2, 8, 16, 25]


def test_the_model_is_untouched_outside(always):
    """Its modules have no forward of their own before and after, also when something raises inside."""
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))
    fast = FastLinears(model)
    with fast:
        assert "forward" in model[0].__dict__
    with pytest.raises(RuntimeError), fast:
        model(torch.ones(1, 5))

    assert len(fast) == 2
    assert all("forward" not in module.__dict__ for module in model)
    assert copy.deepcopy(model)(torch.ones(1, 4)).tolist() == model(torch.ones(1, 4)).tolist()


def test_changed_weights_are_packed_anew(always):
    """In place, as an optimiser does, and replaced."""
    model = nn.Sequential(nn.Linear(8, 8))
    fast, data = FastLinears(model), torch.randn(3, 8)
    with torch.no_grad():
        model[0].weight.mul_(2.0)
        fast.refresh()
        with fast:
            first = model(data)
        assert torch.allclose(first, model(data), atol=1e-6)
        model[0].weight = nn.Parameter(torch.randn(8, 8))
        fast.refresh()
        with fast:
            second = model(data)
        assert torch.allclose(second, model(data), atol=1e-6)


def test_a_target_sees_weights_that_changed_between_requests(always):
    """A new sequence packs anew: nothing stale is decoded."""
    model = tiny_model()
    target = Target(model)
    state = target.start(8)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    state = target.start(8)
    logits = target.prefill(state, [1, 2, 3], lambda *_: None)

    assert torch.allclose(logits, model(torch.tensor([[1, 2, 3]])).logits[0, -1], atol=1e-4)


def test_what_is_no_plain_linear_layer_is_left_alone():
    """Subclasses, other types of numbers, and a forward that somebody else replaced."""

    class Own(nn.Linear):
        pass

    wrapped = nn.Linear(4, 4)
    wrapped.forward = lambda rows: rows
    model = nn.ModuleList([Own(4, 4), nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).double(), wrapped])

    assert len(FastLinears(model)) == 0


def test_weights_beyond_the_budget_are_not_copied(monkeypatch, always):
    """They run from their own memory."""
    monkeypatch.setattr(door, "_LARGEST_PACKED_BYTES", 4 * 16)
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    packed = [layer._is_packed for _, layer in FastLinears(model)._layers]

    assert packed == [True, False]


@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_ft27_without_a_working_kernel_torchs_own_is_used(monkeypatch, caplog, fault):
    """FT-27: a torch that lacks the operation, or computes something else, decodes all the same."""

    def missing(self, rows):
        raise AttributeError("no such operation")

    monkeypatch.setattr(PackedLinear, "packed", missing if fault == "missing" else lambda self, rows: rows @ rows.T)
    model = nn.Sequential(nn.Linear(4, 3))
    with caplog.at_level(logging.INFO, logger="caddtree"):
        fast = FastLinears(model)

    assert len(fast) == 0
    assert ("not available" in caplog.text) == (fault == "missing")
