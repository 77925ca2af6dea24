"""The pages: Markdown by MyST; the API and the references are made from the code. Needs no network and no GPU."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# once, here: with several jobs Sphinx forks afterwards, and no job imports torch again
import torch  # noqa: F401

from caddtree import __version__

project = "caddtree"
author = "the caddtree developers"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_line",
    "docstrings",
    "recipe_reference",
    "repository_links",
]

myst_heading_anchors = 3
# quotation marks stay as they are; two hyphens in prose are a dash
smartquotes_action = "D"

html_theme = "furo"
html_title = f"caddtree {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
# the interop page documents a model of lm-eval, which takes seconds to import and may be missing
autodoc_mock_imports = ["lm_eval"] + [name for name in ("pytest",) if find_spec(name) is None]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]
add_module_names = False
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
