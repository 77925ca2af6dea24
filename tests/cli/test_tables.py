"""The comparison table and the picture of a draft tree, cell by cell and line by line."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from caddtree.cli.tables import comparison_table, print_table, tree_picture
from caddtree.core.draft_tree import DraftTree
from caddtree.core.records import Generation, Round, StageSeconds
from caddtree.experiments.compare import Comparison, Interval, VariantResult


class Letters:
    """Token 0 is ``a``, token 1 is ``b``, ..."""

    def decode(self, tokens):
        return "".join(chr(ord("a") + token) for token in tokens)


def tree():
    """a -> b -> c, d; a -> e."""
    weights = np.log([1.0, 0.6, 0.3, 0.06, 0.25])
    return DraftTree.from_parents([0, 1, 2, 3, 4], [-1, 0, 1, 1, 0], weights)


def test_the_accepted_path_is_marked_and_children_hang_below_their_parents():
    """A star per accepted node, the probability of every prefix, the last child with a corner."""
    assert tree_picture(tree(), (0, 1, 3), Letters()).splitlines() == [
        "* 'a'",
        "* ├─'b'  0.60",
        "  │ ├─'c'  0.30",
        "* │ └─'d'  0.06",
        "  └─'e'  0.25",
    ]


def test_light_nodes_are_hidden_and_counted_but_the_accepted_path_never():
    """Two heaviest nodes are asked for; of the others only what was accepted is shown."""
    assert tree_picture(tree(), (0, 1, 3), Letters(), max_nodes=2).splitlines() == [
        "* 'a'",
        "* └─'b'  0.60",
        "*   └─'d'  0.06",
        "  (2 lighter nodes not shown)",
    ]


def test_a_shown_node_has_its_parents_shown():
    """A prefix weighs no more than what it continues, also where weights tie."""
    weights = np.zeros(60)
    chain = DraftTree.from_parents([index % 26 for index in range(60)], list(range(-1, 59)), weights)
    shown = tree_picture(chain, (0,), Letters(), max_nodes=5).splitlines()

    assert len(shown) == 6
    assert shown[-1] == "  (55 lighter nodes not shown)"
    assert [line.split("'")[1] for line in shown[:5]] == list("abcde")


def test_the_root_alone_is_a_picture():
    """A round without draft nodes."""
    assert tree_picture(DraftTree.root_only(3), (0,), Letters()) == "* 'd'"


def round_of(length, num_draft_nodes):
    """A round of one second that gains ``length`` tokens."""
    return Round(
        index=0,
        context_length=9,
        num_draft_nodes=num_draft_nodes,
        tree_depth=length,
        tokens=(0,) * length,
        path=tuple(range(length)),
        expected_acceptance=0.0,
        seconds=StageSeconds(0.25, 0.25, 0.25, 0.25),
        predicted_seconds=None,
    )


def comparison():
    def variant(recipe, lengths, nodes, identical):
        rounds = tuple(round_of(length, nodes) for length in lengths)
        generation = Generation("", (0,) * sum(lengths), "length", 9, 0.0, rounds)
        return VariantResult(recipe, (generation,), Interval(1.5, 1.25, 1.875), identical, {})

    return Comparison((variant("plain", [1, 1], 0, True), variant("fast", [3, 2], 7, False)), 9, 1)


def test_a_row_of_the_comparison_says_everything_of_its_recipe():
    """Speed, speed-up with interval, tau, mean budget, identity."""
    table = comparison_table(comparison())
    rows = list(zip(*[list(column.cells) for column in table.columns], strict=True))

    assert table.title == "9 prompts"
    assert rows == [
        ("plain", "1.0", "1.50x", "1.25 .. 1.88", "1.00", "0.0", "yes"),
        ("fast", "2.5", "1.50x", "1.25 .. 1.88", "2.50", "7.0", "no"),
    ]
    assert table.columns[0].header == "recipe"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_in_a_file_keeps_every_column(capsys, monkeypatch, terminal):
    """120 columns where no terminal says otherwise."""
    widths = []
    monkeypatch.setattr(Console, "print", lambda self, table: widths.append(self.width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "72")
    print_table(comparison_table(comparison()))

    assert widths == [72 if terminal else 120]
