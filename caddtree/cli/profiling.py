"""``profile``: measure a cost model and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caddtree.cli.app import command
from caddtree.cli.options import JsonOption, RecipeOption, SetOption
from caddtree.core.errors import InputError


@command()
def profile(
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the profile here.")] = None,
    json_: JsonOption = False,
) -> None:
    """Measure whole rounds on this machine, anew, and keep the profile for later runs."""
    from rich.table import Table

    from caddtree.cli.tables import print_table
    from caddtree.loading import load
    from caddtree.profiling import load_or_measure, profile_path

    if output is not None:
        # before the measurement, which takes a minute
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            raise InputError(f"--output {output}: Is a directory; name a file")
    decoder = load(recipe, sets=set_ or ())
    # measuring drives rounds of a given size; the decoder's own cost model is not asked
    measured = load_or_measure(decoder, max_count=getattr(decoder.tree_builder, "max_node_budget", 0), renew=True)
    if output is not None:
        measured.write(output)
    if json_:
        print(measured.to_json())
        return
    table = Table(title="milliseconds of a whole round (draft included)")
    table.add_column("draft nodes", justify="right")
    for context in measured.contexts:
        table.add_column(f"context {context}", justify="right")
    for column, count in enumerate(measured.counts):
        cells = [
            f"{1e3 * (measured.draft_seconds[row] + measured.after_seconds[row, column]):.2f}"
            for row in range(len(measured.contexts))
        ]
        table.add_row(str(count), *cells)
    print_table(table)
    kept = profile_path(dict(measured.key))
    # a folder that cannot be written was warned about; an older profile may lie there
    if kept.exists() and kept.read_text(encoding="utf-8").strip() == measured.to_json():
        print(f"kept in {kept}")
