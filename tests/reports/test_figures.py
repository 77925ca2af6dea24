"""Pictures: which there are, what they show, and that drawing them leaves no trace."""

from __future__ import annotations

import re

import attrs
import matplotlib
import pytest

from caddtree.experiments.round_figures import Budget
from caddtree.experiments.summary import summarise
from caddtree.reports import formats
from caddtree.reports.figures import chosen
from caddtree.reports.figures.gallery import draw_pictures
from caddtree.reports.figures.reliability import wilson
from caddtree.reports.figures.style import inline_svg, marks, shades
from caddtree.reports.variants import DrawnVariant, drawn_variants
from tests.reports.synthetic_run import PLANTED, Planted, synthetic_run

KINDS = ["speedup", "throughput", "tau", "chosen", "depths", "reliability", "prediction"]
ONE_SETTING = {"": {"temperature": 0.0}}


def texts(picture):
    """Return the labels of a picture."""
    return re.findall(r">([^<>]+)</text>", picture.svg)


def kinds(data):
    return [picture.name for picture in draw_pictures(data, summarise(data))]


def small(planted, **options):
    return synthetic_run(planted, settings=ONE_SETTING, datasets=("code",), num_prompts=5, **options)


def test_every_setting_has_its_pictures(pictures):
    """One of each kind, named after it."""
    assert [picture.name for picture in pictures] == [
        f"{kind}-{number}-temperature-{number - 1}" for number in (1, 2) for kind in KINDS
    ]


def test_one_setting_needs_no_number():
    """Short names."""
    assert kinds(small(None)) == KINDS


def test_speed_ups_stand_beside_their_bars(summary, pictures):
    """The very figures of the table, of all variants but plain decoding; one panel per data set and the mean."""
    shown = texts(pictures[0])

    for row in summary.rows_of("temperature=0"):
        if row.variant != "plain":
            for found in (row.overall, *row.datasets.values()):
                assert formats.ratio(found.speedup.value) in shown
    assert {"reasoning", "instructions", "code", "geometric mean", "caddtree", "chain"} <= set(shown)
    assert "plain" not in shown


def test_a_picture_without_data_is_left_out():
    """No fixed budgets, no adaptive variant, no drafts at all, nothing decoded."""
    chain = {"plain": PLANTED["plain"], "chain": PLANTED["chain"]}
    assert kinds(small(chain, baseline="chain")) == ["speedup", "depths", "reliability"]
    one_budget = {"plain": PLANTED["plain"], "ddtree-16": PLANTED["ddtree-16"]}
    assert kinds(small(one_budget)) == ["speedup", "depths", "reliability"]
    assert kinds(small({"plain": PLANTED["plain"]}, baseline="plain")) == []
    assert kinds(attrs.evolve(small(None), results={})) == []


def test_a_variant_that_failed_everywhere_is_not_drawn():
    """The others are."""
    data = small(None)
    for cell in data.plan.cells:
        if cell.variant == "caddtree":
            del data.results[cell.id]

    assert kinds(data) == ["speedup", "throughput", "tau", "depths", "reliability"]


def test_a_data_set_that_has_not_begun_is_an_empty_panel():
    """Nothing divides by zero."""
    data = synthetic_run(settings=ONE_SETTING, num_prompts=5)
    for cell in data.plan.cells:
        if cell.dataset == "code":
            del data.results[cell.id]

    assert kinds(data) == KINDS


def test_many_adaptive_variants_become_fields_instead_of_bars():
    """Five variants and three data sets would be fifteen histograms; names in full, wrapped."""
    planted = {"plain": Planted(None)}
    planted |= {f"table, caddtree search=first_stop objective={n}": Planted("caddtree") for n in range(5)}
    data = synthetic_run(planted, baseline="plain", settings=ONE_SETTING, num_prompts=5)
    summary = summarise(data)
    (picture,) = (picture for picture in draw_pictures(data, summary) if picture.name == "chosen")

    assert "Lines mark the means" in picture.caption
    assert texts(picture).count("objective=4") == 1
    assert not any("mean " in text for text in texts(picture))


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    """A caller may draw, too, in a style of his own; it changes no picture of ours."""
    data = small({"plain": PLANTED["plain"], "chain": PLANTED["chain"]}, baseline="chain")
    summary = summarise(data)
    expected = draw_pictures(data, summary)[0].svg
    with matplotlib.rc_context({"axes.linewidth": 7, "font.size": 31, "text.parse_math": True}):
        matplotlib.use("svg")
        before = dict(matplotlib.rcParams)
        found = draw_pictures(data, summary)[0].svg
        assert dict(matplotlib.rcParams) == before
    matplotlib.use("agg")

    assert found == expected


def test_a_name_in_dollars_is_no_formula():
    """Names are shown as they are."""
    found = small({"plain": PLANTED["plain"], "$x_1$": PLANTED["caddtree"]}, baseline="plain")

    assert "$x_1$" in texts(draw_pictures(found, summarise(found))[0])


def test_text_of_a_picture_survives_the_way_into_the_page(pictures):
    """Coordinates are shortened, labels such as 0.005 are not."""
    picture = attrs.evolve(pictures[0], svg='<svg width="1pt" height="2pt"><path d="M 1.23456 7"/><text>0.00567</text>')

    assert inline_svg(picture) == '<svg><path d="M 1.23 7"/><text>0.00567</text>'


def test_every_variant_looks_its_own():
    """Twenty adaptive variants: no two share colour, mark and line; fixed budgets of a family share one line."""
    adaptive = [DrawnVariant(f"a{index}", "adaptive", None, str(index)) for index in range(20)]
    fixed = [DrawnVariant(f"f{budget}", "fixed", budget, "f") for budget in (4, 8)]
    found = marks([*adaptive, *fixed])

    assert len({found[variant.name] for variant in adaptive}) == 20
    assert found["f4"] == found["f8"]


def test_shades_grow_darker():
    """By their brightness, however many there are."""
    for count in (1, 2, 4, 6):
        brightness = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in shades(count)]
        assert brightness == sorted(brightness, reverse=True)
        assert len(set(brightness)) == count


def test_chosen_budgets_are_counted_in_their_steps():
    """By hand: 0, 1 and 5 twice, 23 once; every round is in one step, and a mean lies within its own."""
    budget = Budget(34 / 6, 1.0, {0: 2, 1: 1, 5: 2, 23: 1})
    edges = chosen._edges([budget])
    shares = chosen._shares(budget, edges)

    assert edges == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert shares == pytest.approx([100 / 3, 100 / 6, 0, 0, 100 / 3, 0, 0, 0, 100 / 6])
    assert chosen._place(34 / 6, edges) == pytest.approx(4 - 0.5 + (34 / 6 - 4) / 2)
    assert chosen._edges([Budget(40.0, 0.0, {40: 3})]) == [32, 48]


def test_wilson_intervals_by_hand():
    """0 of 10 and 5 of 10."""
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_kinds_and_families_come_from_the_recipes():
    """A budget makes a fixed one; other drafters are another family, however their variants are called."""
    planted = {
        **PLANTED,
        "other-16": Planted("ddtree", 16, options={"width": 2}),
        "other-64": Planted("ddtree", 64, options={"width": 2}),
    }
    found = {variant.name: variant for variant in drawn_variants(summarise(small(planted)))}

    assert [found[name].kind for name in planted] == ["plain", "chain", *["fixed"] * 2, "adaptive", *["fixed"] * 2]
    assert found["ddtree-16"].family == found["ddtree-64"].family != found["other-16"].family
    assert found["ddtree-64"].node_budget == 64
