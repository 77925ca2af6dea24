"""Rounds and finished requests that never ran, usual ones and those at the edges: what observers are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from caddtree.core.records import Generation, Round, StageSeconds

_ACCEPTED = (3, 1, 5)


def made_up_round(index: int = 0, **changes: Any) -> Round:
    """Return a round in which 3 of 15 draft nodes were accepted; ``changes`` are fields of :class:`Round`."""
    facts = {
        "index": index,
        "context_length": 20 + 4 * index,
        "num_draft_nodes": 15,
        "tree_depth": 6,
        "tokens": (5, 17, 3, 8),
        "path": (0, 1, 2, 4),
        "expected_acceptance": 2.5,
        "seconds": StageSeconds(0.001, 0.0005, 0.004 + 0.0001 * index, 0.0002),
        "predicted_seconds": 0.006,
    }
    return Round(**{**facts, **changes})


def _plain_round(index: int = 0, **changes: Any) -> Round:
    """Return a round that drafted nothing."""
    facts = {"num_draft_nodes": 0, "tree_depth": 0, "tokens": (8,), "path": (0,), "expected_acceptance": 0.0}
    return made_up_round(index, **{**facts, **changes})


def _sized_round(index: int) -> Round:
    """Return a usual round whose size depends on its number, so that no mean is a round figure."""
    num_accepted = _ACCEPTED[index % len(_ACCEPTED)]
    tokens, path = (5, 17, 3, 8, 2, 29)[: num_accepted + 1], (0, 1, 2, 4, 7, 11)[: num_accepted + 1]
    return made_up_round(index, num_draft_nodes=15 + index, tokens=tokens, path=path)


ROUNDS: dict[str, Callable[[], Round]] = {
    "usual": made_up_round,
    "every draft node accepted": lambda: made_up_round(num_draft_nodes=3, tree_depth=3, path=(0, 1, 2, 3)),
    "no draft node accepted": lambda: made_up_round(tokens=(8,), path=(0,)),
    "no draft nodes": _plain_round,
    "no draft nodes and no cost model": lambda: _plain_round(predicted_seconds=None),
    "an unusable draft": lambda: _plain_round(unusable_draft=True),
    "no cost model": lambda: made_up_round(predicted_seconds=None),
    "a tree of 1,023 draft nodes": lambda: made_up_round(num_draft_nodes=1023, tree_depth=15),
    "far into a text": lambda: made_up_round(2000, context_length=100_000),
    "a clock that stood still": lambda: made_up_round(seconds=StageSeconds(0.0, 0.0, 0.0, 0.0)),
}
"""Rounds at the edges and in between."""


def made_up_request(num_rounds: int = 3, **changes: Any) -> Generation:
    """Return a finished request of rounds of several sizes; ``changes`` are fields of :class:`Generation`."""
    rounds = changes.pop("rounds", tuple(_sized_round(index) for index in range(num_rounds)))
    facts = {
        "text": "count to ten",
        "token_ids": (9, *(token for round_ in rounds for token in round_.tokens)),
        "finish_reason": "length",
        "num_prompt_tokens": 20,
        "prefill_seconds": 0.01,
        "rounds": rounds,
    }
    return Generation(**{**facts, **changes})


REQUESTS: dict[str, Callable[[], Generation]] = {
    "usual": made_up_request,
    "ended in prefill": lambda: made_up_request(0),
    "ended in prefill by a stop token": lambda: made_up_request(0, text="", finish_reason="stop"),
    "cancelled": lambda: made_up_request(finish_reason="cancelled"),
    "cancelled behind prefill": lambda: made_up_request(0, finish_reason="cancelled"),
    "ended by a rule": lambda: made_up_request(finish_reason="stop", stopped_by="Rule"),
    "plain rounds": lambda: made_up_request(rounds=tuple(_plain_round(n, predicted_seconds=None) for n in range(3))),
    "one round": lambda: made_up_request(1),
    "all rounds at the edges": lambda: made_up_request(
        rounds=tuple(attrs.evolve(make(), index=index) for index, make in enumerate(ROUNDS.values()))
    ),
    "a text of other scripts": lambda: made_up_request(text="né → 四\n\u2028\x00\ufffd"),
}
"""Requests at the edges and in between."""
