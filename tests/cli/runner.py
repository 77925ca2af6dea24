"""Runs commands in this process: a process of its own costs seconds of imports."""

from __future__ import annotations

import logging
from typing import Any

from typer.testing import CliRunner

from caddtree.cli import commands, demo, experiments, plugins, profiling, recipes, training  # noqa: F401  (registered by import)
from caddtree.cli.app import app


def caddtree(*arguments: Any, **options: Any) -> Any:
    """Return exit code, stdout and stderr of one command; log lines go to its own stderr."""
    logger = logging.getLogger("caddtree")
    kept = logger.handlers[:], logger.level
    # the handler of an earlier run writes to a stream that is gone
    logger.handlers.clear()
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
    finally:
        logger.handlers[:], level = kept
        logger.setLevel(level)


def lines(text: str) -> list[str]:
    """Return the lines of an output that say something."""
    return [line for line in text.splitlines() if line.strip()]
