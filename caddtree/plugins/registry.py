"""The registry: every strategy by kind and name, built in or from another distribution.

A plugin is loaded into a staging area of its own and published whole or not at all, so that a broken one leaves the
rest as it was. What is broken stays listed with its reason, and a name that only a broken plugin could have given
is refused with that reason.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs
import pluggy

from caddtree.core.errors import CaddtreeError, PluginError, RecipeError, blamed, one_line
from caddtree.plugins import hooks
from caddtree.plugins.combination import check_declarations
from caddtree.plugins.hooks import KINDS, STAGES, Kind
from caddtree.plugins.nodes import MappingNode, Origin, Problem, join_problems, node_from_python, shown
from caddtree.plugins.options import (
    OptionInfo,
    check_options,
    constructor_arguments,
    nearest,
    one_line_doc,
    options_of,
)

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_VERSION_NAME = "caddtree_hook_api"
_HOOKS: dict[Kind, str] = {kind: f"register_{kind}s" for kind in KINDS}
_PROTOCOLS: dict[Kind, tuple[str, ...]] = {
    "drafter": ("caddtree.core.protocols:Drafter",),
    "tree_builder": ("caddtree.core.protocols:TreeBuilder",),
    "cost_model": ("caddtree.core.protocols:CostModel",),
    "verifier": ("caddtree.core.protocols:Verifier",),
    "observer": (
        "caddtree.core.protocols:RoundObserver",
        "caddtree.core.protocols:FinishObserver",
        "caddtree.core.protocols:StopRule",
    ),
    "preprocessor": ("caddtree.plugins.preprocessing:Preprocessor",),
    "report_section": ("caddtree.reports.section:ReportSection",),
}
"""Of each kind: a class has all members of one of these."""


@attrs.frozen
class Provider:
    """Where a plugin comes from."""

    distribution: str
    version: str
    plugin: str
    """The module, or the name of the entry point."""

    hook_api: int | None = None
    """The version of the hooks that the plugin says it was written for."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def is_built_in(self) -> bool:
        """Whether this is caddtree itself."""
        return self.distribution == hooks.PROJECT_NAME


@attrs.frozen
class StrategyInfo:
    """One strategy as ``caddtree plugins`` lists it."""

    kind: Kind
    name: str
    doc: str
    options: tuple[OptionInfo, ...]
    provider: Provider
    strategy_class: type

    @property
    def hook(self) -> str:
        """The hook that registered it."""
        return _HOOKS[self.kind]

    @property
    def class_path(self) -> str:
        """Module and name of the class."""
        return f"{self.strategy_class.__module__}.{self.strategy_class.__qualname__}"

    @property
    def source(self) -> tuple[str, int] | None:
        """File and line of the class, where there is a file."""
        try:
            return inspect.getsourcefile(self.strategy_class) or "", inspect.getsourcelines(self.strategy_class)[1]
        except (OSError, TypeError):
            return None


@attrs.frozen
class BrokenPlugin:
    """A plugin that was refused; ``names`` are the strategies it is known to have offered."""

    provider: Provider
    reason: str
    names: tuple[tuple[Kind, str], ...] = ()


@attrs.define
class _Staging:
    """What one plugin registers, before it is published."""

    provider: Provider
    strategies: dict[tuple[Kind, str], StrategyInfo] = attrs.field(factory=dict)
    offered: list[tuple[Kind, str]] = attrs.field(factory=list)
    """Every name that it asked for, also one whose class is unusable."""
    is_closed: bool = False


@attrs.frozen
class _KindStaging:
    """What a hook sees of the registry: one kind of a staging area."""

    staging: _Staging
    kind: Kind

    def add(self, name: str, strategy_class: type) -> None:
        """Stage a strategy, or say what is wrong with it."""
        if self.staging.is_closed:
            raise PluginError(f"{self.kind} {name!r} of {self.staging.provider} comes after its hook returned")
        _check_name(self.kind, name)
        self.staging.offered.append((self.kind, name))
        if (self.kind, name) in self.staging.strategies:
            raise PluginError(f"registers {self.kind} {name!r} twice")
        options = _check_class(self.kind, name, strategy_class)
        self.staging.strategies[self.kind, name] = StrategyInfo(
            self.kind, name, one_line_doc(strategy_class), options, self.staging.provider, strategy_class
        )


