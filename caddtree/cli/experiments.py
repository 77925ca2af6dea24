"""``sweep`` and ``report``: run an experiment, and show what came out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from caddtree.cli.app import EXIT_RUN_FAULT, command
from caddtree.cli.options import JsonOption
from caddtree.core.errors import InputError

RUNS_FOLDER = Path("runs")

RunOption = Annotated[
    Path | None, typer.Option("--run", help="Folder of the run, runs/NAME when left out; one that was begun goes on.")
]


@command()
def sweep(
    experiment: Annotated[
        str | None, typer.Argument(help="A shipped experiment, or the path of a YAML file; --list shows the shipped.")
    ] = None,
    run: RunOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override one key, as in --set prompts=4 or --set base=demo.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Ray workers; one per device when left out.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster; a local one else.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells again that were given up.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run, and end.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the shipped experiments, and end.")] = False,
    json_: JsonOption = False,
) -> None:
    """Run an experiment, or what is left of it, and print its table; exit code 1 where a cell failed."""
    if list_:
        return _list_experiments(json_)
    if experiment is None:
        raise InputError("name an experiment, or see the shipped ones with: caddtree sweep --list")
    from caddtree.experiments.experiment_files import load_experiment
    from caddtree.experiments.sweep import run_sweep

    checked = load_experiment(experiment, set_ or ())
    if dry_run:
        return _show_plan(checked, json_)
    folder = run if run is not None else RUNS_FOLDER / checked.label
    with _cells_bar(silent=json_) as advance:
        data = run_sweep(
            checked,
            folder,
            engine=_engine(engine, workers, ray_address),
            retry_failed=retry_failed,
            on_progress=advance,
        )
    _finish(folder, data, json_)


@command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; RUN/report else.")] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="A section of a plugin, besides those that the experiment names.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write the report of a run: Markdown, LaTeX, one page of HTML, its pictures and the figures as CSV and JSON."""
    from caddtree.experiments.store import RunFolder
    from caddtree.experiments.summary import summarise
    from caddtree.reports import write_report

    written = write_report(run, run / "report" if output is None else output, sections=section or ())
    if json_:
        print(json.dumps(summarise(RunFolder(run).read()).to_dict()))
        return
    for path in written:
        print(path)


def _engine(name: str, workers: int | None, ray_address: str | None) -> Any:
    if name == "local":
        if workers is not None or ray_address is not None:
            raise InputError("--workers and --ray-address are for --engine ray")
        from caddtree.experiments.engines.local import run_local

        return run_local
    if name == "ray":
        from caddtree.experiments.engines.ray_cluster import ray_engine

        return ray_engine(workers=workers, address=ray_address)
    raise InputError(f"--engine must be local or ray, found {name!r}")


def _cells_bar(*, silent: bool) -> Any:
    """Return a context manager that gives a function of cells done and all cells."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def bar() -> Any:
        with tqdm(total=0, desc="cells", disable=True if silent else None, leave=False) as shown:

            def advance(done: int, total: int) -> None:
                shown.total = total
                # what an earlier run left is no sign of the speed of this one
                if shown.n == 0:
                    shown.initial = done
                shown.update(done - shown.n)

            yield advance

    return bar()


def _finish(folder: Path, data: Any, json_: bool) -> None:
    """Print the tables of a run; end with an error where not everything came out as it should."""
    from caddtree.cli.tables import plain_table, print_table
    from caddtree.experiments.summary import summarise
    from caddtree.experiments.sweep import found_problems
    from caddtree.reports.tables import summary_tables

    summary = summarise(data)
    if json_:
        print(json.dumps(summary.to_dict()))
    else:
        for table in summary_tables(summary):
            print_table(plain_table(table))
        print(f"{folder}: caddtree report {folder} writes tables, pictures and a page")
    problems = found_problems(data)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(EXIT_RUN_FAULT)


def _show_plan(experiment: Any, json_: bool) -> None:
    from caddtree.experiments.planning import make_plan
    from caddtree.experiments.sweep import load_all_prompts

    plan, blocks = make_plan(experiment, load_all_prompts(experiment))
    if json_:
        values = {
            "experiment": plan.label,
            "variants": plan.variants,
            "settings": plan.settings,
            "datasets": list(plan.datasets),
            "num_blocks": len(blocks),
            "num_cells": len(plan.cells),
        }
        print(json.dumps(values))
        return
    print(f"{plan.label}: {plan.description}")
    for name in plan.variants:
        print(f"  variant   {name}{'  (baseline)' if name == plan.baseline else ''}")
    for name in plan.settings:
        if name:
            print(f"  setting   {name}")
    for name in plan.datasets:
        prompts = {cell.prompt for cell in plan.cells if cell.dataset == name}
        print(f"  data set  {name}: {len(prompts)} prompts")
    print(f"{len(plan.cells)} cells: {len(blocks)} blocks of {len(plan.variants)} variants")


def _list_experiments(json_: bool) -> None:
    from caddtree.experiments.experiment_files import shipped_descriptions

    found = shipped_descriptions()
    if json_:
        print(json.dumps(found))
        return
    for name, description in found.items():
        print(f"{name:14s} {description}")
