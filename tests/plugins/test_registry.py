from __future__ import annotations

import logging
import types
from pathlib import Path
from typing import Any

import attrs
import pytest

from caddtree.core.errors import PluginError, RecipeError
from caddtree.plugins import hooks
from caddtree.plugins import registry as registry_module
from caddtree.plugins.hooks import HOOK_API_VERSION, KindRegistry, hookimpl
from caddtree.plugins.registry import BrokenPlugin, Provider, Registry, default_registry
from tests.plugins.fakes import Adaptive, Dense, Line, fake_registry, plugin
from tests.plugins.site import BUILDER, Site

THIRD_PARTY = Provider("third-party", "2.1", "third_party")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(tmp_path)
    return Site(tmp_path)


def loaded() -> Registry:
    registry = fake_registry()
    registry.load_entry_points()
    return registry


def broken_of(registry: Registry, distribution: str) -> BrokenPlugin:
    (found,) = (broken for broken in registry.broken if broken.provider.distribution == distribution)
    return found


def test_an_installed_plugin_is_found_with_its_distribution(site: Site) -> None:
    """An entry point is all that a distribution needs."""
    site.install("caddtree-extra-one", BUILDER.format(name="extra"), version="3.2")

    info = loaded().info("tree_builder", "extra")

    assert str(info.provider) == "caddtree-extra-one 3.2"
    assert [option.name for option in info.options] == ["node_budget"]


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("raises", "raise ZeroDivisionError('at import')", "ZeroDivisionError: at import"),
        ("exits", "import sys\nsys.exit(3)", "SystemExit: 3"),
        ("missing", "import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("syntax", "def :", "SyntaxError"),
        ("hookless", "x = 1", "implements no hook; decorate one of register_drafters"),
        ("newer", f"caddtree_hook_api = {HOOK_API_VERSION + 1}\n", "was written for version 2 of the hooks"),
        ("versionless", "caddtree_hook_api = 'one'\n", "must be a version number of at least 1, found 'one'"),
        (
            "misspelt",
            "from caddtree.plugins.hooks import hookimpl\n@hookimpl\ndef register_tree_bilders(registry): ...\n",
            "unknown hook register_tree_bilders; did you mean register_tree_builders?",
        ),
        (
            "arguments",
            "from caddtree.plugins.hooks import hookimpl\n@hookimpl\ndef register_drafters(registry, more): ...\n",
            "hook register_drafters takes 'more', which it is never given; take only: registry",
        ),
        (
            "hook-raises",
            BUILDER.format(name="half") + "        raise KeyError('late')\n",
            "hook register_tree_builders raised KeyError: 'late'",
        ),
    ],
)
def test_ft_11_a_broken_plugin_is_named_and_leaves_the_rest_usable(
    site: Site, caplog: pytest.LogCaptureFixture, name: str, source: str, reason: str
) -> None:
    """FT-11: logged once, listed with distribution and reason; built-ins and other plugins work."""
    site.install(f"caddtree-bad-{name}", source)
    site.install(f"caddtree-good-{name}", BUILDER.format(name="extra"))

    with caplog.at_level(logging.WARNING):
        registry = loaded()

    broken = broken_of(registry, f"caddtree-bad-{name}")
    assert reason in broken.reason
    assert [f"caddtree-bad-{name} 1.0" in record.getMessage() for record in caplog.records] == [True]
    assert registry.names("tree_builder") == ("caddtree", "chain", "extra")
    assert isinstance(registry.create("tree_builder", "chain", {"length": 3}), Line)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("Extra()", "tree_builder 'odd' must be an attrs class, found"),
        ("dict", "tree_builder 'odd' must be an attrs class, found <class 'dict'>"),
        ("attrs.make_class('Odd', ['x'])", r"tree_builder 'odd' (Odd) lacks needs_cost_model, build"),
    ],
)
def test_ft_11_registering_the_wrong_type_publishes_nothing_of_the_plugin(
    site: Site, strategy: str, reason: str
) -> None:
    """FT-11: no partial registry: what the plugin registered before goes with it."""
    unique = f"caddtree-odd-{abs(hash(strategy))}"
    site.install(unique, BUILDER.format(name="fine") + f"        registry.add('odd', {strategy})\n")

    registry = loaded()

    assert reason in broken_of(registry, unique).reason
    assert registry.names("tree_builder") == ("caddtree", "chain")
    with pytest.raises(PluginError, match=rf"'fine' was offered by plugin \S+ of {unique} 1.0, not used: "):
        registry.get("tree_builder", "fine")


