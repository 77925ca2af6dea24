"""Trains a DFlash drafter on a target's own responses.

Source: DFlash, arXiv:2602.06036 (anchors, block mask, weighted cross-entropy).
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from attrs.validators import ge, gt, instance_of
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from caddtree.core.errors import CheckpointError
from caddtree.core.target import target_fingerprint
from caddtree.drafters.dflash_checkpoint import write_checkpoint
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork
from caddtree.training.evaluation import stop_tokens
from caddtree.training.optimization import Schedule, adamw, load_checkpoint, save_checkpoint
from caddtree.training.prompts import training_prompts
from caddtree.training.responses import ResponseOptions, respond

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, float], None]


@attrs.frozen
class DrafterTraining:
    """Options of a drafter's training; the defaults make the shipped one."""

    target: Path = attrs.field(converter=Path)
    """Folder of the finished target."""
    folder: Path = attrs.field(converter=Path)
    """Where responses, checkpoints and the finished drafter go."""
    steps: int = attrs.field(default=5000, validator=[instance_of(int), ge(1)])
    group_size: int = attrs.field(default=6, validator=[instance_of(int), ge(1)])
    """Sequences of similar length that go through together."""
    groups_per_step: int = attrs.field(default=3, validator=[instance_of(int), ge(1)])
    """Groups whose gradients make one step; several lengths, hence several domains, meet in it."""
    anchors: int = attrs.field(default=20, validator=[instance_of(int), ge(1)])
    """Blocks per sequence, at random positions of its response."""
    block_size: int = attrs.field(default=16, validator=[instance_of(int), ge(2)])
    num_layers: int = attrs.field(default=2, validator=[instance_of(int), ge(1)])
    target_layer_ids: tuple[int, ...] = (2, 5, 7)
    slot_decay: float = attrs.field(default=4.0, validator=gt(0))
    """Slot k counts ``exp(-(k - 1) / slot_decay)`` in the loss; the paper takes 7 for drafts of its size, which reach
    deeper than a small pair's."""
    learning_rate: float = attrs.field(default=2e-3, validator=gt(0))
    warmup_share: float = 0.04
    weight_decay: float = 0.01
    gradient_clip: float = attrs.field(default=1.0, validator=gt(0))
    seed: int = attrs.field(default=0, validator=instance_of(int))
    bfloat16: bool = True
    """Compute in bfloat16 (weights stay float32)."""
    keep_features: bool = True
    """Keep the target's features in memory after their first use, 1.5 KB per token of the shipped pair's responses."""
    checkpoint_every: int = attrs.field(default=200, validator=[instance_of(int), ge(1)])
    responses: dict[str, int] = attrs.field(factory=lambda: {"reasoning": 6000, "instructions": 9000, "code": 3500})
    """Prompts to answer per domain."""
    max_new_tokens: int = attrs.field(default=160, validator=[instance_of(int), ge(4)])
    """Length of a response at most."""
    sampled_share: float = 0.15
    """Responses drawn at temperature 0.7; the others are greedy."""


@attrs.frozen(eq=False)
class ResponseSet:
    """Sequences of prompt and response, flat."""

    tokens: NDArray[np.int32]  # (total,)
    starts: NDArray[np.int64]  # (sequences + 1,)
    prompt_lengths: NDArray[np.int64]  # (sequences,)

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of every sequence."""
        return np.diff(self.starts)


@attrs.frozen(eq=False)
class Batch:
    """Sequences of similar length, padded on the right, with their blocks."""

    group: int  # the same sequences have the same number in every epoch
    tokens: Tensor  # (sequences, length) int64
    lengths: Tensor  # (sequences,) int64
    anchors: Tensor  # (sequences, anchors) int64, positions


def train_drafter(options: DrafterTraining, progress: Progress | None = None) -> Path:
    """Train a drafter, or go on from its last checkpoint; return the folder of the finished one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (options.target / "config.json").is_file():
        raise CheckpointError(f"{options.target}: no config.json there; give the folder of a finished target")
    options.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.target, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        options.target, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    model.eval().requires_grad_(False)
    responses = _responses(options, model, tokenizer)
    torch.manual_seed(options.seed)
    network = DFlashNetwork(drafter_config(options, model, tokenizer))
    warm_start(network, model)
    optimizers = adamw(network, rate=options.learning_rate, weight_decay=options.weight_decay)
    schedule = Schedule(options.steps, max(1, round(options.warmup_share * options.steps)), cosine=True)
    checkpoint = options.folder / "drafter.checkpoint.safetensors"
    first = load_checkpoint(checkpoint, optimizers)
    features = TappedFeatures(model, options.target_layer_ids, keep=options.keep_features)
    batches = _batches(options, responses)
    started = time.perf_counter()
    for step in range(options.steps):
        groups = [next(batches) for _ in range(options.groups_per_step)]
        if step < first:
            continue  # the order of batches follows from the seed alone
        loss, accepted = 0.0, 0.0
        for batch in groups:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16):
                part, length = block_loss(network, model, features(batch), batch, options.slot_decay)
            torch.autograd.backward(part / len(groups))
            loss, accepted = loss + float(part.detach()) / len(groups), accepted + length / len(groups)
        optimizers.step(schedule.share(step), options.gradient_clip)
        if progress is not None:
            progress(step + 1, options.steps, loss)
        if (step + 1) % 50 == 0:
            logger.info(
                "step %d, loss %.3f, accepted %.2f, %.0f s", step + 1, loss, accepted, time.perf_counter() - started
            )
        if (step + 1) % options.checkpoint_every == 0:
            save_checkpoint(checkpoint, optimizers, step + 1)
    features.close()
    write_checkpoint(options.folder / "drafter", network)
    return options.folder / "drafter"


