"""Says in which rounds the draft was of little use: the places of a text to look at first."""

import logging

import attrs
from attrs.validators import ge, instance_of
from caddtree.core.acceptance import AcceptanceRule, Walk
from caddtree.core.draft_tree import DraftTree
from caddtree.core.protocols import Verifier
from caddtree.core.target import Target, TargetState
from caddtree.plugins.hooks import KindRegistry, hookimpl
from caddtree.plugins.registry import default_registry

# below caddtree's own logger, which its commands show on standard error
logger = logging.getLogger("caddtree.example")


@attrs.define(eq=False)
class Logged:
    """Verify as ``sdpa`` does, and log a line for every round that accepts fewer draft nodes than asked for."""

    below: int = attrs.field(default=1, validator=[instance_of(int), ge(1)])
    """Rounds that accept fewer draft nodes than this are logged; those that draft nothing are not."""
    # another strategy is asked for by its name: its module may move, its name stays
    _verifier: Verifier = attrs.field(init=False, factory=lambda: default_registry().create("verifier", "sdpa"))

    def bind(self, target: Target) -> None:
        """Bind the verifier that does the work."""
        self._verifier.bind(target)

    def verify(self, state: TargetState, tree: DraftTree, rule: AcceptanceRule) -> Walk:
        """Return what the verifier found."""
        position = state.context_length
        walk = self._verifier.verify(state, tree, rule)
        if tree.num_drafts and walk.num_accepted < self.below:
            logger.info("position %d: %d of %d draft nodes accepted", position, walk.num_accepted, tree.num_drafts)
        return walk


@hookimpl
def register_verifiers(registry: KindRegistry) -> None:
    """Register the verifier that keeps a log."""
    registry.add("logged", Logged)
