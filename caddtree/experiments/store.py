"""The folder of a run: what was planned, and every record that a worker sent, appended line by line.

A line is written whole or not at all, so a run that was killed goes on where it stood: what is in the file is neither
run again nor counted twice. Nothing is ever rewritten; of several results of one cell the first of the present state of
code and data counts, and the others are there to be compared with.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from filelock import FileLock, Timeout

from caddtree.core.errors import InputError
from caddtree.experiments.records import (
    Cell,
    Difference,
    Environment,
    Failed,
    LoadedVariant,
    Lost,
    Record,
    Result,
    from_line_values,
    to_line_values,
)

FORMAT_VERSION = 1
_PLAN, _RECORDS, _LOCK = "experiment.json", "records.jsonl", "run.lock"


@attrs.frozen(eq=False)
class Plan:
    """What a run is to hold, as the report needs it: no recipe is built and no data set opened to read it."""

    label: str
    description: str
    baseline: str
    """The variant that ratios and verdicts are against."""
    plain: str
    """The variant that decodes plainly: outputs must equal its."""
    variants: dict[str, dict[str, Any]]
    """Sections of the recipe of every variant, in the order of the tables."""
    settings: dict[str, dict[str, Any]]
    """Request options by label."""
    datasets: tuple[str, ...]
    fingerprints: dict[str, str]
    """The present state of code, versions and model files, by variant."""
    cells: tuple[Cell, ...]
    """In the order in which they are run."""
    text: str
    """The experiment as it was written."""
    report_sections: tuple[dict[str, Any], ...] = ()
    """Sections of plugins in its report, each with its ``name`` and options."""


@attrs.frozen(eq=False)
class RunData:
    """A run as it stands: the plan, and the records that count."""

    plan: Plan
    results: dict[str, Result]
    """By cell id, the first one of each; planned cells of the present state alone."""
    failed: dict[str, Failed]
    differences: dict[str, Difference]
    num_lost: dict[str, int]
    """Times that the worker of a cell died, by cell id."""
    environments: dict[str, Environment]
    """Those that a result names."""
    loaded: dict[str, LoadedVariant]
    """The last one of every variant."""
    num_stale: int
    """Planned cells whose only results were made with other code, versions or model files; they do not count."""
    num_unplanned: int = 0
    """Cells in the file that are not planned any more; they do not count."""
    references: dict[tuple[str, str], Result] = attrs.field(factory=dict)
    """Later results by cell id and environment, run only to be compared with: ratios are taken within one worker."""

    @property
    def missing(self) -> tuple[Cell, ...]:
        """Planned cells that have neither a result nor a failure."""
        return tuple(cell for cell in self.plan.cells if cell.id not in self.results and cell.id not in self.failed)

    @property
    def differing(self) -> tuple[Cell, ...]:
        """Cells whose tokens are not those that plain decoding gave for the same block."""
        plain = {
            result.cell.block: result.token_ids
            for result in self.results.values()
            if result.cell.variant == self.plan.plain
        }
        return tuple(
            result.cell
            for result in self.results.values()
            if result.token_ids != plain.get(result.cell.block, result.token_ids)
        )


class RunFolder:
    """One run on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.records_path = self.folder / _RECORDS
        self.plan_path = self.folder / _PLAN

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other sweep out of this folder; the lock of a killed process ends with it.

        Raises:
            InputError: If another process runs this experiment at the moment.
        """
        lock = FileLock(self.folder / _LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except OSError as error:
            if isinstance(error, Timeout):
                raise self._taken() from error
            raise InputError(
                f"{self.folder}: cannot be written: {error.strerror or error}. Name a folder with --run"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _taken(self) -> InputError:
        return InputError(
            f"{self.folder} is being written by another sweep; wait for it, or name another folder with --run"
        )

    def write_plan(self, plan: Plan) -> None:
        """Keep the plan; the file is there whole or not at all.

        Raises:
            InputError: If the folder holds the run of another experiment.
        """
        if self.plan_path.exists():
            before = self.read_plan()
            if before.label != plan.label:
                raise InputError(
                    f"{self.folder} holds the run of the experiment {before.label!r}, not {plan.label!r}; "
                    "name another folder with --run"
                )
            known = {cell.id for cell in before.cells}
            if self.records_path.exists() and known and known.isdisjoint(cell.id for cell in plan.cells):
                raise InputError(
                    f"{self.folder} holds a run of {plan.label!r} of which no cell is in the present experiment "
                    "(another base, other request options?); name another folder with --run"
                )
        values = {"format": FORMAT_VERSION, **attrs.asdict(plan)}
        partial = self.plan_path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.plan_path)
        finally:
            partial.unlink(missing_ok=True)

    def read_plan(self) -> Plan:
        """Return what :meth:`write_plan` kept.

        Raises:
            InputError: If there is none, or it cannot be read.
        """
        try:
            values = json.loads(self.plan_path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{self.folder} is no folder of a run: it has no {_PLAN}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self.plan_path}: cannot be read: {error}") from error
        found = values.pop("format", None) if isinstance(values, dict) else None
        if found != FORMAT_VERSION:
            raise InputError(f"{self.plan_path}: must be a plan of format {FORMAT_VERSION}, found {found!r}")
        try:
            cells = tuple(Cell(**cell) for cell in values.pop("cells"))
            sections = tuple(values.pop("report_sections", ()))
            return Plan(**{**values, "datasets": tuple(values["datasets"])}, cells=cells, report_sections=sections)
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.plan_path}: is no plan of a run: {error}") from error

    def append(self, record: Record) -> None:
        """Write one record down; after an error the file is as it was before.

        Raises:
            InputError: If it cannot be written, such as on a full disk.
        """
        line = json.dumps(to_line_values(record), separators=(",", ":")).encode() + b"\n"
        try:
            # unbuffered: closing a file that failed must not write what is left of the line
            with self.records_path.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file, line)
                except OSError:
                    # what was written of the line goes, or the next one would be glued to it
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise InputError(
                f"{self.records_path}: cannot be written: {error.strerror or error}. Everything before is kept; "
                "run the same command again to go on"
            ) from error

    def repair(self) -> None:
        """Cut a last line off that was not finished when its process was killed."""
        try:
            with self.records_path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                whole = _end_of_last_line(file, size)
                if whole < size:
                    file.truncate(whole)
        except FileNotFoundError:
            return

    def read(self) -> RunData:
        """Return the run as it stands.

        Raises:
            InputError: If a file cannot be read; names file and line.
        """
        plan = self.read_plan()
        planned = {cell.id: cell for cell in plan.cells}
        data = RunData(plan, {}, {}, {}, {}, {}, {}, 0)
        environments: dict[str, Environment] = {}
        stale: set[str] = set()
        unplanned: set[str] = set()
        for record in self._records():
            match record:
                case Environment():
                    environments[record.id] = record
                case LoadedVariant():
                    if plan.fingerprints.get(record.variant) == record.fingerprint:
                        data.loaded[record.variant] = record
                case Result() | Failed() | Lost() | Difference():
                    cell = planned.get(record.cell.id)
                    if cell is None:
                        unplanned.add(record.cell.id)
                        continue
                    if plan.fingerprints[cell.variant] != record.fingerprint:
                        if isinstance(record, Result):
                            stale.add(cell.id)
                        continue
                    _take(data, record)
        named = {result.environment for result in data.results.values()}
        for id_, environment in environments.items():
            if id_ in named:
                data.environments[id_] = environment
        return attrs.evolve(data, num_stale=len(stale - set(data.results)), num_unplanned=len(unplanned))

    def _records(self) -> Iterator[Record]:
        try:
            content = self.records_path.read_bytes()
        except FileNotFoundError:
            return
        lines = content.split(b"\n")
        # the text behind the last line break is nothing, or a line that was not finished
        for number, line in enumerate(lines[:-1], 1):
            try:
                yield from_line_values(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{self.records_path}:{number}: is no record of a run ({type(error).__name__}: {error}); "
                    "restore the file, or remove the line to run its cell again"
                ) from error


def _take(data: RunData, record: Result | Failed | Lost | Difference) -> None:
    id_ = record.cell.id
    match record:
        case Result():
            if data.results.setdefault(id_, record) is not record:
                data.references[id_, record.environment] = record
            data.failed.pop(id_, None)
        case Failed() if id_ not in data.results:
            data.failed[id_] = record
        case Lost():
            data.num_lost[id_] = data.num_lost.get(id_, 0) + 1
        case Difference():
            data.differences[id_] = record


def _write_all(file: Any, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _end_of_last_line(file: Any, size: int) -> int:
    """Return the offset behind the last line break."""
    step = 1 << 16
    position = size
    while position > 0:
        start = max(0, position - step)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + int(found) + 1
        position = start
    return 0
