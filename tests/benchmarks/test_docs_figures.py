"""The measured pages of the documentation: their numbers and pictures are those of the kept result."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.pages.drawing import ancestors, draw, places
from benchmarks.pages.measuring import interest, is_looping
from benchmarks.pages.phrases import facts
from caddtree.core.draft_tree import visibility_mask

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "docs_figures.json"
FIGURES = ROOT / "docs" / "figures"
DATA = json.loads(RESULT.read_text(encoding="utf-8"))
PICTURES = draw(DATA)
FACTS = facts(DATA)
SVG = "{http://www.w3.org/2000/svg}"
OFF_BY = 1.5
"""Points that a place may move between versions of a font."""


def prose(page: str) -> str:
    """The page without code, one blank between words."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return " ".join(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).split())


def labels(svg: str) -> list[str]:
    """All texts of a picture, in order."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def outlines(svg: str) -> list[list[float]]:
    """The numbers of every path of a picture, in order."""
    paths = [path.get("d", "") for path in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    return [[float(number) for number in re.findall(r"-?\d+\.?\d*", path)] for path in paths]


def drawn_by(svg: str) -> str:
    """The version of matplotlib that a picture names."""
    found = re.search(r"Matplotlib v([\d.]+)", svg)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(("page", "phrase"), [(page, phrase) for page in FACTS for phrase in FACTS[page]])
def test_a_page_quotes_what_was_measured(page: str, phrase: str):
    """Every phrase that is made from the result stands on its page, word for word."""
    assert phrase in prose(page)


@pytest.mark.parametrize("page", FACTS)
def test_a_page_has_no_other_measured_number(page: str):
    """What is left without those phrases holds no decimal, percentage or time but the options of commands."""
    text = prose(page)
    for phrase in sorted(FACTS[page], key=len, reverse=True):
        text = text.replace(phrase, "")
    text = re.sub(r"`[^`]*`", "", text)

    left = re.findall(r"\d+\.\d+|\d+ (?:%|ms|tokens/s)", text)

    # the 67 % are named once more, and the bound of the learned step is the code's
    assert set(left) <= {"67 %", "0.2"}


def test_the_repeated_figure_is_the_largest_misfit():
    """The 67 % that a page explains are those of the longest context."""
    assert any("and 67 %" in phrase for phrase in FACTS["cost-models.md"])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_from_the_result(name: str):
    """The kept picture has the same texts as one drawn now, and by the same matplotlib the same lines."""
    kept = (FIGURES / name).read_text(encoding="utf-8")
    drawn = PICTURES[name]

    assert labels(kept) == labels(drawn)
    if drawn_by(kept) == drawn_by(drawn):
        assert [len(path) for path in outlines(kept)] == [len(path) for path in outlines(drawn)]
        for old, new in zip(outlines(kept), outlines(drawn), strict=True):
            assert old == pytest.approx(new, abs=OFF_BY)


def test_another_result_gives_other_pictures():
    """The comparison notices one changed cost, one changed stage and one changed size."""
    other = copy.deepcopy(DATA)
    other["costs"]["table"][0][5] *= 1.3
    other["text"]["methods"]["chain"]["rounds"][0]["seconds"]["verify"] *= 3
    other["sizes"][0]["rounds"][0]["size"] += 4

    drawn = draw(other)

    for name in ("costs.svg", "timeline.svg", "sizes.svg"):
        old, new = outlines(PICTURES[name]), outlines(drawn[name])
        assert any(path != pytest.approx(twin, abs=OFF_BY) for path, twin in zip(old, new, strict=True))


def test_the_same_result_gives_the_same_bytes():
    """Drawing has no date and no random ids."""
    assert draw(DATA) == PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_and_shown_with_words(name: str):
    """Under 150 KiB, and on a page with a text for those who do not see it."""
    pages = [(ROOT / "docs" / page).read_text(encoding="utf-8") for page in FACTS]

    assert (FIGURES / name).stat().st_size < 150 * 1024
    shown = [alt for page in pages for alt in re.findall(rf"!\[([^\]]*)\]\(figures/{name}\)", page)]
    assert len(shown) == 1
    assert len(shown[0].split()) >= 8


def test_the_drawn_mask_is_the_one_that_is_verified():
    """The cells of a row are the nodes that the decoder's own mask lets it see."""
    import torch

    nodes = DATA["round"]["nodes"]
    mask = visibility_mask(torch.tensor([node["parent"] for node in nodes]))

    for number in range(len(nodes)):
        assert sorted(ancestors(nodes, number)) == mask[number].nonzero().flatten().tolist()


def test_the_round_is_consistent():
    """The path is one of the tree, its tokens are those gained, and Phi is the sum of the weights."""
    round_ = DATA["round"]
    nodes, path = round_["nodes"], round_["path"]

    assert path == sorted(ancestors(nodes, path[-1]))
    assert round_["tokens"] == [nodes[number]["token"] for number in path[1:]] + [round_["bonus"]]
    assert round_["expected"] == pytest.approx(sum(node["weight"] for node in nodes[1:]), rel=1e-5)
    assert "".join(round_["tokens"]) in DATA["text"]["answer"]


def test_leaves_have_rows_of_their_own():
    """A parent lies level with its first child, and no two nodes lie on each other."""
    nodes = [{"parent": parent} for parent in (-1, 0, 1, 1, 0)]

    assert places(nodes) == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 2)]


def test_what_is_called_looping_and_interesting():
    """An answer of one word loops; a path off the chain interests more than a longer one on it."""
    assert is_looping([7] * 20)
    assert not is_looping(range(20))
    assert interest([0, 1, 4]) > interest([0, 1, 2, 3])


def test_the_result_says_what_it_ran_on_and_nothing_else():
    """A processor, versions, threads; no folder and no name of a host."""
    assert set(DATA["machine"]) == {"processor", "threads", "python", "torch", "transformers", "caddtree"}
    assert not re.search(r"/(home|root|work|tmp|usr)/", Path(RESULT).read_text(encoding="utf-8"))
