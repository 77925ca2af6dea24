"""Verification with a dense visibility mask: any device, any Hugging Face model with maskable attention."""

from __future__ import annotations

import attrs

from caddtree.core.acceptance import AcceptanceRule, Walk
from caddtree.core.draft_tree import DraftTree
from caddtree.core.target import Target, TargetState
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.define(eq=False)
class SdpaVerifier:
    """Run the target's own attention (SDPA, or eager where the family needs it) under a dense mask.

    A round without draft nodes passes no mask at all, which is the fastest plain decoding step.
    """

    _target: Target | None = attrs.field(default=None, init=False)

    def bind(self, target: Target) -> None:
        """Keep the target; its mask format was checked when it was made."""
        self._target = target

    def verify(self, state: TargetState, tree: DraftTree, rule: AcceptanceRule) -> Walk:
        """Return the accepted path of ``tree`` and the target's choices along it."""
        assert self._target is not None, "bind comes first"
        context_length = state.context_length
        tree = self._target.place(state, tree)
        logits = self._target.forward_tree(state, tree)
        return rule.walk(tree, logits, context_length)


@hookimpl
def register_verifiers(registry: KindRegistry) -> None:
    """Register the built-in verifier."""
    registry.add("sdpa", SdpaVerifier)
