"""What a check comes to."""

from __future__ import annotations

from typing import Any, Literal

import attrs

Status = Literal["fine", "not applicable", "attention", "failed", "wrong"]
"""In the order of how bad it is; ``failed`` is a check that raised, so that nobody knows."""

_ORDER: tuple[Status, ...] = ("not applicable", "fine", "attention", "failed", "wrong")


@attrs.frozen
class Finding:
    """The outcome of one check."""

    name: str
    status: Status
    found: str
    """What was seen, with its numbers."""
    advice: str = ""
    """What to do; empty where nothing needs to be done."""
    figures: dict[str, Any] = attrs.field(factory=dict)
    """The numbers, JSON-ready."""


@attrs.frozen
class Diagnosis:
    """All findings about one pipeline, in the order in which to look at them."""

    label: str
    num_prompts: int
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no check found anything wrong, or failed."""
        return not any(finding.status in ("wrong", "failed") for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON-ready values."""
        return {
            "recipe": self.label,
            "num_prompts": self.num_prompts,
            "sound": self.is_sound,
            "checks": [attrs.asdict(finding) for finding in self.findings],
        }


@attrs.define
class Notes:
    """Gathers what one check sees; the worst of it is the check's status and comes first."""

    name: str
    figures: dict[str, Any] = attrs.field(factory=dict)
    _seen: list[tuple[Status, str, str]] = attrs.field(factory=list, init=False)

    def fine(self, found: str) -> None:
        """Note what is as it should be."""
        self._seen.append(("fine", found, ""))

    def attention(self, found: str, advice: str) -> None:
        """Note what may cost acceptance or speed."""
        self._seen.append(("attention", found, advice))

    def wrong(self, found: str, advice: str) -> None:
        """Note what does."""
        self._seen.append(("wrong", found, advice))

    def finding(self) -> Finding:
        """Return everything noted as one finding."""
        worst_first = sorted(self._seen, key=lambda note: -_ORDER.index(note[0]))
        # two things may be wrong for one reason
        advice = ". ".join(dict.fromkeys(text for _, _, text in worst_first if text))
        found = "; ".join(found for _, found, _ in worst_first)
        return Finding(self.name, worst_first[0][0], found, advice, self.figures)


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.0f} %"