class Registry:
    """Strategies by kind and name. :func:`default_registry` returns the one with everything installed."""

    def __init__(self) -> None:
        self._strategies: dict[tuple[Kind, str], StrategyInfo] = {}
        self._broken: list[BrokenPlugin] = []

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """Plugins that were refused, each with its reason."""
        return tuple(self._broken)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of one kind in alphabetical order."""
        return tuple(sorted(name for known, name in self._strategies if known == kind))

    def get(self, kind: Kind, name: str) -> type:
        """Return the class of a strategy.

        Raises:
            PluginError: If there is no such strategy; names the known ones, the nearest, and broken plugins.
        """
        return self.info(kind, name).strategy_class

    def info(self, kind: Kind, name: str) -> StrategyInfo:
        """Return what is known of a strategy.

        Raises:
            PluginError: As :meth:`get`.
        """
        if not isinstance(name, str):
            raise PluginError(f"the name of a {kind} is a string, found {shown(name)}")
        found = self._strategies.get((kind, name))
        if found is None:
            raise PluginError(self._why_unknown(kind, name))
        return found

    def describe(self) -> tuple[StrategyInfo, ...]:
        """Return every strategy with its options, by kind in pipeline order, then by name."""
        return tuple(self._strategies[kind, name] for kind in KINDS for name in self.names(kind))

    def create(self, kind: Kind, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Return a new strategy with these options.

        Raises:
            PluginError: If there is no such strategy, or it raises while it is made.
            RecipeError: If an option is unknown, missing or wrong.
            CaddtreeError: Whatever else the strategy raises on purpose.
        """
        info = self.info(kind, name)
        owner = f"{kind} {name}"
        problems: list[Problem] = []
        section = node_from_python(dict(options or {}), Origin(owner), problems, kind)
        assert isinstance(section, MappingNode)
        values = check_options(info.options, section, kind, owner, problems)
        if problems:
            raise RecipeError(join_problems(problems))
        # what is left at its default stays out: the class may compute it
        given = {key: value for key, value in values.items() if key in section.entries}
        try:
            return info.strategy_class(**constructor_arguments(info.strategy_class, given))
        except Exception as error:
            if info.provider.is_built_in and isinstance(error, CaddtreeError):
                raise
            raise blamed(error, f"{owner} of {info.provider} could not be made", PluginError) from error

    def load_plugin(self, plugin: object, provider: Provider) -> None:
        """Register everything that the hooks of a plugin add, or nothing.

        Raises:
            PluginError: If a hook raises or registers something unusable; the plugin is then listed as broken.
        """
        staging = self._stage(lambda: plugin, provider)
        if staging is None or not self._publish([staging]):
            broken = self._broken[-1]
            raise PluginError(f"plugin {provider.plugin} of {provider}: {broken.reason}")

    def load_built_in(self) -> None:
        """Register the strategies of caddtree itself: every module of the strategy packages that has a hook."""
        version = _version(hooks.PROJECT_NAME)
        stagings = []
        for module in _built_in_modules():
            provider = Provider(hooks.PROJECT_NAME, version, module)
            stagings.append(self._stage(functools.partial(importlib.import_module, module), provider, needs_hook=False))
        self._publish([staging for staging in stagings if staging is not None])

    def load_entry_points(self) -> None:
        """Register the plugins of other distributions; a broken one is logged once and listed, the rest work."""
        stagings = []
        for entry_point in self._entry_points():
            stagings.append(self._stage(functools.partial(_load, entry_point), _provider(entry_point)))
        self._publish([staging for staging in stagings if staging is not None])

    def _entry_points(self) -> list[importlib.metadata.EntryPoint]:
        try:
            return list(importlib.metadata.entry_points(group=hooks.PROJECT_NAME))
        except Exception:
            logger.debug("the metadata of some distribution cannot be read; looking at each alone", exc_info=True)
        found: dict[str, importlib.metadata.EntryPoint] = {}
        for distribution in importlib.metadata.distributions():
            try:
                for entry_point in distribution.entry_points.select(group=hooks.PROJECT_NAME):
                    # the first on the search path is the one that is imported
                    found.setdefault(f"{distribution.name} {entry_point.name}", entry_point)
            except Exception as error:
                name = f"distribution at {distribution.locate_file('')}"
                self._refuse(_Staging(Provider(name, "", "entry points")), _reason(error))
        return list(found.values())

    def _stage(self, load: Callable[[], object], provider: Provider, *, needs_hook: bool = True) -> _Staging | None:
        """Return what a plugin registers, or None after it was refused."""
        staging = _Staging(provider)
        try:
            num_hooks = _run_hooks(load(), staging)
            if needs_hook and num_hooks == 0:
                raise PluginError(f"implements no hook; decorate one of {', '.join(_HOOKS.values())} with hookimpl")
            if needs_hook and not staging.strategies:
                raise PluginError("its hooks register nothing; call registry.add(name, strategy_class) in one")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may exit while it is imported, or panic in another language
            self._refuse(staging, _reason(error), error)
            return None
        finally:
            staging.is_closed = True
        return staging

    def _publish(self, stagings: list[_Staging]) -> bool:
        """Publish what claims no name of another; tell whether that was all.

        Two plugins that claim one name are both refused: which one came first would depend on the search path. One
        that claims a name that is in use already is refused before, so that it takes nobody with it.
        """
        in_use = {key: [info.provider] for key, info in self._strategies.items()}
        left = [staging for staging in stagings if not self._refuse_claims(staging, in_use)]
        claims: dict[tuple[Kind, str], list[Provider]] = {}
        for staging in left:
            for key in staging.strategies:
                claims.setdefault(key, []).append(staging.provider)
        sound = [staging for staging in left if not self._refuse_claims(staging, claims)]
        for staging in sound:
            self._strategies.update(staging.strategies)
        return len(sound) == len(stagings)

    def _refuse_claims(self, staging: _Staging, claims: Mapping[tuple[Kind, str], list[Provider]]) -> bool:
        """Refuse a plugin that registers a name of another; tell whether it was refused."""
        reasons = [
            f"hook {_HOOKS[kind]}: {kind} {name!r} is claimed by {' and by '.join(map(str, others))} too; "
            + ("choose another name" if others[0].is_built_in else "rename one")
            for kind, name in staging.strategies
            if (others := [other for other in claims.get((kind, name), ()) if other is not staging.provider])
        ]
        if reasons:
            self._refuse(staging, "; ".join(reasons))
        return bool(reasons)

    def _refuse(self, staging: _Staging, reason: str, error: BaseException | None = None) -> None:
        provider = staging.provider
        self._broken.append(BrokenPlugin(provider, reason, tuple(staging.offered)))
        logger.warning("plugin %s of %s is not used: %s", provider.plugin, provider, reason)
        logger.debug("plugin %s of %s: the traceback", provider.plugin, provider, exc_info=error)

    def _why_unknown(self, kind: Kind, name: str) -> str:
        message = f"unknown {kind} {shown(name)}; {nearest(name, self.names(kind))}"
        offered = [broken for broken in self._broken if (kind, name) in broken.names]
        # a plugin that failed before it registered anything may have offered any name
        suspects = offered or [broken for broken in self._broken if not broken.names]
        if suspects:
            verb = "was offered by" if offered else "may belong to"
            said = ", ".join(f"plugin {broken.provider.plugin} of {broken.provider}" for broken in suspects)
            message += f"; {shown(name)} {verb} {said}, not used: {'; '.join(b.reason for b in suspects)}"
        return message


