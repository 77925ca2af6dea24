"""The target: one Hugging Face causal LM behind a narrow face."""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs
import torch
from torch import Tensor

from caddtree.core.attention_mask import MaskFormat, Masks
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError
from caddtree.core.group import Alone, Group
from caddtree.core.kv_cache import TreeCache, is_prefix
from caddtree.core.runner import PlainRunner, TargetRunner, TreeAttention
from caddtree.core.tree_packet import pack_tree, padded_rows
from caddtree.kernels.linear import FastLinears

logger = logging.getLogger(__name__)

_FEW_SHAPES = (
    0, 1, 2, 3, 5, 7, 11, 15, 19, 23, 27, 31, 39, 47, 55, 63, 79, 95, 127, 159, 191, 255, 319, 383, 447, 511, 639, 767,
    1023,
)  # fmt: skip
"""Draft nodes four to an octave, whole tiles of rows from 15 on: a choice between neighbours could gain very little."""


@attrs.define(eq=False)
class TargetState:
    """One sequence inside the target."""

    cache: TreeCache
    features: Tensor | None = None
    """``(nodes, layers * hidden)`` tapped in the last forward; None when no layer is tapped."""

    _release: Callable[[TreeCache], None] | None = None

    @property
    def context_length(self) -> int:
        """Committed KV rows."""
        return self.cache.length

    def __del__(self) -> None:
        """Give the cache back to whoever lent it."""
        if self._release is not None:
            self._release(self.cache)


