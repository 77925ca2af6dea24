"""Keeps a record of decoding: a line of JSON for every round and every finished request, for whatever reads logs."""

import json
import time
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import instance_of
from caddtree.core.records import Generation, Round
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.frozen
class RoundLog:
    """Append a line of JSON to a file for every round, and one for every request that ends."""

    path: str = attrs.field(validator=instance_of(str), metadata={"path": True})
    """The file; its folder must exist."""
    rounds: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether rounds are logged, or finished requests alone."""

    def on_round(self, round_: Round) -> None:
        """Log what a round drafted, gained and took."""
        if self.rounds:
            self._write(
                event="round",
                index=round_.index,
                draft_nodes=round_.num_draft_nodes,
                tokens=len(round_.tokens),
                milliseconds=round(1000 * round_.seconds.total, 3),
            )

    def on_finish(self, generation: Generation) -> None:
        """Log what a request came to."""
        self._write(
            event="request",
            finish_reason=generation.finish_reason,
            stopped_by=generation.stopped_by,
            tokens=len(generation.token_ids),
            tokens_per_second=round(generation.tokens_per_second, 1),
            tau=round(generation.mean_acceptance_length, 2),
        )

    def _write(self, **fields: Any) -> None:
        # opened anew for every line: nothing is lost when the process is killed, and others may rotate the file
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **fields}) + "\n")


@hookimpl
def register_observers(registry: KindRegistry) -> None:
    """Register the log."""
    registry.add("round-log", RoundLog)
