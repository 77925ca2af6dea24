"""Trains the demo target: a small Qwen3 on packed sequences of the three domains."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from attrs.validators import ge, gt, instance_of
from safetensors.torch import save_file
from torch import Tensor

from caddtree.training.corpus import Mixture, pack, tokenizer_sample
from caddtree.training.optimization import Schedule, adamw, load_checkpoint, save_checkpoint
from caddtree.training.tokenizer import END_OF_TEXT, TURN_END, train_tokenizer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, float], None]
"""Called with the step, the number of steps and the loss."""


@attrs.frozen
class TargetTraining:
    """Options of a target's training; the defaults make the shipped one."""

    folder: Path = attrs.field(converter=Path)
    """Where checkpoints and the finished target go."""
    steps: int = attrs.field(default=3000, validator=[instance_of(int), ge(1)])
    batch_size: int = attrs.field(default=8, validator=[instance_of(int), ge(1)])
    """Sequences per step."""
    sequence_length: int = attrs.field(default=512, validator=[instance_of(int), ge(8)])
    learning_rate: float = attrs.field(default=2.5e-3, validator=gt(0))
    weight_decay: float = 0.05
    warmup_steps: int = attrs.field(default=100, validator=[instance_of(int), ge(0)])
    gradient_clip: float = attrs.field(default=1.0, validator=gt(0))
    seed: int = attrs.field(default=0, validator=instance_of(int))
    bfloat16: bool = True
    """Compute in bfloat16 (weights stay float32); measured 1.6x faster than float32 on two Zen 4 cores."""
    compiled: bool = True
    """Compile forward and backward; measured 1.2x faster than eager, for a minute at the start."""
    checkpoint_every: int = attrs.field(default=200, validator=[instance_of(int), ge(1)])
    vocabulary_size: int = attrs.field(default=4096, validator=[instance_of(int), ge(300)])
    hidden_size: int = attrs.field(default=256, validator=[instance_of(int), ge(8)])
    num_layers: int = attrs.field(default=8, validator=[instance_of(int), ge(1)])
    num_heads: int = attrs.field(default=4, validator=[instance_of(int), ge(1)])
    num_key_value_heads: int = attrs.field(default=2, validator=[instance_of(int), ge(1)])
    head_dim: int = attrs.field(default=64, validator=[instance_of(int), ge(2)])
    intermediate_size: int = attrs.field(default=640, validator=[instance_of(int), ge(8)])
    mixture: Mixture = attrs.field(factory=Mixture)


def train_target(options: TargetTraining, progress: Progress | None = None) -> Path:
    """Train a target, or go on from its last checkpoint; return the folder of the finished model.

    The same options give the same weights on the same machine, interrupted or not.
    """
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(options)
    stream = pack(
        tokenizer,
        options.mixture,
        num_tokens=options.steps * options.batch_size * options.sequence_length,
        seed=options.seed,
    )
    model = new_target(options, tokenizer)
    optimizers = adamw(model, rate=options.learning_rate, weight_decay=options.weight_decay)
    schedule = Schedule(options.steps, max(1, options.warmup_steps), cosine=True)
    checkpoint = folder / "target.checkpoint.safetensors"
    first = load_checkpoint(checkpoint, optimizers)
    batches = torch.from_numpy(stream.astype(np.int64)).view(options.steps, options.batch_size, -1)
    model.train()
    loss_of = torch.compile(_loss) if options.compiled else _loss
    started = time.perf_counter()
    for step in range(first, options.steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16):
            loss = loss_of(model, batches[step])
        torch.autograd.backward(loss)
        optimizers.step(schedule.share(step), options.gradient_clip)
        if progress is not None:
            progress(step + 1, options.steps, float(loss.detach()))
        if (step + 1) % options.checkpoint_every == 0:
            save_checkpoint(checkpoint, optimizers, step + 1)
            logger.info("step %d, loss %.4f, %.0f s", step + 1, float(loss.detach()), time.perf_counter() - started)
    write_target(folder / "target", model, tokenizer)
    return folder / "target"


def new_target(options: TargetTraining, tokenizer: Any) -> Any:
    """Return a freshly initialised Qwen3 in float32."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(options.seed)
    config = Qwen3Config(
        vocab_size=options.vocabulary_size,
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_key_value_heads,
        head_dim=options.head_dim,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT]),
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _loss(model: Any, tokens: Tensor) -> Tensor:
    hidden = model.get_decoder()(tokens[:, :-1], use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def write_target(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a finished target as bfloat16 safetensors with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.named_parameters()  # tied: the head is the embedding and is not listed twice
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.update(architectures=["Qwen3ForCausalLM"], dtype="bfloat16")
    # Transformers 5 writes only rope_parameters; older readers and other engines look for rope_theta
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"do_sample": False, "eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def _tokenizer(options: TargetTraining) -> Any:
    from transformers import AutoTokenizer

    folder = options.folder / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        tokenizer = train_tokenizer(tokenizer_sample(options.seed), vocabulary_size=options.vocabulary_size)
        tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
