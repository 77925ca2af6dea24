"""What has to be right on this very device before a figure of it means anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import caddtree
from caddtree.core.acceptance import Walk
from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.target import Target
from caddtree.core.text import encode_prompt
from caddtree.core.tree_packet import pack_tree, unpack
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.none import NoDrafter
from caddtree.kernels import (
    accept_walk,
    candidates,
    commit_rows,
    prefix_ranking,
    target_choice,
    tree_attention,
    tree_numbering,
)
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from caddtree.verifiers.triton import TritonVerifier

from .device import TOY_WIDTH, Device
from .own_round import HeldSession
from .shapes import SMALL, random_target
from .trees import random_tree

ATTENTION_TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest absolute difference of outputs that average normal numbers."""
LOG_PROB_TOLERANCE = 1e-4
FLOAT32_LOGITS = 1e-4
"""Largest difference of logits, as a part of the largest logit."""
HALF_LOGITS = 0.1
"""Norm of the difference of all logits, as a part of their norm: 16 bits rounded in 36 layers, in two orders. A packet
of the round before, a wrong buffer or a wrong position makes it about 1."""
LEAST_ACCEPTANCE = 0.9
"""Tokens per round of the demo pair, as a part of those of the same trees in eager rounds."""
_DEMO = Path(caddtree.__file__).parent / "models" / "demo"


@attrs.frozen
class Check:
    """One thing that was compared."""

    name: str
    passed: bool
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return attrs.asdict(self)


@attrs.frozen
class CheckSizes:
    """How large the checks are."""

    attention: tuple[tuple[int, int, int], ...]
    """Heads, key/value heads, head dimension."""
    contexts: tuple[int, ...]
    nodes: tuple[int, ...]
    vocabulary: int
    small_layers: int
    """Of the model whose every path is compared."""
    buckets: tuple[int, ...]
    width: int
    """Candidates of a position."""
    demo_domains: tuple[str, ...]
    demo_prompts: int
    """Of every domain."""
    demo_prompt_tokens: int | None
    demo_new_tokens: int
    demo_buckets: tuple[int, ...]


FULL_CHECKS = CheckSizes(
    attention=((32, 8, 128), (4, 2, 64)),
    contexts=(1, 127, 1000, 16_384),
    nodes=(1, 7, 16, 64, 65, 256),
    vocabulary=151_936,
    small_layers=4,
    buckets=(1, 16, 32, 64, 128, 256),
    width=16,
    demo_domains=("reasoning", "instructions", "code"),
    demo_prompts=2,
    demo_prompt_tokens=None,
    demo_new_tokens=64,
    demo_buckets=(1, 16, 32),
)
TOY_CHECKS = CheckSizes(
    attention=((4, 2, 16),),
    contexts=(9,),
    nodes=(1, 5),
    vocabulary=97,
    small_layers=1,
    buckets=(1, 8),
    width=TOY_WIDTH,
    demo_domains=("code",),
    demo_prompts=1,
    demo_prompt_tokens=6,
    demo_new_tokens=4,
    demo_buckets=(1, 4),
)


def kernel_checks(device: Device, sizes: CheckSizes) -> Iterator[Check]:
    """Yield every kernel against its reference, on the same inputs on the device."""
    dtypes = (torch.float32, torch.float16) if device.is_toy else tuple(ATTENTION_TOLERANCES)
    for dtype in dtypes:
        yield _attention(device, sizes, dtype)
    for name, compare in (
        ("candidates", _candidates),
        ("target_choice", _target_choice),
        ("prefix_ranking", _prefix_ranking),
        ("tree_numbering", _tree_numbering),
        ("accept_walk", _accept_walk),
        ("commit_rows", _commit_rows),
    ):
        differences = [place for place, is_equal in compare(device, sizes) if not is_equal]
        yield Check(f"kernel = reference: {name}", not differences, _listed(differences, "all sizes equal"))


