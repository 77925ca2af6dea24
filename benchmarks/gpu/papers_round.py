"""The same round as public code of the papers runs it: eager Transformers, everything else in Python on the host.

Written from a description of that code. The target's cache grows by concatenation, a dense mask is built for every
round, all hidden states are returned, the tree is grown by a heap and the walk done on lists.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import DynamicCache

from caddtree.drafters.dflash_network import DFlashNetwork

from .device import Device, Timing
from .stages import StageClock, accepted_path, measure_rounds, measure_stages

_WIDTH = 16
"""Candidates of a position; as many as our own round keeps."""


@attrs.frozen
class HostTree:
    """A draft tree as lists; node 0 is the root."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]


class PapersRounds:
    """A target and a draft model, held at one context length.

    Args:
        model: The target.
        network: The draft model; None for plain decoding, one token at a time.
        device: Where they run.
        context_length: Committed rows, random.
    """

    @torch.inference_mode()
    def __init__(self, model: Any, network: DFlashNetwork | None, device: Device, context_length: int) -> None:
        self.model, self.network, self.device, self.context_length = model, network, device, context_length
        self.clock = StageClock(device.synchronize)
        self._root = 1
        config = model.config
        shape = (1, config.num_key_value_heads, context_length, config.head_dim)
        self._cache = DynamicCache(config=config)
        for index in range(config.num_hidden_layers):
            self._cache.update(self._normal(*shape), self._normal(*shape), index)
        self._committed = [(layer.keys, layer.values) for layer in self._cache.layers]
        self._draft_committed: list[tuple[Tensor, Tensor]] = []
        self._features = self._normal(0)
        if network is not None:
            # the last round's path is not projected yet
            self._features = self._normal(1, len(network.config.target_layer_ids) * config.hidden_size)
            shape = (1, config.num_key_value_heads, context_length - 1, config.head_dim)
            self._draft_committed = [(self._normal(*shape), self._normal(*shape)) for _ in network.layers]
        self._draft_context = list(self._draft_committed)

    @torch.inference_mode()
    def measure(
        self, num_drafts: int, *, warm_ups: int, repeats: int, stage_repeats: int
    ) -> tuple[Timing, dict[str, Timing]]:
        """Return the seconds of a whole round and, from rounds of their own, of its stages."""

        def run_round() -> None:
            self.step(num_drafts)

        whole = measure_rounds(run_round, warm_ups=warm_ups, repeats=repeats)
        return whole, measure_stages(run_round, self.clock, warm_ups=1, repeats=stage_repeats)

    @torch.inference_mode()
    def measure_plain(self, *, warm_ups: int, repeats: int) -> Timing:
        """Return the seconds of one token of plain decoding."""
        return measure_rounds(self.plain_step, warm_ups=warm_ups, repeats=repeats)

    def plain_step(self) -> None:
        """Decode one token, then forget it."""
        tokens = torch.tensor([[self._root]], device=self.device.torch_device)
        logits = self.model(tokens, past_key_values=self._cache, use_cache=True).logits
        # host sync: the next forward starts from this token
        self._root = int(logits[0, -1].argmax())
        self._set_back(0)

    def step(self, num_drafts: int) -> None:
        """Run one round with so many draft nodes, then forget what it committed."""
        self.clock.start()
        logits = self._draft()
        self.clock.mark("draft")
        log_probs, candidates = torch.log_softmax(logits.float(), dim=-1).topk(_WIDTH, dim=-1)
        # host sync: the heap lives on the host
        rows, tokens = log_probs.tolist(), candidates.tolist()
        self.clock.mark("candidates")
        tree = grow_tree(self._root, rows, tokens, num_drafts)
        inputs = self._inputs(tree)
        self.clock.mark("tree")
        output = self.model(**inputs, past_key_values=self._cache, use_cache=True, output_hidden_states=True)
        self.clock.mark("forward")
        # host sync: the walk is done on lists
        choices = output.logits[0].argmax(dim=-1).tolist()
        walk(tree, choices)
        self.clock.mark("walk")
        # with random weights nothing is accepted: a path that a trained pair might accept takes the walk's place
        path = accepted_path(tree.parents)
        self._commit(path, output.hidden_states)
        self._root = choices[path[-1]]
        self.clock.mark("commit")
        self._set_back(len(path))

    def _draft(self) -> Tensor:
        """Return logits ``(block size - 1, vocabulary)``."""
        network = self.network
        assert network is not None
        config, device = network.config, self.device.torch_device
        start = self._draft_context[0][0].shape[2]
        positions = torch.arange(start, start + len(self._features), device=device)
        new = network.context_keys_values(network.context_features(self._features[None]), positions)
        self._draft_context = [
            (torch.cat([keys, new_keys], dim=2), torch.cat([values, new_values], dim=2))
            for (keys, values), (new_keys, new_values) in zip(self._draft_context, new, strict=True)
        ]
        tokens = torch.tensor([self._root] + [config.mask_token_id] * (config.block_size - 1), device=device)
        block = self.model.get_input_embeddings()(tokens)[None]
        positions = torch.arange(self.context_length, self.context_length + config.block_size, device=device)
        hidden = network(block, positions, self._draft_context, [None] * config.num_layers)
        logits: Tensor = self.model.get_output_embeddings()(hidden[0, 1:])
        return logits

    def _inputs(self, tree: HostTree) -> dict[str, Tensor]:
        """Return tokens, positions and the dense mask of a tree."""
        device, dtype, num_nodes = self.device.torch_device, self.device.dtype, len(tree.tokens)
        visible = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                visible[node] = visible[parent]
            visible[node, node] = True
        mask = torch.zeros(1, 1, num_nodes, self.context_length + num_nodes, dtype=dtype, device=device)
        mask[0, 0, :, self.context_length :].masked_fill_(~visible.to(device), torch.finfo(dtype).min)
        return {
            "input_ids": torch.tensor([tree.tokens], device=device),
            "position_ids": torch.tensor([tree.depths], device=device) + self.context_length,
            "attention_mask": mask,
        }

    def _commit(self, path: tuple[int, ...], hidden_states: tuple[Tensor, ...]) -> None:
        """Keep the path's rows in every layer, and its features for the next draft."""
        assert self.network is not None
        rows = torch.tensor(path, device=self.device.torch_device)
        end = self.context_length + len(path)
        for layer in self._cache.layers:
            for buffer in (layer.keys, layer.values):
                buffer[:, :, self.context_length : end] = buffer.index_select(2, rows + self.context_length)
            layer.keys, layer.values = layer.keys[:, :, :end], layer.values[:, :, :end]
        # entry 0 is the embedding: layer i left its output in entry i + 1
        tapped = [hidden_states[index + 1] for index in self.network.config.target_layer_ids]
        self._features = torch.cat(tapped, dim=-1)[0].index_select(0, rows)

    def _set_back(self, num_new: int) -> None:
        """Forget what the round committed; the features of its path count as the last ``num_new`` positions."""
        for layer, (keys, values) in zip(self._cache.layers, self._committed, strict=True):
            layer.keys, layer.values = keys, values
        length = self.context_length - num_new
        self._draft_context = [(keys[:, :, :length], values[:, :, :length]) for keys, values in self._draft_context]

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=self.device.dtype, device=self.device.torch_device)