def test_ft_11_two_plugins_that_claim_one_name_are_both_refused(site: Site) -> None:
    """FT-11: neither wins by the order of the search path; both distributions are named."""
    site.install("caddtree-claim-a", BUILDER.format(name="mine"))
    site.install("caddtree-claim-b", BUILDER.format(name="mine"))

    registry = loaded()

    with pytest.raises(PluginError) as error:
        registry.get("tree_builder", "mine")
    assert "caddtree-claim-a 1.0" in str(error.value)
    assert "caddtree-claim-b 1.0" in str(error.value)
    assert "rename one" in str(error.value)
    assert registry.names("tree_builder") == ("caddtree", "chain")


def test_ft_11_a_plugin_cannot_replace_a_built_in(site: Site) -> None:
    """FT-11: the built-in stays, the plugin is refused and named."""
    site.install("caddtree-usurper", BUILDER.format(name="caddtree"))

    registry = loaded()

    assert registry.get("tree_builder", "caddtree") is Adaptive
    assert "tree_builder 'caddtree' is claimed by fakes 1.0 too" in broken_of(registry, "caddtree-usurper").reason


def test_one_name_may_be_used_by_two_kinds() -> None:
    """Names are per kind."""
    registry = Registry()
    registry.load_plugin(plugin(tree_builder={"same": Line}, verifier={"same": Dense}), THIRD_PARTY)

    assert registry.get("tree_builder", "same") is Line
    assert registry.get("verifier", "same") is Dense


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    """The message is enough to fix the recipe."""
    with pytest.raises(PluginError) as error:
        fake_registry().get("tree_builder", "cadtree")

    assert str(error.value) == "unknown tree_builder 'cadtree'; did you mean caddtree? allowed: caddtree, chain"


def test_an_unknown_name_mentions_plugins_that_could_not_be_imported(site: Site) -> None:
    """A plugin that broke before it registered anything may have offered the name."""
    site.install("caddtree-suspect", "raise OSError('no library')")

    with pytest.raises(PluginError, match=r"'wanted' may belong to plugin .* of caddtree-suspect 1.0, .*no library"):
        loaded().get("drafter", "wanted")


@pytest.mark.parametrize("name", ["", "two words", "../x", 3, "a" * 65])
def test_a_name_that_no_recipe_could_use_is_refused(name: Any) -> None:
    """Names are short words."""
    with pytest.raises(PluginError, match="name must be letters, digits"):
        Registry().load_plugin(plugin(tree_builder={name: Line}), THIRD_PARTY)


def test_a_private_field_without_default_is_refused() -> None:
    """No recipe could ever set it."""

    @attrs.frozen
    class Hidden(Line):
        _secret: int = attrs.field(kw_only=True)

    with pytest.raises(PluginError, match="_secret is private and has no default"):
        Registry().load_plugin(plugin(tree_builder={"hidden": Hidden}), THIRD_PARTY)


def test_an_option_called_name_is_refused() -> None:
    """The key ``name`` chooses the strategy."""

    @attrs.frozen
    class Named(Line):
        name: str = ""

    with pytest.raises(PluginError, match="an option cannot be called name"):
        Registry().load_plugin(plugin(tree_builder={"named": Named}), THIRD_PARTY)


def test_registering_one_name_twice_in_one_plugin_is_refused() -> None:
    """The second would hide the first."""

    class Twice:
        @hookimpl
        def register_tree_builders(self, registry: Any) -> None:
            registry.add("twice", Line)
            registry.add("twice", Adaptive)

    with pytest.raises(PluginError, match="registers tree_builder 'twice' twice"):
        Registry().load_plugin(Twice(), THIRD_PARTY)