@functools.cache
def default_registry() -> Registry:
    """Return the registry of everything installed; the first call imports the strategies."""
    registry = Registry()
    registry.load_built_in()
    registry.load_entry_points()
    return registry


def _built_in_modules() -> Iterator[str]:
    for kind in STAGES:
        package = importlib.import_module(f"{hooks.PROJECT_NAME}.{kind}s")
        for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            yield f"{package.__name__}.{name}"


def _run_hooks(plugin: object, staging: _Staging) -> int:
    """Let a plugin fill ``staging``; return how many hooks it has.

    Raises:
        PluginError: If it was written for other hooks, has one that is not specified, or a hook of it fails.
    """
    staging.provider = attrs.evolve(staging.provider, hook_api=_stated_version(plugin))
    manager = pluggy.PluginManager(hooks.PROJECT_NAME)
    manager.add_hookspecs(hooks)
    try:
        manager.register(plugin, name=staging.provider.plugin)
    except pluggy.PluginValidationError as error:
        raise PluginError(_why_invalid(error)) from error
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            raise PluginError(f"unknown hook {caller.name}; {nearest(caller.name, _HOOKS.values())}")
    _refuse_undecorated(plugin, {caller.name for caller in callers})
    for kind, hook in _HOOKS.items():
        try:
            getattr(manager.hook, hook)(registry=_KindStaging(staging, kind))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            said = ": " if isinstance(error, CaddtreeError) else " raised "
            raise PluginError(f"hook {hook}{said}{_reason(error)}") from error
    return len(callers)


def _stated_version(plugin: object) -> int | None:
    """Return the version of the hooks that a plugin states, or None.

    None is fine: most plugins take what they need by name, a hook that it does not know or an argument that is gone
    is found anyway, and a word that every plugin had to repeat would be copied without a thought.

    Raises:
        PluginError: If it is another one than that of the hooks, or no version.
    """
    # an entry point may name an object: what its module states counts for it
    owner = sys.modules.get(getattr(plugin, "__module__", None) or "")
    version = getattr(plugin, _VERSION_NAME, getattr(owner, _VERSION_NAME, None))
    if version is None:
        return None
    if type(version) is not int or version < 1:
        raise PluginError(f"{_VERSION_NAME} must be a version number of at least 1, found {version!r}")
    if version != hooks.HOOK_API_VERSION:
        is_newer = version > hooks.HOOK_API_VERSION
        raise PluginError(
            f"was written for version {version} of the hooks, this caddtree has {hooks.HOOK_API_VERSION}; "
            + ("upgrade caddtree or install an older plugin" if is_newer else "upgrade the plugin")
        )
    return version


