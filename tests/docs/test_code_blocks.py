"""Every code block of every page runs: a page whose example is out of date is a failing test.

What a block is, and what happens to it. The pages are all Markdown files below ``docs``, the README, CONTRIBUTING and
the example plugin's README; indented text is no code. Every page has a scratch folder that looks like a clone.

* ``python``: executed, all of a page in their order and in one namespace.
* ``sh``: each block run by ``bash -e`` from the scratch folder, with ``caddtree``, ``python`` and ``pip`` on the path.
  Those are forks of one process that has imported torch (``nursery.py``); ``pip install FOLDER`` really installs, but
  without network; profiles are measured in seconds.
* ``yaml``: a recipe or an experiment, checked with the plugins that the page has installed; a part of a recipe is
  checked on top of ``demo``.
* ``toml`` and ``json``: parsed. ``text``: output and pictures.
* A ``python``, ``yaml`` or ``toml`` block whose first line is a comment with a file name is written to that file;
  Python is then not executed.
* ``<!-- not run: REASON -->`` directly above a fence: Python is only compiled, of commands only the arguments of
  ``caddtree``, targets of ``make``, extras and paths of this repository are checked, YAML that is a recipe is checked.
* ``<!-- wrong: REASON -->`` above YAML: it must be refused.
* ``<!-- given: NAME=VALUE ... -->`` above YAML or commands: environment variables that it is checked or run with.
* ``<!-- run first: CODE -->`` is Python that readers do not see, for names that a page takes for granted.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PLUGIN_PAGES, ROOT, blocks, pages

PAGES = pages()
LANGUAGES = {"python", "sh", "yaml", "toml", "json", "text"}
DIRECTIVE = re.compile(r"\{[\w-]+\}")


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != PLUGIN_PAGES], ids=str)
def test_the_blocks_of_the_page_run(page, run_page):
    """One after another, as a reader who starts at the top would run them."""
    code, said = run_page(ROOT / page)

    assert code == 0, said


def page_blocks(page: Path):
    return blocks((ROOT / page).read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_fence_has_a_language_and_every_marker_a_reason(page):
    """A misspelt language would be a block that nobody runs."""
    for block in page_blocks(page):
        assert block.language in LANGUAGES or DIRECTIVE.fullmatch(block.language), block.place
        is_stated = bool(block.environment) if block.marker == "given" else len(block.reason.split()) >= 3
        assert block.marker is None or is_stated, f"{block.place}: {block.marker} without a reason"
        assert block.marker != "wrong" or block.language == "yaml", block.place


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_with_code_has_code_that_runs(page):
    """Markers are the exception."""
    code = [block for block in page_blocks(page) if block.language in ("python", "sh", "yaml", "toml")]

    assert not code or any(block.is_run for block in code)


def test_every_marker_stands_above_a_fence():
    """A comment that ends up elsewhere, after an edit, marks nothing."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        stated = len(re.findall(r"<!--\s*(?:not run|wrong|given):", text))

        assert stated == sum(block.marker is not None for block in page_blocks(page)), page


BROKEN = {
    "an exception": ("```python\nvalue = 1\nassert value == 2\n```", r"page\.md:4: python block: AssertionError"),
    "a name of no block": ("```python\nprint(missing)\n```", "NameError"),
    "a command that fails": ("```sh\ntrue\nfalse\ntrue\n```", r"page\.md:4: exit code 1"),
    "an option that is none": ("```sh\ncaddtree generate hello --no-such-option\n```", "exit code 2"),
    "a recipe with a typo": ("```yaml\nextends: demo\ntree_builder: {name: cadtree}\n```", "did you mean caddtree"),
    "a part of a recipe": ("```yaml\nruntime: {graphs: always}\n```", "runtime.graphs"),
    "an experiment": ("```yaml\nbase: demo\naxes: {drafters: [ngram]}\ndatasets: [code]\n```", "drafters"),
    "other YAML": ("```yaml\nsteps: [one]\n```", "neither a recipe nor an experiment"),
    "wrong that is right": ("<!-- wrong: shows an error -->\n```yaml\nextends: demo\n```", "nothing is wrong"),
    "not run, no Python": ("<!-- not run: needs a GPU -->\n```python\nfor\n```", "SyntaxError"),
    "not run, no option": ("<!-- not run: on a GPU -->\n```sh\nX=1 caddtree generate hi --fast | cat\n```", "--fast"),
    "not run, no command": ("<!-- not run: needs a GPU -->\n```sh\ncaddtree generates hi\n```", "generates"),
    "not run, no target": ("<!-- not run: takes hours -->\n```sh\nmake everything\n```", "no target everything"),
    "not run, no extra": ("<!-- not run: downloads -->\n```sh\npip install 'caddtree[gpu]'\n```", "no extra gpu"),
    "not run, no file": ("<!-- not run: takes hours -->\n```sh\npython benchmarks/none.py\n```", "benchmarks/none.py"),
    "not run, a wrong recipe": ("<!-- not run: shown -->\n```yaml\nextends: dem\n```", "did you mean demo"),
    "installing from an index": ("```sh\npython -m pip install caddtree\n```", "needs the network"),
    "TOML": ("```toml\nkey = \n```", "toml block"),
    "JSON": ('```json\n{"key": }\n```', "json block"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_block_fails_the_page(case, run_page, tmp_path):
    """The runner says which block, and what was wrong."""
    text, message = BROKEN[case]
    page = tmp_path / "page.md"
    page.write_text(f"# Broken\n\n{text}\n", encoding="utf-8")
    code, said = run_page(page)

    assert code == 1, said
    assert re.search(message, said), said


SOUND = """# Sound

<!-- run first:
hidden = 3
-->

```python
# made/helper.py
value = 4
```

```python
import sys

import attrs

sys.path.append("made")
from helper import value


@attrs.frozen
class Pair:
    total: int = hidden + value


assert Pair().total == 7
```

```sh
echo $((3 + 4)) > sum.txt   # a file that the next block reads
python -c "import torch; print('torch is there')" | grep torch
caddtree --version
```

1. In a list:

   ```python
   assert open("sum.txt").read() == "7\\n"
   ```

<!-- not run: needs a GPU and the weights -->
```sh
CUDA_VISIBLE_DEVICES=0 caddtree generate "def main(" --recipe caddtree-qwen3-4b \\
    --set tree_builder.max_node_budget=64 > answer.txt && make test
torchrun --nproc-per-node 2 -m caddtree chat --recipe my.yaml
```

<!-- given: WORD=river -->
```sh
test $WORD = river
```

```json
{"id": 1}
{"id": 2}
```
"""


def test_a_sound_page_passes(run_page, tmp_path):
    """Hidden code, files, namespaces across blocks, shell syntax, lists, markers."""
    page = tmp_path / "page.md"
    page.write_text(SOUND, encoding="utf-8")
    code, said = run_page(page)

    assert code == 0, said
    assert "torch is there" in said


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(
        r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_of_the_page_lead_somewhere(page):
    """To files of the repository and headings in them; the site's own build checks the pages among each other again."""
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = re.sub(r"^ *```.*?^ *```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page

        assert path.exists(), f"{page}: {target}"
        # headings that a directive makes are not in the file
        if anchor and path.suffix == ".md" and "```{" not in path.read_text(encoding="utf-8"):
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page}: {target}"
