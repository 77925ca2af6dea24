"""Measures a finished pair on held-out prompts and writes its model card."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file

from caddtree.core.decoder import Decoder
from caddtree.core.protocols import TreeBuilder
from caddtree.core.records import Generation
from caddtree.drafters.dflash import DFlash
from caddtree.experiments.acceptance import Acceptance, acceptance
from caddtree.experiments.prompts import PromptRecord, read_prompts
from caddtree.training.corpus import DOMAINS
from caddtree.training.drafter import DrafterTraining
from caddtree.training.evaluation import answer_texts, distinct_4grams, evaluate_target, right_answers
from caddtree.training.instructions import KINDS
from caddtree.training.prompts import SHIPPED_PER_TEMPLATE, reasoning_records
from caddtree.training.reasoning import HELD_OUT_TEMPLATES, TRAINING_TEMPLATES
from caddtree.training.stdlib_code import HELD_OUT_MODULES
from caddtree.training.target import TargetTraining
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier

_TEMPLATE = Path(__file__).with_suffix(".md")
_BUDGET = 32
_LOOPING = 0.5
"""Below this share of distinct 4-grams a text counts as looping: its acceptance is easy and is told apart."""


@attrs.frozen
class DomainAcceptance:
    """Acceptance on the held-out prompts of one domain."""

    chain: Acceptance
    tree: Acceptance
    chain_without_loops: Acceptance
    num_looping: int
    num_prompts: int


def write_model_card(pair: Path, *, max_new_tokens: int = 128) -> Path:
    """Measure the pair in ``pair/target`` and ``pair/drafter`` and write ``pair/README.md``; return its path.

    Args:
        pair: Folder with ``target``, ``drafter`` and ``prompts``.
        max_new_tokens: Length of the decoded answers at most.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pair / "target")
    model = AutoModelForCausalLM.from_pretrained(pair / "target", dtype=torch.float32).eval()
    quality = evaluate_target(model, tokenizer)
    drafts = {
        domain: _domain_acceptance(
            pair, model, tokenizer, read_prompts(pair / "prompts" / f"{domain}.jsonl"), max_new_tokens
        )
        for domain in DOMAINS
    }
    problems = reasoning_records(SHIPPED_PER_TEMPLATE)
    texts = answer_texts(model, tokenizer, [problem.tokens(tokenizer) for problem in problems], "reasoning")
    right = right_answers("reasoning", texts, problems)
    card = pair / "README.md"
    shipped = f"{sum(right)} of {len(right)}"
    card.write_text(_render(pair, model, quality, drafts, shipped, max_new_tokens), encoding="utf-8")
    return card


def _domain_acceptance(
    pair: Path, model: Any, tokenizer: Any, records: Sequence[PromptRecord], max_new_tokens: int
) -> DomainAcceptance:
    def decoded(builder: TreeBuilder) -> list[Generation]:
        decoder = Decoder(
            target=model,
            tokenizer=tokenizer,
            drafter=DFlash(model=str(pair / "drafter")),
            tree_builder=builder,
            verifier=SdpaVerifier(),
        )
        found = [decoder.generate(record.prompt, max_new_tokens=max_new_tokens) for record in records]
        decoder.target.close()
        return found

    chain, tree = decoded(Chain()), decoded(DDTree(node_budget=_BUDGET))
    steady = [generation for generation in chain if distinct_4grams(generation.text) >= _LOOPING]
    return DomainAcceptance(
        acceptance(chain), acceptance(tree), acceptance(steady), len(chain) - len(steady), len(chain)
    )


def _render(
    pair: Path,
    model: Any,
    quality: Mapping[str, Any],
    drafts: Mapping[str, DomainAcceptance],
    shipped: str,
    length: int,
) -> str:
    target, drafter = TargetTraining(folder=pair), DrafterTraining(target=pair / "target", folder=pair)
    depths = range(1, drafter.block_size)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        target=target,
        drafter=drafter,
        target_millions=sum(weight.numel() for weight in model.parameters()) / 1e6,
        drafter_millions=_num_weights(pair / "drafter") / 1e6,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        num_templates=len(TRAINING_TEMPLATES),
        num_held_out=len(HELD_OUT_TEMPLATES),
        num_kinds=len(KINDS),
        num_modules=len(HELD_OUT_MODULES),
        shares=", ".join(f"{domain} {share:.0%}" for domain, share in attrs.asdict(target.mixture).items()),
        layer_ids=list(drafter.target_layer_ids),
        num_sequences=drafter.group_size * drafter.groups_per_step,
        answers=" + ".join(f"{count} {domain}" for domain, count in drafter.responses.items()),
        target_rows="\n".join(_target_row(domain, quality) for domain in DOMAINS),
        reasoning=quality["exact_answers"]["reasoning"],
        instructions=quality["exact_answers"]["instructions"],
        shipped=shipped,
        length=length,
        budget=_BUDGET,
        draft_rows="\n".join(_draft_row(domain, drafts[domain]) for domain in DOMAINS),
        depths=" | ".join(map(str, depths)),
        rule="|---" * drafter.block_size + "|",
        depth_rows="\n".join(_depth_row(domain, drafts[domain].chain, len(depths)) for domain in DOMAINS),
    )


def _num_weights(folder: Path) -> int:
    return sum(tensor.numel() for path in folder.glob("*.safetensors") for tensor in load_file(path).values())


def _target_row(domain: str, quality: Mapping[str, Any]) -> str:
    exact, loops = quality["exact_answers"].get(domain), quality["looping"][domain]
    share = "-" if exact is None else f"{exact['share']:.0%}"
    return (
        f"| {domain} | {quality['held_out_loss'][domain]:.2f} | {share} | {loops['compressed_share']:.2f} "
        f"| {loops['distinct_4grams']:.2f} | {loops['share_under_half_distinct']:.0%} |"
    )


def _draft_row(domain: str, draft: DomainAcceptance) -> str:
    return (
        f"| {domain} | {draft.num_prompts} | {draft.chain.mean_acceptance_length:.2f} | {draft.num_looping} "
        f"| {draft.chain_without_loops.mean_acceptance_length:.2f} | {draft.tree.mean_acceptance_length:.2f} |"
    )


def _depth_row(domain: str, chain: Acceptance, depth: int) -> str:
    reached = (*chain.reached, *(0.0 for _ in range(depth)))[:depth]
    return f"| {domain} | " + " | ".join(f"{share:.2f}" for share in reached) + " |"