def _why_invalid(error: pluggy.PluginValidationError) -> str:
    """Return what is wrong with a hook, in the words of this package where it is the arguments."""
    found = re.search(r"for hook '(\w+)'.*Argument\(s\) \{(.+)\} are declared", str(error), re.DOTALL)
    if found is None:
        return _reason(error)
    specification = getattr(hooks, found[1])
    known = ", ".join(inspect.signature(specification).parameters)
    return f"hook {found[1]} takes {found[2]}, which it is never given; take only: {known}"


def _refuse_undecorated(plugin: object, decorated: Collection[str]) -> None:
    for hook in _HOOKS.values():
        found = getattr(plugin, hook, None)
        # the specification itself may have been imported
        if callable(found) and hook not in decorated and found is not getattr(hooks, hook):
            raise PluginError(f"hook {hook} is not decorated; put @hookimpl of caddtree.plugins.hooks above it")


def _check_name(kind: Kind, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"a {kind} name must be letters, digits, '-' and '_', found {name!r}")


def _check_class(kind: Kind, name: str, strategy_class: object) -> tuple[OptionInfo, ...]:
    """Return the options of a strategy class.

    Raises:
        PluginError: If it is no attrs class, lacks a member of its kind, or cannot be made from options.
    """
    owner = f"{kind} {name!r}"
    if not isinstance(strategy_class, type) or not attrs.has(strategy_class):
        raise PluginError(f"{owner} must be an attrs class, found {strategy_class!r}; decorate it with attrs.frozen")
    fields = attrs.fields_dict(strategy_class)
    lacks = [
        [member for member in members if not hasattr(strategy_class, member) and member not in fields]
        for members in _members(kind)
    ]
    if all(lacks):
        missing = " or ".join(", ".join(members) for members in lacks)
        raise PluginError(f"{owner} ({strategy_class.__name__}) lacks {missing}")
    hidden = [f.name for f in fields.values() if f.init and f.name.startswith("_") and f.default is attrs.NOTHING]
    if hidden:
        raise PluginError(f"{owner}: {', '.join(hidden)} is private and has no default, so that no recipe can set it")
    if "name" in fields:
        raise PluginError(f"{owner}: an option cannot be called name, which chooses the strategy; rename it")
    try:
        check_declarations(strategy_class)
        return options_of(strategy_class)
    except TypeError as error:
        raise PluginError(f"{owner}: {error}") from error
    except Exception as error:
        raise PluginError(f"{owner}: its options cannot be read: {_reason(error)}") from error


@functools.cache
def _members(kind: Kind) -> tuple[tuple[str, ...], ...]:
    """Return what a class of a kind must have: all members of one of its protocols."""
    found = []
    for path in _PROTOCOLS[kind]:
        # imported here: the protocols need torch, listing a name or reading a recipe's YAML does not
        module, _, protocol = path.partition(":")
        members = vars(getattr(importlib.import_module(module), protocol))
        found.append(tuple(name for name in members if not name.startswith("_")))
    return tuple(found)


def _load(entry_point: importlib.metadata.EntryPoint) -> object:
    """Return what an entry point names.

    Raises:
        PluginError: If there is no such thing, or a module that it needs is missing.
        Exception: Whatever the module raises while it is imported.
    """
    says = f"entry point {entry_point.name} = {entry_point.value!r}"
    match = entry_point.pattern.match(entry_point.value)
    if match is None:
        raise PluginError(f"{says} names neither a module nor module:object; correct it in its pyproject.toml")
    module = match["module"]
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise PluginError(f"{says}: {_reason(error)}; correct the entry point or install it again") from error
        raise PluginError(f"{_reason(error)}, which the plugin needs; install it") from error
    for attribute in filter(None, (match["attr"] or "").split(".")):
        if not hasattr(found, attribute):
            raise PluginError(f"{says}: there is no {attribute} in {module}; correct the entry point")
        found = getattr(found, attribute)
    return found


def _provider(entry_point: importlib.metadata.EntryPoint) -> Provider:
    distribution = entry_point.dist
    if distribution is None or distribution.name is None:
        return Provider(entry_point.value, "", entry_point.name)
    return Provider(distribution.name, distribution.version or "", entry_point.name)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _reason(error: BaseException) -> str:
    """Return an exception as one line."""
    text = one_line(error)
    if isinstance(error, CaddtreeError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
