"""What the machine has to do with it: types, kernels, and the profile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch

import caddtree.diagnosis.checks.dtype as dtype_module
from caddtree.core.decoder import Decoder
from caddtree.core.options import RuntimeOptions
from caddtree.core.profile import Profile, read_profile
from caddtree.core.records import Generation
from caddtree.core.target import Target
from caddtree.diagnosis.checks import dtype, kernels, profile
from caddtree.diagnosis.evidence import Evidence, gather
from caddtree.diagnosis.findings import Finding
from caddtree.kernels import availability
from caddtree.kernels.linear import FastLinears
from caddtree.loading import load
from caddtree.profiling import profile_key, profile_path
from caddtree.runtime.choice import runner_for
from caddtree.verifiers.triton import TritonVerifier
from tests.diagnosis.planted import PROMPTS, says
from tests.diagnosis.test_acceptance import round_of
from tests.tiny_models import tiny_model

COUNTS = (0, 8, 64, 256)


@pytest.mark.parametrize("module", [dtype, kernels], ids=lambda module: module.NAME)
def test_the_demo_pair_on_a_cpu_is_fine(healthy: Evidence, module: Any) -> None:
    """float32, oneDNN, nothing to do."""
    finding = module.check(healthy)

    says(finding, "fine")
    assert finding.advice == ""


# dtype


def tiny_evidence(dtype_: torch.dtype) -> Any:
    target = Target(tiny_model(dtype=dtype_))
    text = SimpleNamespace(tokens=tuple(range(1, 30)), num_prompt=5)
    return SimpleNamespace(decoder=SimpleNamespace(target=target), draft_model=None, decoded=lambda: (text, text))


def test_bfloat16_says_how_many_tokens_are_near_ties() -> None:
    """Counted from the logits that the target gives."""
    evidence = tiny_evidence(torch.bfloat16)
    finding = dtype.check(evidence)
    target = evidence.decoder.target
    logits = target.model(torch.tensor([range(1, 30)])).logits[0, 4:-1].float()
    best = logits.topk(2).values
    share = (best[:, 0] - best[:, 1] <= best[:, 0].abs() * 2**-7).float().mean()

    assert finding.figures["near_tie_share"] == pytest.approx(float(share), abs=0.05)
    assert "near ties" in finding.found
    assert finding.figures["times_float32"] > 0


@pytest.mark.parametrize(("times", "status"), [(3.0, "attention"), (1.1, "fine"), (0.5, "fine")])
def test_bfloat16_that_is_slower_on_this_cpu_is_named(
    monkeypatch: pytest.MonkeyPatch, times: float, status: Any
) -> None:
    """By products that are run here, in both types."""
    seconds = {torch.bfloat16: times, torch.float32: 1.0}
    monkeypatch.setattr(dtype_module, "_product_seconds", lambda _, kind: seconds[kind])

    says(dtype.check(tiny_evidence(torch.bfloat16)), status, f"takes {times:.1f} times as long as in float32")


def test_float16_is_named() -> None:
    """It ends where models trained in bfloat16 do not."""
    says(dtype.check(tiny_evidence(torch.float16)), "attention", "float16 ends at 65504")


# kernels


def gpu_evidence(**changes: Any) -> Any:
    """A decoder as a GPU would have it, as far as the check looks at it."""
    runner = SimpleNamespace(
        row_buckets=(1, 16, 64), description="rows (1, 16, 64), capture GraphCapture, compile Full"
    )
    target = SimpleNamespace(
        device=torch.device("cuda"), dtype=torch.bfloat16, runner=changes.get("runner", runner), layer_execution=None
    )
    return SimpleNamespace(decoder=SimpleNamespace(target=target, verifier=changes.get("verifier", TritonVerifier())))


@pytest.fixture
def triton_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "triton_problem", lambda _: None)
    monkeypatch.delenv("TRITON_INTERPRET")


@pytest.mark.usefixtures("triton_works")
def test_a_gpu_with_everything_on_is_fine() -> None:
    """Graphs, compiled layers, the kernel's verifier; the list of buckets is not printed."""
    says(kernels.check(gpu_evidence()), "fine", "padded to 3 sizes up to 64 rows, capture GraphCapture, compile Full")


