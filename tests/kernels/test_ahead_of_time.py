"""Every Triton kernel compiled for every target, without a device: it fits, and spills nothing where it matters.

Tests interpret kernels, so all of this happens in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
# one of each vendor's; the slow run compiles for all
MAIN_TARGETS = ["sm_90", "gfx942"]
TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]


def run(script, *options, **variables):
    """Return a script's exit code, standard output and standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks"), **variables}
    if "TRITON_INTERPRET" not in variables:
        environment.pop("TRITON_INTERPRET", None)
    ended = subprocess.run(
        [sys.executable, str(ROOT / script), *options], env=environment, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def resources(*options):
    code, printed, errors = run("benchmarks/kernel_resources.py", "--json", *options)
    assert printed, errors
    return code, json.loads(printed)


def assert_sound(targets, code, report):
    """Compare with all folders that there are: nobody adds a kernel without cases."""
    folders = {path.parent.name for path in (ROOT / "caddtree" / "kernels").rglob("triton_kernel.py")}
    measured = {(record["kernel"].split(".")[0], record["target"]) for record in report["records"]}

    assert report["problems"] == []
    assert [record for record in report["records"] if record["faults"]] == []
    assert measured == {(folder, target) for folder in folders for target in targets}
    assert code == 0


@pytest.mark.parametrize("targets", [MAIN_TARGETS, pytest.param(TARGETS, marks=pytest.mark.slow)], ids="-".join)
def test_every_kernel_fits_every_target_in_the_main_settings(targets):
    """Qwen3-4B and Qwen3-8B: no limit is broken and no register spills."""
    assert_sound(targets, *resources("--main-only", "--targets", ",".join(targets)))


@pytest.mark.slow
def test_every_kernel_fits_every_target_in_all_settings():
    """Other types, head dimensions and larger trees may spill, but break no limit."""
    assert_sound(TARGETS, *resources())


@pytest.fixture(scope="module", params=[MAIN_TARGETS, pytest.param(["sm_80", "sm_100"], marks=pytest.mark.slow)])
def planted(request):
    code, printed, errors = run("tests/kernels/planted_kernels.py", *request.param)
    assert code == 0, errors
    return json.loads(printed)


@pytest.fixture(params=[0, 1])
def found(request, planted):
    """What is found of the kernels on one target: its name, records and problems."""
    target, report = list(planted["targets"].items())[request.param]
    return target, report["records"], report["problems"]


def test_launches_of_one_compiled_kernel_share_a_record(found):
    """Sizes that Triton specialises alike are one kernel; another alignment is another."""
    _, records, _ = found

    assert records["healthy"] == [[1, 2], 0, "ok"]
    assert records["unaligned"] == [[1], 0, "ok"]


def test_a_spill_is_a_fault_in_main_settings_only(found):
    """Elsewhere it is remarked on."""
    _, records, _ = found
    rows, spills, verdict = records["spilling"]

    assert spills > 100
    assert verdict == f"spills {spills:,}"
    assert records["spilling aside"] == [rows, spills, f"ok, {verdict}"]


@pytest.mark.parametrize(
    ("setting", "words"), [("oversized", "bytes of shared memory"), ("many blocks", "blocks along")]
)
def test_a_broken_limit_is_a_fault(found, setting, words):
    """It is named with what was found and what there is."""
    _, records, _ = found
    verdict = records[setting][2]

    assert words in verdict
    assert "limit" in verdict


def test_what_does_not_compile_is_told_and_hides_nothing(found):
    """The other cases are measured all the same."""
    target, _, (problem,) = found

    assert problem.startswith(f"broken, 1 rows, {target}: CompileTimeAssertionFailure")


def test_kernels_without_cases_are_told(planted):
    """Whole folders, and single kernels that can only be launched; helpers need no case."""
    assert planted["launched"] == ["broken", "healthy", "oversized", "spilling"]
    assert planted["gaps"][0].startswith("accept_walk has no cases")
    assert all("no case launches" in gap for gap in planted["gaps"][1:])
    assert len(planted["gaps"]) > 1


def test_the_interpreter_is_refused():
    """Interpreted kernels are never compiled: the table would be empty and look sound."""
    code, printed, errors = run("benchmarks/kernel_resources.py", "--main-only", TRITON_INTERPRET="1")

    assert code != 0
    assert printed == ""
    assert "TRITON_INTERPRET is set" in errors