class Target:
    """Owns the weights, the KV cache layout and the taps; sequences live in :class:`TargetState`.

    Args:
        model: A Hugging Face causal LM in eval mode.
        prefill_chunk: Rows of the prompt that one forward carries.
        context_limit: Positions to use at most; the model's own limit when None.
        fingerprint: Identity of model and tokenizer, compared with the one a drafter was trained for.
        num_tokens: Tokens that the tokenizer knows, where the embedding has padding rows behind them.
        runner: How forwards over draft trees are run; plainly when None.
        group: The processes that hold a sharded model together; this one alone when None.

    Raises:
        CompatibilityError: If the architecture cannot verify a draft tree, or a sharded model comes without its group.
    """

    def __init__(
        self,
        model: Any,
        *,
        prefill_chunk: int = 512,
        context_limit: int | None = None,
        fingerprint: str | None = None,
        num_tokens: int | None = None,
        runner: TargetRunner | None = None,
        group: Group | None = None,
    ) -> None:
        if group is None and is_sharded(model):
            raise CompatibilityError(
                "target: the model is sharded over several processes, which must decode in lockstep; load it with "
                "caddtree.load and target.parallel=tensor"
            )
        self.model = model
        self.group: Group = group or Alone()
        self.runner: TargetRunner = runner or PlainRunner()
        self.config = model.config.get_text_config(decoder=True)
        self.prefill_chunk = prefill_chunk
        self.fingerprint = fingerprint
        self.num_tokens = num_tokens
        self._decoder = model.get_decoder()
        # GPT-2 and its kin call the list of layers "h"
        self._layers: Any = getattr(self._decoder, "layers", getattr(self._decoder, "h", None))
        if self._layers is None:
            raise CompatibilityError(f"target: {type(model).__name__} shows no list of decoder layers")
        # adapters are made in training mode, also inside a model that is not
        if any(module.training for module in self._decoder.modules()):
            raise CompatibilityError(
                "target: the model is in training mode, where forwards may differ by chance; call model.eval() first"
            )
        weight = model.get_input_embeddings().weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.vocabulary_size: int = weight.shape[0]
        self.hidden_size: int = self.config.hidden_size
        self.num_layers: int = len(self._layers)
        self.position_limit = _position_limit(self.config, context_limit)
        self.mask_format = MaskFormat(self.config, model.config._attn_implementation, self.device)
        self._taps: list[Any] = []
        self._tapped: list[Tensor] | None = None
        self._tapped_layers: tuple[int, ...] = ()
        self._linears = FastLinears(model)
        self.layer_execution: AbstractContextManager[None] = self._linears
        """Entered while the decoder runs with fixed shapes: what makes the modules of this model faster."""
        self._check_head()
        self.runner.prepare(self)

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder layers, in order."""
        layers: Sequence[Any] = self._layers
        return layers

    @property
    def candidate_counts(self) -> tuple[int, ...] | None:
        """Draft-node counts that an adaptive builder should keep to, or None for any.

        Where forwards are padded, those that fill their rows. On a CPU oneDNN makes its kernels anew for every number
        of rows, which costs 2.4 ms for the demo pair when a size is met first: a builder that took every size would
        meet most of them.
        """
        buckets = self.runner.row_buckets
        if buckets is not None:
            # the root alone is a legal answer whatever it is padded to
            return tuple(sorted({0, *(rows - 1 for rows in buckets)}))
        return _FEW_SHAPES if len(self._linears) else None

    @property
    def name(self) -> str:
        """What the user calls the model."""
        return str(getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__)

    def tap(self, layer_ids: Sequence[int]) -> None:
        """Collect the raw outputs of these decoder layers in every forward from now on.

        Args:
            layer_ids: 0-based, ascending; empty for none.

        Raises:
            CompatibilityError: If a layer does not exist, or the order is not ascending.
        """
        if list(layer_ids) != sorted(set(layer_ids)):
            raise CompatibilityError(f"target_layer_ids must be ascending and distinct, found {list(layer_ids)}")
        if layer_ids and not (layer_ids[0] >= 0 and layer_ids[-1] < self.num_layers):
            raise CompatibilityError(
                f"target_layer_ids must lie in 0..{self.num_layers - 1} (the target has {self.num_layers} "
                f"layers), found {list(layer_ids)}"
            )
        if not layer_ids or tuple(layer_ids) == self._tapped_layers:
            return  # a decoder that taps nothing does not mind the taps of another
        if self._tapped_layers:
            raise CompatibilityError(
                f"this Target already taps layers {list(self._tapped_layers)} for another decoder; give a decoder that "
                f"taps {list(layer_ids)} a Target of its own: Decoder(target=model, ...)"
            )
        self._tapped_layers = tuple(layer_ids)
        # hooks, not output_hidden_states: its list form means other layers in other Transformers versions
        # weakly: a model that outlives its decoders must not keep them
        keep = weakref.WeakMethod(self._keep)

        def tapped(module: object, args: object, output: Any) -> None:
            if (method := keep()) is not None:
                method(module, args, output)

        self._taps = [self._layers[index].register_forward_hook(tapped) for index in layer_ids]
        weakref.finalize(self, _remove, tuple(self._taps))

    def close(self) -> None:
        """Remove the taps from the model."""
        for handle in self._taps:
            handle.remove()
        self._taps, self._tapped_layers = [], ()

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return input embeddings ``(rows, hidden)`` of ``(rows,)`` int64 token ids."""
        embedded: Tensor = self.model.get_input_embeddings()(token_ids)
        return embedded

    def head_logits(self, hidden: Tensor) -> Tensor:
        """Return logits ``(rows, vocabulary)`` of normed hidden states, with the family's own scaling."""
        with self._linears:
            logits: Tensor = self.model.get_output_embeddings()(hidden)
        if divisor := getattr(self.config, "logits_scaling", None):
            logits = logits / divisor
        if (factor := getattr(self.config, "logit_scale", None)) is not None:
            logits = logits * factor
        if cap := getattr(self.config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def start(self, capacity: int) -> TargetState:
        """Return the state of a new sequence with room for ``capacity`` KV rows; it grows when needed."""
        self._linears.refresh()
        num_layers, buckets = self.num_layers, self.runner.row_buckets or (0,)
        largest = self.position_limit + buckets[-1]
        cache = self.runner.borrow(self, capacity, lambda rows: TreeCache(num_layers, rows), largest=largest)
        return TargetState(cache, release=lambda cache: self.runner.give_back(self, cache))

    def free_memory(self) -> None:
        """Give back device memory that nothing in use needs."""
        self.runner.free()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def prefill(
        self,
        state: TargetState,
        tokens: Sequence[int],
        on_chunk: Callable[[Sequence[int], Tensor | None], None],
    ) -> Tensor:
        """Commit prompt tokens in chunks and return the logits ``(vocabulary,)`` after the last one.

        Args:
            state: Grows by ``len(tokens)`` rows.
            tokens: Token ids, at least one.
            on_chunk: Called with the tokens and features of every chunk, in order.
        """
        hidden = torch.empty(0)
        for start in range(0, len(tokens), self.prefill_chunk):
            chunk = tokens[start : start + self.prefill_chunk]
            depths = torch.arange(len(chunk), device=self.device)
            visible = torch.ones(len(chunk), len(chunk), dtype=torch.bool, device=self.device).tril()
            hidden = self._forward(state, torch.tensor(chunk, device=self.device), depths, visible)
            state.cache.commit(range(len(chunk)))
            on_chunk(chunk, state.features)
        return self.head_logits(hidden[-1:])[0]

    def place(self, state: TargetState, tree: DraftTree, attention: TreeAttention | None = None) -> DraftTree:
        """Return the tree with its packet where the target runs, as padded as the runner wants it.

        A forward whose shapes follow the tree needs none on a CPU, where the walk reads the tree itself.
        """
        buckets = self.runner.row_buckets
        if self.device.type == "cpu" and buckets is None and not (attention or self.mask_format).has_fixed_shapes:
            return tree
        num_rows = padded_rows(tree.num_nodes, buckets)
        if tree.packet is not None and tree.packet_rows == num_rows:
            return tree
        packet = pack_tree(tree, state.context_length, num_rows)
        if self.device.type != "cpu":
            # pinned memory makes the copy asynchronous: the host goes on while it runs
            packet = packet.pin_memory().to(self.device, non_blocking=True)
        return tree.placed(packet, num_rows)

    @torch.inference_mode()
    def forward_tree(self, state: TargetState, tree: DraftTree, attention: TreeAttention | None = None) -> Tensor:
        """Return logits, one row per node; every node sees the context, its ancestors and itself.

        The nodes' KV rows lie behind the committed ones until :meth:`commit` keeps some of them.

        Args:
            state: The sequence; it keeps the tapped features.
            tree: At most as deep as there are positions; :meth:`place` has been asked for its packet.
            attention: How the layers attend; under dense masks when None.

        Returns:
            ``(rows, vocabulary)``: the nodes, and behind them rows of padding where the runner pads.
        """
        return self.runner.forward(self, state, tree, attention or self.mask_format)

    def forward_view(self, state: TargetState, tree: DraftTree) -> Tensor:
        """Return logits ``(nodes, vocabulary)`` by shapes that follow the tree, under dense masks."""
        tokens, depths = tree.tokens.to(self.device), tree.depths.to(self.device)
        visible = None if tree.num_nodes == 1 else tree.visibility_mask().to(self.device)
        return self.head_logits(self._forward(state, tokens, depths, visible))

    def run_decoder(
        self, tokens: Tensor, positions: Tensor, cache: TreeCache, **arguments: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Run the decoder over new rows.

        Args:
            tokens: ``(rows,)`` int64.
            positions: ``(rows,)`` int64.
            cache: Takes the rows' keys and values.
            **arguments: What the attention needs, a mask among it.

        Returns:
            Normed hidden states ``(rows, hidden)``, and the tapped features ``(rows, layers * hidden)`` or None.
        """
        self._tapped = []
        try:
            with self._linears if cache.slots is None else self.layer_execution:
                output = self._decoder(
                    input_ids=tokens[None],
                    position_ids=positions[None],
                    past_key_values=cache,
                    use_cache=True,
                    **arguments,
                )
            features = torch.cat(self._tapped, dim=-1)[0] if self._tapped else None
        finally:
            self._tapped = None
        return output.last_hidden_state[0], features

    @torch.inference_mode()
    def commit(self, state: TargetState, path: Sequence[int]) -> Tensor | None:
        """Keep the KV rows of ``path`` (root first) and return its features, ``(len(path), ...)`` or None."""
        rows = None if is_prefix(path) else torch.tensor(path).to(self.device, non_blocking=True)
        features = state.features
        if features is not None:
            # a copy either way: captured forwards overwrite their outputs, and a slice would keep the whole tree's
            features = features[: len(path)].clone() if rows is None else features[rows]
        # last: when memory runs out in it, the same call again goes on
        state.cache.commit(path, rows)
        state.features = None
        return features

    def _forward(self, state: TargetState, tokens: Tensor, depths: Tensor, visible: Tensor | None) -> Tensor:
        """Run the decoder over new rows behind the committed ones; return normed hidden states ``(rows, hidden)``."""
        length = state.cache.length
        state.cache.reserve(len(tokens))
        masks: Masks
        is_unmasked = False
        if visible is None or len(tokens) == 1:
            is_unmasked, masks = self.mask_format.single_row(length)
        if not is_unmasked:
            if visible is None:
                visible = torch.ones(1, 1, dtype=torch.bool, device=self.device)
            masks = self.mask_format.build(visible, depths, length, self.dtype)
        hidden, state.features = self.run_decoder(tokens, length + depths, state.cache, attention_mask=masks)
        return hidden

    def _keep(self, _module: object, _args: object, output: Any) -> None:
        # None while others run the model: their forwards are not ours to keep
        if self._tapped is not None:
            self._tapped.append(output[0] if isinstance(output, tuple) else output)

    @torch.inference_mode()
    def _check_head(self) -> None:
        """Refuse a family whose head does more than :meth:`head_logits` knows of."""
        tokens = torch.arange(min(4, self.vocabulary_size), device=self.device)
        # a model that torch.compile wraps is not compiled for four tokens: a decoder runs its layers itself
        with torch.compiler.set_stance("force_eager"), self._linears:
            expected = self.model(tokens[None], use_cache=False).logits[0]
            hidden = self._decoder(tokens[None], use_cache=False).last_hidden_state[0]
        found = self.head_logits(hidden)
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True):
            raise CompatibilityError(
                f"target: the logits of {type(self.model).__name__} are not its output head applied to its "
                f"decoder's output; this family is not supported"
            )


def _remove(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()


def is_sharded(model: Any) -> bool:
    """Tell whether this process holds only a part of some weight: such parameters know where the rest lies."""
    return any(hasattr(parameter, "placements") for parameter in model.parameters())


def target_fingerprint(model_config: Any, tokenizer: Any = None) -> str:
    """Return the identity of a target, as drafters record it: a hash of its shape and its vocabulary.

    Args:
        model_config: A Hugging Face config.
        tokenizer: Its tokenizer; only the tokens and their ids count, not how a version writes them to a file.
    """
    config = model_config.get_text_config(decoder=True)
    names = (
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings",
    )  # fmt: skip
    essentials = {name: getattr(config, name, None) for name in names}
    digest = hashlib.sha256(json.dumps(essentials, sort_keys=True).encode())
    if tokenizer is not None:
        digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def _position_limit(config: Any, context_limit: int | None) -> int:
    limit = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2**31)
    parameters = getattr(config, "rope_parameters", None) or {}
    # families with mixed layers keep one set of parameters per layer type
    for rope in [entry for entry in parameters.values() if isinstance(entry, dict)] or [parameters]:
        kind = rope.get("rope_type", "default")
        if kind == "dynamic":
            raise CompatibilityError(
                "target: rope type 'dynamic' rotates by the longest position of a forward, so a tree and single "
                "tokens would see different keys; it is not supported"
            )
        if kind == "longrope":
            # its frequencies change where the text crosses the original limit, in the middle of a tree
            limit = min(limit, int(rope.get("original_max_position_embeddings", limit)))
    if context_limit is not None and context_limit > limit:
        raise CompatibilityError(f"context_limit is {context_limit}, but the target has {limit} positions")
    return context_limit or limit