@torch.inference_mode()
def small_model_checks(device: Device, sizes: CheckSizes) -> Iterator[Check]:
    """Yield graphs against eager layers in every bucket, and a tree against forwards over its paths, in float32."""
    shape = attrs.evolve(SMALL, num_layers=sizes.small_layers)
    model = random_target(shape, device.torch_device, torch.float32, gain=2.0)
    target, verifier = Target(model, runner=device.runner(sizes.buckets)), TritonVerifier()
    verifier.bind(target)
    text = [(7 * position) % SMALL.vocabulary_size for position in range(9 if device.is_toy else 130)]
    state = target.start(len(text))
    target.prefill(state, text, lambda *_: None)
    for num_rows in sizes.buckets:
        # one seed after the other: a graph that kept the tree before would be seen
        trees = [_tree(num_rows, 0), _tree(num_rows, 1), _tree(max(1, num_rows - 3), 2)]
        yield _graph_check(f"graph = eager in float32: {num_rows} rows", target, verifier, state, trees)
    # the buffers move: what was captured over the old ones must not be replayed, and what replaces it must be captured
    state.cache.reserve(2 * state.cache.capacity)
    trees = [_tree(num_rows, 4) for num_rows in sizes.buckets]
    yield _graph_check("graph = eager in float32: after the cache has grown", target, verifier, state, trees)
    num_nodes = 4 if device.is_toy else 24
    tree = _tree(num_nodes, 3)
    found, errors = forward_by(verifier, state, tree), []
    for node in range(num_nodes):
        tokens = torch.tensor([text + _path_tokens(tree, node)], device=device.torch_device)
        errors.append(_relative(found[node], model(tokens, use_cache=False).logits[0, -1]))
    yield Check(
        "tree logits = causal logits of the path",
        max(errors) <= FLOAT32_LOGITS,
        f"{num_nodes} nodes, largest difference {max(errors):.1e} of the largest logit, allowed {FLOAT32_LOGITS:g}",
    )


def demo_checks(device: Device, sizes: CheckSizes) -> Iterator[Check]:
    """Yield the shipped pair by kernels and graphs against plain eager decoding, token by token in float32."""
    model = AutoModelForCausalLM.from_pretrained(_DEMO / "target", dtype=torch.float32).to(device.torch_device).eval()
    tokenizer = AutoTokenizer.from_pretrained(_DEMO / "target")

    def decoder(target: Target, verifier: Any, drafter: Any) -> Decoder:
        builder = DDTree(node_budget=sizes.demo_buckets[-1] - 1)
        return Decoder(target=target, drafter=drafter, tree_builder=builder, verifier=verifier)

    plain = decoder(Target(model), SdpaVerifier(), NoDrafter())
    eager = decoder(Target(model), SdpaVerifier(), DFlash(model=str(_DEMO / "drafter")))
    fast_target = Target(model, runner=device.runner(sizes.demo_buckets))
    fast = decoder(fast_target, TritonVerifier(), DFlash(model=str(_DEMO / "drafter")))
    for domain in sizes.demo_domains:
        for temperature in (0.0, 0.7):
            differing, gained, eagerly_gained = [], [], []
            for name, tokens in _prompts(domain, sizes, tokenizer, fast_target.vocabulary_size):
                options: dict[str, Any] = {
                    "temperature": temperature,
                    "seed": 11,
                    "max_new_tokens": sizes.demo_new_tokens,
                }
                expected, found = plain.generate(tokens, **options), fast.generate(tokens, **options)
                gained.append(found.mean_acceptance_length)
                eagerly_gained.append(eager.generate(tokens, **options).mean_acceptance_length)
                if found.token_ids != expected.token_ids:
                    first = _first_difference(found.token_ids, expected.token_ids)
                    differing.append(f"{name} from token {first}")
            if sum(gained) < LEAST_ACCEPTANCE * sum(eagerly_gained):
                # the text is right whatever the drafter drafts
                differing.append("how much is accepted")
            tau = f"tokens per round {_rounded(gained)}, by eager rounds {_rounded(eagerly_gained)}"
            yield Check(
                f"demo pair = plain decoding: {domain}, temperature {temperature:g}",
                not differing,
                f"{_listed(differing, f'{len(gained)} prompts equal')}; {tau}",
            )


@torch.inference_mode()
def graph_checks(held: HeldSession, buckets: Sequence[int]) -> Iterator[Check]:
    """Yield a measured model's graphs against its eager layers under a dense mask in every bucket."""
    rounds, state = held.rounds, held.session.target_state
    for num_rows in buckets:
        tree = random_tree(num_rows, num_rows, vocabulary_size=rounds.target.vocabulary_size)
        found = forward_by(rounds.verifier, state, tree).float()
        expected = rounds.target.forward_view(state, tree).float()
        error = float((found - expected).norm() / expected.norm())
        same = float((found.argmax(dim=-1) == expected.argmax(dim=-1)).float().mean())
        yield Check(
            f"graph = eager: {num_rows} rows, context {held.context_length}",
            error <= HALF_LOGITS,
            f"norm of the difference {error:.2e} of the logits' norm, allowed {HALF_LOGITS:g}; "
            f"{same:.1%} of choices equal",
        )


def forward_by(verifier: TritonVerifier, state: Any, tree: DraftTree) -> Tensor:
    """Return the logits ``(nodes, vocabulary)`` that a verifier hands to its rule."""
    rule = _KeptLogits()
    verifier.verify(state, tree, rule)
    assert rule.logits is not None
    # the graph's own output: the next forward of this bucket overwrites it
    return rule.logits[: tree.num_nodes].clone()