def drafter_config(options: DrafterTraining, model: Any, tokenizer: Any) -> DFlashConfig:
    """Return the config of a drafter as wide as its target."""
    config = model.config
    return DFlashConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=options.num_layers,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary_size=config.vocab_size,
        block_size=options.block_size,
        mask_token_id=int(tokenizer.mask_token_id),
        target_layer_ids=options.target_layer_ids,
        num_target_layers=config.num_hidden_layers,
        rope_theta=float(config.rope_parameters["rope_theta"]),
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        target_fingerprint=target_fingerprint(config, tokenizer),
    )


@torch.no_grad()
def warm_start(network: DFlashNetwork, model: Any) -> None:
    """Start as the target's own last layers, with the context features that feed them.

    The output head is the target's, so layers that write into its residual stream speak its language from the
    first step; from random weights the first few hundred steps go into nothing but that.
    """
    decoder, config = model.get_decoder(), network.config
    last = decoder.layers[-config.num_layers :]
    for mine, theirs in zip(network.layers, last, strict=True):
        mine.load_state_dict(theirs.state_dict())
    network.norm.load_state_dict(decoder.norm.state_dict())
    network.hidden_norm.load_state_dict(last[0].input_layernorm.state_dict())
    # the tapped layer closest below the copied ones passes through unchanged; the others join by training
    wanted = config.num_target_layers - config.num_layers - 1
    tapped = min(range(len(config.target_layer_ids)), key=lambda index: abs(config.target_layer_ids[index] - wanted))
    size = config.hidden_size
    torch.nn.init.normal_(network.fc.weight, std=0.1 / size**0.5)
    network.fc.weight[:, tapped * size : (tapped + 1) * size] += torch.eye(size)


