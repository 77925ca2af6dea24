"""The demo pair with one fault planted: its config, its weights, or what runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file, save_file

import caddtree
from caddtree.core.decoder import Decoder
from caddtree.diagnosis.evidence import Evidence, gather
from caddtree.diagnosis.findings import Finding
from caddtree.experiments.prompts import read_prompts
from caddtree.loading import load

DEMO = Path(caddtree.__file__).parent / "models" / "demo"
PROMPTS = [record.prompt for record in read_prompts(DEMO / "prompts" / "demo.jsonl")][::2]
"""Two or three of each domain: about a hundred places to compare at."""

Config = Callable[[dict[str, Any]], None]
Weights = Callable[[dict[str, torch.Tensor]], None]


def copy_drafter(folder: Path, config: Config | None = None, weights: Weights | None = None) -> Path:
    """Write the demo drafter with a changed config or changed weights."""
    folder.mkdir(parents=True)
    raw = json.loads((DEMO / "drafter" / "config.json").read_text(encoding="utf-8"))
    if config is not None:
        config(raw)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    tensors = load_file(DEMO / "drafter" / "model.safetensors")
    if weights is not None:
        weights(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


@contextmanager
def decoder_of(held: Any, drafter: Path, recipe: str = "demo-ddtree") -> Iterator[Decoder]:
    """Load a shipped recipe with another drafter over a target that is held."""
    model, tokenizer = held
    decoder = load(recipe, {"drafter": {"model": str(drafter)}}, model=model, tokenizer=tokenizer)
    try:
        yield decoder
    finally:
        decoder.target.close()


@contextmanager
def evidence_of(healthy: Evidence, held: Any, drafter: Path) -> Iterator[Evidence]:
    """Give evidence about another drafter over texts that are there: they do not depend on the drafter."""
    with decoder_of(held, drafter) as decoder:
        found = gather(decoder, [])
        yield attrs.evolve(found, texts=healthy.texts, generations=healthy.generations)


def shuffled_features(tensors: dict[str, torch.Tensor]) -> None:
    """Plant a drafter that knows nothing of this target: its features arrive in another order."""
    order = torch.randperm(tensors["fc.weight"].shape[1], generator=torch.Generator().manual_seed(0))
    tensors["fc.weight"] = tensors["fc.weight"][:, order].contiguous()
    tensors["norm.weight"] = tensors["norm.weight"].flip(0).contiguous()


def dflash(**changes: Any) -> Config:
    """Return a change of ``dflash_config``."""
    return lambda raw: raw["dflash_config"].update(changes)


def top(**changes: Any) -> Config:
    """Return a change of top-level fields."""
    return lambda raw: raw.update(changes)


def says(finding: Finding, status: str, *parts: str) -> None:
    """Assert the status, and that found and advice hold these texts."""
    text = f"{finding.found} -> {finding.advice}"
    assert finding.status == status, text
    for part in parts:
        assert part in text
