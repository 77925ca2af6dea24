"""``{command-line}``: every command with its arguments, options and help, from the application itself."""

from __future__ import annotations

import importlib
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import caddtree.cli
from caddtree.cli.app import app


def reference() -> str:
    """Return the reference as Markdown, in the order of ``caddtree --help``."""
    # commands register themselves where their module is imported
    for module in pkgutil.iter_modules(caddtree.cli.__path__):
        importlib.import_module(f"caddtree.cli.{module.name}")
    command = typer.main.get_command(app)
    return "\n\n".join(part for part in _described(command, "caddtree") if part) + "\n"


def _described(command: Any, path: str) -> Iterator[str]:
    below = getattr(command, "commands", {})
    if " " in path:
        yield f"## {path}" if path.count(" ") == 1 else f"### {path}"
    yield _prose(command.help or "")
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    yield "```text\n" + _usage(path, arguments, options, has_commands=bool(below)) + "\n```"
    yield _table(
        "argument", [(f"`{_metavar(argument)}`", _default(argument), argument.help or "") for argument in arguments]
    )
    kinds = _kinds(command)
    yield _table("option", [(_names(option, kinds), _default(option), option.help or "") for option in options])
    for name, child in below.items():
        if not child.hidden:
            yield from _described(child, f"{path} {name}")


def _usage(path: str, arguments: list[Any], options: list[Any], *, has_commands: bool) -> str:
    words = [path, *(["[OPTIONS]"] if options else [])]
    words += [_metavar(argument) if argument.required else f"[{_metavar(argument)}]" for argument in arguments]
    return " ".join([*words, *(["COMMAND ..."] if has_commands else [])])


def _metavar(argument: Any) -> str:
    name = str(argument.metavar or argument.name).strip("[]").removesuffix("...").upper()
    return f"{name}..." if argument.nargs != 1 else name


def _names(option: Any, kinds: dict[str, str]) -> str:
    """Return how an option is written, with the kind of value that it takes."""
    names = [*option.opts, *option.secondary_opts]
    kind = "" if option.is_flag else f" {kinds[option.name]}"
    return ", ".join([f"`{names[0]}{kind}`", *(f"`{name}`" for name in names[1:])])


def _kinds(command: Any) -> dict[str, str]:
    """Return a word for the value of each option that takes one, from the signature of the command."""
    hints = typing.get_type_hints(command.callback) if command.callback else {}
    words = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
    kinds = {}
    for name, hint in hints.items():
        if name == "return":
            continue
        # int | None and list[str] | None are asked for as int and str
        parts = [part for part in typing.get_args(hint) or (hint,) if part is not type(None)]
        (inner,) = typing.get_args(parts[0]) or parts[:1]
        kinds[name] = words.get(inner, "")
    return kinds


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if callable(value) or value is None or value is False or value == () or value == []:
        return ""
    return f"`{value}`"


def _table(what: str, rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {what} | default | meaning |", "|---|---|---|"]
    for names, default, meaning in rows:
        cells = (names, default, _prose(meaning))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _prose(text: str) -> str:
    """Return a help text as Markdown: options and values as code, everything else literally."""
    pieces = re.split(r"(`+[^`]+`+|(?<!\S)--[\w-]+(?: [\w.]+=\S*\w)?|(?<!\S)[\w.]+=\S*\w)", " ".join(text.split()))
    return "".join(
        f"`{piece.strip('`')}`" if number % 2 else re.sub(r"([\\*_\[\]<>#])", r"\\\1", piece)
        for number, piece in enumerate(pieces)
    )


class CommandLine(SphinxDirective):
    """The directive."""

    def run(self) -> list[nodes.Node]:
        """Return the reference as parsed Markdown."""
        return self.parse_text_to_nodes(reference(), allow_section_headings=True)


def setup(app_: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app_.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
