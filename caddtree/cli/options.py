"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="A shipped recipe, or the path of a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override one key, as in --set tree_builder.max_node_budget=64.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Tokens to generate at most.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(help="Sample from the k best tokens only.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the smallest set of tokens with this mass.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text, whatever the draft tree.")]
Stop = Annotated[list[str] | None, typer.Option(help="End the text before this string; may be repeated.")]
PromptsOption = Annotated[Path, typer.Option("--prompts", help="JSONL file with prompt, turns or messages per line.")]


def request_options(**values: Any) -> dict[str, Any]:
    """Return the options that the user gave; the recipe's own stay for the others."""
    return {name: value for name, value in values.items() if value is not None}
