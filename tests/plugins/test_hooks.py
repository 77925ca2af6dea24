from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from caddtree.plugins import hooks
from caddtree.plugins.hooks import KINDS


def test_importing_the_hooks_brings_neither_torch_nor_a_strategy() -> None:
    """A plugin's module stays cheap to import."""
    code = (
        "import sys, caddtree.plugins.hooks as h\n"
        "heavy = {'torch', 'transformers', 'numpy', 'yaml', 'cattrs'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not [m for m in sys.modules if m.startswith('caddtree.tree_builders')]\n"
        "assert h.HOOK_API_VERSION == 1\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_reading_a_broken_recipe_brings_no_torch() -> None:
    """Errors of the YAML itself come before any strategy is imported."""
    code = (
        "import sys\n"
        "from caddtree.core.errors import RecipeError\n"
        "from caddtree.plugins.recipe import load_recipe\n"
        "try: load_recipe('no-such.yaml')\n"
        "except RecipeError: pass\n"
        "assert 'torch' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_documented_hook(kind: str) -> None:
    """One specification per kind, with one line of docstring and named arguments."""
    specification = getattr(hooks, f"register_{kind}s")

    assert "\n" not in specification.__doc__
    assert list(inspect.signature(specification).parameters) == ["registry"]
