"""Layout is architecture: who may import whom, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import caddtree

ROOT = Path(caddtree.__file__).parent
STRATEGIES = ("drafters", "tree_builders", "cost_models", "verifiers")


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Package modules imported at module level, or anywhere, ``TYPE_CHECKING`` blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "caddtree"}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_core_imports_nothing_but_core_and_kernels():
    """No strategy, no plugin machinery, no command line; kernels import torch alone."""
    for name, path in modules().items():
        if room(name) == "core":
            assert {room(other) for other in imports(path, everywhere=True)} <= {"core", "kernels", ""}, name
        if room(name) == "kernels":
            assert {room(other) for other in imports(path, everywhere=True)} <= {"kernels", ""}, name


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_strategy_imports_core_and_its_hooks_only(kind):
    """Never another strategy package; measured cost models reach the profiler inside a function."""
    for name, path in modules().items():
        if room(name) != kind:
            continue
        for other in imports(path, everywhere=False):
            allowed = room(other) in ("", "core", "kernels", kind) or other.startswith("caddtree.plugins.hooks")
            assert allowed or other == "caddtree.plugins", f"{name} imports {other}"
        everywhere = {room(other) for other in imports(path, everywhere=True)}
        assert not everywhere & (set(STRATEGIES) - {kind}), name


def test_plugins_reach_strategies_through_the_registry_only():
    """By walking packages, not by importing them by name."""
    for name, path in modules().items():
        if room(name) == "plugins":
            assert not {room(other) for other in imports(path, everywhere=True)} & set(STRATEGIES), name


def test_the_kit_knows_strategies_through_the_registry_and_is_known_by_nobody():
    """Who does not test needs no pytest: only the kit imports it, and nothing imports the kit.

    What only a report section needs is imported where one is tested.
    """
    for name, path in modules().items():
        rooms = {room(other) for other in imports(path, everywhere=True)}
        if room(name) == "testing":
            at_once = {room(other) for other in imports(path, everywhere=False)}
            assert at_once <= {"", "core", "kernels", "plugins", "testing"}, name
            assert rooms - at_once <= {"experiments", "reports"}, name
        else:
            assert "testing" not in rooms, name
            assert "import pytest" not in path.read_text(encoding="utf-8"), name


def test_no_module_level_circle():
    """Depth-first over module-level imports."""
    known = modules()
    graph = {
        name: {other for other in imports(path, everywhere=False) if other in known} for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in graph[name] - {name}:
                # a package and its own modules load together; that is no circle between rooms
                if not (name.startswith(other + ".") or other.startswith(name + ".")):
                    visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("line", ["import caddtree", "from caddtree.cli.app import app; import caddtree.cli.commands"])
def test_start_up_needs_no_torch(line):
    """Importing the package or its command line stays fast."""
    code = f"import sys; {line}; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checking_a_recipe_needs_no_models_and_no_scipy():
    """The strategies are imported, which needs torch; what takes longer than torch waits until something is bound."""
    code = (
        "import sys; from caddtree.plugins.recipe import load_recipe; load_recipe('demo'); "
        "assert not {'transformers.modeling_utils', 'scipy.optimize', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