@pytest.mark.usefixtures("triton_works")
def test_what_is_off_on_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense verifier, rounds without graphs, kernels in the interpreter."""
    plain = SimpleNamespace(row_buckets=None, description="plain")

    says(kernels.check(gpu_evidence(verifier=object())), "attention", "under a dense mask", "{name: triton}")
    says(kernels.check(gpu_evidence(runner=plain)), "attention", "without graphs", "runtime.graphs")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    says(kernels.check(gpu_evidence()), "attention", "TRITON_INTERPRET is set")


def test_a_triton_that_cannot_run_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the probe raised."""
    monkeypatch.setattr(availability, "triton_problem", lambda _: "Triton cannot run a kernel here (no compiler)")

    says(kernels.check(gpu_evidence()), "attention", "(no compiler); plain torch does the work", "C compiler")


def test_a_cpu_without_fast_linear_layers_is_named(healthy: Evidence) -> None:
    """float32 could have them; 16 bits could not."""
    target = healthy.decoder.target
    kept = target.layer_execution
    try:
        target.layer_execution = FastLinears(torch.nn.Module())
        says(kernels.check(healthy), "attention", "no linear layer goes through oneDNN")
    finally:
        target.layer_execution = kept
    says(kernels.check(gpu_like_cpu(torch.bfloat16)), "fine", "only float32 has faster ones")


def gpu_like_cpu(kind: torch.dtype) -> Any:
    evidence = tiny_evidence(kind)
    evidence.decoder.verifier = object()
    return evidence


def test_padded_rounds_on_a_cpu_are_described() -> None:
    """Without capture and compilation."""
    model = tiny_model()
    target = Target(model, runner=runner_for(model, RuntimeOptions(buckets=(1, 4, 8))))
    evidence: Any = SimpleNamespace(decoder=SimpleNamespace(target=target, verifier=object()))

    says(kernels.check(evidence), "fine", "padded to 3 sizes up to 8 rows, neither captured nor compiled")


# profile


def flat_profile(key: dict[str, str], seconds: float, **changes: Any) -> Profile:
    spread = np.full((1, len(COUNTS)), 0.01 * seconds)
    after = np.full((1, len(COUNTS)), 0.75 * seconds)
    made = Profile(key, (64,), COUNTS, np.array([0.25 * seconds]), after, spread, 256, repeats=25)
    return attrs.evolve(made, **changes)


@pytest.fixture
def adaptive(held: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """The demo recipe with a cache of its own."""
    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path / "cache"))
    model, tokenizer = held
    decoder = load("demo", model=model, tokenizer=tokenizer)
    yield decoder
    decoder.target.close()


def keep(decoder: Decoder, seconds: float, *, days: float = 0.0, **changes: Any) -> Path:
    path = profile_path(profile_key(decoder))
    flat_profile(profile_key(decoder), seconds, **changes).write(path)
    then = time.time() - 86400 * days
    os.utime(path, (then, then))
    return path


def judged(decoder: Decoder, *, took: float) -> Finding:
    """The finding where every round took so many seconds."""
    each = attrs.evolve(round_of(2).seconds, draft=took / 4, build=took / 4, verify=took / 4, commit=took / 4)
    rounds = tuple(attrs.evolve(round_of(2), seconds=each, num_draft_nodes=8) for _ in range(9))
    decoder.prepare()
    evidence = attrs.evolve(gather(decoder, []), generations=(Generation("", (), "length", 1, 0.0, rounds),))
    return profile.check(evidence)


def test_a_profile_that_holds_is_fine(adaptive: Decoder) -> None:
    """Age, quality, and rounds as predicted."""
    path = keep(adaptive, 0.01, days=2)
    finding = judged(adaptive, took=0.01)

    says(finding, "fine", "measured 2.0 days ago", "on this pipeline and machine", "predicts 1.00 times what 9 rounds")
    assert finding.figures["path"] == str(path)
    assert finding.figures["predicted_over_measured"] == pytest.approx(1.0)


@pytest.mark.parametrize(("took", "times"), [(0.012, "0.83"), (0.005, "2.00"), (0.03, "0.33")])
def test_a_stale_profile_is_named(adaptive: Decoder, took: float, times: str) -> None:
    """Rounds that take more or less by more than 15 %."""
    keep(adaptive, 0.01)

    says(judged(adaptive, took=took), "attention", f"predicts {times} times", "caddtree profile")


def test_a_profile_within_fifteen_percent_is_fine(adaptive: Decoder) -> None:
    """Machines drift."""
    keep(adaptive, 0.01)

    says(judged(adaptive, took=0.0112), "fine", "predicts 0.89 times")


