"""What the measured cost models share: how they come to their profile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from caddtree.core.errors import CostModelError
from caddtree.core.profile import Profile, read_profile

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder

logger = logging.getLogger(__name__)


def obtain_profile(decoder: Decoder, path: str | None, *, force: bool) -> Profile:
    """Return the profile of ``path``, or the kept one of this machine, measured first if there is none.

    Raises:
        CostModelError: If the file was measured on another pipeline or machine and ``force`` is false.
    """
    # imported here: profiling drives the decoder, and a given file needs none of it
    from caddtree.profiling import load_or_measure, profile_key

    if path is None:
        return load_or_measure(decoder, max_count=getattr(decoder.tree_builder, "max_node_budget", 0)).repaired()
    return decoder.group.share(lambda: _read(Path(path), profile_key(decoder), force=force)).repaired()


def _read(path: Path, key: Mapping[str, str], *, force: bool) -> Profile:
    """Return the profile in a file if it has this key, or whatever it has under ``force``."""
    profile = read_profile(path)
    differing = [name for name in key if profile.key.get(name) != key[name]]
    if differing and not force:
        name = differing[0]
        raise CostModelError(
            f"{path}: measured with {name} {profile.key.get(name)!r}, but this is {key[name]!r}. "
            f"Measure here with `caddtree profile`, or set cost_model.force to use it all the same."
        )
    return profile
