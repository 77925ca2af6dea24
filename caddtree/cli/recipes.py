"""``recipe check|show`` and ``plugins``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from caddtree.cli.app import EXIT_USER_ERROR, app, command
from caddtree.cli.options import JsonOption, SetOption
from caddtree.core.errors import RecipeError

recipe_app = typer.Typer(help="Check or show a recipe.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe, or the path of a YAML file.")]


@command(recipe_app)
def check(recipe: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Check a recipe; prints every error with its place."""
    from caddtree.plugins.recipe import load_recipe

    try:
        checked = load_recipe(recipe, sets=set_ or ())
    except RecipeError as error:
        if not json_:
            raise
        print(json.dumps({"recipe": recipe, "errors": str(error).splitlines()}))
        raise typer.Exit(EXIT_USER_ERROR) from error
    print(json.dumps({"recipe": checked.label, "errors": []}) if json_ else f"{checked.label}: fine")


@command(recipe_app)
def show(recipe: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Show a recipe fully merged, defaults included."""
    from caddtree.plugins.recipe import load_recipe

    checked = load_recipe(recipe, sets=set_ or ())
    print(json.dumps(checked.to_mapping(), indent=2) if json_ else checked.to_yaml(), end="\n" if json_ else "")


@command()
def plugins(json_: JsonOption = False) -> None:
    """List every strategy with its options and defaults."""
    from rich.table import Table

    from caddtree.cli.tables import print_table
    from caddtree.plugins.recipe import shipped_recipes
    from caddtree.plugins.registry import default_registry

    registry = default_registry()
    found = registry.describe()
    if json_:
        strategies = [
            {
                "kind": info.kind,
                "name": info.name,
                "summary": info.doc,
                "provider": str(info.provider),
                "options": [
                    {
                        "name": option.name,
                        "type": option.type_text,
                        "required": option.is_required,
                        "default": None if option.is_required else option.default,
                        "doc": option.doc,
                    }
                    for option in info.options
                ],
            }
            for info in found
        ]
        broken = [{"plugin": str(entry.provider), "reason": entry.reason} for entry in registry.broken]
        print(json.dumps({"strategies": strategies, "broken": broken, "recipes": list(shipped_recipes())}))
        return
    table = Table(title="strategies")
    for name in ("kind", "name", "options", "what it does"):
        table.add_column(name, overflow="fold")
    for info in found:
        options = "\n".join(_option_line(option) for option in info.options)
        table.add_row(info.kind, info.name, options, info.doc)
    print_table(table)
    for entry in registry.broken:
        print(f"broken: {entry.provider}: {entry.reason}")
    print(f"recipes: {', '.join(shipped_recipes())}")


def _option_line(option) -> str:  # type: ignore[no-untyped-def]
    default = "required" if option.is_required else f"= {option.default!r}"
    return f"{option.name}: {option.type_text} {default}"
