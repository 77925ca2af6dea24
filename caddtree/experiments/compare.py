"""Several decoders on the same prompts, interleaved prompt by prompt, judged on ratios."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from caddtree.core.decoder import Decoder
from caddtree.core.errors import InputError
from caddtree.core.records import Generation
from caddtree.experiments.acceptance import tau_over_rounds
from caddtree.experiments.fingerprint import machine_facts
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.statistics import Interval, geometric_mean


@attrs.frozen(eq=False)
class VariantResult:
    """One decoder on all prompts."""

    recipe: str
    generations: tuple[Generation, ...]
    """One per prompt: of several repeats the one of median speed."""
    speedup: Interval
    """Geometric mean over prompts of the speed over the first variant's."""
    identical: bool
    """Whether every output equals the first variant's."""
    speedup_by_domain: Mapping[str, Interval]

    @property
    def tokens_per_second(self) -> float:
        """Median over prompts."""
        speeds = [generation.tokens_per_second for generation in self.generations if generation.rounds]
        return statistics.median(speeds) if speeds else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tau over all rounds of all prompts."""
        return tau_over_rounds(self.generations)

    @property
    def mean_node_budget(self) -> float:
        """Draft nodes per round over all rounds of all prompts."""
        rounds = [round_ for generation in self.generations for round_ in generation.rounds]
        return statistics.fmean(round_.num_draft_nodes for round_ in rounds) if rounds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        budgets = Counter(round_.num_draft_nodes for generation in self.generations for round_ in generation.rounds)
        return {
            "recipe": self.recipe,
            "tokens_per_second": self.tokens_per_second,
            "speedup": self.speedup.value,
            "speedup_interval": [self.speedup.low, self.speedup.high],
            "speedup_by_domain": {name: attrs.asdict(entry) for name, entry in self.speedup_by_domain.items()},
            "mean_acceptance_length": self.mean_acceptance_length,
            "mean_node_budget": self.mean_node_budget,
            "node_budget_histogram": {str(count): budgets[count] for count in sorted(budgets)},
            "identical": self.identical,
        }


@attrs.frozen(eq=False)
class Comparison:
    """The result of :func:`compare`."""

    variants: tuple[VariantResult, ...]
    num_prompts: int
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything that a reader needs to judge the figures, as JSON-ready values."""
        return {
            "variants": [variant.to_dict() for variant in self.variants],
            "num_prompts": self.num_prompts,
            "repeats": self.repeats,
            "machine": machine_facts(),
        }


def compare(
    decoders: Mapping[str, Decoder],
    prompts: Sequence[PromptRecord],
    *,
    repeats: int = 1,
    on_generation: Callable[[str, PromptRecord, Generation], None] | None = None,
    **options: Any,
) -> Comparison:
    """Decode every prompt with every decoder, in an order that rotates from prompt to prompt.

    Args:
        decoders: Name to decoder; the first is the baseline.
        prompts: At least one.
        repeats: Runs per prompt and decoder; the run of median speed counts.
        on_generation: Called after every run.
        **options: Passed on to :meth:`Decoder.generate`.

    Raises:
        InputError: Without a decoder or a prompt.
    """
    if not decoders or not prompts:
        raise InputError("a comparison needs at least one recipe and one prompt")
    names = list(decoders)
    for decoder in decoders.values():
        # the first rounds of a process are slow: allocator, caches, a profile that is still to be made
        with decoder.unwatched():
            decoder.generate(prompts[0].prompt, **{**options, "max_new_tokens": 8})
    kept: dict[str, list[Generation]] = {name: [] for name in names}
    for index, record in enumerate(prompts):
        runs: dict[str, list[Generation]] = {name: [] for name in names}
        for repeat in range(repeats):
            shift = (index + repeat) % len(names)
            for name in names[shift:] + names[:shift]:
                generation = decoders[name].generate(record.prompt, **options)
                runs[name].append(generation)
                if on_generation is not None:
                    on_generation(name, record, generation)
        for name in names:
            by_speed = sorted(runs[name], key=lambda generation: generation.tokens_per_second)
            kept[name].append(by_speed[len(by_speed) // 2])
    return Comparison(tuple(_result(name, names[0], kept, prompts) for name in names), len(prompts), repeats)


def _result(
    name: str, baseline: str, kept: Mapping[str, Sequence[Generation]], prompts: Sequence[PromptRecord]
) -> VariantResult:
    ratios: dict[str, list[float]] = {}
    everything = []
    for record, mine, base in zip(prompts, kept[name], kept[baseline], strict=True):
        if mine.tokens_per_second > 0 and base.tokens_per_second > 0:
            ratio = math.log(mine.tokens_per_second / base.tokens_per_second)
            ratios.setdefault(record.domain, []).append(ratio)
            everything.append(ratio)
    return VariantResult(
        recipe=name,
        generations=tuple(kept[name]),
        speedup=geometric_mean(everything),
        identical=all(a.token_ids == b.token_ids for a, b in zip(kept[name], kept[baseline], strict=True)),
        speedup_by_domain={domain: geometric_mean(values) for domain, values in sorted(ratios.items())},
    )
