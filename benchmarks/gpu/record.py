"""What a run leaves behind: one JSON file, rewritten whenever something is finished, and a short table."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs

from .checks import Check

_TRACEBACK_LINES = 6
_MOST_WARNINGS = 40
_FALLBACKS = ("recompile_limit", "torch.compile does not work", "device kernels are not used", "runs without a graph")
"""Of warnings after which something else was measured than was meant."""
_ROOT = Path(__file__).resolve().parents[2]


@attrs.define(eq=False)
class Record:
    """Collects results, failures and what was left out, within a budget of seconds."""

    path: Path
    budget_seconds: float
    results: dict[str, Any] = attrs.field(factory=dict)
    checks: list[Check] = attrs.field(factory=list)
    failures: list[dict[str, Any]] = attrs.field(factory=list)
    skipped: list[str] = attrs.field(factory=list)
    left_out: list[dict[str, Any]] = attrs.field(factory=list)
    """Optional parts that do not work here, and why."""
    warnings: list[str] = attrs.field(factory=list)
    _started: float = attrs.field(factory=time.perf_counter, init=False)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def progress(self, text: str) -> None:
        """Print a line with the seconds so far, aside from the table."""
        print(f"[{self.seconds:6.1f} s] {text}", file=sys.stderr, flush=True)

    def attempt(
        self, name: str, run: Callable[[], object], *, needed_seconds: float = 0.0, is_optional: bool = False
    ) -> bool:
        """Run one part and tell whether it was finished; its failure is noted and ends nothing else.

        Args:
            name: Of the part.
            run: The part.
            needed_seconds: Less than this left of the budget means that it is skipped, and noted as skipped.
            is_optional: Whether a run is good without it.
        """
        if self.seconds + needed_seconds > self.budget_seconds:
            self.skip(name)
            return False
        try:
            run()
        except Exception as error:
            lines = _without_places("".join(traceback.format_exception(error))).strip().splitlines()
            (self.left_out if is_optional else self.failures).append(
                {"part": name, "error": _without_places(repr(error))[:500], "traceback": lines[-_TRACEBACK_LINES:]}
            )
            self.progress(f"{'left out' if is_optional else 'FAILED'}: {name}: {lines[-1][:300]}")
            return False
        return True

    def skip(self, name: str) -> None:
        """Note what the budget left no time for."""
        self.skipped.append(name)
        self.progress(f"skipped for lack of time: {name}")

    def check(self, check: Check) -> None:
        """Note a check."""
        self.checks.append(check)
        self.progress(f"{'ok' if check.passed else 'WRONG'}: {check.name} ({check.detail})")

    @property
    def is_good(self) -> bool:
        """Whether all checks passed and nothing failed or fell back to something slower."""
        return all(check.passed for check in self.checks) and not self.failures and not self.fallbacks

    @property
    def fallbacks(self) -> list[str]:
        """Warnings that say that something else was measured than was meant."""
        return [text for text in self.warnings if any(sign in text for sign in _FALLBACKS)]

    def save(self) -> None:
        """Write everything so far; a file that is there is replaced at once, never half."""
        content = {
            **self.results,
            "seconds": round(self.seconds, 1),
            "checks": [check.to_dict() for check in self.checks],
            "failures": self.failures,
            "skipped": self.skipped,
            "left_out": self.left_out,
            "fallbacks": self.fallbacks,
            "warnings": self.warnings,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".tmp")
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)

    def collect_warnings(self) -> None:
        """From now on note what the package, torch and Transformers warn of."""
        handler = _Collector(self)
        logging.captureWarnings(True)
        # some of torch's loggers do not hand their records on
        for name in ("caddtree", "torch", "torch._dynamo", "torch._inductor", "transformers", "py.warnings"):
            logging.getLogger(name).addHandler(handler)


class _Collector(logging.Handler):
    """Notes every warning once."""

    def __init__(self, record: Record) -> None:
        super().__init__(logging.WARNING)
        self._record = record

    def emit(self, record: logging.LogRecord) -> None:
        text = _without_places(f"{record.name}: {' '.join(record.getMessage().split())}")[:400]
        is_fallback = any(sign in text for sign in _FALLBACKS)
        if text not in self._record.warnings and (is_fallback or len(self._record.warnings) < _MOST_WARNINGS):
            self._record.warnings.append(text)
            self._record.progress(f"warning: {text}")


def _without_places(text: str) -> str:
    """Return a text whose file names begin at the package or the script: where they lie is nobody's concern."""
    return re.sub(r"[^\s\"']*/(site-packages|benchmarks|caddtree)/", r"\1/", text)


def run_facts(commit: str | None) -> dict[str, Any]:
    """Return when, on what and from which commit a run is made."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


_PACKAGES = ("torch", "transformers", "triton", "numpy")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit that the working tree is at, or why it is not known."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {type(error).__name__}"
    return f"{head} with changes" if changed else head
