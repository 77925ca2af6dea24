"""``plugins``: what is installed, where it comes from, what was refused; and a package to start a new one from."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from caddtree.cli.app import app, command
from caddtree.cli.options import JsonOption
from caddtree.core.errors import PluginError
from caddtree.plugins.hooks import Kind

if TYPE_CHECKING:
    from caddtree.plugins.options import OptionInfo
    from caddtree.plugins.registry import BrokenPlugin, Provider, Registry, StrategyInfo

_WIDEST = 100
_INDENT = "    "


class _ListsUnlessTold(TyperGroup):
    """A group whose ``list`` is meant where no subcommand is named: ``plugins ddtree`` is ``plugins list ddtree``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "--help"}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


plugins_app = typer.Typer(
    cls=_ListsUnlessTold,
    help="List every strategy and extension, which is what happens without a subcommand, or start a new one.",
)
app.add_typer(plugins_app, name="plugins")


@command(plugins_app, name="list")
def plugins(
    names: Annotated[list[str] | None, typer.Argument(help="Only these names, kinds, packages or plugins.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show origin, version and every option's documentation too.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """List every strategy and extension with its options and defaults, and every plugin that cannot be used."""
    from caddtree.plugins.hooks import HOOK_API_VERSION
    from caddtree.plugins.recipe import shipped_recipes
    from caddtree.plugins.registry import default_registry

    registry = default_registry()
    found = _chosen(registry, names or ())
    if json_:
        strategies = [_strategy_record(info) for info in found]
        broken = [_broken_record(entry) for entry in registry.broken]
        listing = {"hook_api": HOOK_API_VERSION, "strategies": strategies, "broken": broken}
        print(json.dumps({**listing, "recipes": list(shipped_recipes())}))
        return
    if not found:
        print(f"nothing of {', '.join(names or ())} can be used")
    elif verbose:
        print("\n\n".join("\n".join(_strategy_lines(info)) for info in found))
        print(f"\nhooks: version {HOOK_API_VERSION}")
    else:
        _print_strategies(found)
    for entry in registry.broken:
        print(f"broken: {_verbose_broken(entry) if verbose else f'{entry.provider}: {entry.reason}'}")
    if registry.broken:
        print("with CADDTREE_LOG=debug in the environment, the traceback of each is shown")
    print(f"recipes: {', '.join(shipped_recipes())}")


@command(plugins_app)
def new(
    name: Annotated[str, typer.Argument(help="What recipes or experiments will call it, such as wide-tree.")],
    kind: Annotated[Kind, typer.Option(help="What it is: a stage of the pipeline, or what stands around one.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where the package goes; caddtree-NAME in the current folder when left out.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write the package of a new plugin: code that works, a test, a recipe or experiment, and the commands to run."""
    from caddtree.plugins.registry import default_registry
    from caddtree.plugins.scaffold import Scaffold, write_plugin

    scaffold = Scaffold(name, kind)
    folder = Path(scaffold.distribution) if folder is None else folder
    files = write_plugin(scaffold, folder, default_registry())
    commands = [f"cd {shlex.quote(str(folder))}", *scaffold.commands]
    if json_:
        print(json.dumps({"folder": str(folder), "files": [str(path) for path in files], "commands": commands}))
        return
    print(f"wrote {', '.join(path.relative_to(folder).as_posix() for path in files)} in {folder}")
    print(f"your own code goes into {scaffold.module}.py; next:")
    print("\n".join(f"{_INDENT}{line}" for line in commands))


def _chosen(registry: Registry, names: Iterable[str]) -> list[StrategyInfo]:
    """Return what has a name, kind, distribution or plugin that is asked for; all when nothing is.

    Raises:
        PluginError: If a name is nothing that is installed, nor anything that a refused plugin is known to offer.
    """
    from caddtree.plugins.hooks import KINDS
    from caddtree.plugins.options import nearest

    found = [(info, _words(info.kind, info.name, info.provider)) for info in registry.describe()]
    known, wanted = set(KINDS).union(*(words for _, words in found)), set(names)
    refused = {name for entry in registry.broken for _, name in entry.names}
    # one that failed before it registered anything is known by where it came from alone
    refused |= {word for entry in registry.broken for word in _origins(entry.provider)}
    for name in sorted(wanted - known - refused):
        hint = f"; plugins that cannot be used: {len(registry.broken)}, see caddtree plugins" if registry.broken else ""
        raise PluginError(f"{name!r} is no strategy, extension, kind or plugin; {nearest(name, known)}{hint}")
    return [info for info, words in found if not wanted or wanted & words]


def _words(kind: str, name: str, provider: Provider) -> set[str]:
    # caddtree is the name of a strategy; its distribution is no word of its own
    return {kind, name} if provider.is_built_in else {kind, name, *_origins(provider)}


def _origins(provider: Provider) -> tuple[str, str]:
    """Return the distribution and its entry point."""
    return provider.distribution, provider.plugin


def _print_strategies(found: Iterable[StrategyInfo]) -> None:
    from rich.table import Table
    from rich.text import Text

    from caddtree.cli.tables import print_table

    table = Table(title="strategies and extensions")
    for name in ("kind", "name", "options", "what it does"):
        table.add_column(name, overflow="fold")
    for info in found:
        options = "\n".join(_option_line(option) for option in info.options)
        # as text: brackets such as those of list[int] are no markup
        table.add_row(*(Text(str(cell)) for cell in (info.kind, info.name, options, info.doc)))
    print_table(table)


def _option_line(option: OptionInfo) -> str:
    return f"{option.name}: {option.type_text} {'required' if option.is_required else f'= {_repr(option.default)}'}"


def _strategy_lines(info: StrategyInfo) -> Iterator[str]:
    """Yield everything about a strategy, in lines that fit the terminal; a path is never broken."""
    yield f"{info.kind} {info.name}"
    yield from _wrapped(info.doc, _INDENT)
    yield from _wrapped(f"from     {_origin(info)}", _INDENT, then=_INDENT + " " * 9)
    yield f"{_INDENT}hook     {info.hook}"
    yield f"{_INDENT}class    {info.class_path}"
    if info.source is not None:
        yield f"{_INDENT}file     {info.source[0]}:{info.source[1]}"
    if not info.options:
        yield f"{_INDENT}options  none"
        return
    yield f"{_INDENT}options"
    for option in info.options:
        yield from _wrapped(_option_line(option), 2 * _INDENT, then=4 * _INDENT)
        yield from _wrapped(option.doc, 3 * _INDENT)


def _origin(info: StrategyInfo) -> str:
    provider = info.provider
    if provider.is_built_in:
        return f"{provider}, built in"
    stated = "" if provider.hook_api is None else f", written for version {provider.hook_api} of the hooks"
    return f"{provider}, plugin {provider.plugin}{stated}"


def _wrapped(text: str, indent: str, *, then: str | None = None) -> list[str]:
    width = min(shutil.get_terminal_size().columns, _WIDEST) if sys.stdout.isatty() else _WIDEST
    return textwrap.wrap(
        str(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent if then is None else then,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verbose_broken(entry: BrokenPlugin) -> str:
    offered = f" (offered {', '.join(f'{kind} {name}' for kind, name in entry.names)})" if entry.names else ""
    return f"{entry.provider}, plugin {entry.provider.plugin}: {entry.reason}{offered}"


def _strategy_record(info: StrategyInfo) -> dict[str, Any]:
    file, line = info.source or (None, None)
    return {
        "kind": info.kind,
        "name": info.name,
        "summary": info.doc,
        "provider": str(info.provider),
        "distribution": info.provider.distribution,
        "version": info.provider.version,
        "plugin": info.provider.plugin,
        "hook": info.hook,
        "hook_api": info.provider.hook_api,
        "class": info.class_path,
        "file": file,
        "line": line,
        "options": [
            {
                "name": option.name,
                "type": option.type_text,
                "required": option.is_required,
                "default": None if option.is_required else _plain(option.default),
                "doc": str(option.doc),
            }
            for option in info.options
        ],
    }


def _broken_record(entry: BrokenPlugin) -> dict[str, Any]:
    return {
        "plugin": str(entry.provider),
        "distribution": entry.provider.distribution,
        "version": entry.provider.version,
        "entry_point": entry.provider.plugin,
        "reason": entry.reason,
        "offered": [{"kind": kind, "name": name} for kind, name in entry.names],
    }


def _plain(value: Any) -> Any:
    """Return a default as JSON holds it; one that no recipe could write is shown as Python writes it."""
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    return _repr(value)


def _repr(value: Any) -> str:
    """Return a default as Python writes it; one plugin's broken ``repr`` must not hide the others."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
