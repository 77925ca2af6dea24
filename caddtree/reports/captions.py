"""What stands around tables and pictures: where the figures come from, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caddtree.experiments.statistics import MIN_PROMPTS
from caddtree.experiments.summary import Summary

_VERSIONS = ("caddtree", "torch", "transformers", "triton")


def how_to_read(summary: Summary) -> str:
    """Return the paragraph that every report opens with."""
    against = "" if summary.baseline == summary.plain else f" The verdict is against {summary.baseline}."
    return (
        "All variants decoded a prompt one after another on one worker, in random order. A speed-up is the ratio of "
        "decoding speeds, prefill left out, paired within such a block; of repeats the median counts, of seeds the "
        "mean, and the table shows the geometric mean over the prompts of a data set, then over data sets. The "
        "interval is a 95 % bootstrap interval (BCa, widened for few prompts) over prompts, within data sets; data "
        f"sets with fewer than {MIN_PROMPTS} prompts have none.{against} A variant is called faster or slower when "
        "the interval leaves 1 out. Every row is judged by itself, without a correction for many comparisons: of "
        "twenty variants without any effect, one is called faster or slower on average. Tau is the number of tokens "
        "per round, the bonus token counted. Identical means that the tokens equal those of plain decoding with the "
        "same seed."
    )


def machine(summary: Summary) -> str:
    """Return the machine and the versions in one line; of several environments what all of them share."""
    facts = list(summary.environments.values())
    if not facts:
        return "no environment recorded"
    found = [_shared(facts, "device")]
    if (threads := _shared(facts, "threads")) and _shared(facts, "device_kind") != "cuda":
        found.append(f"{threads} thread{'s' if threads != '1' else ''}")
    found += [_shared(facts, "dtype"), _python(facts), *_versions(facts), _commit(facts)]
    if summary.mixed_facts:
        found.append(f"environments that differ in {', '.join(summary.mixed_facts)}")
    return ", ".join(part for part in found if part)


def prompts(summary: Summary, setting: str) -> str:
    """Return how much was decoded: prompts per data set, seeds, repeats."""
    counts = ", ".join(f"{name} {count}" for name, count in summary.num_prompts.items())
    seeds = summary.seeds[setting]
    named = f"seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds))}"
    return f"prompts: {counts}; {named}; {summary.num_repeats} repeat{'s' if summary.num_repeats != 1 else ''}"


def request(summary: Summary, setting: str) -> str:
    """Return the request options of a setting that are set; the seed is among the prompts."""
    options = {name: value for name, value in summary.settings[setting].items() if name != "seed"}
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in options.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value not in (None, False, [], (), ""))


def provenance(summary: Summary, setting: str) -> str:
    """Return machine, versions, prompts, seeds and request options: what belongs beside every figure."""
    parts = (machine(summary), prompts(summary, setting), request(summary, setting))
    return "; ".join(part for part in parts if part)


def _shared(facts: list[Mapping[str, Any]] | list[dict[str, Any]], name: str) -> str:
    """Return a fact in which all environments agree, as text; nothing where they do not."""
    values = [entry.get(name) for entry in facts]
    return "" if values[0] is None or any(value != values[0] for value in values) else str(values[0])


def _python(facts: list[dict[str, Any]]) -> str:
    version = _shared(facts, "python")
    return f"Python {version}" if version else ""


def _commit(facts: list[dict[str, Any]]) -> str:
    commit = _shared(facts, "commit")
    return f"commit {commit}" if commit else ""


def _versions(facts: list[dict[str, Any]]) -> list[str]:
    known = [entry.get("versions") or {} for entry in facts]
    return [f"{name} {version}" for name in _VERSIONS if (version := _shared(known, name))]
