"""The page: whole in itself, well formed, with everything in it, and deaf to what names say."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

import pytest

from caddtree.experiments.summary import summarise
from caddtree.reports.figures.gallery import draw_pictures
from caddtree.reports.page import html_page
from tests.reports.hostile_run import HOSTILE, hostile_run

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Tags, ids, references and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.text = [], Counter(), [], [], []
        self.styles = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        self._look(attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        self._look(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.text).append(data)

    def _look(self, attributes):
        for name, value in attributes:
            assert not name.startswith("on"), f"{name} runs a script"
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value)
            if "url(" in (value or ""):
                self.references.append(value.partition("url(")[2].partition(")")[0])


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside_of_itself(page, report):
    """Every reference is to an id in the page; no script, no frame, no import of styles, no address at all."""
    assert page.references
    assert all(reference.startswith("#") and reference[1:] in page.ids for reference in page.references)
    assert not {"script", "iframe", "link", "img", "object", "embed", "form"} & set(page.tags)
    assert "@import" not in "".join(page.styles)
    assert "http" not in (report / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed(page):
    """Every tag is closed, every id is there once."""
    assert page.open == []
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_all_tables_and_pictures_are_there(page, pictures):
    """Three tables per setting and the environment; seven pictures per setting."""
    assert page.tags["table"] == 3 * 2 + 1
    assert page.tags["svg"] == page.tags["figure"] == page.tags["figcaption"] == len(pictures) == 7 * 2
    assert page.tags["details"] == 5 + 1


def test_the_page_says_how_to_read_it(page):
    """Pairing, interval, many comparisons, identity, the machine."""
    text = " ".join("".join(page.text).split())

    for wanted in ("paired within such a block", "95 % bootstrap interval", "without a correction for many comparisons",
                   "Identical means", "An Imaginary Processor", "240 of 240 cells", "not distinguishable"):  # fmt: skip
        assert wanted in text


def test_narrow_screens_dark_mode_and_paper_are_thought_of(page):
    """Tables scroll by themselves; colours follow the reader's choice; text in pictures follows the page's colours."""
    styles = "".join(page.styles)

    assert "overflow-x: auto" in styles
    assert "prefers-color-scheme: dark" in styles
    assert "@media print" in styles


def test_pictures_take_the_colours_of_the_page(report):
    """No fixed ink, and no background of their own."""
    text = (report / "report.html").read_text(encoding="utf-8")
    drawn = text[text.index("<svg") :]

    assert "var(--ink)" in drawn
    assert "#1c2126" not in drawn


def test_names_are_text_and_never_markup():
    """A hostile name in every place: it is shown, and it adds no tag."""
    data = hostile_run()
    summary = summarise(data)
    page = Page(html_page(summary, draw_pictures(data, summary)))

    assert page.open == []
    assert "script" not in page.tags
    text = "".join(page.text)
    assert text.count(HOSTILE) > 10
    assert "1 cells failed" in text


def test_a_run_without_pictures_is_a_page_too(summary):
    """Tables alone."""
    page = Page(html_page(summary, ()))

    assert page.tags["svg"] == 0
    assert page.tags["table"] == 7
