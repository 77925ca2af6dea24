"""Every option of every strategy, and of a recipe's other sections, makes the difference that it promises.

An option that is new fails here until it has a flip: two values, and what must differ between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch

import caddtree
from caddtree.core.errors import CaddtreeError
from caddtree.core.options import GenerationOptions
from caddtree.core.protocols import DraftRequest
from caddtree.loading import load_model
from caddtree.plugins.recipe import TargetOptions
from caddtree.plugins.registry import default_registry
from tests.cost_models.profiles import profile
from tests.drafters.checkpoints import tiny_checkpoint
from tests.tiny_models import tiny_model
from tests.tiny_pair import SIZE, tiny_tokenizer, write_pair
from tests.tree_builders.oracles import TableCost, narrow, random_log_probs, round_context

PROMPT = "the cat sat on the mat"
NEW = 12


@attrs.frozen(eq=False)
class Bench:
    """A tiny pair on disk and in memory, and a plain answer to compare with."""

    folder: Any
    recipe: Any
    held: dict[str, Any]
    plain: tuple[int, ...]

    def decoder(self, section: str, name: str, options: dict[str, Any]) -> Any:
        """The pair's own pipeline with one section changed; a cost model gets a builder that asks it."""
        sections = {section: {"name": name, **options} if name else options}
        if section == "cost_model":
            sections["tree_builder"] = {"name": "caddtree", "max_node_budget": 6}
        return caddtree.load(self.recipe, sections, **({} if section == "target" else self.held))

    def said(self) -> str:
        """A letter of the plain answer; bytes that are no whole character end no text."""
        text = self.held["tokenizer"].decode(self.plain, skip_special_tokens=True)
        return [letter for letter in text if letter.isascii()][-1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    recipe = write_pair(folder)
    recipe.write_text(recipe.read_text().replace("max_new_tokens: 24", f"max_new_tokens: {NEW}"))
    tiny_checkpoint(folder / "other-drafter", vocab_size=SIZE, seed=5)
    tiny_model(vocab_size=SIZE, seed=5).save_pretrained(folder / "other-target")
    tiny_tokenizer().save_pretrained(folder / "other-target")
    profile().write(folder / "profile.json")
    profile(draft_seconds=[0.003, 0.004]).write(folder / "other-profile.json")
    held = dict(zip(("model", "tokenizer"), load_model(caddtree.load_recipe(recipe).target), strict=True))
    plain = caddtree.load(recipe, {"drafter": {"name": "none"}}, **held).generate(PROMPT).token_ids
    return Bench(folder, recipe, held, plain)


def answer(decoder):
    return decoder.generate(PROMPT).token_ids


def ending(decoder):
    found = decoder.generate(PROMPT)
    return len(found.token_ids), found.finish_reason


def trees(decoder):
    return [(round_.num_draft_nodes, round_.tree_depth) for round_ in decoder.generate(PROMPT).rounds]


def first_draft(decoder):
    session = decoder.open(PROMPT)
    request = DraftRequest(session.tokens[-1], session.target_state.context_length, 20)
    return decoder.drafter.draft(session.draft_state, request)


def log_probs(decoder):
    return first_draft(decoder).log_probs.tolist()


def shape(decoder):
    return tuple(first_draft(decoder).tokens.shape)


def lookups(decoder):
    """What an n-gram drafter makes of 40 random texts over three tokens."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        state = decoder.drafter.start()
        decoder.drafter.commit(state, torch.randint(0, 3, (20,), generator=generator).tolist(), None)
        marginals = decoder.drafter.draft(state, DraftRequest(1, 20, 12))
        found.append(None if marginals is None else (marginals.tokens.tolist(), marginals.log_probs.tolist()))
    return found


def built(decoder):
    """Draft nodes chosen where every 16th costs, and where the long run is fast."""
    cost = TableCost(1.0 + 0.05 * (np.arange(257) // 16))
    context = round_context(cost_model=cost, tokens_per_second=8.0)
    return decoder.tree_builder.build(narrow(random_log_probs(0, 15, 200, scale=9.0), 16), context).num_drafts


def seconds(decoder):
    """Priced rounds, before and after the choice."""
    decoder.cost_model.prepare(decoder)
    after = decoder.cost_model.after_choice_seconds(np.arange(9), 64)
    return [decoder.cost_model.before_choice_seconds(64), *after.tolist()]


def rows_per_forward(decoder):
    """Rows that the target is given in prefill."""
    rows = []
    handle = decoder.target.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decoder.open(PROMPT)
    handle.remove()
    return rows


def answer_that_may_end(decoder):
    decoder.eos_token_ids = frozenset(decoder.generate(PROMPT, ignore_eos=True).token_ids[4:5])
    return answer(decoder)


def where(decoder):
    weight = decoder.target.model.get_input_embeddings().weight
    return str(decoder.target.dtype), str(weight.dtype), str(decoder.target.device), str(weight.device)


@attrs.frozen
class Flip:
    """Two values of an option, and what is looked at."""

    values: tuple[Any, Any] | Callable[[Bench], tuple[Any, Any]]
    seen: Callable[[Any], Any]
    others: dict[str, Any] | Callable[[Bench], dict[str, Any]] = attrs.field(factory=dict)
    refused: str | None = None
    """What the error says of the one value that is refused."""

    def outcomes(self, bench: Bench, key: tuple[str, str, str]) -> list[Any]:
        section, name, option = key
        values = self.values(bench) if callable(self.values) else self.values
        others = self.others(bench) if callable(self.others) else self.others
        return [self._outcome(bench, section, name, {**others, option: value}) for value in values]

    def _outcome(self, bench: Bench, section: str, name: str, options: dict[str, Any]) -> Any:
        try:
            return self.seen(bench.decoder(section, name, options))
        except CaddtreeError as error:
            if self.refused is None or self.refused not in str(error):
                raise
            return str(error)


def drafter_folder(bench):
    return {"model": str(bench.folder / "drafter")}


def profile_file(bench):
    return {"path": str(bench.folder / "profile.json")}


def profile_files(bench):
    return str(bench.folder / "profile.json"), str(bench.folder / "other-profile.json")


RATES = {"flops_per_second": 1e9, "bytes_per_second": 1e9, "overhead_seconds": 1e-3, "draft_seconds": 1e-3}
NO_DEVICE = None if torch.cuda.is_available() else "target.device is cuda:0, but this machine shows no CUDA device"
SAMPLED = {"temperature": 2.0}

FLIPS: dict[tuple[str, str, str], Flip] = {
    ("drafter", "dflash", "model"): Flip(
        lambda bench: (str(bench.folder / "drafter"), str(bench.folder / "other-drafter")), log_probs
    ),
    ("drafter", "dflash", "draft_length"): Flip((1, 3), shape, drafter_folder),
    ("drafter", "dflash", "dtype"): Flip(("float32", "bfloat16"), log_probs, drafter_folder),
    ("drafter", "dflash", "width"): Flip((2, 7), shape, drafter_folder),
    ("drafter", "ngram", "max_suffix_length"): Flip((1, 4), lookups),
    ("drafter", "ngram", "min_suffix_length"): Flip((1, 3), lookups),
    ("drafter", "ngram", "draft_length"): Flip((1, 8), lookups),
    ("drafter", "ngram", "max_occurrences"): Flip((1, 16), lookups),
    ("drafter", "ngram", "unseen"): Flip((0.5, 3.0), lookups),
    ("tree_builder", "chain", "length"): Flip((1, 3), trees),
    ("tree_builder", "ddtree", "node_budget"): Flip((2, 5), trees),
    ("tree_builder", "caddtree", "max_node_budget"): Flip((3, 200), built),
    ("tree_builder", "caddtree", "search"): Flip(("scan", "first_stop"), built),
    ("tree_builder", "caddtree", "objective"): Flip(("ratio", "price"), built),
    ("cost_model", "table", "path"): Flip(profile_files, seconds, {"force": True}),
    ("cost_model", "table", "force"): Flip((False, True), seconds, profile_file, "set cost_model.force"),
    ("cost_model", "convex", "path"): Flip(profile_files, seconds, {"force": True}),
    ("cost_model", "convex", "force"): Flip((False, True), seconds, profile_file, "set cost_model.force"),
    ("cost_model", "analytic", "flops_per_second"): Flip((1e8, 1e9), seconds, RATES),
    ("cost_model", "analytic", "bytes_per_second"): Flip((1e6, 1e9), seconds, RATES),
    ("cost_model", "analytic", "overhead_seconds"): Flip((1e-3, 2e-3), seconds, RATES),
    ("cost_model", "analytic", "draft_seconds"): Flip((1e-3, 2e-3), seconds, RATES),
}

SECTIONS: dict[tuple[str, str, str], Flip] = {
    ("target", "", "model"): Flip(
        lambda bench: (str(bench.folder / "target"), str(bench.folder / "other-target")), answer
    ),
    ("target", "", "dtype"): Flip(("float32", "bfloat16"), where),
    ("target", "", "device"): Flip(("cpu", "cuda:0"), where, refused=NO_DEVICE),
    ("target", "", "parallel"): Flip(("none", "tensor"), answer, refused="this process is the only one; start two"),
    ("target", "", "prefill_chunk"): Flip((4, 512), rows_per_forward),
    ("target", "", "context_limit"): Flip((None, 16), lambda decoder: len(answer(decoder))),
    ("generation", "", "temperature"): Flip((0.0, 2.0), answer),
    ("generation", "", "top_k"): Flip((None, 1), answer, SAMPLED),
    ("generation", "", "top_p"): Flip((None, 1e-6), answer, SAMPLED),
    ("generation", "", "seed"): Flip((0, 1), answer, SAMPLED),
    ("generation", "", "max_new_tokens"): Flip((3, 9), answer),
    ("generation", "", "stop"): Flip(lambda bench: ([], [bench.said()]), ending),
    ("generation", "", "ignore_eos"): Flip((False, True), answer_that_may_end),
}


def test_every_option_of_every_built_in_strategy_has_a_flip():
    """The table's keys are what the registry describes."""
    described = {
        (info.kind, info.name, option.name)
        for info in default_registry().describe()
        if info.provider.distribution == "caddtree"
        for option in info.options
    }

    assert set(FLIPS) == described


def test_every_key_of_the_other_sections_has_a_flip():
    """The table's keys are the fields of the two classes."""
    fields = {("target", "", field.name) for field in attrs.fields(TargetOptions)}
    fields |= {("generation", "", field.name) for field in attrs.fields(GenerationOptions)}

    assert set(SECTIONS) == fields


@pytest.mark.parametrize("key", [*FLIPS, *SECTIONS], ids=lambda key: ".".join(filter(None, key)))
def test_flipping_an_option_makes_its_difference(bench, key):
    """Through a recipe, as a user gives it; at most the one value that says so is refused."""
    flip = {**FLIPS, **SECTIONS}[key]
    first, second = flip.outcomes(bench, key)

    assert first != second
    assert [isinstance(outcome, str) for outcome in (first, second)].count(True) == (flip.refused is not None)


@pytest.mark.parametrize("key", FLIPS, ids=".".join)
def test_no_option_of_a_strategy_changes_a_token(bench, key):
    """Whatever the drafts, trees and prices are, the answer is the target's own."""
    flip = attrs.evolve(FLIPS[key], seen=answer)
    answers = [outcome for outcome in flip.outcomes(bench, key) if not isinstance(outcome, str)]

    assert len(answers) == 2 - (flip.refused is not None)
    assert set(answers) == {bench.plain}