def test_an_old_profile_is_named(adaptive: Decoder) -> None:
    """Nothing in its key tells of drivers and neighbours."""
    keep(adaptive, 0.01, days=40)

    says(judged(adaptive, took=0.01), "attention", "measured 40 days ago", "caddtree profile")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outlier_share": 0.2}, "20 % outliers: the machine was busy"),
        ({"spread_seconds": np.full((1, len(COUNTS)), 0.004)}, "medians known to 20 %"),
    ],
)
def test_a_noisy_profile_is_named(adaptive: Decoder, changes: dict[str, Any], words: str) -> None:
    """Medians that order sizes by chance."""
    keep(adaptive, 0.01, **changes)

    says(judged(adaptive, took=0.01), "attention", words)


def test_a_missing_profile_is_named_and_not_measured(adaptive: Decoder, tmp_path: Path) -> None:
    """Trees have a fixed size then; no minute is spent."""
    evidence = gather(adaptive, PROMPTS[:1])
    finding = profile.check(evidence)

    says(finding, "attention", "no profile of this pipeline", "with 31 draft nodes", "do it now: caddtree profile")
    assert {round_.num_draft_nodes for round_ in evidence.generations[0].rounds[:-1]} == {31}
    assert not (tmp_path / "cache").exists()


def test_what_changed_since_the_last_profile_is_named(adaptive: Decoder) -> None:
    """The key field by field, of the profile that comes closest."""
    key = {**profile_key(adaptive), "torch": "1.0", "threads": "9"}
    flat_profile({**key, "device": "abacus"}, 0.01).write(profile_path({**key, "device": "abacus"}))
    flat_profile(key, 0.01).write(profile_path(key))
    finding = profile.check(gather(adaptive, []))

    says(finding, "attention", "of the one that comes closest, threads was 9", "torch was 1.0, is ")
    assert "abacus" not in finding.found


def test_a_damaged_or_short_profile_is_named(adaptive: Decoder) -> None:
    """It would be measured anew."""
    path = keep(adaptive, 0.01, max_count=16)
    says(profile.check(gather(adaptive, [])), "attention", "it reaches 16 draft nodes, and 256 may be asked for")
    path.write_text("{")
    says(profile.check(gather(adaptive, [])), "attention", "only JSON profiles are read")


def test_a_profile_of_another_machine_is_named(adaptive: Decoder, held: Any, tmp_path: Path) -> None:
    """Given by path: refused, or used under force and said."""
    model, tokenizer = held
    path = tmp_path / "elsewhere.json"
    flat_profile({**profile_key(adaptive), "device": "abacus"}, 0.01).write(path)
    for force, status in ((False, "wrong"), (True, "attention")):
        decoder = load("demo", {"cost_model": {"path": str(path), "force": force}}, model=model, tokenizer=tokenizer)
        finding = judged(decoder, took=0.01) if force else profile.check(gather(decoder, PROMPTS[:1]))

        says(finding, status, "device")
        decoder.target.close()
    assert read_profile(path).key["device"] == "abacus"
    missing = load("demo", {"cost_model": {"path": str(tmp_path / "none")}}, model=model, tokenizer=tokenizer)
    says(profile.check(gather(missing, [])), "wrong", "there is no file")
    missing.target.close()


def test_a_convex_fit_that_does_not_fit_is_named(held: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs with a step in them."""
    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path))
    model, tokenizer = held
    decoder = load("demo", {"cost_model": {"name": "convex"}}, model=model, tokenizer=tokenizer)
    keep(decoder, 0.01, after_seconds=np.array([[0.004, 0.004, 0.012, 0.012]]))

    says(judged(decoder, took=0.01), "attention", "the convex fit is off by up to", "cost_model table")
    decoder.target.close()


def test_a_pipeline_that_asks_for_no_costs_needs_no_profile(healthy: Evidence, held: Any) -> None:
    """Fixed budgets; cost models that compute."""
    model, tokenizer = held
    costs = {"name": "analytic", "flops_per_second": 1e9, "bytes_per_second": 1e9, "overhead_seconds": 1.0}
    decoder = load("demo", {"cost_model": {**costs, "draft_seconds": 1.0}}, model=model, tokenizer=tokenizer)

    says(profile.check(healthy), "not applicable", "tree_builder DDTree asks no cost model")
    says(profile.check(gather(decoder, [])), "not applicable", "AnalyticCostModel keeps no profile")
    decoder.target.close()
