"""Runs every check on one pipeline; what a check raises is a finding like any other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from caddtree.core.decoder import Decoder
from caddtree.core.errors import CheckpointError, CompatibilityError, GroupError, InputError
from caddtree.diagnosis.checks import acceptance, dtype, head, kernels, layer_ids, mask_token, profile, rope, vocabulary
from caddtree.diagnosis.evidence import Evidence, gather
from caddtree.diagnosis.findings import Diagnosis, Finding
from caddtree.diagnosis.prompts import default_prompts
from caddtree.loading import load
from caddtree.plugins.recipe import Recipe

logger = logging.getLogger(__name__)

CHECKS: tuple[tuple[str, Callable[[Evidence], Finding]], ...] = tuple(
    (module.NAME, module.check)
    for module in (acceptance, vocabulary, layer_ids, rope, mask_token, head, dtype, kernels, profile)
)
"""In the order in which to look: is it low at all, does the pair belong together, is it read right, is it run well."""


def examine_recipe(
    recipe: Recipe, prompts: Sequence[Any] | None = None, on_step: Callable[[str, int], object] = lambda *_: None
) -> Diagnosis:
    """Load a recipe and examine its pipeline; a pair that cannot be loaded is the only finding then.

    Args:
        recipe: A checked recipe.
        prompts: What to decode; see :func:`examine`.
        on_step: As in :func:`examine`.

    Raises:
        InputError: If a prompt cannot be used.
    """
    try:
        decoder = load(recipe)
    except (CheckpointError, CompatibilityError) as error:
        finding = Finding("loading", "wrong", str(error), "Nothing else can be looked at before this is mended")
        return Diagnosis(recipe.label, 0, (finding,))
    return examine(decoder, prompts, label=recipe.label, on_step=on_step)


def examine(
    decoder: Decoder,
    prompts: Sequence[Any] | None = None,
    *,
    label: str = "decoder",
    on_step: Callable[[str, int], object] = lambda *_: None,
) -> Diagnosis:
    """Return what every check finds.

    Args:
        decoder: The pipeline.
        prompts: What to decode, as :meth:`Decoder.generate` takes it; a few short ones of several kinds when None.
        label: What to call the pipeline.
        on_step: Called with what is done next and the number of steps, before every prompt and every check.

    Raises:
        InputError: If a prompt cannot be used.
        GroupError: If another process of those that hold the target together fails.
    """
    prompts = default_prompts(decoder) if prompts is None else prompts
    if not prompts:
        raise InputError("an examination needs texts, but there are no prompts; give at least one")
    num_steps = len(prompts) + len(CHECKS)
    # observers would log, or end, texts that nobody asked for
    with decoder.unwatched():
        evidence = gather(decoder, prompts, lambda: on_step("decoding", num_steps))
    findings = []
    for name, check in CHECKS:
        findings.append(_guarded(name, check, evidence))
        on_step(name, num_steps)
    return Diagnosis(label, len(prompts), tuple(findings))


def _guarded(name: str, check: Callable[[Evidence], Finding], evidence: Evidence) -> Finding:
    try:
        with evidence.decoder.group.together(f"check {name}"):
            return check(evidence)
    except GroupError:
        raise
    except Exception as error:
        logger.debug("check %s raised", name, exc_info=True)
        said = " ".join(str(error).split())
        return Finding(name, "failed", f"the check raised {type(error).__name__}: {said}", _advice(evidence, error))


def _advice(evidence: Evidence, error: Exception) -> str:
    if error is evidence.failure:
        return "Decoding itself fails: mend that first (caddtree generate shows it)"
    return "Please report it; the other checks do not depend on this one"
