"""The code blocks of the pages for plugin authors, as ``test_code_blocks.py`` runs those of the others.

In a file of their own because each installs a package and runs its tests by the kit: two workers share the time.
"""

from __future__ import annotations

import pytest

from tests.docs.pages import PLUGIN_PAGES, ROOT, pages


@pytest.mark.parametrize("page", [page for page in pages() if page.parent == PLUGIN_PAGES], ids=str)
def test_the_blocks_of_the_page_run(page, run_page):
    """One after another, as a reader who starts at the top would run them."""
    code, said = run_page(ROOT / page)

    assert code == 0, said