def grow_tree(root: int, log_probs: list[list[float]], tokens: list[list[int]], num_drafts: int) -> HostTree:
    """Return the tree of the heaviest prefixes, its nodes in the order they were found.

    Source: DDTree, arXiv:2604.12989 (best-first heap).
    """
    tree = HostTree([root], [-1], [0])
    heap = [(-log_probs[0][0], 0, 0)]  # cost, parent, rank
    while heap and len(tree.tokens) <= num_drafts:
        cost, parent, rank = heappop(heap)
        depth = tree.depths[parent] + 1
        row = log_probs[depth - 1]
        tree.tokens.append(tokens[depth - 1][rank])
        tree.parents.append(parent)
        tree.depths.append(depth)
        if rank + 1 < len(row):
            heappush(heap, (cost + row[rank] - row[rank + 1], parent, rank + 1))
        if depth < len(log_probs):
            heappush(heap, (cost - log_probs[depth][0], len(tree.tokens) - 1, 0))
    return tree


def walk(tree: HostTree, choices: list[int]) -> list[int]:
    """Return the nodes from the root to the last one that the target agrees with."""
    children: list[dict[int, int]] = [{} for _ in tree.tokens]
    for node in range(1, len(tree.tokens)):
        children[tree.parents[node]][tree.tokens[node]] = node
    path = [0]
    while (following := children[path[-1]].get(choices[path[-1]])) is not None:
        path.append(following)
    return path
