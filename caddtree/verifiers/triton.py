"""Verification by the tree attention kernel: every key is read once, masks are bits, nothing grows with the context."""

from __future__ import annotations

import attrs

from caddtree.core.acceptance import AcceptanceRule, Walk
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError
from caddtree.core.target import Target, TargetState
from caddtree.kernels import availability
from caddtree.plugins.hooks import KindRegistry, hookimpl
from caddtree.verifiers.kernel_attention import KernelAttention


@attrs.define(eq=False)
class TritonVerifier:
    """Run the target under a split-context attention kernel with packed ancestor bits.

    It needs a GPU and refuses to run without: a recipe that names it means it.
    """

    _target: Target | None = attrs.field(default=None, init=False)
    _attention: KernelAttention | None = attrs.field(default=None, init=False)

    def bind(self, target: Target) -> None:
        """Put the kernel into the target's layers and compare it with their own attention."""
        if not availability.takes_triton(target.model.get_input_embeddings().weight):
            problem = availability.triton_problem(target.device.type)
            raise CompatibilityError(f"verifier triton: {problem}. Use verifier: {{name: sdpa}}.")
        self._target, self._attention = target, KernelAttention(target)

    def verify(self, state: TargetState, tree: DraftTree, rule: AcceptanceRule) -> Walk:
        """Return the accepted path of ``tree`` and the target's choices along it."""
        assert self._target is not None, "bind comes first"
        assert self._attention is not None, "bind comes first"
        context_length = state.context_length
        tree = self._target.place(state, tree, self._attention)
        logits = self._target.forward_tree(state, tree, self._attention)
        return rule.walk(tree, logits, context_length)


@hookimpl
def register_verifiers(registry: KindRegistry) -> None:
    """Register the verifier."""
    registry.add("triton", TritonVerifier)
