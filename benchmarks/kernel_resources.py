"""What the Triton kernels cost a device, read from code compiled ahead of time: no device is needed.

Every kernel under ``caddtree/kernels`` is launched by its own launcher, in the settings that ``kernel_cases.py`` names,
on a driver that compiles for the asked target and then only notes the launch. Signatures, specialisation, number of
warps and grid are therefore those of a real launch. Registers, shared memory and spills come from the machine code::

    python benchmarks/kernel_resources.py [--targets sm_90,gfx942] [--kernels tree_attention] [--main-only] [--json]

The exit code is 1 if a launch breaks a limit of its target, a main setting spills, or a kernel has no cases.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import torch
import triton
from kernel_cases import CASES, Case
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

KERNELS = Path(__file__).resolve().parents[1] / "caddtree" / "kernels"
MOST_THREADS = 1024
MOST_GRID = (2**31 - 1, 65_535, 65_535)
TENSOR_MEMORY_COLUMNS = 512


@attrs.frozen
class Target:
    """A device family and its limits per block (work-group)."""

    gpu: GPUTarget
    shared_bytes: int

    @property
    def registers_per_thread(self) -> int:
        """Return how many (vector) registers one thread can have."""
        return 255 if self.gpu.backend == "cuda" else 512

    def register_file(self, registers: int, num_warps: int) -> tuple[int, int]:
        """Return what a block takes of the register file that has to hold it whole, and the size of that file."""
        if self.gpu.backend == "cuda":
            # allocated by the warp, in units of 8 registers per thread
            return -(-registers // 8) * 8 * 32 * num_warps, 65_536
        # each of four SIMD units holds a quarter of the waves
        return registers * -(-num_warps // 4), 512


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), shared_bytes=163 * 1024),
    "sm_90": Target(GPUTarget("cuda", 90, 32), shared_bytes=227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), shared_bytes=227 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), shared_bytes=64 * 1024),
}


@attrs.frozen
class Resources:
    """What one compiled kernel takes."""

    shared_bytes: int
    registers: int
    # NVIDIA: 4-byte words of local memory per thread; AMD: vector and scalar registers that were saved somewhere
    spills: int
    # AMD only, part of the above; they usually go to a vector register, which costs far less than memory
    scalar_spills: int = 0
    tensor_memory_columns: int = 0

    @property
    def spills_in_words(self) -> str:
        """Return how many registers spill."""
        scalar = f", {self.scalar_spills:,} of them scalar" if self.scalar_spills else ""
        return f"spills {self.spills:,}{scalar}"


@attrs.frozen
class Launch:
    """One launch that was noted instead of made."""

    binary: str
    grid: tuple[int, int, int]


@attrs.frozen
class Record:
    """One compiled kernel and the cases that share it, with every limit that any of them breaks."""

    kernel: str
    setting: str
    rows: list[int]
    is_main: bool
    target: str
    num_warps: int
    num_stages: int
    resources: Resources
    faults: list[str]

    @property
    def verdict(self) -> str:
        """Return the faults in words; spills outside the main settings are remarked on only."""
        if self.faults:
            return "; ".join(self.faults)
        return f"ok, {self.resources.spills_in_words}" if self.resources.spills else "ok"


@attrs.define
class Findings:
    """Records, and in words what could not be measured."""

    records: list[Record] = attrs.Factory(list)
    problems: list[str] = attrs.Factory(list)


class DryDriver:
    """Stands in for a device's driver: kernels are compiled for the target, launches are noted and not made."""

    def __init__(self, name: str, target: GPUTarget) -> None:
        self.launches: list[Launch] = []
        # Triton keeps compiled kernels per device: the name of the target keeps those of two targets apart
        self._name = name
        self._target = target
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        """Return what Triton compiles for."""
        return self._target

    def get_current_device(self) -> str:
        """Return the device that compiled kernels are kept for."""
        return self._name

    def get_active_torch_device(self) -> torch.device:
        """Return where the inputs lie."""
        return torch.device("cpu")

    def get_current_stream(self, device: str) -> int:
        """Return a stream that nothing is put on."""
        return 0

    def get_device_properties(self, device: str) -> dict[str, int]:
        """Return no limit on shared memory: an oversized kernel is to be reported, not refused."""
        return {"max_shared_mem": 2**62}

    def load_binary(self, name: str, binary: bytes, shared: int, device: str) -> tuple[None, None, int, int, int]:
        """Return module, function, registers, spills and threads of a kernel that is not loaded anywhere."""
        return None, None, 0, 0, 2**31

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """Return what Triton calls in place of a launch."""

        def note(*arguments: Any) -> None:
            self.launches.append(Launch(metadata.hash, arguments[:3]))

        return note


