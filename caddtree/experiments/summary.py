"""The figures of a run: per setting and variant, over every data set and over all of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from caddtree.experiments.acceptance import Acceptance
from caddtree.experiments.records import Cell, Reliability, Result
from caddtree.experiments.round_figures import Budget, BytesMoved, Prediction, RoundArrays, StageMeans, merged
from caddtree.experiments.statistics import MIN_PROMPTS, Block, Ratio, speed_ratio
from caddtree.experiments.store import Plan, RunData

WORKER_FACTS = ("process",)
"""Facts of an environment that differ from worker to worker and change no time."""


@attrs.frozen
class Place:
    """One cell of a variant, as a reader finds it."""

    dataset: str
    prompt: str
    seed: int
    repeat: int


@attrs.frozen
class FailedCell:
    """A cell that was given up."""

    place: Place
    reason: str


@attrs.frozen
class DifferentOutput:
    """Where an output leaves plain decoding's."""

    place: Place
    position: int
    """Index in the answer."""
    gap: float | None
    """Best minus second-best logit of the target there, in units of the last place; None where it is not known."""


@attrs.frozen(eq=False)
class Outcome:
    """What one variant did with one setting, on one data set or on all."""

    num_cells: int
    """Planned; ``num_results``, ``num_failed`` and ``num_missing`` together."""
    num_results: int
    num_failed: int
    num_missing: int
    num_without_rounds: int
    """Results whose text ended with prefill: they have no speed."""
    num_left_out: int
    """Results and failures that are in no speed-up: no round, no partner, or a failure on one side."""
    num_prompts: int
    """Prompts that have a speed."""
    tokens_per_second: float | None
    """Median over prompts, each the median of its cells."""
    speedup: Ratio
    """Over plain decoding."""
    ratio: Ratio | None
    """To the baseline; None for the baseline itself."""
    tau: float | None
    """Tokens gained per round, over all rounds."""
    budget: Budget | None
    stages: StageMeans | None
    prefill_seconds: float | None
    """Median over cells."""
    prediction: Prediction | None
    num_compared: int
    """Outputs that plain decoding has, too."""
    num_identical: int
    differences: tuple[DifferentOutput, ...]
    failures: tuple[FailedCell, ...]
    bytes_moved: BytesMoved | None
    acceptance: Acceptance
    reliability: Reliability | None
    harness_share: float | None
    """Seconds of the worker outside of prefill and rounds, over the seconds inside."""

    @property
    def seconds_per_token(self) -> float | None:
        """The inverse of the speed."""
        return 1.0 / self.tokens_per_second if self.tokens_per_second else None


@attrs.frozen(eq=False)
class VariantSummary:
    """One variant with one setting."""

    setting: str
    variant: str
    overall: Outcome
    """Over all data sets; ratios are geometric means of those of the data sets."""
    datasets: dict[str, Outcome]


