"""The profile that a decoder would use, looked at without measuring one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from caddtree.core.errors import CostModelError
from caddtree.core.profile import Profile, read_profile
from caddtree.profiling import profile_key, profile_path
from caddtree.profiling.store import LARGEST_COUNT

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder


@attrs.frozen(eq=False)
class KeptProfile:
    """Where the profile is, or should be, and what is the matter with it."""

    path: Path
    profile: Profile | None
    """None where it cannot be read."""
    problem: str = ""
    """Why decoding would not use it; empty where it would."""
    differing: tuple[str, ...] = ()
    """Fields of its key that are others here."""


def kept_profile(decoder: Decoder) -> KeptProfile | None:
    """Return the profile behind the cost model; None if no cost model is asked, or it keeps no profile."""
    model = decoder.cost_model
    if model is None or not decoder.tree_builder.needs_cost_model or not hasattr(model, "profile"):
        return None
    key, given = profile_key(decoder), getattr(model, "path", None)
    path = profile_path(key) if given is None else Path(given)
    if not path.exists():
        return KeptProfile(path, None, _why_missing(path, key) if given is None else f"there is no file {path}")
    try:
        profile = read_profile(path)
    except CostModelError as error:
        return KeptProfile(path, None, str(error))
    differing = tuple(name for name in key if profile.key.get(name) != key[name])
    return KeptProfile(path, profile, _why_unused(decoder, profile, key, differing, given=given), differing)


def _why_unused(
    decoder: Decoder, profile: Profile, key: dict[str, str], differing: tuple[str, ...], *, given: str | None
) -> str:
    if differing and not getattr(decoder.cost_model, "force", False):
        name = differing[0]
        return f"it was measured with {name} {profile.key.get(name)!r}, but this is {key[name]!r}"
    wanted = max(int(getattr(decoder.tree_builder, "max_node_budget", 0)), LARGEST_COUNT)
    if given is None and decoder.drafter.block_size > 1 and profile.max_count < wanted:
        return f"it reaches {profile.max_count} draft nodes, and {wanted} may be asked for"
    return ""


def _why_missing(path: Path, key: dict[str, str]) -> str:
    """Say that there is none, and what is new since the one that comes closest was measured."""
    closest: list[str] | None = None
    for other in sorted(path.parent.glob("*.json")):
        try:
            found = read_profile(other).key
        except CostModelError:
            continue
        if found.get("target") != key["target"] or found.get("drafter") != key["drafter"]:
            continue
        differing = [f"{name} was {found.get(name)}, is {key[name]}" for name in key if found.get(name) != key[name]]
        if closest is None or len(differing) < len(closest):
            closest = differing
    words = "no profile of this pipeline is kept on this machine"
    return words if closest is None else f"{words}; of the one that comes closest, {'; '.join(closest)}"