class TappedFeatures:
    """Raw outputs of chosen target layers over whole sequences; the target is frozen, so they never change."""

    def __init__(self, model: Any, layer_ids: tuple[int, ...], *, keep: bool) -> None:
        self._decoder = model.get_decoder()
        self._keeps = keep
        self._known: dict[int, Tensor] = {}
        self._tapped: list[Tensor] = []
        self._handles = [self._decoder.layers[index].register_forward_hook(self._tap) for index in layer_ids]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Return ``(sequences, length, layers * hidden)``; padding on the right touches nothing before it."""
        if batch.group in self._known:
            return self._known[batch.group].float()
        self._tapped.clear()
        self._decoder(batch.tokens, use_cache=False)
        # rounded on the first use too: a run that is interrupted meets the same numbers
        features = torch.cat(self._tapped, dim=-1).to(torch.bfloat16)
        if self._keeps:
            self._known[batch.group] = features
        return features.float()

    def close(self) -> None:
        """Take the taps off the model."""
        for handle in self._handles:
            handle.remove()

    def _tap(self, _module: object, _args: object, output: Any) -> None:
        self._tapped.append(output[0] if isinstance(output, tuple) else output)


def block_loss(
    network: DFlashNetwork, model: Any, features: Tensor, batch: Batch, slot_decay: float
) -> tuple[Tensor, float]:
    """Return the weighted cross-entropy of all masked slots, and the mean accepted length of the arg-max chains.

    All blocks of a sequence go through in one pass; the mask keeps them apart.
    """
    size = network.config.block_size
    num_sequences, num_blocks = batch.anchors.shape
    slots = torch.arange(size)
    positions = batch.anchors[:, :, None] + slots  # (sequences, blocks, slots)
    inside = positions < batch.lengths[:, None, None]
    safe = positions.clamp(max=batch.tokens.shape[1] - 1)
    labels = batch.tokens.gather(1, safe.flatten(1)).view_as(positions)
    block_tokens = torch.full_like(positions, network.config.mask_token_id)
    block_tokens[:, :, 0] = labels[:, :, 0]
    block = model.get_input_embeddings()(block_tokens.flatten(1))
    context_positions = torch.arange(batch.tokens.shape[1]).expand(num_sequences, -1)
    context = network.context_keys_values(network.context_features(features), context_positions)
    mask = block_mask(batch.anchors, batch.tokens.shape[1], size)[:, None]
    hidden = network(block, positions.flatten(1), context, [mask] * network.config.num_layers)
    hidden = hidden.view(num_sequences, num_blocks, size, -1)[:, :, 1:]
    wanted, counted = labels[:, :, 1:], inside[:, :, 1:]
    # only slots that have a label go through the head, which costs most
    logits = model.get_output_embeddings()(hidden[counted]).float()
    losses = F.cross_entropy(logits, wanted[counted], reduction="none")
    weights = torch.exp(-(slots[1:] - 1) / slot_decay).expand_as(wanted)[counted]
    right = torch.zeros_like(counted)
    right[counted] = logits.argmax(-1) == wanted[counted]
    accepted = float(right.long().cumprod(-1).sum(-1).float().mean())
    return (losses * weights).sum() / weights.sum(), accepted


def block_mask(anchors: Tensor, length: int, block_size: int) -> Tensor:
    """Return who sees whom: a block sees the context strictly before its anchor, and itself in both directions.

    Args:
        anchors: ``(sequences, blocks)`` int64 positions.
        length: Context rows.
        block_size: Slots per block.

    Returns:
        ``(sequences, blocks * block_size, length + blocks * block_size)`` bool.
    """
    num_sequences, num_blocks = anchors.shape
    before = torch.arange(length) < anchors[:, :, None]
    before = before.repeat_interleave(block_size, dim=1)
    same = torch.eye(num_blocks, dtype=torch.bool).repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)
    return torch.cat([before, same.expand(num_sequences, -1, -1)], dim=-1)


def _responses(options: DrafterTraining, model: Any, tokenizer: Any) -> ResponseSet:
    """Return the target's answers to training prompts, generated once and kept."""
    path = options.folder / "responses.safetensors"
    if path.exists():
        found = load_file(path)
        return ResponseSet(found["tokens"], found["starts"], found["prompt_lengths"])
    sequences: list[tuple[int, list[int]]] = []
    for number, (domain, count) in enumerate(options.responses.items()):
        logger.info("%s: the target answers %d prompts, which takes minutes", domain, count)
        prompts = training_prompts(domain, tokenizer, count, seed=options.seed + 1000 + number)
        num_sampled = round(options.sampled_share * count)
        for part, temperature in ((prompts[num_sampled:], 0.0), (prompts[:num_sampled], 0.7)):
            settings = ResponseOptions(
                max_new_tokens=options.max_new_tokens,
                temperature=temperature,
                stop_tokens=stop_tokens(model),
                seed=options.seed,
            )
            for _, response in respond(model, part, settings):
                if len(response.tokens) >= 2:
                    sequences.append((len(response.prompt), [*response.prompt, *response.tokens]))
    starts = np.cumsum([0] + [len(tokens) for _, tokens in sequences])
    flat = np.concatenate([np.array(tokens, dtype=np.int32) for _, tokens in sequences])
    result = ResponseSet(flat, starts, np.array([length for length, _ in sequences], dtype=np.int64))
    partial = path.with_suffix(".partial")
    save_file({"tokens": result.tokens, "starts": result.starts, "prompt_lengths": result.prompt_lengths}, partial)
    partial.replace(path)
    return result


def _batches(options: DrafterTraining, responses: ResponseSet) -> Iterator[Batch]:
    """Yield batches of sequences of similar length without end, new anchors every time."""
    order = np.argsort(responses.lengths(), kind="stable")
    size = options.group_size
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    for epoch in itertools.count():
        rng = random.Random(f"{options.seed}-{epoch}")
        for number in rng.sample(range(len(groups)), len(groups)):
            yield _batch(responses, number, groups[number], options, rng)


def _batch(
    responses: ResponseSet, number: int, group: NDArray[np.int64], options: DrafterTraining, rng: random.Random
) -> Batch:
    lengths = responses.lengths()[group]
    tokens = torch.zeros(len(group), int(lengths.max()), dtype=torch.int64)
    anchors = torch.zeros(len(group), options.anchors, dtype=torch.int64)
    for row, sequence in enumerate(group):
        start = responses.starts[sequence]
        tokens[row, : lengths[row]] = torch.from_numpy(responses.tokens[start : start + lengths[row]].astype(np.int64))
        # an anchor is a token of the response that has at least one behind it
        first, last = int(responses.prompt_lengths[sequence]), int(lengths[row]) - 2
        anchors[row] = torch.tensor([rng.randint(min(first, last), last) for _ in range(options.anchors)])
    return Batch(number, tokens, torch.from_numpy(lengths.copy()), anchors)
