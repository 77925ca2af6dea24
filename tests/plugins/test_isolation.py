"""Twenty broken plugins in one process: each is named, and whatever else is installed works. FT-11, FT-24."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.site import BUILDER, Site
from tests.tiny_pair import write_pair

ROOT = Path(__file__).parents[2]
HOOK = "from caddtree.plugins.hooks import hookimpl\n@hookimpl\n"

SOUND = """
import attrs
from caddtree.core.draft_tree import DraftTree
from caddtree.plugins.hooks import hookimpl

@attrs.frozen
class Sound:
    "Draft the likeliest next token."
    needs_cost_model = False
    def build(self, marginals, context):
        return DraftTree.from_parents([context.root_token, int(marginals.tokens[0, 0])], [-1, 0])

@hookimpl
def register_tree_builders(registry):
    registry.add("sound", Sound)
"""

BROKEN = {
    "raises": ("raise ZeroDivisionError('at import')", "ZeroDivisionError: at import"),
    "exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "panics": ("class Panic(BaseException): ...\nraise Panic('from elsewhere')", "Panic: from elsewhere"),
    "mute": (
        "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute",
        "Mute: (its message cannot be read)",
    ),
    "syntax": ("def :", "SyntaxError: invalid syntax (bad_syntax.py, line 1)"),
    "dependency": (
        "import a_library_that_is_not_there",
        "ModuleNotFoundError: No module named 'a_library_that_is_not_there', which the plugin needs; install it",
    ),
    "hookless": ("x = 1", "implements no hook; decorate one of register_drafters"),
    "undecorated": (
        "def register_verifiers(registry): ...",
        "hook register_verifiers is not decorated; put @hookimpl of caddtree.plugins.hooks above it",
    ),
    "singular": (
        f"{HOOK}def register_tree_builder(registry): ...",
        "unknown hook register_tree_builder; did you mean register_tree_builders?",
    ),
    "argument": (
        f"{HOOK}def register_verifiers(registry, more): ...",
        "hook register_verifiers takes 'more', which it is never given; take only: registry",
    ),
    "keyword": (
        f"{HOOK}def register_verifiers(registry, *, more): ...",
        "hook register_verifiers raised TypeError: register_verifiers() missing 1 required keyword-only argument",
    ),
    "hook": (
        BUILDER.format(name="half") + "        raise KeyError('late')\n",
        "hook register_tree_builders raised KeyError: 'late'",
    ),
    "nothing": (
        f"{HOOK}def register_verifiers(registry): ...",
        "its hooks register nothing; call registry.add(name, strategy_class) in one",
    ),
    "usurper": (
        BUILDER.format(name="ddtree") + "        registry.add('rightful', Extra)\n",
        "hook register_tree_builders: tree_builder 'ddtree' is claimed by caddtree 0.1.0 too; choose another name",
    ),
    "first": (
        BUILDER.format(name="contested"),
        "hook register_tree_builders: tree_builder 'contested' is claimed by bad-second 1.0 too; rename one",
    ),
    "second": (
        BUILDER.format(name="contested"),
        "hook register_tree_builders: tree_builder 'contested' is claimed by bad-first 1.0 too; rename one",
    ),
    "classless": (
        f"{HOOK}def register_verifiers(registry): registry.add('mine', dict)",
        "hook register_verifiers: verifier 'mine' must be an attrs class, found <class 'dict'>; decorate it with attrs",
    ),
    "type": (
        BUILDER.format(name="typed").replace("node_budget: int = 1", "node_budget: 'Missing' = 1"),
        "hook register_tree_builders: tree_builder 'typed': option node_budget: type 'Missing' cannot be resolved: "
        "name 'Missing' is not defined",
    ),
    "default": (
        BUILDER.format(name="made").replace("int = 1", "int = attrs.field(factory=lambda: 1 / 0)"),
        "hook register_tree_builders: tree_builder 'made': its options cannot be read: ZeroDivisionError",
    ),
    "newer": (
        "caddtree_hook_api = 2\n" + SOUND,
        "was written for version 2 of the hooks, this caddtree has 1; upgrade caddtree or install an older plugin",
    ),
    "nowhere": ("", "entry point bad_nowhere = 'a_module.that_is_not_there': ModuleNotFoundError: No module named"),
    "attribute": ("", "entry point bad_attribute = 'bad_attribute:plugin': there is no plugin in bad_attribute"),
    "garbled": ("", "entry point bad_garbled = 'no module' names neither a module nor module:object"),
}
ENTRY_POINTS = {"nowhere": "a_module.that_is_not_there", "attribute": "bad_attribute:plugin", "garbled": "no module"}

PRICED = {"tree_builder": {"name": "caddtree", "max_node_budget": 8}}
ROGUE = "(rogue-strategies 2.5)"
ROGUES = {
    ("drafter", "refuse"): "CheckpointError: drafter rogue of rogue-strategies 2.5 could not be made: no such weights",
    ("drafter", "bind"): f"CompatibilityError: drafter RogueDrafter {ROGUE}: another target, please",
    ("drafter", "bug in bind"): f"StageError: drafter RogueDrafter {ROGUE}: KeyError: 'size'",
    ("drafter", "start"): f"StageError: drafter RogueDrafter {ROGUE} failed in prefill: RuntimeError: cannot start",
    ("drafter", "commit"): f"StageError: drafter RogueDrafter {ROGUE} failed in prefill: RuntimeError: cannot commit",
    ("drafter", "draft"): f"StageError: drafter RogueDrafter {ROGUE} failed in round 0: ValueError: cannot draft",
    ("drafter", "return a list"): f"StageError: drafter RogueDrafter {ROGUE} failed in round 0: TypeError: draft must "
    "return Marginals or None, found list",
    ("drafter", "float tokens"): f"StageError: drafter RogueDrafter {ROGUE} failed in round 0: TypeError: "
    "marginals.tokens must be a torch.int64 tensor, found torch.float32",
    ("drafter", "no such token"): f"StageError: drafter RogueDrafter {ROGUE} failed in round 0: ValueError: "
    "marginals.tokens[0] must lie in 0..299, found 1000005",
    ("drafter", "one token twice"): f"StageError: drafter RogueDrafter {ROGUE} failed in round 0: ValueError: "
    "marginals.tokens[0] holds a token twice",
    ("drafter", "nan"): "nothing",
    ("tree_builder", "build"): f"StageError: tree_builder RogueBuilder {ROGUE} failed in round 0: ZeroDivisionError: "
    "cannot build",
    ("tree_builder", "return none"): f"StageError: tree_builder RogueBuilder {ROGUE} failed in round 0: TypeError: "
    "build must return a DraftTree, found NoneType",
    ("tree_builder", "nan"): f"StageError: tree_builder RogueBuilder {ROGUE} failed in round 0: TreeError: "
    "tree.log_weights holds NaN",
    ("tree_builder", "other root"): f"StageError: tree_builder RogueBuilder {ROGUE} failed in round 0: TreeError: "
    "the root of the tree must be context.root_token",
    ("tree_builder", "short"): f"StageError: tree_builder RogueBuilder {ROGUE} failed in round 0: TreeError: "
    "tree.log_weights must have one value per node, found (2,)",
    ("tree_builder", "int32"): f"StageError: tree_builder RogueBuilder {ROGUE} failed in round 0: TypeError: "
    "tree.tokens must be a torch.int64 tensor, found torch.int32",
    ("cost_model", "prepare"): f"StageError: cost_model RogueCost {ROGUE}: OSError: no such profile",
    (
        "cost_model",
        "price",
    ): f"StageError: cost_model RogueCost {ROGUE} failed in round 0: IndexError: beyond the table",
    ("cost_model", "nan"): "StageError: tree_builder CaDDTree failed in round 0: CostModelError: cost model RogueCost "
    f"{ROGUE} gave nan seconds",
    (
        "verifier",
        "verify",
    ): f"StageError: verifier RogueVerifier {ROGUE} failed in round 0: RuntimeError: cannot verify",
    ("verifier", "return a tuple"): f"StageError: verifier RogueVerifier {ROGUE} failed in round 0: TypeError: verify "
    "must return a Walk, found tuple",
    ("verifier", "other path"): f"StageError: verifier RogueVerifier {ROGUE} failed in round 0: TreeError: the path "
    "must lead from the root to a child each time, found (0, 9)",
    ("verifier", "no token"): f"StageError: verifier RogueVerifier {ROGUE} failed in round 0: TreeError: tokens must "
    "lie in 0..299, found (-1,)",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What one process said that saw all of them; starting it is what costs."""
    site = Site(tmp_path_factory.mktemp("site"))
    for name, (source, _) in BROKEN.items():
        site.install(f"bad-{name}", source, entry_point=ENTRY_POINTS.get(name, ""))
    site.install("sound-builder", SOUND, version="1.4")
    site.install("rightful-builder", BUILDER.format(name="rightful"))
    # the entry point names one module of a package, the strategies live in another
    site.install("rogue-strategies", "", version="2.5", entry_point="rogue.hooks")
    package = site.folder / "rogue"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "hooks.py").write_text(
        "from rogue.strategies import *\nfrom rogue.strategies import caddtree_hook_api\n"
    )
    shutil.copy(Path(__file__).with_name("rogue_strategies.py"), package / "strategies.py")
    recipe = write_pair(tmp_path_factory.mktemp("pair"))
    cases = [(kind, do, PRICED if kind == "cost_model" else {}) for kind, do in ROGUES]
    environment = {**os.environ, "PYTHONPATH": str(site.folder), "OMP_NUM_THREADS": "1", "CADDTREE_DEBUG": ""}
    command = [sys.executable, "-m", "tests.plugins.isolation_process", str(recipe), json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", BROKEN)
def test_ft11_a_broken_plugin_is_listed_with_its_distribution_and_reason(said, name):
    """In --json, in both texts and once in the log; nothing of it is registered."""
    (entry,) = [broken for broken in said["json"]["broken"] if broken["distribution"] == f"bad-{name}"]
    reason = BROKEN[name][1]

    assert reason in entry["reason"]
    assert (entry["plugin"], entry["version"], entry["entry_point"]) == (f"bad-{name} 1.0", "1.0", f"bad_{name}")
    assert f"broken: bad-{name} 1.0: {entry['reason']}" in said["brief"]
    assert f"broken: bad-{name} 1.0, plugin bad_{name}: {entry['reason']}" in said["verbose"]
    assert said["logged"].count(f"plugin bad_{name} of bad-{name} 1.0 is not used: {entry['reason']}") == 1
    assert not [info for info in said["json"]["strategies"] if info["distribution"] == f"bad-{name}"]


def test_ft11_everything_else_works(said):
    """The sound plugins are there, nobody else is broken, and what is decoded is the target's own text."""
    offered = {(info["kind"], info["name"]): info["distribution"] for info in said["json"]["strategies"]}

    assert {broken["distribution"] for broken in said["json"]["broken"]} == {f"bad-{name}" for name in BROKEN}
    assert offered["tree_builder", "sound"] == "sound-builder"
    assert offered["tree_builder", "rightful"] == "rightful-builder"
    assert offered["tree_builder", "ddtree"] == "caddtree"
    assert set(offered.values()) == {"caddtree", "sound-builder", "rightful-builder", "rogue-strategies"}
    assert said["sound"] == said["plain"]
    assert len(said["sound"]) == 8


def test_ft11_a_name_that_was_refused_says_who_offered_it(said):
    """The error of a recipe lists what there is and both claims."""
    assert "unknown tree_builder 'contested'" in said["unknown"]
    assert "allowed: caddtree, chain, ddtree, rightful, rogue, sound" in said["unknown"]
    assert "bad-first 1.0" in said["unknown"]
    assert "bad-second 1.0" in said["unknown"]


@pytest.mark.parametrize(("kind", "do"), ROGUES)
def test_ft24_what_a_plugin_does_wrong_is_blamed_on_its_distribution(said, kind, do):
    """Whether it raises or returns what nobody can use, and whoever stumbles over it."""
    assert said["errors"][f"{kind}: {do}"].startswith(ROGUES[kind, do])


def test_a_drafter_of_nan_is_named_where_its_rounds_are_logged(said):
    """Such rounds draft nothing, which is no error."""
    assert "round 0: the drafter's output (rogue-strategies 2.5) is not finite; no draft nodes" in said["logged"]


def test_the_listing_shows_where_a_strategy_comes_from(said):
    """Origin, version of the hooks, place, and a default that no other tool could print."""
    (info,) = [info for info in said["json"]["strategies"] if (info["kind"], info["name"]) == ("drafter", "rogue")]

    assert said["json"]["hook_api"] == 1
    assert (info["distribution"], info["version"], info["plugin"]) == ("rogue-strategies", "2.5", "rogue_strategies")
    assert (info["hook"], info["hook_api"]) == ("register_drafters", 1)
    assert info["class"] == "rogue.strategies.RogueDrafter"
    assert info["file"].endswith(f"rogue{os.sep}strategies.py")
    do, odd = info["options"]
    assert do == {"name": "do", "type": "str", "required": True, "default": None, "doc": "What to do wrong."}
    assert odd["default"] == "<Unshowable whose repr raises RuntimeError>"
    assert [
        "drafter rogue",
        "    Draft [what] it is told.",
        "    from     rogue-strategies 2.5, plugin rogue_strategies, written for version 1 of the hooks",
        "    hook     register_drafters",
        "    class    rogue.strategies.RogueDrafter",
        f"    file     {info['file']}:{info['line']}",
        "    options",
        "        do: str required",
        "            What to do wrong.",
    ] == said["verbose"][said["verbose"].index("drafter rogue") :].splitlines()[:9]
    assert "Draft [what] it is told." in said["brief"]
