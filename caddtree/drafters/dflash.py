"""The block-diffusion drafter: one pass proposes a whole block.

Source: DFlash, arXiv:2602.06036; formats in ``dflash_checkpoint.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from attrs.validators import ge, in_, instance_of, optional
from torch import Tensor, nn

from caddtree.core.errors import CompatibilityError
from caddtree.core.marginals import DEFAULT_WIDTH, Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.drafters import dflash_checkpoint
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork
from caddtree.drafters.dflash_static import DraftBuffers, StaticDraft
from caddtree.kernels.linear import FastLinears
from caddtree.plugins.hooks import KindRegistry, hookimpl

logger = logging.getLogger(__name__)

_INITIAL_ROWS = 1024


@attrs.define(eq=False)
class DFlashState:
    """One sequence inside the drafter: context keys and values, and features not yet projected."""

    buffers: DraftBuffers | None = None
    """Where keys and values live when the draft model runs with fixed shapes; ``keys`` and ``values`` are its own."""
    keys: list[Tensor] = attrs.field(factory=list)  # per layer (1, key/value heads, capacity, head_dim)
    values: list[Tensor] = attrs.field(factory=list)
    length: int = 0
    """Rows projected."""
    waiting: list[Tensor] = attrs.field(factory=list)  # raw features (rows, layers * hidden)
    _release: Callable[[DraftBuffers], None] | None = None

    def __del__(self) -> None:
        """Give the buffers back to whoever lent them."""
        if self._release is not None and self.buffers is not None:
            self._release(self.buffers)


@attrs.define(eq=False)
class DFlash:
    """Draft a block with a DFlash checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        CompatibilityError: When bound to a target it was not made for.
    """

    model: str = attrs.field(validator=instance_of(str), metadata={"path": True})
    """Folder or hub id of the checkpoint."""
    draft_length: int | None = attrs.field(default=None, validator=optional([instance_of(int), ge(1)]))
    """Positions to use of each block; all when None."""
    dtype: str = attrs.field(default="auto", validator=in_(("auto", "float32", "bfloat16", "float16")))
    """Type of the draft model; the target's when ``auto``."""
    width: int = attrs.field(default=DEFAULT_WIDTH, validator=[instance_of(int), ge(1)])
    """Candidates kept per position at first; results do not depend on it."""
    _config: DFlashConfig | None = attrs.field(default=None, init=False)
    _folder: Path | None = attrs.field(default=None, init=False)
    _network: DFlashNetwork | None = attrs.field(default=None, init=False)
    _target: Target | None = attrs.field(default=None, init=False)
    _static: StaticDraft | None = attrs.field(default=None, init=False)
    _linears: FastLinears = attrs.field(factory=lambda: FastLinears(nn.Module()), init=False)

    @property
    def config(self) -> DFlashConfig:
        """The checkpoint's config, read once."""
        if self._config is None:
            self._folder = dflash_checkpoint.locate(self.model)
            self._config = dflash_checkpoint.read_config(self._folder)
        return self._config

    @property
    def required_layers(self) -> tuple[int, ...]:
        """The target layers whose raw outputs condition the draft."""
        return self.config.target_layer_ids

    @property
    def weight_bytes(self) -> int | None:
        """Bytes that every draft reads, its own weights and the target's output head; None before ``bind``."""
        if self._network is None or self._target is None:
            return None
        weights = [*self._network.parameters(), self._target.model.get_output_embeddings().weight]
        return int(sum(weight.numel() * weight.element_size() for weight in weights))

    @property
    def block_size(self) -> int:
        """Anchor plus masked slots."""
        return self.config.block_size

    def bind(self, target: Target) -> None:
        """Check the pair, load the weights and run one block as a self-check."""
        config = self.config
        _check_pair(config, target, self.model)
        if self.draft_length is not None and self.draft_length >= config.block_size:
            raise CompatibilityError(
                f"drafter dflash: draft_length is {self.draft_length}, but the checkpoint's block of "
                f"{config.block_size} has {config.block_size - 1} masked slots"
            )
        assert self._folder is not None
        dtype = target.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        self._network = dflash_checkpoint.load_network(self._folder, config, dtype, target.device)
        self._linears = FastLinears(self._network)
        self._target = target
        if target.runner.row_buckets is not None:
            self._static = StaticDraft(self._network, target)
        else:
            self._static = None
        logger.info("%s", dflash_checkpoint.describe(config))
        self._self_check(target)

    def start(self) -> DFlashState:
        """Return an empty context."""
        return DFlashState(release=None if self._static is None else self._static.release)

    def commit(self, state: DFlashState, tokens: Sequence[int], features: Tensor | None) -> None:
        """Queue the features of committed tokens; the next draft projects them all at once, and prefill its own."""
        if features is None:
            raise CompatibilityError("drafter dflash: the target tapped no layers; were its taps taken off?")
        if len(features) != len(tokens):
            raise CompatibilityError(f"drafter dflash: {len(tokens)} tokens came with {len(features)} rows of features")
        state.waiting.append(features)
        if len(tokens) > self.config.block_size:
            # a chunk of the prompt: its projection belongs to prefill, not to the first round
            self._project_waiting(state)

    @torch.inference_mode()
    def draft(self, state: DFlashState, request: DraftRequest) -> Marginals:
        """Return the marginals of the slots behind the root, in one pass of the draft model."""
        committed = state.length + sum(len(rows) for rows in state.waiting)
        if committed != request.context_length:
            raise CompatibilityError(
                f"drafter dflash: {committed} positions were committed, the root is at {request.context_length}"
            )
        depth = min(request.max_depth, self.draft_length or self.config.block_size - 1)
        if self._static is None:
            logits = self._view_logits(state, request.root_token, depth)
        else:
            logits = self._static_logits(self._static, state, request.root_token)[:depth]
        if self.config.output_multiplier != 1.0:
            logits = logits * self.config.output_multiplier
        if (cap := self.config.final_logit_softcapping) is not None:
            logits = torch.tanh(logits / cap) * cap
        return Marginals.from_logits(logits, self.width, temperature=request.temperature)

    def _view_logits(self, state: DFlashState, root_token: int, depth: int) -> Tensor:
        """Return logits ``(depth, vocabulary)`` by shapes that follow the context."""
        _, target = self._bound()
        self._project_waiting(state)
        hidden = self._run_block(state, root_token)
        # slots beyond the depth were run, because every slot sees the whole block, but need no head
        return target.head_logits(hidden[1 : depth + 1].to(target.dtype))

    def _static_logits(self, static: StaticDraft, state: DFlashState, root_token: int) -> Tensor:
        """Return logits ``(block size - 1, vocabulary)`` by fixed shapes."""
        block_size = self.config.block_size
        if sum(len(rows) for rows in state.waiting) > block_size:
            self._project_waiting(state)
        num_new = sum(len(rows) for rows in state.waiting)
        self._reserve(state, state.length + num_new + block_size)
        assert state.buffers is not None
        logits = static.logits(state.buffers, state.length, state.waiting, root_token)
        state.length += num_new
        state.waiting.clear()
        return logits

    def _reserve(self, state: DFlashState, num_rows: int) -> None:
        """Make room for the keys and values of ``num_rows`` positions."""
        if self._static is not None:
            old = state.buffers
            if old is None or old.capacity < num_rows:
                new = self._static.start(max(_INITIAL_ROWS, num_rows))
                for mine, kept in zip((new.keys, new.values), (state.keys, state.values), strict=True):
                    for rows, before in zip(mine, kept, strict=False):
                        rows[:, :, : state.length] = before[:, :, : state.length]
                if old is not None:
                    old.discard()
                state.buffers, state.keys, state.values = new, new.keys, new.values
            return
        for buffers in (state.keys, state.values):
            for layer, rows in enumerate(buffers):
                buffers[layer] = _with_room(rows, state.length, num_rows)

    def _run_block(self, state: DFlashState, root_token: int) -> Tensor:
        network, target = self._bound()
        config = self.config
        tokens = torch.full((config.block_size,), config.mask_token_id, dtype=torch.int64, device=target.device)
        tokens[0] = root_token
        block = target.embed(tokens).to(network.norm.weight.dtype)
        if config.input_embedding_scale != 1.0:
            block = block * config.input_embedding_scale
        positions = torch.arange(state.length, state.length + config.block_size, device=target.device)
        context = [
            (keys[:, :, : state.length], values[:, :, : state.length])
            for keys, values in zip(state.keys, state.values, strict=True)
        ]
        masks = [self._mask(layer, state.length) for layer in range(config.num_layers)]
        with self._linears:
            hidden: Tensor = network(block[None], positions, context, masks)
        return hidden[0]

    def _mask(self, layer: int, length: int) -> Tensor | None:
        """Return the visibility of one layer: everything, or a causal sliding window."""
        window = self.config.window(layer)
        if window is None:
            return None
        _, target = self._bound()
        rows = torch.arange(length + self.config.block_size, device=target.device)
        slots = rows[length:, None]
        return (rows <= slots) & (slots - rows < window)

    def _project_waiting(self, state: DFlashState) -> None:
        if not state.waiting:
            return
        network, target = self._bound()
        raw = torch.cat(state.waiting) if len(state.waiting) > 1 else state.waiting[0]
        start, end = state.length, state.length + len(raw)
        positions = torch.arange(start, end, device=target.device)
        with self._linears:
            features = network.context_features(raw.to(network.norm.weight.dtype)[None])
            projected = network.context_keys_values(features, positions)
        if not state.keys and self._static is None:
            capacity = max(_INITIAL_ROWS, end)
            for keys, values in projected:
                state.keys.append(keys.new_zeros((1, keys.shape[1], capacity, keys.shape[3])))
                state.values.append(values.new_zeros((1, values.shape[1], capacity, values.shape[3])))
        self._reserve(state, end)
        for layer, (keys, values) in enumerate(projected):
            state.keys[layer][:, :, start:end] = keys
            state.values[layer][:, :, start:end] = values
        # last: when memory runs out on the way, the next draft finds everything as it was
        state.waiting.clear()
        state.length = end

    def _bound(self) -> tuple[DFlashNetwork, Target]:
        assert self._network is not None, "bind comes first"
        assert self._target is not None, "bind comes first"
        return self._network, self._target

    @torch.inference_mode()
    def _self_check(self, target: Target) -> None:
        state = self.start()
        width = len(self.required_layers) * target.hidden_size
        self.commit(state, [0], torch.zeros(1, width, dtype=target.dtype, device=target.device))
        marginals = self.draft(state, DraftRequest(0, 1, self.config.block_size - 1))
        if not marginals.is_usable():
            raise CompatibilityError(f"drafter dflash: {self.model} gives numbers that are not finite on this target")


