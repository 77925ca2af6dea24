"""Calls of ``model.generate``, plain and through a decoder whose drafter is often right, side by side."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.core.records import Round
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import ScriptedDrafter, tiny_model

PROMPTS = ([36], [42, 55, 3, 42, 55, 3, 42, 55])
"""Their continuations repeat tokens and pairs of tokens, of the prompt too, so that bans and penalties find some."""
NUM_NEW = 18


class SecondGuess(ScriptedDrafter):
    """Where the truth is not the first candidate it is the second: accepted paths leave the chain."""

    def draft(self, state: list[int], request: DraftRequest) -> Marginals:
        generator = torch.Generator().manual_seed(len(state))
        logits = torch.randn(min(self.depth, request.max_depth), self.vocabulary, generator=generator)
        for row, token in zip(logits, self._future([*state, request.root_token]), strict=False):
            row[int(torch.randint(self.vocabulary, (), generator=generator))] = 12.0
            row[token] = 12.5 if torch.rand((), generator=generator) < self.right else 11.5
        return Marginals.from_logits(logits, 4, temperature=request.temperature)


@attrs.define(eq=False)
class Both:
    """One tiny model; ``plain`` decodes by Transformers alone, ``ours`` with draft trees around what plain said."""

    model: Any
    decoder: Decoder
    drafter: ScriptedDrafter
    rounds: list[Round] = attrs.field(factory=list)

    def on_round(self, round_: Round) -> None:
        self.rounds.append(round_)

    def plain(self, prompt: list[int], **options: Any) -> Any:
        return self._generate(prompt, options)

    def ours(self, prompt: list[int], plain: Any = None, **options: Any) -> Any:
        if plain is not None:
            tokens = plain if isinstance(plain, torch.Tensor) else plain.sequences
            # what follows a stop is drafted too, as a drafter cannot know of it
            self.drafter.continuations = {tuple(prompt): [*tokens[0, len(prompt) :].tolist(), 5, 6, 7, 8, 9]}
        return self._generate(prompt, {"custom_generate": self.decoder.custom_generate, **options})

    def _generate(self, prompt: list[int], options: dict[str, Any]) -> Any:
        ids = torch.tensor([prompt])
        torch.manual_seed(3)
        return self.model.generate(
            ids, **{"attention_mask": torch.ones_like(ids), "max_new_tokens": NUM_NEW, "pad_token_id": 0, **options}
        )


def make_both(tokenizer: Any = None, **changes: Any) -> Both:
    model = tiny_model(seed=6, **changes)
    drafter = SecondGuess({}, right=0.6, depth=5)
    decoder = Decoder(
        target=model,
        tokenizer=tokenizer,
        drafter=drafter,
        tree_builder=DDTree(node_budget=24),
        verifier=SdpaVerifier(),
    )
    both = Both(model, decoder, drafter)
    decoder.observers.append(both)
    return both
