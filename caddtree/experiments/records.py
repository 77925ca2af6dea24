"""What a run writes down: one JSON object per line, told apart by ``kind``.

``result`` is one decoded cell, ``failed`` a cell that is given up, ``lost`` a cell whose worker died, ``environment``
the machine and the versions of one worker, ``variant`` one pipeline as that worker loaded it, ``difference`` the place
where a cell's tokens leave plain decoding's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from caddtree.core.records import Generation

RELIABILITY_BINS = 20
"""Equal bins over a conditional draft probability of 0 to 1."""


@attrs.frozen
class Cell:
    """One variant on one prompt, once: the smallest unit that is run, stored and run again."""

    id: str
    """Hash of everything that is run: recipe, request options, prompt, seed, repeat."""
    variant: str
    setting: str
    """Label of the request options, such as ``temperature=1``; empty where an experiment has one setting."""
    dataset: str
    prompt: str
    """Id of the prompt in its data set."""
    seed: int
    repeat: int

    @property
    def block(self) -> tuple[str, str, str, int, int]:
        """What all variants that are compared with each other share."""
        return self.setting, self.dataset, self.prompt, self.seed, self.repeat


@attrs.frozen(eq=False)
class RoundColumns:
    """The rounds of a cell, one list per figure, all of one length."""

    context_length: list[int]
    num_draft_nodes: list[int]
    tree_depth: list[int]
    num_gained: list[int]
    """Tokens gained: accepted draft nodes and the bonus token."""
    num_accepted: list[int]
    expected_acceptance: list[float]
    draft_seconds: list[float]
    build_seconds: list[float]
    verify_seconds: list[float]
    commit_seconds: list[float]
    predicted_seconds: list[float | None]
    """What the cost model expected of the whole round; None where no builder asked one."""

    @classmethod
    def of(cls, generation: Generation) -> RoundColumns:
        """Return the columns of a generation."""
        rounds = generation.rounds
        return cls(
            context_length=[r.context_length for r in rounds],
            num_draft_nodes=[r.num_draft_nodes for r in rounds],
            tree_depth=[r.tree_depth for r in rounds],
            num_gained=[len(r.tokens) for r in rounds],
            num_accepted=[r.num_accepted for r in rounds],
            expected_acceptance=[r.expected_acceptance for r in rounds],
            draft_seconds=[r.seconds.draft for r in rounds],
            build_seconds=[r.seconds.build for r in rounds],
            verify_seconds=[r.seconds.verify for r in rounds],
            commit_seconds=[r.seconds.commit for r in rounds],
            predicted_seconds=[r.predicted_seconds for r in rounds],
        )

    def joined(self, other: RoundColumns) -> RoundColumns:
        """Return these rounds and, after them, those of ``other``: the next turn of a chat."""
        return RoundColumns(**{name: mine + getattr(other, name) for name, mine in attrs.asdict(self).items()})

    @property
    def total_seconds(self) -> list[float]:
        """Measured seconds of whole rounds."""
        stages = zip(self.draft_seconds, self.build_seconds, self.verify_seconds, self.commit_seconds, strict=True)
        return [sum(parts) for parts in stages]


@attrs.frozen(eq=False)
class Reliability:
    """How often drafted children of walked nodes were right, by their conditional draft probability.

    Every child, in the tree, of a node on the accepted path is one observation: the target's choice at its parent is
    known. The last round of a text is left out, because its path may have been cut short.
    """

    count: list[int]
    """Observations per bin; :data:`RELIABILITY_BINS` of them."""
    right: list[int]
    probability_sum: list[float]


@attrs.frozen(eq=False)
class Result:
    """A decoded cell."""

    cell: Cell
    fingerprint: str
    """Code, versions and model files that it was made with; a result of another state is stale."""
    environment: str
    """Id of the ``environment`` record of its worker."""
    position: int
    """Place in the randomised order of its block, from 0."""
    started: str
    """UTC, ISO 8601."""
    finish_reason: str
    num_prompt_tokens: int
    token_ids: list[int]
    """All answers of a chat, one after another."""
    prefill_seconds: float
    harness_seconds: float
    """Seconds that the worker spent on this cell besides prefill and rounds."""
    rounds: RoundColumns
    reliability: Reliability | None

    @property
    def decode_seconds(self) -> float:
        """Seconds of all rounds; prefill and the token it gives are in neither count."""
        return sum(self.rounds.total_seconds)

    @property
    def num_gained(self) -> int:
        """Tokens that the rounds gave."""
        return sum(self.rounds.num_gained)

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 when no round was needed."""
        return self.num_gained / self.decode_seconds if self.rounds.num_gained else 0.0


@attrs.frozen(eq=False)
class Failed:
    """A cell that is given up: it raised, or its worker died or hung too often."""

    cell: Cell
    fingerprint: str
    reason: str


@attrs.frozen(eq=False)
class Lost:
    """A cell whose worker died or hung while running it; it is run again."""

    cell: Cell
    fingerprint: str
    reason: str


@attrs.frozen(eq=False)
class Difference:
    """Where a cell's tokens leave those of plain decoding, and how near the tie was."""

    cell: Cell
    fingerprint: str
    position: int
    """Index in the answer."""
    gap: float | None
    """Best minus second-best logit of the target at that place in a forward over the common text, in units of the
    last place of its dtype; None where it could not be computed."""


@attrs.frozen(eq=False)
class Environment:
    """One worker: the machine and the versions that its times depend on."""

    id: str
    facts: dict[str, Any]
    """Device, threads, versions, commit, host and process, as JSON values."""


@attrs.frozen(eq=False)
class LoadedVariant:
    """One pipeline as a worker loaded it."""

    variant: str
    fingerprint: str
    environment: str
    recipe: dict[str, Any]
    """The sections of its recipe, defaults included."""
    profile: dict[str, Any] | None
    """The measured costs that its cost model uses; None where it has none."""
    target_bytes: int | None
    """Bytes of weights that one forward of the target reads; None where the family's shape is not known."""
    drafter_bytes: int | None
    key_value_bytes: int | None
    """Bytes of one cached position of the target."""
    load_seconds: float
    warm_up_seconds: float
    """Profile and warm-up; outside of every figure."""


Record = Result | Failed | Lost | Difference | Environment | LoadedVariant

_KINDS: Mapping[str, type] = {
    "result": Result,
    "failed": Failed,
    "lost": Lost,
    "difference": Difference,
    "environment": Environment,
    "variant": LoadedVariant,
}
_NESTED: Mapping[str, type] = {"cell": Cell, "rounds": RoundColumns, "reliability": Reliability}


def to_line_values(record: Record) -> dict[str, Any]:
    """Return a record as JSON-ready values, ``kind`` first."""
    kind = next(name for name, known in _KINDS.items() if isinstance(record, known))
    return {"kind": kind, **attrs.asdict(record)}


def from_line_values(values: Mapping[str, Any]) -> Record:
    """Return the record of one line.

    Raises:
        KeyError, TypeError: If it is none; the store adds file and line.
    """
    fields = dict(values)
    made = _KINDS[fields.pop("kind")]
    for name, nested in _NESTED.items():
        if fields.get(name) is not None and name in fields:
            fields[name] = nested(**fields[name])
    record: Record = made(**fields)
    return record
