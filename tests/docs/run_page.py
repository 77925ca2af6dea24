"""Runs the blocks of one page, in the current folder and in their order; see ``test_code_blocks.py``."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
import traceback
import types
from pathlib import Path
from typing import Any

import yaml

from tests.docs.pages import ROOT, Block, blocks

_RECIPE = {"extends", "target", "drafter", "tree_builder", "cost_model", "verifier", "runtime", "generation"}
_RECIPE |= {"observers", "preprocessors"}
_EXPERIMENT = {"base", "axes", "datasets", "variants"}


class BlockError(Exception):
    """A block does not do what the page says."""


def main(page: str) -> None:
    """Run the blocks of ``page``; end with exit code 1 and a word about the first that fails."""
    Page(blocks(Path(page).read_text(encoding="utf-8"), page)).run()


class Page:
    """The blocks of one page and what they have made so far."""

    def __init__(self, page_blocks: list[Block]) -> None:
        self._blocks = page_blocks
        # as a script's: classes that blocks define look their names up there
        self._module = types.ModuleType("__main__")
        sys.modules["__main__"] = self._module
        sys.path.insert(0, "")
        self._files: list[tuple[Block, Path]] = []

    def run(self) -> None:
        """Run all; files are judged at the end, when the plugins that they name are installed."""
        for block in self._blocks:
            self._guarded(block, lambda block=block: self._run(block))
        for block, path in self._files:
            self._guarded(block, lambda block=block, path=path: check_yaml(block, path))

    def _guarded(self, block: Block, act: Any) -> None:
        sys.stdout.flush()
        began = time.perf_counter()
        try:
            act()
        except BlockError as error:
            print(f"{block.place}: {error}")
            raise SystemExit(1) from error
        except BaseException as error:
            traceback.print_exc()
            print(f"{block.place}: {block.language} block: {type(error).__name__}: {error}")
            raise SystemExit(1) from error
        if (seconds := time.perf_counter() - began) > 1:
            print(f"[{block.place}: {seconds:.1f} s]")

    def _run(self, block: Block) -> None:
        path = Path(block.name or f"block-{block.line}.{block.language}")
        if block.name is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        match block.language:
            case "yaml":
                path.write_text(block.code, encoding="utf-8")
                self._files.append((block, path))
            case "toml":
                tomllib.loads(block.code)
            case "json":
                _check_json(block)
            case "python":
                self._python(block)
            case "sh":
                check_commands(block) if block.marker == "not run" else run_commands(block)

    def _python(self, block: Block) -> None:
        # at the lines where they stand, for whoever reads a traceback
        code = compile("\n" * (block.line - 1) + block.code, block.page, "exec")
        if block.name is None and block.marker != "not run":
            exec(code, vars(self._module))


def run_commands(block: Block) -> None:
    """Run a block by a shell that ends at the first command that fails."""
    environment = {**os.environ, **block.environment}
    done = subprocess.run(["bash", "-e", "-c", block.code], stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        raise BlockError(f"exit code {done.returncode}")


def check_commands(block: Block) -> None:
    """Check what can be checked of commands that are not run."""
    code = block.code.replace("\\\n", " ")
    for number, line in enumerate(code.splitlines()):
        try:
            commands = _commands(line)
        except ValueError as error:
            raise BlockError(f"line {number + 1}: {error}") from error
        for words in commands:
            _check_command(words)


def _commands(line: str) -> list[list[str]]:
    """Return the words of every command of a line, without assignments before and redirections behind."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;()"):
            commands.append([])
        elif set(word) <= set("<>&"):
            next(lexer, None)  # the file
        elif not commands[-1] and re.fullmatch(r"\w+=.*", word):
            continue
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def _check_command(words: list[str]) -> None:
    below = words[words.index("-m") + 1 :] if "-m" in words else []
    if words[0] == "caddtree" or below[:1] == ["caddtree"]:
        check_arguments(words[1:] if words[0] == "caddtree" else below[1:])
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in words[1:]:
            if "=" not in target and not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
                raise BlockError(f"the Makefile has no target {target}")
    if "install" in words:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        for extra in re.findall(r"caddtree\[([\w,-]+)\]", " ".join(words)):
            if missing := set(extra.split(",")) - set(extras):
                raise BlockError(f"caddtree has no extra {', '.join(missing)}")
    for word in words:
        is_ours = re.match(r"(benchmarks|tests|docs|examples|caddtree)/", word)
        if is_ours and not (ROOT / word.split("::")[0]).exists():
            raise BlockError(f"there is no {word} in the repository")


def check_arguments(arguments: list[str]) -> None:
    """Parse arguments as the command line does, without running the command."""
    import importlib
    import pkgutil

    import typer

    import caddtree.cli
    from caddtree.cli.app import app

    for module in pkgutil.iter_modules(caddtree.cli.__path__):
        importlib.import_module(f"caddtree.cli.{module.name}")
    command: Any = typer.main.get_command(app)
    name, rest, context = "caddtree", list(arguments), None
    try:
        while True:
            context = command.make_context(name, rest, parent=context)
            if not getattr(command, "commands", None):
                return
            rest = [*getattr(context, "_protected_args", ()), *context.args]
            if not rest:
                return
            name, command, rest = command.resolve_command(context, rest)
    except SystemExit:
        raise
    except Exception as error:
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        raise BlockError(f"caddtree {shlex.join(arguments)}: {said}") from error
    except BaseException:
        # typer ends a command that asks for its help or version
        return


def check_yaml(block: Block, path: Path) -> None:
    """Check a recipe or an experiment; a part of a recipe is checked on top of ``demo``."""
    keys = set(yaml.safe_load(block.code) or {})
    if keys & _EXPERIMENT:
        problem = _ask(block, "python", "-c", _CHECK_EXPERIMENT, str(path))
    elif keys & _RECIPE:
        if not keys & {"extends"} and not {"target", "drafter"} <= keys:
            path = path.with_name(f"whole-{path.name}")
            path.write_text(f"extends: demo\n{block.code}", encoding="utf-8")
        problem = _ask(block, "caddtree", "recipe", "check", str(path))
    elif block.marker == "not run":
        return
    else:
        raise BlockError(f"YAML with the keys {sorted(keys)} is neither a recipe nor an experiment; mark it as not run")
    if block.marker == "wrong" and problem is None:
        raise BlockError("is marked as wrong, but nothing is wrong")
    if block.marker != "wrong" and problem is not None:
        raise BlockError(problem)


_CHECK_EXPERIMENT = """
import sys
from caddtree.core.errors import CaddtreeError
from caddtree.experiments.experiment_files import load_experiment
try:
    load_experiment(sys.argv[1])
except CaddtreeError as error:
    sys.exit(str(error))
"""


def _ask(block: Block, *words: str) -> str | None:
    """Return what a command of its own says when it fails; it sees the plugins that are installed by now."""
    environment = {**os.environ, **block.environment}
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    return (done.stdout + done.stderr).strip() if done.returncode else None


def _check_json(block: Block) -> None:
    """One document, or one per line."""
    try:
        json.loads(block.code)
    except ValueError:
        for line in block.code.splitlines():
            json.loads(line)
