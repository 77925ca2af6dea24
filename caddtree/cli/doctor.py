"""``doctor``: why is acceptance low?"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from caddtree.cli.app import EXIT_RUN_FAULT, command
from caddtree.cli.options import JsonOption, SetOption

_WIDTH = 100
_COLUMN = 20


@command()
def doctor(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe, or the path of a YAML file.")] = "demo",
    set_: SetOption = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="JSONL file with prompt, turns or messages per line; a few short ones else."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Use only the first prompts of the file.")] = 12,
    json_: JsonOption = False,
) -> None:
    """Say why acceptance is low: decode a few prompts, run every check; exit code 1 where something is wrong."""
    from caddtree.diagnosis.examination import examine_recipe
    from caddtree.experiments.prompts import read_prompts
    from caddtree.plugins.recipe import load_recipe

    checked = load_recipe(recipe, sets=set_ or ())
    given = None if prompts is None else [record.prompt for record in read_prompts(prompts, limit=limit)]
    with _steps_bar(silent=json_) as advance:
        diagnosis = examine_recipe(checked, given, on_step=advance)
    if json_:
        print(json.dumps(diagnosis.to_dict()))
    else:
        print(_report(diagnosis))
    if not diagnosis.is_sound:
        raise typer.Exit(EXIT_RUN_FAULT)


def _report(diagnosis: Any) -> str:
    lines = [f"{diagnosis.label}, {diagnosis.num_prompts} prompts", ""]
    for finding in diagnosis.findings:
        lines.append(f"{finding.name:<{_COLUMN}}{finding.status}")
        lines += _indented(finding.found, "")
        if finding.advice:
            lines += _indented(finding.advice, "-> ")
    bad = [finding.name for finding in diagnosis.findings if finding.status in ("wrong", "failed")]
    looked_at = [finding.name for finding in diagnosis.findings if finding.status == "attention"]
    last = f"wrong: {', '.join(bad)}" if bad else "nothing is wrong"
    return "\n".join([*lines, "", f"{last}; look at: {', '.join(looked_at)}" if looked_at else last])


def _indented(text: str, mark: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="    " + mark,
        subsequent_indent=" " * (4 + len(mark)),
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def _steps_bar(*, silent: bool) -> Iterator[Any]:
    """Yield a function that takes what was done and the number of steps; the bar stands on standard error."""
    from tqdm import tqdm

    with tqdm(desc="examining", disable=True if silent else None, leave=False) as bar:

        def advance(what: str, num_steps: int) -> None:
            bar.total = num_steps
            bar.set_description(f"examining: {what}")
            bar.update()

        yield advance
