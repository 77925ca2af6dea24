"""Links from a page to Markdown files outside the pages, such as the README: the site carries a copy of the file.

MyST does the same for files of every other type. Without it such a link would be a warning, because a page is expected.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class LinkRepositoryFiles(SphinxTransform):
    """Turn references to pages that are files elsewhere in the repository into downloads."""

    # after the parser, before the collectors of files
    default_priority = 200

    def apply(self, **_: Any) -> None:
        """Replace each of them."""
        pages = Path(self.env.srcdir)
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for reference in list(self.document.findall(addnodes.pending_xref)):
            if reference.get("refdomain") != "doc":
                continue
            target = Path(os.path.normpath(pages / (reference["reftarget"] + ".md")))
            if target.is_relative_to(pages) or not target.is_file():
                continue
            download = addnodes.download_reference(
                "",
                "",
                *reference.children,
                refdoc=self.env.docname,
                refdomain="",
                reftarget=os.path.relpath(target, folder),
                reftype="download",
                refexplicit=True,
            )
            reference.replace_self(download)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform."""
    app.add_transform(LinkRepositoryFiles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
