"""Code text: the running Python's own standard library, some modules held out."""

from __future__ import annotations

import sysconfig
from pathlib import Path

HELD_OUT_MODULES = (
    "argparse", "bisect", "calendar", "cmd", "colorsys", "configparser", "csv", "difflib", "fnmatch", "fractions",
    "getopt", "gettext", "heapq", "inspect", "ipaddress", "mailbox", "pprint", "queue", "shlex", "statistics",
    "string", "textwrap", "tokenize", "zipfile",
)  # fmt: skip
_SKIPPED_FOLDERS = {"test", "tests", "site-packages", "idle_test", "lib2to3", "__pycache__", "encodings", "pydoc_data"}
_LARGEST_FILE = 120_000


def module_sources(*, held_out: bool) -> dict[str, str]:
    """Return module name -> source text, sorted by name.

    Args:
        held_out: The held-out modules instead of the training ones.
    """
    root = Path(sysconfig.get_path("stdlib"))
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if set(parts) & _SKIPPED_FOLDERS or any(part.startswith("config-") for part in parts):
            continue
        if (parts[0] in HELD_OUT_MODULES) != held_out or path.name.startswith("_sysconfigdata"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if 200 < len(text) < _LARGEST_FILE:
            sources[".".join(parts)] = text
    return sources