@attrs.frozen(eq=False)
class Summary:
    """A run in figures."""

    label: str
    description: str
    plain: str
    baseline: str
    settings: dict[str, dict[str, Any]]
    """Request options by label."""
    num_prompts: dict[str, int]
    """Planned prompts of every data set."""
    seeds: dict[str, tuple[int, ...]]
    """Of every setting."""
    num_repeats: int
    num_cells: int
    num_results: int
    num_failed: int
    num_missing: int
    num_stale: int
    """Results that were made with other code, versions or model files; they are in no figure."""
    num_unplanned: int
    """Cells of the run that the present experiment does not have; they are in no figure."""
    num_lost: int
    """Times that a worker died or hung in a cell."""
    rows: tuple[VariantSummary, ...]
    """Setting by setting, the variants in the order of the plan."""
    recipes: dict[str, dict[str, Any]]
    """Sections of every variant's recipe, as loaded where it was."""
    environments: dict[str, dict[str, Any]]
    """Facts of the workers, by id."""
    mixed_facts: tuple[str, ...]
    """Facts in which the environments differ, other than those of the single worker."""
    text: str
    """The experiment as it was written."""

    def rows_of(self, setting: str) -> tuple[VariantSummary, ...]:
        """Return the rows of one setting."""
        return tuple(row for row in self.rows if row.setting == setting)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before the figures: missing, failed, different, mixed, too few."""
        return tuple(_notes(self))

    def to_dict(self) -> dict[str, Any]:
        """Return every figure as JSON-ready values."""
        values: dict[str, Any] = _json_values(self)
        return values


def summarise(data: RunData) -> Summary:
    """Return the figures of a run as it stands; the same records give the same figures, in whatever order they came."""
    plan = data.plan
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.setting, cell.variant, cell.dataset), []).append(cell)
    rows = tuple(
        _variant_summary(data, groups, setting, variant) for setting in plan.settings for variant in plan.variants
    )
    return Summary(
        label=plan.label,
        description=plan.description,
        plain=plan.plain,
        baseline=plan.baseline,
        settings=plan.settings,
        num_prompts={name: _num_distinct(plan, name) for name in plan.datasets},
        seeds={
            label: tuple(sorted({cell.seed for cell in plan.cells if cell.setting == label})) for label in plan.settings
        },
        num_repeats=len({cell.repeat for cell in plan.cells}),
        num_cells=len(plan.cells),
        num_results=len(data.results),
        num_failed=len(data.failed),
        num_missing=len(data.missing),
        num_stale=data.num_stale,
        num_unplanned=data.num_unplanned,
        num_lost=sum(data.num_lost.values()),
        rows=rows,
        recipes={
            name: data.loaded[name].recipe if name in data.loaded else sections
            for name, sections in plan.variants.items()
        },
        environments={name: data.environments[name].facts for name in sorted(data.environments)},
        mixed_facts=_mixed_facts([environment.facts for environment in data.environments.values()]),
        text=plan.text,
    )


def _num_distinct(plan: Plan, dataset: str) -> int:
    return len({cell.prompt for cell in plan.cells if cell.dataset == dataset})


def _mixed_facts(facts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    names = sorted({name for entry in facts for name in entry} - set(WORKER_FACTS))
    return tuple(name for name in names if len({json.dumps(entry.get(name), sort_keys=True) for entry in facts}) > 1)


def _variant_summary(
    data: RunData, groups: Mapping[tuple[str, str, str], list[Cell]], setting: str, variant: str
) -> VariantSummary:
    def cells(name: str, datasets: Iterable[str]) -> list[Cell]:
        return [cell for dataset in datasets for cell in groups.get((setting, name, dataset), ())]

    def outcome(datasets: Sequence[str]) -> Outcome:
        plan = data.plan
        mine = cells(variant, datasets)
        is_baseline = variant == plan.baseline
        return _outcome(
            data, mine, cells(plan.plain, datasets), None if is_baseline else cells(plan.baseline, datasets)
        )

    return VariantSummary(
        setting, variant, outcome(data.plan.datasets), {name: outcome([name]) for name in data.plan.datasets}
    )


def _outcome(data: RunData, cells: Sequence[Cell], plain: Sequence[Cell], baseline: Sequence[Cell] | None) -> Outcome:
    results = [data.results[cell.id] for cell in cells if cell.id in data.results]
    failed = [data.failed[cell.id] for cell in cells if cell.id in data.failed]
    speeds = _speeds(data, cells)
    rounds = RoundArrays.of([result.rounds for result in results])
    speedup = speed_ratio(speeds, _speeds_beside(data, cells, plain))
    num_compared, differences = _compared(data, results, plain)
    by_prompt = _speeds_of_prompts(speeds)
    return Outcome(
        num_cells=len(cells),
        num_results=len(results),
        num_failed=len(failed),
        num_missing=len(cells) - len(results) - len(failed),
        num_without_rounds=sum(speed == 0 for speed in speeds.values()),
        num_left_out=len(results) + len(failed) - speedup.num_pairs,
        num_prompts=len(by_prompt),
        tokens_per_second=_median(by_prompt),
        speedup=speedup,
        ratio=None if baseline is None else speed_ratio(speeds, _speeds_beside(data, cells, baseline)),
        tau=rounds.tau,
        budget=rounds.budget,
        stages=rounds.stages,
        prefill_seconds=_median(result.prefill_seconds for result in results),
        prediction=rounds.prediction,
        num_compared=num_compared,
        num_identical=num_compared - len(differences),
        differences=differences,
        failures=tuple(FailedCell(_place(entry.cell), entry.reason) for entry in failed),
        bytes_moved=rounds.bytes_moved(data.loaded.get(cells[0].variant)) if cells else None,
        acceptance=rounds.acceptance,
        reliability=merged([result.reliability for result in results]),
        harness_share=_harness_share(results),
    )


def _speeds(data: RunData, cells: Sequence[Cell]) -> dict[Block, float]:
    return {cell.block: data.results[cell.id].tokens_per_second for cell in cells if cell.id in data.results}


def _speeds_beside(data: RunData, cells: Sequence[Cell], others: Sequence[Cell]) -> dict[Block, float]:
    """Return the speeds of ``others`` by block, each from the worker that ran the cell of ``cells`` in that block.

    Where a block was finished by another worker, its references were run there once more.
    """
    workers = {cell.block: data.results[cell.id].environment for cell in cells if cell.id in data.results}
    found = {}
    for other in others:
        worker, result = workers.get(other.block, ""), data.results.get(other.id)
        if result is not None and result.environment != worker:
            result = data.references.get((other.id, worker))
        if result is not None:
            found[other.block] = result.tokens_per_second
    return found


def _speeds_of_prompts(speeds: Mapping[Block, float]) -> list[float]:
    """Return the median speed of every prompt that has any."""
    found: dict[tuple[str, str], list[float]] = {}
    for (_setting, dataset, prompt, _seed, _repeat), speed in speeds.items():
        if speed > 0:
            found.setdefault((dataset, prompt), []).append(speed)
    return [statistics.median(cells) for cells in found.values()]


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _place(cell: Cell) -> Place:
    return Place(cell.dataset, cell.prompt, cell.seed, cell.repeat)


def _compared(
    data: RunData, results: Sequence[Result], plain: Sequence[Cell]
) -> tuple[int, tuple[DifferentOutput, ...]]:
    """Return how many outputs plain decoding has too, and those that differ from its."""
    expected = {cell.block: data.results[cell.id].token_ids for cell in plain if cell.id in data.results}
    compared = [result for result in results if result.cell.block in expected]
    differences = []
    for result in compared:
        other = expected[result.cell.block]
        if result.token_ids != other:
            known = data.differences.get(result.cell.id)
            position = first_difference(result.token_ids, other) if known is None else known.position
            differences.append(DifferentOutput(_place(result.cell), position, known.gap if known else None))
    return len(compared), tuple(differences)


def first_difference(tokens: Sequence[int], others: Sequence[int]) -> int:
    """Return the first index at which two token lists differ; the shorter one ends there at the latest."""
    pairs = enumerate(zip(tokens, others, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(tokens), len(others)))


def _harness_share(results: Sequence[Result]) -> float | None:
    inside = sum(result.prefill_seconds + result.decode_seconds for result in results)
    return sum(result.harness_seconds for result in results) / inside if inside > 0 else None


def _notes(summary: Summary) -> Iterable[str]:
    if summary.num_missing:
        there = summary.num_results + summary.num_failed
        yield f"Incomplete: {there} of {summary.num_cells} cells are there, {summary.num_missing} are missing."
    if summary.num_failed:
        yield f"{summary.num_failed} cells failed and are in no figure: {_listed(summary, lambda o: o.num_failed)}."
    if any(row.overall.differences for row in summary.rows):
        yield f"Outputs differ from plain decoding's: {_listed(summary, lambda o: len(o.differences))}."
    if summary.num_stale:
        yield (
            f"{summary.num_stale} cells have results of other code, versions or model files only; those are in no "
            "figure."
        )
    if summary.num_unplanned:
        yield f"{summary.num_unplanned} cells of the run are not in the present experiment and in no figure."
    if summary.num_lost:
        yield f"A worker died or hung {summary.num_lost} times; its cells were run again or given up."
    if summary.mixed_facts:
        yield (
            f"Several environments were mixed, which differ in {', '.join(summary.mixed_facts)}: ratios are taken "
            "within one worker and hold, tokens per second and seconds mix machines."
        )
    yield from _notes_on_ratios(summary)


def _notes_on_ratios(summary: Summary) -> Iterable[str]:
    few = [name for name, count in summary.num_prompts.items() if count < MIN_PROMPTS]
    if few:
        yield (
            f"Too few prompts for an interval, and so for a verdict: {', '.join(few)}; it takes {MIN_PROMPTS} of every "
            "data set."
        )
    left_out = sum(row.overall.num_left_out for row in summary.rows)
    if left_out:
        yield (
            f"{left_out} cells are in no speed-up: their text ended with prefill, or they or plain decoding's cell "
            f"failed or are missing ({_listed(summary, lambda o: o.num_left_out)})."
        )
    partly = {row.variant for row in summary.rows if 0 < row.overall.speedup.num_datasets < len(summary.num_prompts)}
    if partly:
        yield f"Geometric mean over a part of the data sets only: {', '.join(sorted(partly))}."


def _listed(summary: Summary, count: Callable[[Outcome], int]) -> str:
    counts: dict[str, int] = {}
    for row in summary.rows:
        counts[row.variant] = counts.get(row.variant, 0) + count(row.overall)
    return ", ".join(f"{name} {number}" for name, number in counts.items() if number)


def _json_values(value: Any) -> Any:
    """Return attrs values as mappings of their fields and public properties, keys as text."""
    if attrs.has(type(value)):
        properties = [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        names = [*(field.name for field in attrs.fields(type(value))), *properties]
        return {name: _json_values(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _json_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(entry) for entry in value]
    return value
