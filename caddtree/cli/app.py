"""The ``caddtree`` command and what all its subcommands share: errors, exit codes, logging."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Annotated, Any

import typer

import caddtree
from caddtree.core.errors import CaddtreeError, GroupError, InputError, NumericalError, ResourceError, StageError

app = typer.Typer(
    name="caddtree",
    help="Decode several times faster without changing one word: draft trees whose size is chosen every round.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

EXIT_RUN_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_FAULTS = (GroupError, NumericalError, ResourceError, StageError)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"caddtree {caddtree.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    if debug:
        os.environ["CADDTREE_DEBUG"] = "1"


def command(*groups: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a subcommand of ``groups`` (the top level when none), with errors as one line each."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            rank = _rank()
            try:
                _set_up_logging(rank)
                with _silent_but_for_the_first(rank):
                    function(*args, **kwargs)
            except typer.Exit:
                raise
            except KeyboardInterrupt:
                # what was printed stays; the line is ended so that the prompt of the shell starts on its own
                sys.stdout.flush()
                if rank == 0:
                    print("\ninterrupted", file=sys.stderr)
                raise typer.Exit(EXIT_INTERRUPTED) from None
            except BrokenPipeError:
                # the reader of our output went away: nothing to say, and nobody to say it to
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(EXIT_RUN_FAULT) from None
            except Exception as error:
                if os.environ.get("CADDTREE_DEBUG"):
                    raise
                name = "" if rank == 0 else f"rank {rank}: "
                print(f"{name}error: {_one_line(error)}", file=sys.stderr)
                # a file that cannot be used, or bytes that are no text, are the user's to mend, as wrong input is
                is_fault = isinstance(error, _FAULTS) or not isinstance(error, CaddtreeError | OSError | UnicodeError)
                raise typer.Exit(EXIT_RUN_FAULT if is_fault else EXIT_USER_ERROR) from error

        for group in groups or (app,):
            group.command(name=name)(guarded)
        return function

    return register


def _rank() -> int:
    """Return the number of this process among those that torchrun started; each runs the same command."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdigit() and os.environ.get("WORLD_SIZE", "1") != "1" else 0


@contextmanager
def _silent_but_for_the_first(rank: int) -> Iterator[None]:
    """While entered, answers, figures and progress bars come from one process alone; errors come from all."""
    if rank == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _one_line(error: Exception) -> str:
    if isinstance(error, CaddtreeError):
        return str(error)
    if isinstance(error, OSError | UnicodeError):
        return str(error).splitlines()[0]
    return f"{type(error).__name__}: {error}; caddtree --debug COMMAND shows where"


def main() -> None:
    """Run the command line."""
    # registered by import, here, so that `--help` costs no model library
    from caddtree.cli import commands, demo, doctor, experiments, plugins, profiling, recipes, training  # noqa: F401

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    app()


class _Once(logging.Filter):
    """Let every message through once: several recipes of one command load the same drafter."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new


def _set_up_logging(rank: int) -> None:
    if logging.getLogger("caddtree").handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_Once())
    root = logging.getLogger("caddtree")
    root.addHandler(handler)
    level = os.environ.get("CADDTREE_LOG", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise InputError(f"CADDTREE_LOG must be a level such as info or error, found {level.lower()!r}")
    root.setLevel(level if rank == 0 else logging.ERROR)
