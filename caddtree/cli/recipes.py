"""``recipe check|show|schema``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from caddtree.cli.app import EXIT_USER_ERROR, app, command
from caddtree.cli.options import JsonOption, SetOption
from caddtree.core.errors import RecipeError

recipe_app = typer.Typer(help="Check or show a recipe, or print the schema of all.", no_args_is_help=True)
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


@command(recipe_app)
def schema() -> None:
    """Print a JSON Schema of recipes with every installed strategy, for editors."""
    from caddtree.plugins.recipe_schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))
