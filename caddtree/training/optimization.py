"""Optimisers, learning rate and checkpoints shared by target and drafter training."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


@attrs.frozen
class Schedule:
    """A learning rate as a share of its peak: linear warm-up, then linear or cosine decay to zero."""

    steps: int
    warmup_steps: int
    cosine: bool = False

    def share(self, step: int) -> float:
        """Return the share of the peak at ``step``, between 0 and 1."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * done)) if self.cosine else 1 - done


@attrs.frozen(eq=False)
class OptimizerSet:
    """The optimisers of one model, each with the peak learning rate of its groups."""

    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    peaks: tuple[float, ...]

    def step(self, share: float, gradient_clip: float) -> float:
        """Clip the gradients, take one step at ``share`` of the peak rates; return the gradient norm."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, gradient_clip, foreach=True)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(norm)


def adamw(model: nn.Module, *, rate: float, weight_decay: float) -> OptimizerSet:
    """Return AdamW with decay on matrices only."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim == 2], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim != 2], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=rate, betas=(0.9, 0.95), foreach=True)
    return OptimizerSet(model, (optimizer,), (rate,))


def save_checkpoint(path: Path, optimizers: OptimizerSet, step: int) -> None:
    """Write weights, optimiser state and the step; the previous checkpoint stays until this one is whole."""
    tensors: dict[str, Tensor] = {}
    for name, weight in _trained(optimizers.model):
        tensors[f"weight/{name}"] = weight.detach().contiguous()
        for optimizer in optimizers.optimizers:
            for key, value in optimizer.state.get(weight, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    partial.replace(path)


def load_checkpoint(path: Path, optimizers: OptimizerSet) -> int:
    """Load a checkpoint into the model and its optimisers and return its step; 0 when there is none."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    with safe_open(path, framework="pt") as handle:
        step = int(handle.metadata()["step"])
    owner = {
        id(weight): optimizer
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    for name, weight in _trained(optimizers.model):
        with torch.no_grad():
            weight.copy_(tensors[f"weight/{name}"])
        state = {
            key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors
        }
        owner[id(weight)].state[weight] = state
    return step


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
