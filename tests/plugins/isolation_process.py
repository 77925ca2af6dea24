"""Decodes with every rogue strategy in turn, in one process that sees many broken plugins; prints what was said.

python -m tests.plugins.isolation_process RECIPE CASES
"""

from __future__ import annotations

import json
import logging
import sys

import caddtree
from caddtree.core.errors import CaddtreeError
from tests.cli.runner import caddtree as command

logged: list[str] = []


class _Kept(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logged.append(record.getMessage())


def main() -> None:
    """Print one JSON object: errors by case, tokens of the sound plugin and of none, the listings, the log."""
    recipe, cases = sys.argv[1], json.loads(sys.argv[2])
    logging.getLogger("caddtree").addHandler(_Kept())
    errors = {f"{kind}: {do}": _error(recipe, {kind: {"name": "rogue", "do": do}, **rest}) for kind, do, rest in cases}
    found = {
        "errors": errors,
        "sound": _tokens(recipe, {"tree_builder": {"name": "sound"}}),
        "plain": _tokens(recipe, {"drafter": {"name": "none"}}),
        "json": json.loads(command("plugins", "--json").stdout),
        "verbose": command("plugins", "--verbose").stdout,
        "brief": command("plugins").stdout,
        "unknown": _error(recipe, {"tree_builder": {"name": "contested"}}),
        "logged": logged,
    }
    print(json.dumps(found))


def _tokens(recipe: str, overrides: dict) -> list[int]:
    return list(caddtree.load(recipe, overrides).generate("the cat sat on", max_new_tokens=8).token_ids)


def _error(recipe: str, overrides: dict) -> str:
    try:
        _tokens(recipe, overrides)
    except CaddtreeError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"UNNAMED {type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    main()