def _check_pair(config: DFlashConfig, target: Target, model: str) -> None:
    pairs = (
        ("num_target_layers", config.num_target_layers, target.num_layers),
        ("hidden_size", config.hidden_size, target.hidden_size),
    )
    for name, drafters, targets in pairs:
        if drafters != targets:
            raise CompatibilityError(f"drafter dflash: {name} of {model} is {drafters}, but the target's is {targets}")
    if config.mask_token_id >= target.vocabulary_size:
        raise CompatibilityError(
            f"drafter dflash: mask_token_id is {config.mask_token_id}, but the target has "
            f"{target.vocabulary_size} tokens"
        )
    if config.target_fingerprint and target.fingerprint and config.target_fingerprint != target.fingerprint:
        logger.warning(
            "drafter %s was trained for another target (fingerprint %.12s, this one is %.12s): expect low acceptance",
            model,
            config.target_fingerprint,
            target.fingerprint,
        )
    sizes = (config.vocabulary_size, target.vocabulary_size)
    # tables of one vocabulary may differ by the rows of padding behind its tokens
    is_padding = target.num_tokens is not None and target.num_tokens <= min(sizes)
    if sizes[0] != sizes[1] and not is_padding:
        tokens = "unknown" if target.num_tokens is None else f"{target.num_tokens}"
        raise CompatibilityError(
            f"drafter dflash: vocab_size of {model} is {sizes[0]}, but the target's is {sizes[1]}, and they do not "
            f"differ by padding alone (tokens of the tokenizer: {tokens})"
        )


def _with_room(buffer: Tensor, length: int, needed: int) -> Tensor:
    if needed <= buffer.shape[2]:
        return buffer
    larger = buffer.new_zeros((*buffer.shape[:2], max(needed, 2 * buffer.shape[2]), buffer.shape[3]))
    larger[:, :, :length] = buffer[:, :, :length]
    return larger


@hookimpl
def register_drafters(registry: KindRegistry) -> None:
    """Register the block-diffusion drafter."""
    registry.add("dflash", DFlash)
