"""The pages and their code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PLUGIN_PAGES = Path("docs") / "plugins"

_COMMENT = re.compile(r"\s*<!--\s*(not run|wrong|given|run first):(.*)-->\s*", re.DOTALL)
_NAMED = re.compile(r"# (\S+\.(?:py|yaml|yml|toml))\s*$")


@attrs.frozen
class Block:
    """One fence of a page, or the code of a ``run first`` comment."""

    page: str
    line: int
    """Where its first line of code stands in the page, counted from 1."""
    language: str
    code: str
    name: str | None = None
    """The file that its first line names."""
    marker: str | None = None
    """``not run``, ``wrong`` or ``given``, of the comment above it."""
    reason: str = ""
    """What stands behind the marker."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that are ``given``."""
        words = self.reason.split() if self.marker == "given" else []
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    @property
    def is_run(self) -> bool:
        """Whether the test executes it, or reads it as what it claims to be."""
        return self.marker != "not run" and self.language in ("python", "sh", "yaml", "toml")


def pages(root: Path = ROOT) -> list[Path]:
    """Return every page with code that readers copy, relative to the repository."""
    # what is built or generated below docs is no page
    docs = [path for path in sorted((root / "docs").rglob("*.md")) if not path.name.startswith(("_", "."))]
    others = [root / "README.md", root / "CONTRIBUTING.md", root / "examples" / "plugin" / "README.md"]
    return [path.relative_to(root) for path in [*others, *docs]]


def blocks(text: str, page: str) -> list[Block]:
    """Return the blocks of a page in their order, those inside lists and quotes too."""
    return list(_blocks(text, page))


def _blocks(text: str, page: str) -> Iterator[Block]:
    marker, reason = None, ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "html_block":
            comment = _COMMENT.fullmatch(token.content)
            marker, reason = (comment[1], comment[2].strip()) if comment else (None, "")
            if marker == "run first":
                first_line = comment[2].lstrip(" ").startswith("\n")
                yield Block(page, token.map[0] + 1 + first_line, "python", comment[2].lstrip(" ").removeprefix("\n"))
                marker = None
            continue
        if token.type == "fence":
            words = token.info.split()
            named = _NAMED.match(token.content.split("\n", 1)[0])
            language = words[0] if words else ""
            name = named[1] if named and language in ("python", "yaml", "toml") else None
            yield Block(page, token.map[0] + 2, language, token.content, name, marker, reason)
        marker, reason = None, ""