def test_create_makes_a_strategy_of_checked_options() -> None:
    """Options become constructor arguments, integers floats where a float is declared."""
    built = fake_registry().create("tree_builder", "caddtree", {"share": 1, "weights": [1, 2]})

    assert built == Adaptive(share=1.0, weights=[1.0, 2.0])
    assert isinstance(built.share, float)


def test_create_reports_every_wrong_option() -> None:
    """One error for all of them."""
    with pytest.raises(RecipeError) as error:
        fake_registry().create("tree_builder", "caddtree", {"share": "x", "serch": 1, "max_node_budget": 0})

    assert len(str(error.value).splitlines()) == 3
    assert "tree_builder caddtree: tree_builder.serch: is no option" in str(error.value)


def test_a_constructor_that_raises_is_blamed_on_its_distribution() -> None:
    """A foreign exception becomes a PluginError that names strategy and provider."""

    @attrs.frozen
    class Fragile(Line):
        def __attrs_post_init__(self) -> None:
            raise LookupError("nothing there")

    registry = Registry()
    registry.load_plugin(plugin(tree_builder={"fragile": Fragile}), THIRD_PARTY)

    with pytest.raises(PluginError, match=r"tree_builder fragile of third-party 2\.1 could not be made: LookupError"):
        registry.create("tree_builder", "fragile")


def test_unreadable_metadata_of_one_distribution_leaves_the_others(site: Site) -> None:
    """Whoever wrote it: the plugins of other distributions are found."""
    site.install("caddtree-readable", BUILDER.format(name="extra"))
    site.install("someone-else", "x = 1")
    (site.folder / "someone_else-1.0.dist-info" / "entry_points.txt").write_bytes(b"[caddtree]\nx = \xff\xfe\n")

    registry = loaded()

    assert "extra" in registry.names("tree_builder")
    assert any("UnicodeDecodeError" in broken.reason for broken in registry.broken)


def test_a_strategy_cannot_be_added_after_the_hook_returned() -> None:
    """It would be added to nothing."""
    kept = []

    class Late:
        @hookimpl
        def register_tree_builders(self, registry: Any) -> None:
            registry.add("timely", Line)
            kept.append(registry)

    Registry().load_plugin(Late(), THIRD_PARTY)

    with pytest.raises(PluginError, match=r"'late' of third-party 2\.1 comes after its hook returned"):
        kept[0].add("late", Line)


def test_defaults_are_not_shared_between_recipes() -> None:
    """A list that one user changes is not the next one's default."""
    registry = fake_registry()

    registry.create("tree_builder", "caddtree").weights.append(1.0)

    assert registry.create("tree_builder", "caddtree").weights == []


def test_describe_lists_options_with_types_defaults_and_docs() -> None:
    """What ``caddtree plugins`` prints."""
    found = {(info.kind, info.name): info for info in fake_registry().describe()}

    drafter = found["drafter", "dflash"]
    assert drafter.doc == "Draft a block."
    assert str(drafter.provider) == "fakes 1.0"
    model, length = drafter.options
    assert (model.name, model.type_text, model.is_required, model.doc) == ("model", "str", True, "Folder or hub id.")
    assert (length.name, length.type_text, length.is_required, length.default) == (
        "draft_length",
        "int | None",
        False,
        None,
    )
    search = found["tree_builder", "caddtree"].options[1]
    assert (search.type_text, search.default) == ("scan | first_stop", "scan")


def test_built_in_strategies_come_through_the_same_hooks() -> None:
    """Every module of the strategy packages is asked; none is broken; caddtree is their distribution."""
    registry = default_registry()

    assert [broken for broken in registry.broken if broken.provider.distribution == "caddtree"] == []
    assert {"none", "ngram", "dflash"} <= set(registry.names("drafter"))
    assert {"chain", "ddtree", "caddtree"} <= set(registry.names("tree_builder"))
    assert {"table", "convex", "analytic"} <= set(registry.names("cost_model"))
    assert "sdpa" in registry.names("verifier")
    assert registry.info("verifier", "sdpa").provider.distribution == "caddtree"
    assert default_registry() is registry