class Compilations:
    """The compiled kernels of this process: their metadata and files, by the hash that Triton gives them."""

    def __init__(self) -> None:
        self.metadata: dict[str, dict[str, Any]] = {}
        self._files: dict[str, dict[str, Path]] = {}
        self._resources: dict[str, Resources] = {}

    def listen(self, *, metadata: dict[str, Any], metadata_group: dict[str, str], **_: Any) -> None:
        """Take what Triton tells after each compilation, also one answered from its cache."""
        self.metadata[metadata["hash"]] = metadata
        self._files[metadata["hash"]] = {Path(name).suffix: Path(path) for name, path in metadata_group.items()}

    def resources(self, binary: str) -> Resources:
        """Return what a kernel takes."""
        if binary not in self._resources:
            files = self._files[binary]
            read = read_cubin(files[".cubin"]) if ".cubin" in files else read_amdgcn(files[".amdgcn"].read_text())
            # Triton asks for its shared memory at launch; the machine code knows nothing of it
            self._resources[binary] = attrs.evolve(
                read,
                shared_bytes=max(self.metadata[binary]["shared"], read.shared_bytes),
                tensor_memory_columns=self.metadata[binary].get("tmem_size") or 0,
            )
        return self._resources[binary]


compilations = Compilations()


def read_cubin(path: Path) -> Resources:
    """Return registers and spills of the one kernel in a CUDA binary, as ``cuobjdump`` (part of Triton) reads them."""
    command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", printed)}
    # the 1 KiB that CUDA itself reserves from sm_90 on is printed as SHARED, and the limits here are without it
    return Resources(shared_bytes=0, registers=used["REG"], spills=-(-(used["STACK"] + used["LOCAL"]) // 4))


def read_amdgcn(text: str) -> Resources:
    """Return registers, local data share and spills of the one kernel in AMD assembly, from the metadata at its end."""
    used = {name: int(value) for name, value in re.findall(r"^\s+\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    scratch_words = -(-used["private_segment_fixed_size"] // 4)
    return Resources(
        shared_bytes=used["group_segment_fixed_size"],
        registers=used["vgpr_count"],
        # scratch without a spill is an array that did not fit into registers: as slow
        spills=max(used["vgpr_spill_count"] + used["sgpr_spill_count"], scratch_words),
        scalar_spills=used["sgpr_spill_count"],
    )


def broken_limits(resources: Resources, num_warps: int, grids: Iterable[tuple[int, int, int]], name: str) -> list[str]:
    """Return in words what a block, or a grid of blocks, needs beyond what the named target has."""
    target = TARGETS[name]
    taken, file_size = target.register_file(resources.registers, num_warps)
    pairs = [
        ("bytes of shared memory", resources.shared_bytes, target.shared_bytes),
        ("registers per thread", resources.registers, target.registers_per_thread),
        ("registers per block" if target.gpu.backend == "cuda" else "registers per SIMD lane", taken, file_size),
        ("threads", num_warps * target.gpu.warp_size, MOST_THREADS),
        ("columns of tensor memory", resources.tensor_memory_columns, TENSOR_MEMORY_COLUMNS),
    ]
    for grid in grids:
        axes = zip("xyz", grid, MOST_GRID, strict=True)
        pairs += [(f"blocks along {axis}", found, limit) for axis, found, limit in axes]
    return list(dict.fromkeys(f"{found:,} {what}, limit {limit:,}" for what, found, limit in pairs if found > limit))


def measure(cases: Iterable[Case], target: str) -> Findings:
    """Return one record per compiled kernel and setting, in the order of the cases, and what did not compile.

    The process cannot make real launches afterwards.

    Raises:
        RuntimeError: If Triton interprets kernels in this process instead of compiling them.
    """
    if knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: nothing would be compiled. Run with `env -u TRITON_INTERPRET`.")
    knobs.compilation.listener = compilations.listen
    active = DryDriver(target, TARGETS[target].gpu)
    driver.set_active(active)
    found: dict[tuple[str, str, bool], list[tuple[int, Launch]]] = {}
    problems: list[str] = []
    for case in cases:
        active.launches.clear()
        try:
            case.launch()
        # a compiler fails in many ways, and the other cases are wanted all the same
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            problems.append(f"{case.setting}, {case.rows} rows, {target}: {reason}")
        for launch in active.launches:
            found.setdefault((launch.binary, case.setting, case.is_main), []).append((case.rows, launch))
    return Findings([record_of(target, *key, noted) for key, noted in found.items()], problems)


def record_of(target: str, binary: str, setting: str, is_main: bool, noted: list[tuple[int, Launch]]) -> Record:
    """Return the record of one compiled kernel and the launches that share it."""
    resources, metadata = compilations.resources(binary), compilations.metadata[binary]
    faults = broken_limits(resources, metadata["num_warps"], (launch.grid for _, launch in noted), target)
    if is_main and resources.spills:
        faults.append(resources.spills_in_words)
    return Record(
        kernel=metadata["name"],
        setting=setting,
        rows=sorted({rows for rows, _ in noted}),
        is_main=is_main,
        target=target,
        num_warps=metadata["num_warps"],
        num_stages=metadata["num_stages"],
        resources=resources,
        faults=faults,
    )


def kernel_folders() -> list[str]:
    """Return every folder with a Triton kernel, as its path within ``caddtree/kernels``."""
    return sorted(path.parent.relative_to(KERNELS).as_posix() for path in KERNELS.rglob("triton_kernel.py"))


def survey(folders: Iterable[str], targets: Iterable[str], *, main_only: bool) -> Findings:
    """Return the findings of some folders; a kernel that no case launches is a problem."""
    findings = Findings()
    for folder in folders:
        module = importlib.import_module(f"caddtree.kernels.{folder.replace('/', '.')}.triton_kernel")
        if folder not in CASES:
            findings.problems.append(f"{folder} has no cases. Add them to benchmarks/kernel_cases.py.")
            continue
        cases = [case for case in CASES[folder](module) if case.is_main or not main_only]
        found = [measure(cases, target) for target in targets]
        records = [record for part in found for record in part.records]
        missed = sorted(launched_kernels(module) - {record.kernel for record in records})
        findings.records += (attrs.evolve(record, kernel=f"{folder}.{record.kernel}") for record in records)
        findings.problems += (f"{folder}: {problem}" for part in found for problem in part.problems)
        findings.problems += (f"{folder}: no case launches {name}. Add one." for name in missed)
    return findings


def launched_kernels(module: ModuleType) -> set[str]:
    """Return the compiled functions of a module that no other one calls: they can only be launched."""
    functions = {
        value.__name__: value.src
        for value in vars(module).values()
        if isinstance(value, JITFunction) and value.__module__ == module.__name__
    }
    return {
        name
        for name in functions
        if not any(re.search(rf"\b{name}\b", source) for other, source in functions.items() if other != name)
    }


def show(records: list[Record]) -> None:
    titles = ["kernel", "setting", "rows", "target", "warps", "stages", "shared", "registers", "spills", "verdict"]
    lines = [titles] + [
        [
            record.kernel,
            record.setting,
            ",".join(map(str, record.rows)),
            record.target,
            str(record.num_warps),
            str(record.num_stages),
            f"{record.resources.shared_bytes:,}",
            str(record.resources.registers),
            f"{record.resources.spills:,}",
            record.verdict,
        ]
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_number = [title in ("warps", "stages", "shared", "registers", "spills") for title in titles]
    for line in lines:
        cells = zip(line, widths, is_number, strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip())


def chosen(text: str | None, known: Iterable[str], what: str) -> list[str]:
    """Return the names of a comma-separated list, or all known ones."""
    known = list(known)
    names = text.split(",") if text else known
    for name in names:
        if name not in known:
            raise SystemExit(f"{what} must be among {', '.join(known)}, found {name!r}.")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", help=f"comma-separated, of {', '.join(TARGETS)}; default: all")
    parser.add_argument(
        "--kernels", help="comma-separated folders of caddtree/kernels; default: all with Triton kernels"
    )
    parser.add_argument("--main-only", action="store_true", help="only settings that the supported models use")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    folders, targets = chosen(options.kernels, kernel_folders(), "kernels"), chosen(options.targets, TARGETS, "targets")
    started = time.perf_counter()
    findings = survey(folders, targets, main_only=options.main_only)
    seconds = time.perf_counter() - started
    if options.json:
        listed = [{**attrs.asdict(record), "verdict": record.verdict} for record in findings.records]
        versions = {"triton": triton.__version__, "torch": torch.__version__}
        report = {"versions": versions, "seconds": seconds, "records": listed, "problems": findings.problems}
        print(json.dumps(report, indent=2))
    else:
        show(findings.records)
        print(*findings.problems, sep="\n", end="\n" if findings.problems else "")
        print(f"{len(findings.records)} records in {seconds:.1f} s; Triton {triton.__version__}")
    sys.exit(bool(findings.problems or any(record.faults for record in findings.records)))


if __name__ == "__main__":
    main()
