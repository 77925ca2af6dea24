"""A plugin, copied into a folder of installed ones, whose strategies do what they are told and should not."""

from __future__ import annotations

import attrs
import torch

from caddtree.core.acceptance import Walk
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CheckpointError, CompatibilityError
from caddtree.core.marginals import Marginals
from caddtree.plugins.hooks import hookimpl

caddtree_hook_api = 1


class Unshowable:
    """A default that cannot even be printed."""

    def __repr__(self):
        raise RuntimeError("no repr")


@attrs.frozen
class RogueDrafter:
    """Draft [what] it is told."""

    do: str
    """What to do wrong."""
    odd: list[int] | Unshowable = attrs.field(factory=Unshowable)
    required_layers = ()
    block_size = 4
    lacks = ()

    def __attrs_post_init__(self):
        if self.do == "refuse":
            raise CheckpointError("no such weights")

    def bind(self, target):
        if self.do == "bind":
            raise CompatibilityError("another target, please")
        if self.do == "bug in bind":
            raise KeyError("size")

    def start(self):
        if self.do == "start":
            raise RuntimeError("cannot start")

    def commit(self, state, tokens, features):
        if self.do == "commit":
            raise RuntimeError("cannot commit")

    def draft(self, state, request):
        tokens, log_probs = torch.tensor([[5, 6]]), torch.tensor([[-0.5, -1.5]])
        if self.do == "draft":
            raise ValueError("cannot draft")
        if self.do == "return a list":
            return [5]
        if self.do == "float tokens":
            return Marginals(tokens.float(), log_probs)
        if self.do == "no such token":
            return Marginals(tokens + 1_000_000, log_probs)
        if self.do == "one token twice":
            return Marginals(torch.tensor([[5, 5]]), log_probs)
        return Marginals(tokens, log_probs * torch.nan if self.do == "nan" else log_probs)


@attrs.frozen
class RogueBuilder:
    """Build what it is told."""

    do: str

    @property
    def needs_cost_model(self):
        return False

    def build(self, marginals, context):
        root = context.root_token
        if self.do == "build":
            raise ZeroDivisionError("cannot build")
        if self.do == "return none":
            return None
        if self.do == "nan":
            return DraftTree.from_parents([root, 5], [-1, 0], [0.0, float("nan")])
        if self.do == "other root":
            return DraftTree.root_only(root + 1)
        if self.do == "short":
            return DraftTree(torch.tensor([root]), torch.tensor([-1]), torch.tensor([0]), torch.zeros(2))
        if self.do == "int32":
            return attrs.evolve(DraftTree.root_only(root), tokens=torch.tensor([root], dtype=torch.int32))
        return DraftTree.root_only(root)


@attrs.frozen
class RogueCost:
    """Price as it is told."""

    do: str

    def prepare(self, decoder):
        if self.do == "prepare":
            raise OSError("no such profile")

    def before_choice_seconds(self, context_length):
        if self.do == "price":
            raise IndexError("beyond the table")
        return 0.001

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return num_draft_nodes * float("nan") if self.do == "nan" else 0.01 + 0.001 * num_draft_nodes


@attrs.frozen
class RogueVerifier:
    """Accept what it is told."""

    do: str

    def bind(self, target):
        pass

    def verify(self, state, tree, rule):
        if self.do == "verify":
            raise RuntimeError("cannot verify")
        return {"return a tuple": ((0,), (5,)), "other path": Walk((0, 9), (5, 6)), "no token": Walk((0,), (-1,))}[
            self.do
        ]


@hookimpl
def register_drafters(registry):
    registry.add("rogue", RogueDrafter)


@hookimpl
def register_tree_builders(registry):
    registry.add("rogue", RogueBuilder)


@hookimpl
def register_cost_models(registry):
    registry.add("rogue", RogueCost)


@hookimpl
def register_verifiers(registry):
    registry.add("rogue", RogueVerifier)