def test_every_built_in_strategy_is_documented() -> None:
    """A user sees what a strategy does, and the type of every option."""
    for info in default_registry().describe():
        assert info.doc.endswith("."), info
        assert all(option.type_text for option in info.options)


def test_a_broken_built_in_module_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier whose library is missing is listed, not fatal."""
    monkeypatch.setattr(
        registry_module, "_built_in_modules", lambda: iter(["caddtree.verifiers.sdpa", "caddtree.verifiers.not_there"])
    )
    registry = Registry()

    registry.load_built_in()

    assert registry.names("verifier") == ("sdpa",)
    assert [broken.provider.plugin for broken in registry.broken] == ["caddtree.verifiers.not_there"]


OBJECT = """
import types
from caddtree.plugins.hooks import hookimpl
caddtree_hook_api = {version}

class Plugin:
    @hookimpl
    def register_tree_builders(self, registry):
        import tests.plugins.fakes
        registry.add("line", tests.plugins.fakes.Line)

plugin = Plugin()
"""


def test_the_version_of_the_hooks_may_stand_in_the_module_of_an_object(site: Site) -> None:
    """What is written there is not ignored because the entry point names an object."""
    site.install("caddtree-object", OBJECT.format(version=1), entry_point="caddtree_object:plugin")
    site.install("caddtree-newer-object", OBJECT.format(version=7), entry_point="caddtree_newer_object:plugin")

    registry = loaded()

    assert registry.info("tree_builder", "line").provider.hook_api == 1
    assert "version 7 of the hooks, this caddtree has 1" in broken_of(registry, "caddtree-newer-object").reason


def test_a_plugin_for_older_hooks_is_told_to_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version rises only with what breaks plugins; one that states none is judged by its hooks."""
    monkeypatch.setattr(hooks, "HOOK_API_VERSION", 2)
    old = plugin(tree_builder={"old": Line})
    old.caddtree_hook_api = 1

    with pytest.raises(PluginError, match="version 1 of the hooks, this caddtree has 2; upgrade the plugin"):
        Registry().load_plugin(old, THIRD_PARTY)

    silent = Registry()
    silent.load_plugin(plugin(tree_builder={"silent": Line}), THIRD_PARTY)
    assert silent.info("tree_builder", "silent").provider.hook_api is None


def test_a_name_whose_class_was_refused_is_known_to_have_been_offered() -> None:
    """Also where the plugin had registered something before."""
    registry = Registry()
    with pytest.raises(PluginError):
        registry.load_plugin(plugin(tree_builder={"line": Line, "odd": dict}), THIRD_PARTY)

    with pytest.raises(PluginError, match=r"'odd' was offered by plugin third_party of third-party 2\.1, not used: "):
        registry.get("tree_builder", "odd")


def test_an_interruption_while_plugins_are_imported_is_none_of_their_faults() -> None:
    """Ctrl-C ends the program, not the plugin that happened to be imported."""

    class Slow:
        @hookimpl
        def register_tree_builders(self, registry: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Registry().load_plugin(Slow(), THIRD_PARTY)


def test_a_name_that_is_no_string_is_refused() -> None:
    """Before anybody looks for one that is near."""
    with pytest.raises(PluginError, match=r"the name of a tree_builder is a string, found 7\.5"):
        default_registry().create("tree_builder", 7.5)  # type: ignore[arg-type]


def test_an_observer_has_one_of_three_methods() -> None:
    """Any will do; a class with none is refused with all of them."""

    @attrs.frozen
    class Rule:
        def ends_text(self, tokens: object) -> bool:
            return False

    @attrs.frozen
    class Idle:
        depth: int = 1

    def registering(name: str, strategy_class: type) -> types.SimpleNamespace:
        def register(registry: KindRegistry) -> None:
            registry.add(name, strategy_class)

        return types.SimpleNamespace(register_observers=hookimpl(register))

    known = Registry()
    known.load_plugin(registering("rule", Rule), Provider("p", "1", "p"))
    assert known.names("observer") == ("rule",)
    with pytest.raises(PluginError, match=r"observer 'idle' \(Idle\) lacks on_round or on_finish or ends_text"):
        known.load_plugin(registering("idle", Idle), Provider("q", "1", "q"))
