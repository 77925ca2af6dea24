"""The finding of checks that need a DFlash checkpoint where the drafter has none."""

from __future__ import annotations

from caddtree.diagnosis.evidence import Evidence
from caddtree.diagnosis.findings import Finding


def without_checkpoint(name: str, evidence: Evidence) -> Finding:
    """Return that there is nothing to look at."""
    return Finding(name, "not applicable", f"drafter {evidence.drafter_name} has no DFlash checkpoint")
