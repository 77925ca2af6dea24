"""What the API pages do to docstrings and signatures beyond autodoc and napoleon."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[~?numpy\.(\w+)\]\]")
_SENTENCES = ("attribute", "property", "data")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handlers around napoleon's own, whose priority is 500."""
    kept: list[str] = []

    def keep(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        """Put the words below a field aside: napoleon takes what stands before a colon in them for a type."""
        if what in _SENTENCES:
            kept[:] = lines
            lines[:] = ["kept"]

    def restore(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        if what in _SENTENCES:
            lines[:] = kept

    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("autodoc-process-signature", _readable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _readable(
    _app: Sphinx, _what: str, _name: str, obj: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Return a signature as the source has it: arrays by their alias, and none where there is none to call."""
    if getattr(obj, "_is_protocol", False):
        return "", None
    return _aliased(signature), _aliased(returns)


def _aliased(text: str | None) -> str | None:
    return None if text is None else _ARRAY.sub(r"NDArray[\1]", text)