def _graph_check(name: str, target: Target, verifier: TritonVerifier, state: Any, trees: list[DraftTree]) -> Check:
    worst = max(_relative(forward_by(verifier, state, tree), target.forward_view(state, tree)) for tree in trees)
    detail = f"largest difference {worst:.1e} of the largest logit, allowed {FLOAT32_LOGITS:g}"
    return Check(name, worst <= FLOAT32_LOGITS, detail)


def _tree(num_nodes: int, seed: int) -> DraftTree:
    return random_tree(num_nodes, seed, vocabulary_size=SMALL.vocabulary_size)


@attrs.define(eq=False)
class _KeptLogits:
    """A rule that accepts nothing and keeps what it was shown."""

    logits: Tensor | None = None

    def walk(self, _tree: DraftTree, logits: Tensor, _context_length: int) -> Walk:
        self.logits = logits
        return Walk((0,), (0,))


def _attention(device: Device, sizes: CheckSizes, dtype: torch.dtype) -> Check:
    """Compare over all shapes, with everything behind the tree poisoned."""
    worst, where = 0.0, ""
    for num_heads, num_kv_heads, head_dim in sizes.attention:
        for context in sizes.contexts:
            for num_nodes in sizes.nodes:
                error = _attention_error(device, dtype, num_heads, num_kv_heads, head_dim, context, num_nodes)
                # a NaN is the worst of all
                if not error <= worst:
                    worst, where = error, f"{num_heads} heads, context {context}, {num_nodes} nodes"
    allowed = ATTENTION_TOLERANCES[dtype]
    detail = f"largest difference {worst:.1e} ({where}), allowed {allowed:g}"
    return Check(f"kernel = reference: tree_attention, {str(dtype).removeprefix('torch.')}", worst <= allowed, detail)


def _attention_error(
    device: Device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int, context: int, num_nodes: int
) -> float:
    torch.manual_seed(context + num_nodes)
    place: dict[str, Any] = {"dtype": dtype, "device": device.torch_device}
    query = torch.randn(1, num_nodes, num_heads, head_dim, **place).transpose(1, 2)
    rows = (1, num_kv_heads, context + num_nodes + 9, head_dim)
    keys, values = torch.randn(*rows, **place), torch.randn(*rows, **place)
    bits = random_tree(num_nodes, 0).packed_visibility()[None].to(device.torch_device)
    length = torch.tensor([context], device=device.torch_device)
    expected = tree_attention.reference.tree_attention(query, keys, values, bits, length, scale=head_dim**-0.5)
    keys[:, :, context + num_nodes :], values[:, :, context + num_nodes :] = torch.nan, torch.nan
    found = tree_attention.tree_attention(query, keys, values, bits, length, scale=head_dim**-0.5)
    return float((found.float() - expected.float()).abs().max())


Comparison = Iterator[tuple[str, bool]]
"""What was compared, and whether it is equal."""


def _candidates(device: Device, sizes: CheckSizes) -> Comparison:
    for dtype in (torch.float32, device.dtype):
        for temperature in (0.0, 0.7):
            logits = _logits(device, sizes, 2, dtype)
            found = candidates.best_candidates(logits, sizes.width, temperature=temperature)
            expected = candidates.reference.best_candidates(logits, sizes.width, temperature=temperature)
            is_near = torch.allclose(found[1], expected[1], rtol=0, atol=LOG_PROB_TOLERANCE)
            yield f"{dtype}, temperature {temperature:g}", torch.equal(found[0], expected[0]) and is_near


def _target_choice(device: Device, sizes: CheckSizes) -> Comparison:
    for dtype in (torch.float32, device.dtype):
        for temperature in (0.0, 0.7):
            logits = _logits(device, sizes, 6, dtype)
            depths = torch.arange(6, device=device.torch_device)
            keys: dict[str, Any] = {"temperature": temperature, "seed": 2**63 + 5, "depths": depths}
            position = torch.tensor([1000], device=device.torch_device)
            found = target_choice.target_choices(logits, **keys, root_position=position)
            expected = target_choice.reference.target_choices(logits, **keys, root_position=position)
            is_equal = all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))
            yield f"{dtype}, temperature {temperature:g}", is_equal


def _prefix_ranking(device: Device, sizes: CheckSizes) -> Comparison:
    for max_nodes in sizes.nodes:
        tokens, log_probs, stops = _block(device)
        found = prefix_ranking.rank_prefixes(tokens, log_probs, max_nodes, stops)
        yield (
            f"{max_nodes} nodes",
            torch.equal(found, prefix_ranking.reference.rank_prefixes(tokens, log_probs, max_nodes, stops)),
        )


