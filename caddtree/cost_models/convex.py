"""The paper's cost model: a convex, non-decreasing curve per context, fitted to the measured rounds.

Source: CaDDTree, arXiv:2606.01813.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)


def fit_convex(counts: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares convex, non-decreasing, non-negative curve at ``counts``.

    A sum of hinges with weights of 0 or more is exactly such a curve, so the fit is one non-negative least squares.

    Args:
        counts: ``(points,)`` ascending.
        seconds: ``(points,)``.
    """
    # half a second, which nobody should pay who only checks a recipe
    from scipy.optimize import nnls

    hinges = np.maximum(counts[:, None] - counts[None, :-1], 0.0)
    basis = np.concatenate([np.ones((len(counts), 1)), hinges], axis=1)
    scale = np.abs(basis).max(axis=0)
    weights, _ = nnls(basis / scale, seconds)
    return np.asarray((basis / scale) @ weights)


@attrs.define(eq=False)
class ConvexCostModel:
    """Price rounds by a convex fit; where the truth is not convex it says by how much it is off."""

    path: str | None = attrs.field(default=None, validator=optional(instance_of(str)), metadata={"path": True})
    """A profile file; the kept profile of this machine when None."""
    force: bool = attrs.field(default=False, validator=instance_of(bool))
    """Use the file although it was measured elsewhere."""
    misfit: float | None = attrs.field(default=None, init=False)
    """Largest relative error of the fit at a measured point; None until prepared."""
    profile: Profile | None = attrs.field(default=None, init=False)
    """The measured rounds behind the curves, repaired; None until prepared."""
    switch_seconds: float = attrs.field(default=0.0, init=False)
    """What a round costs more when its forward is padded to other rows than the one before."""
    _curves: RoundSeconds | None = attrs.field(default=None, init=False)

    def prepare(self, decoder: Decoder) -> None:
        """Load or measure the profile and fit it."""
        profile = obtain_profile(decoder, self.path, force=self.force)
        self.profile, self.switch_seconds = profile, profile.switch_seconds
        counts = np.array(profile.counts, dtype=np.int64)
        fitted = np.stack([fit_convex(counts, row) for row in profile.after_seconds])
        error = np.abs(fitted - profile.after_seconds) / profile.after_seconds
        self.misfit = float(error.max())
        logger.info(
            "convex cost model: off by %.1f %% at most, %.1f %% in the median",
            100 * self.misfit,
            100 * np.median(error),
        )
        self._curves = RoundSeconds(profile.contexts, profile.draft_seconds, profile.counts, fitted)

    def before_choice_seconds(self, context_length: int) -> float:
        """Return the seconds of drafting."""
        return 1.0 if self._curves is None else self._curves.draft_seconds(context_length)

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the fitted seconds for every count."""
        if self._curves is None:
            return np.ones(len(num_draft_nodes))
        return self._curves.after_seconds(num_draft_nodes, context_length)


@hookimpl
def register_cost_models(registry: KindRegistry) -> None:
    """Register the convex fit."""
    registry.add("convex", ConvexCostModel)
