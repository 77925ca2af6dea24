"""A target that others use too must be found as it was."""

from __future__ import annotations

from typing import Any

import torch

from caddtree.testing.claims import require


class ModelWatch:
    """Weights and an output of a model, to be compared with what it has later."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self._logits = self._output()

    def check(self, name: str) -> None:
        """Refuse a strategy that changed the model.

        Args:
            name: Of the strategy.
        """
        changed = [key for key, weight in self._model.state_dict().items() if not self._is_same(key, weight)]
        require(not changed, f"{name} changed weights of the target: {', '.join(changed[:3])}. Work on copies.")
        require(
            torch.equal(self._output(), self._logits),
            f"{name} left the target's forward changed: the same tokens have other logits. Undo hooks, patched modules "
            f"and attention implementations when a call ends.",
        )

    def _is_same(self, key: str, weight: torch.Tensor) -> bool:
        return key in self._weights and torch.equal(weight, self._weights[key])

    @torch.inference_mode()
    def _output(self) -> torch.Tensor:
        embedding = self._model.get_input_embeddings().weight
        tokens = torch.arange(min(6, embedding.shape[0]), device=embedding.device)
        logits: torch.Tensor = self._model(tokens[None], use_cache=False).logits.clone()
        return logits