def _tree_numbering(device: Device, sizes: CheckSizes) -> Comparison:
    for count in sizes.nodes:
        tokens, log_probs, stops = _block(device)
        ranked = prefix_ranking.reference.rank_prefixes(tokens, log_probs, count, stops)
        for num_rows in (count + 1, count + 4):
            found = tree_numbering.number_tree(ranked, count, 3, num_rows, 1000)
            expected = tree_numbering.reference.number_tree(ranked, count, 3, num_rows, 1000)
            is_equal = torch.equal(found.packet, expected.packet) and torch.equal(found.extras, expected.extras)
            yield f"{count} nodes in {num_rows} rows", is_equal


def _accept_walk(device: Device, sizes: CheckSizes) -> Comparison:
    for num_nodes in sizes.nodes:
        tree = random_tree(num_nodes, 5)
        rows = unpack(pack_tree(tree, 1000, num_nodes + 2).to(device.torch_device), num_nodes + 2)
        # the target agrees with the last node's path
        choices = torch.zeros(num_nodes + 2, dtype=torch.int64)
        node = num_nodes - 1
        while (parent := int(tree.parents[node])) >= 0:
            choices[parent] = tree.tokens[node]
            node = parent
        choices, best = choices.to(device.torch_device), torch.ones(num_nodes + 2, device=device.torch_device)
        inputs = (choices, best, rows.tokens, rows.parents, rows.num_nodes, 64)
        yield (
            f"{num_nodes} nodes",
            torch.equal(accept_walk.accept_walk(*inputs), accept_walk.reference.accept_walk(*inputs)),
        )


def _commit_rows(device: Device, sizes: CheckSizes) -> Comparison:
    _, num_kv_heads, head_dim = sizes.attention[0]
    for path in ([0, 2, 3], [0, 1, 4, 9, 10, 30]):
        torch.manual_seed(0)
        found = [
            torch.randn(1, num_kv_heads, 64, head_dim, device=device.torch_device).to(device.dtype) for _ in range(4)
        ]
        expected = [buffer.clone() for buffer in found]
        rows = torch.tensor(path, device=device.torch_device)
        commit_rows.RowMover(found)(rows, 20)
        commit_rows.reference.commit_rows(expected, rows, 20)
        yield f"path {path}", all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))


def _logits(device: Device, sizes: CheckSizes, num_rows: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(num_rows)
    return (torch.randn(num_rows, sizes.vocabulary, device=device.torch_device) * 4).to(dtype)


def _block(device: Device) -> tuple[Tensor, Tensor, Tensor]:
    """Return candidates of a block as a peaked drafter gives them, and two stop tokens, one of them a candidate."""
    torch.manual_seed(4)
    log_probs, tokens = torch.log_softmax(12 * torch.randn(15, 600), dim=-1).topk(16, dim=-1)
    stops = torch.tensor([int(tokens[3, 0]), 599])
    return tuple(part.to(device.torch_device) for part in (tokens, log_probs, stops))  # type: ignore[return-value]


def _relative(found: Tensor, expected: Tensor) -> float:
    error = float((found - expected).abs().max() / expected.abs().max())
    # a NaN is larger than any tolerance
    return error if error == error else float("inf")


def _path_tokens(tree: DraftTree, node: int) -> list[int]:
    tokens: list[int] = []
    while node >= 0:
        tokens.insert(0, int(tree.tokens[node]))
        node = int(tree.parents[node])
    return tokens


def _prompts(domain: str, sizes: CheckSizes, tokenizer: Any, vocabulary_size: int) -> list[tuple[str, list[int]]]:
    """Return name and tokens of the first prompts of a domain."""
    lines = (_DEMO / "prompts" / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines[: sizes.demo_prompts]:
        record = json.loads(line)
        prompt = record["prompt"] if "prompt" in record else [{"role": "user", "content": record["turns"][0]}]
        tokens = encode_prompt(prompt, tokenizer, vocabulary_size)
        found.append((record["id"], tokens[: sizes.demo_prompt_tokens]))
    return found


def _rounded(numbers: Sequence[float]) -> str:
    return "/".join(f"{number:.1f}" for number in numbers)


def _first_difference(found: Sequence[int], expected: Sequence[int]) -> int:
    pairs = zip(found, expected, strict=False)
    return next((index for index, (mine, other) in enumerate(pairs) if mine != other), min(len(found), len(expected)))


def _listed(differences: list[str], otherwise: str) -> str:
    return "differs: " + ", ".join(differences) if differences else otherwise


CheckSource = Callable[[Device, CheckSizes], Iterator[Check]]
SOURCES: dict[str, CheckSource] = {
    "kernels": kernel_checks,
    "small model": small_model_checks,
    "demo pair": demo_checks,
}
"""The checks that need no measured model, in the order in which they run."""
