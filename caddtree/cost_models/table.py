"""Measured medians of whole rounds, linear between node counts and contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np
from attrs.validators import instance_of, optional
from numpy.typing import NDArray

from caddtree.core.profile import Profile, RoundSeconds
from caddtree.cost_models.measured import obtain_profile
from caddtree.plugins.hooks import KindRegistry, hookimpl

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder


@attrs.define(eq=False)
class TableCostModel:
    """Price rounds by what they took on this machine.

    Until it is prepared every round costs the same: it is asked while its own profile is being measured.
    """

    path: str | None = attrs.field(default=None, validator=optional(instance_of(str)), metadata={"path": True})
    """A profile file; the kept profile of this machine when None."""
    force: bool = attrs.field(default=False, validator=instance_of(bool))
    """Use the file although it was measured elsewhere."""
    profile: Profile | None = attrs.field(default=None, init=False)
    """The measured rounds behind the curves, repaired; None until prepared."""
    switch_seconds: float = attrs.field(default=0.0, init=False)
    """What a round costs more when its forward is padded to other rows than the one before."""
    _curves: RoundSeconds | None = attrs.field(default=None, init=False)

    def prepare(self, decoder: Decoder) -> None:
        """Load the profile, or measure it."""
        profile = obtain_profile(decoder, self.path, force=self.force)
        self.profile, self.switch_seconds = profile, profile.switch_seconds
        self._curves = RoundSeconds(profile.contexts, profile.draft_seconds, profile.counts, profile.after_seconds)

    def before_choice_seconds(self, context_length: int) -> float:
        """Return the seconds of drafting."""
        return 1.0 if self._curves is None else self._curves.draft_seconds(context_length)

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the seconds of tree, forward, walk and commit for every count."""
        if self._curves is None:
            return np.ones(len(num_draft_nodes))
        return self._curves.after_seconds(num_draft_nodes, context_length)


@hookimpl
def register_cost_models(registry: KindRegistry) -> None:
    """Register the measured table."""
    registry.add("table", TableCostModel)
