"""What every process of a ``torchrun`` does in ``test_tensor_parallel.py``; writes down what it saw.

torchrun --nproc-per-node 2 rank_program.py SCENARIO FOLDER

Tests start it by ``rank_launcher.py``.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import attrs
import torch

import caddtree
from caddtree.core.acceptance import Walk
from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CaddtreeError
from caddtree.core.marginals import Marginals
from caddtree.core.target import Target
from caddtree.loading import load_model
from caddtree.plugins.hooks import hookimpl
from caddtree.plugins.recipe import load_recipe
from caddtree.plugins.registry import Provider, default_registry
from caddtree.profiling import measure, store
from caddtree.runtime.tensor_parallel import load_sharded
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.kernel_attention import KernelAttention
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import ScriptedDrafter

RANK = int(os.environ.get("RANK", "0"))
PROMPT = "the cat sat on the mat and the dog sat on the"
DEMO_PROMPT = "def main("
BUILDERS = {
    "chain": {"name": "chain"},
    "ddtree": {"name": "ddtree", "node_budget": 6},
    "caddtree": {"name": "caddtree", "max_node_budget": 12},
}
PAIRS = (("chain", "dflash"), ("ddtree", "dflash"), ("ddtree", "ngram"), ("caddtree", "dflash"))
OTHER_PAIRS = (("chain", "ngram"), ("caddtree", "ngram"))
MODES = ({}, {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 2})
TREE = DraftTree.from_parents([7, 8, 9, 3, 3, 5, 60, 1], [-1, 0, 0, 1, 2, 2, 4, 0])
TEXT = [index * 7 % 61 for index in range(70)]
VOCABULARY = 62
SHARDED = {"parallel": "tensor"}
LIMIT = 40
"""Positions of the demo target here: a profile is then measured over short texts."""


def tree_logits(target: Target, attention: KernelAttention | None = None) -> torch.Tensor:
    """Logits over a tree behind a text that is prefilled in several chunks."""
    with torch.inference_mode():
        state = target.start(len(TEXT) + TREE.num_nodes)
        target.prefill(state, TEXT, lambda *_: None)
        return target.forward_tree(state, TREE, attention)[: TREE.num_nodes].clone()


def scripted(target: Target, truth: list[int]) -> tuple[list[int], float]:
    """Tokens and acceptance length under drafts that know the answer, more or less."""
    drafter = ScriptedDrafter({tuple(TEXT): truth}, vocabulary=VOCABULARY)
    decoder = Decoder(target=target, drafter=drafter, tree_builder=DDTree(node_budget=12), verifier=SdpaVerifier())
    found = decoder.generate(TEXT, max_new_tokens=len(truth))
    return list(found.token_ids), found.mean_acceptance_length


def calm_folder(folder: Path, dtype: torch.dtype) -> Path:
    return folder / f"calm-{str(dtype).removeprefix('torch.')}"


def answers(recipe: Path, target: dict[str, str], held: dict, pairs=PAIRS) -> dict[str, list[int]]:
    """Builders and drafters, with every way to sample."""
    found = {}
    for builder, drafter in pairs:
        # the recipe's own drafter is DFlash
        other = {} if drafter == "dflash" else {"drafter": {"name": drafter}}
        decoder = caddtree.load(recipe, {"target": target, "tree_builder": BUILDERS[builder], **other}, **held)
        for mode in MODES:
            found[f"{builder} {drafter} {mode}"] = list(decoder.generate(PROMPT, max_new_tokens=16, **mode).token_ids)
    return found


def demo_answers(decoder: caddtree.Decoder) -> dict[str, list[int]]:
    return {str(mode): list(decoder.generate(DEMO_PROMPT, max_new_tokens=12, **mode).token_ids) for mode in MODES}


def quick_profiles() -> None:
    """Let a profile be measured in a second; the second process would stop after the fewest sweeps."""
    measure.COUNTS = (0, 3, 7)
    store.measure_profile = functools.partial(
        measure.measure_profile, contexts=(LIMIT // 2,), repeats=5, seconds=600.0 if RANK == 0 else 0.0
    )
    store.LARGEST_COUNT = 15


def spoil_the_clock() -> None:
    """Let every clock of this process run fast and unevenly, and its work take longer."""
    clock, chance = time.perf_counter, random.Random(RANK)

    def spoilt() -> float:
        time.sleep(0.002 * chance.random())
        return 9.0 * clock() + chance.random()

    time.perf_counter = spoilt


def said_by(call) -> str:
    try:
        call()
    except CaddtreeError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class Changed:
    """A strategy with one method put in the place of its own."""

    def __init__(self, strategy, **methods) -> None:
        self.strategy = strategy
        self.__dict__.update(methods)

    def __getattr__(self, name: str):
        return getattr(self.strategy, name)


def unusable(drafter) -> Changed:
    def draft(state, request) -> Marginals:
        found = drafter.draft(state, request)
        return Marginals(found.tokens, found.log_probs * float("nan"))

    return Changed(drafter, draft=draft)


def elsewhere(verifier) -> Changed:
    def verify(state, tree, rule) -> Walk:
        verifier.verify(state, tree, rule)
        return Walk((0,), (0,))

    return Changed(verifier, verify=verify)


@attrs.frozen
class Early:
    """Ends the text with its third token, and in the second process with its sixth."""

    def ends_text(self, tokens) -> bool:
        return len(tokens) == 3 * (RANK + 1)


@attrs.frozen
class Counter:
    """Is told of rounds and does nothing."""

    def on_round(self, round_) -> None: ...


@hookimpl
def register_observers(registry) -> None:
    registry.add("early", Early)
    registry.add("counter", Counter)


def lockstep(folder: Path) -> dict:
    """Everything that must be as in one process although the processes differ."""
    recipe, seen = folder / "recipe.yaml", {}
    os.environ["CADDTREE_CACHE_DIR"] = str(folder / f"cache-{RANK}")
    quick_profiles()
    model, tokenizer = load_model(load_recipe(recipe, {"target": SHARDED}).target)
    held = {"model": model, "tokenizer": tokenizer}
    seen["answers"] = answers(recipe, SHARDED, held)
    decoder = caddtree.load(recipe, {"target": SHARDED}, **held)
    seen["heads"] = decoder.open(PROMPT).target_state.cache.layers[0].keys.shape[1]

    padded = caddtree.load(recipe, {"target": SHARDED, "runtime": {"buckets": [1, 4, 8, 16]}}, **held)
    seen["padded"] = list(padded.generate(PROMPT).token_ids)
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    outer = model.generate(ids, custom_generate=decoder.custom_generate, max_new_tokens=12, do_sample=False)
    seen["custom_generate"] = outer[0, ids.shape[1] :].tolist()
    seen["long"] = len(decoder.group.share(lambda: "x" * 100_000))

    for dtype in (torch.float32, torch.float64):
        calm, _ = load_sharded(str(calm_folder(folder, dtype)), dtype, 2)
        target = Target(calm.eval(), prefill_chunk=32, group=decoder.group)
        torch.save(tree_logits(target), folder / f"masks-{RANK}-{dtype}")
        torch.save(tree_logits(target, KernelAttention(target)), folder / f"kernel-{RANK}-{dtype}")
    seen["whole"] = said_by(lambda: Target(calm))
    seen["families"] = {}
    for family, truth in json.loads((folder / "truths.json").read_text()).items():
        other, _ = load_sharded(str(folder / family), torch.float32, 2)
        seen["families"][family] = scripted(Target(other.eval(), group=decoder.group, prefill_chunk=32), truth)

    # one process is asked something else: all refuse, and go on together
    seen["another prompt"] = said_by(lambda: decoder.generate(f"{PROMPT} {RANK}"))
    seen["another option"] = said_by(lambda: decoder.generate(PROMPT, max_new_tokens=5 + RANK))
    seen["afterwards"] = list(decoder.generate(PROMPT).token_ids)

    # only the first process is asked whether to stop
    asked = iter([False, False, True] if RANK == 0 else [])
    stopped = decoder.generate(PROMPT, should_stop=lambda: next(asked))
    seen["stopped"] = [stopped.finish_reason, len(stopped.rounds)]

    # a rule that says something else in every process: the first one's answer holds, and it alone is told of rounds
    default_registry().load_plugin(sys.modules[__name__], Provider("watching", "1.0", "rank_program"))
    watched = caddtree.load(recipe, {"target": SHARDED, "observers": ["early", "counter"]}, **held)
    seen["ruled"] = list(watched.generate(PROMPT).token_ids)
    seen["observers"] = [type(observer).__name__ for observer in watched.observers]

    # the second sees other numbers: its drafts are unusable, its builder fails, its walk goes elsewhere
    odd = caddtree.load(recipe, {"target": SHARDED}, **held)
    if RANK == 1:
        odd.drafter, odd.verifier = unusable(odd.drafter), elsewhere(odd.verifier)
        odd.tree_builder = Changed(odd.tree_builder, build=lambda *_: 1 / 0)
    seen["odd"] = list(odd.generate(PROMPT).token_ids)

    if RANK == 1:
        spoil_the_clock()
    short = {**SHARDED, "context_limit": LIMIT}
    demo = caddtree.load("demo", {"target": short, "tree_builder": {"max_node_budget": 15, "objective": "price"}})
    seen["demo"] = demo_answers(demo)
    seen["profile"] = demo.cost_model.profile.to_json()
    again = caddtree.load("demo", {"target": short, "tree_builder": {"max_node_budget": 15}})
    seen["demo again"] = list(again.generate(DEMO_PROMPT, max_new_tokens=4).token_ids)
    seen["profile again"] = again.cost_model.profile.to_json()

    # the end: a strategy fails in one process only, and nothing can go on
    if RANK == 1:
        decoder.drafter = Changed(decoder.drafter, draft=lambda *_: 1 / 0)
    seen["failed"] = said_by(lambda: decoder.generate(PROMPT))
    seen["ended"] = said_by(lambda: decoder.generate(PROMPT))
    return seen


def others(folder: Path) -> dict:
    """The builders and drafters that ``lockstep`` leaves out."""
    recipe = folder / "recipe.yaml"
    model, tokenizer = load_model(load_recipe(recipe, {"target": SHARDED}).target)
    return {"answers": answers(recipe, SHARDED, {"model": model, "tokenizer": tokenizer}, OTHER_PAIRS)}


def killed(folder: Path) -> dict:
    """The second process is gone in the fourth round."""
    decoder = caddtree.load(folder / "recipe.yaml", {"target": SHARDED})

    class Killer:
        def on_round(self, round_) -> None:
            if round_.index == 3 and RANK == 1:
                (folder / "killed-at").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)

    decoder.observers.append(Killer())
    said = said_by(lambda: decoder.generate(PROMPT))
    (folder / "said-at").write_text(str(time.time()))
    print(f"error: {said}", file=sys.stderr, flush=True)
    sys.exit(1)


def recipes(folder: Path) -> dict:
    """The command line, with one key of the recipe different in the second process."""
    from caddtree.cli import main

    sys.argv = ["caddtree", "generate", PROMPT, "--recipe", str(folder / "recipe.yaml"), "--set"]
    sys.argv += ["target.parallel=tensor", "--set", f"tree_builder.node_budget={6 + RANK}"]
    main()
    return {}


if __name__ == "__main__":
    scenario, where = sys.argv[1], Path(sys.argv[2])
    found = {"lockstep": lockstep, "others": others, "killed": killed, "recipes": recipes}[scenario](where)
    (where / f"{scenario}-{RANK}.json").write_text(json.dumps(found))
