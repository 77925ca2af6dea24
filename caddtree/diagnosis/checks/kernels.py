"""Kernels: does the fast path run here, and if not, why?"""

from __future__ import annotations

import os

import torch

from caddtree.core.target import Target
from caddtree.diagnosis.evidence import Evidence
from caddtree.diagnosis.findings import Finding, Notes
from caddtree.kernels import availability
from caddtree.kernels.linear import FastLinears
from caddtree.verifiers.triton import TritonVerifier

NAME = "kernels"


def check(evidence: Evidence) -> Finding:
    """Return how the target is run on its device: Triton, linear layers, graphs, compiled layers, verifier."""
    notes, target = Notes(NAME), evidence.decoder.target
    # it compiles and launches a kernel once, where there is a device
    problem = availability.triton_problem(target.device.type)
    verifier = type(evidence.decoder.verifier).__name__
    notes.figures |= {
        "device": str(target.device),
        "triton_problem": problem,
        "verifier": verifier,
        "runner": target.runner.description,
    }
    if target.device.type == "cpu":
        _tell_cpu(notes, target)
    elif problem is not None:
        notes.attention(
            f"device {target.device}: {problem}; plain torch does the work of the kernels",
            "Install a Triton, a C compiler and Python headers that fit the driver",
        )
    else:
        _tell_gpu(evidence, notes)
    notes.fine(f"verifier {verifier}, rounds run {_in_short(target)}")
    return notes.finding()


def _tell_cpu(notes: Notes, target: Target) -> None:
    num_fast = len(target.layer_execution) if isinstance(target.layer_execution, FastLinears) else 0
    notes.figures["fast_linears"] = num_fast
    words = "device cpu, for which Triton compiles nothing"
    if num_fast:
        notes.fine(f"{words}: {num_fast} linear layers go through oneDNN")
    elif target.dtype == torch.float32:
        notes.attention(
            f"{words}: no linear layer goes through oneDNN",
            "This torch lacks oneDNN's packed layers, or other code replaced the layers' forward; rounds are slower",
        )
    else:
        notes.fine(f"{words}: linear layers are torch's own, because only float32 has faster ones")


def _tell_gpu(evidence: Evidence, notes: Notes) -> None:
    target = evidence.decoder.target
    if os.environ.get("TRITON_INTERPRET") == "1":
        notes.attention(
            f"device {target.device}: TRITON_INTERPRET is set, so that kernels run line by line in Python",
            "Unset it and start again",
        )
    else:
        notes.fine(f"device {target.device}: Triton compiles and launches kernels")
    if not isinstance(evidence.decoder.verifier, TritonVerifier):
        notes.attention(
            f"the target verifies through {type(evidence.decoder.verifier).__name__}, under a dense mask",
            "Set verifier to {name: triton}, which reads every key once",
        )
    if target.runner.row_buckets is None:
        notes.attention(
            "rounds are launched kernel by kernel, without graphs",
            "Set runtime.graphs and runtime.compile to auto; launches cost more than the arithmetic of a round",
        )


def _in_short(target: Target) -> str:
    """Return how forwards are run without the list of all buckets."""
    buckets = target.runner.row_buckets
    if buckets is None:
        return target.runner.description
    parts = target.runner.description.rpartition("), ")[2].split(", ")
    active = [part for part in parts if not part.endswith("_as_it_is")]
    how = ", ".join(active) or "neither captured nor compiled"
    return f"padded to {len(buckets)} sizes up to {buckets[-1]} rows, {how}"
