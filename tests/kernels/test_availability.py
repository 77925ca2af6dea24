"""Where Triton kernels run, and what is said where they do not. FT-27."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import caddtree
from caddtree.core.errors import CompatibilityError
from caddtree.kernels import availability, probe

CUDA = SimpleNamespace(device=torch.device("cuda"))


@pytest.fixture(autouse=True)
def forgotten():
    """Answers are kept for the life of a process; here every test asks anew."""
    for function in (availability.triton_problem, availability._warn_once):
        function.cache_clear()
    yield
    for function in (availability.triton_problem, availability._warn_once):
        function.cache_clear()


def test_tensors_on_a_cpu_stay_with_torch():
    """Also in the interpreter, which is for tests of the kernels."""
    assert not availability.takes_triton(torch.zeros(1))
    assert availability.triton_problem("cpu") == "Triton compiles for GPUs and this device is of type cpu"


def test_the_probe_runs_and_would_say_if_it_did_not(monkeypatch):
    """In the interpreter; a kernel that writes nothing is noticed."""
    probe.run_probe("cpu")
    monkeypatch.setattr(probe, "_probe_kernel", {(1,): lambda *_: None})
    with pytest.raises(RuntimeError, match="wrote nothing"):
        probe.run_probe("cpu")


@pytest.mark.parametrize("fault", ["no device", "no compiler", "no triton"])
def test_ft27_one_warning_with_the_reason_and_torch_does_the_work(fault, monkeypatch, caplog):
    """FT-27: a machine without a GPU, a C compiler or Triton."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: fault != "no device")
    if fault == "no compiler":
        monkeypatch.setattr(
            probe, "run_probe", lambda _: (_ for _ in ()).throw(RuntimeError("Failed to find C compiler"))
        )
    if fault == "no triton":
        monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.WARNING, logger="caddtree"):
        answers = [availability.takes_triton(CUDA) for _ in range(3)]
    reason = {"no device": "no CUDA", "no compiler": "Failed to find C compiler", "no triton": "cannot be imported"}

    assert answers == [False] * 3
    assert len(caplog.records) == 1
    assert reason[fault] in caplog.text


NAMED = {"verifier": {"name": "triton"}}
REFUSAL = (
    "CompatibilityError: verifier triton: Triton compiles for GPUs and this device is of type cpu. "
    "Use verifier: {name: sdpa}"
)


def test_ft27_a_recipe_that_names_the_kernel_gets_an_error_instead():
    """FT-27: no fallback where ``verifier: {name: triton}`` was asked for, with an interpreter at hand as here."""
    assert os.environ["TRITON_INTERPRET"] == "1"
    with pytest.raises(CompatibilityError) as caught:
        caddtree.load("demo", NAMED)
    assert f"CompatibilityError: {caught.value}".startswith(REFUSAL)


def test_ft27_the_error_does_not_depend_on_when_the_interpreter_is_asked_for():
    """FT-27: neither without it nor where the variable is set when kernels are there already."""
    code = f"""
import os, caddtree
from caddtree.core.errors import CompatibilityError
for moment in ("unset", "late"):
    try:
        caddtree.load("demo", {NAMED})
    except CompatibilityError as error:
        print(f"CompatibilityError: {{error}}")
    import caddtree.kernels.probe
    os.environ["TRITON_INTERPRET"] = "1"
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)

    assert [line.startswith(REFUSAL) for line in done.stdout.splitlines()] == [True, True], done.stderr
