"""Times whole rounds exactly as decoding runs them, at a sparse grid of draft-node counts and contexts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from caddtree.core.profile import Profile

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder
    from caddtree.core.pipeline import Session

logger = logging.getLogger(__name__)

COUNTS = (
    0, 1, 2, 3, 5, 7, 8, 11, 15, 16, 19, 23, 27, 31, 32, 39, 47, 55, 63, 64, 79, 95, 127, 128, 159, 191, 255, 256, 383,
    511, 512, 767, 1023, 1024,
)  # fmt: skip
"""Draft nodes; the root makes one row more. Kernels that work in tiles make the costs a staircase, so both sides of the
large steps are measured. Between the points the table is linear."""
CONTEXTS = (64, 512, 2048)
REPEATS = 25
SECONDS = 50.0
"""A slow machine ends with fewer repeats, not with a long wait."""
_FEWEST_REPEATS = 3
_WARM_UP_SWEEPS = 2
_DRIFT = 0.06
_ROOM = 128
"""Positions behind a context that its rounds need."""
_OUTLIER = 3.0
_POLISHES = 4


def measure_profile(
    decoder: Decoder,
    key: dict[str, str],
    *,
    max_count: int = 256,
    contexts: Sequence[int] = CONTEXTS,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
    seed: int = 0,
) -> Profile:
    """Return the medians of real rounds of ``decoder``.

    The counts are interleaved in random order, so that a drift of the machine meets them all, and every sweep is
    compared with the others as a whole (:func:`steady_medians`). Medians are robust against single outliers; a round
    that a clock says took no time is dropped.

    Args:
        decoder: Any pipeline; its own builder is told the count of every round.
        key: Identity of the profile, see :func:`caddtree.profiling.store.profile_key`.
        max_count: Largest number of draft nodes to measure.
        contexts: Context lengths; those beyond the target's positions are left out.
        repeats: Rounds per cell.
        seconds: Time that may pass; when it runs out, cells keep at least three rounds.
        seed: Of the order and of the text.
    """
    if decoder.drafter.block_size == 1:
        max_count = 0  # plain decoding
    counts = _counts(decoder, max_count)
    usable = usable_contexts(decoder, contexts)
    rng = random.Random(seed)
    with decoder.measuring():
        draft, after, switches = _sweep(decoder, counts, usable, repeats, time.perf_counter() + seconds, rng)

    def profile() -> Profile:
        switch_seconds = max(0.0, float(np.median(switches))) if switches else 0.0
        measured = _profile(key, usable, counts, draft, after, max_count, repeats)
        return attrs.evolve(measured, switch_seconds=switch_seconds)

    return decoder.group.share(profile)


def _counts(decoder: Decoder, max_count: int) -> list[int]:
    """Return the draft-node counts to measure; where forwards are padded, those that fill their rows."""
    padded = decoder.target.candidate_counts if decoder.target.runner.row_buckets is not None else None
    if padded is None or max_count == 0:
        return [count for count in COUNTS if count < max_count] + [max_count]
    # the root alone is always a legal answer, whatever it is padded to
    return sorted({0, *(count for count in padded if count <= max_count)})


def usable_contexts(decoder: Decoder, contexts: Sequence[int] = CONTEXTS) -> list[int]:
    """Return those contexts that leave room for rounds within the target's positions."""
    limit = decoder.target.position_limit
    return [context for context in contexts if context + _ROOM <= limit] or [max(1, limit // 4)]


def _sweep(
    decoder: Decoder, counts: Sequence[int], usable: Sequence[int], repeats: int, deadline: float, rng: random.Random
) -> tuple[list[list[float]], NDArray[np.float64], list[float]]:
    """Return the seconds before the choice per context, those after it, ``(contexts, repeats, counts)``, and switches.

    What was not measured, or took no time by the clock, is NaN. Where forwards are padded every size is run twice in a
    row: the second time is what it costs, and the first is dearer by what a switch of rows costs.
    """
    is_padded = decoder.target.runner.row_buckets is not None
    switches: list[float] = []
    text = _own_text(decoder, rng)
    draft: list[list[float]] = [[] for _ in usable]
    after = np.full((len(usable), repeats, len(counts)), np.nan)
    total = len(usable) * (repeats + _WARM_UP_SWEEPS) * len(counts)
    # None: silent where stderr is no terminal
    is_silent = True if decoder.group.rank > 0 else None
    with tqdm(total=total, desc="measuring rounds on this machine (once)", disable=is_silent, leave=False) as bar:
        for row, context in enumerate(usable):
            session = None
            # what is left is shared by the contexts that are left
            now = time.perf_counter()
            until = now + (deadline - now) / (len(usable) - row)
            for sweep in range(repeats + _WARM_UP_SWEEPS):
                if sweep >= _WARM_UP_SWEEPS + _FEWEST_REPEATS and decoder.group.share(_is_past(until)):
                    logger.info("context %d: stopped after %d rounds per size", context, sweep - _WARM_UP_SWEEPS)
                    break
                for column in rng.sample(range(len(counts)), len(counts)):
                    session = _near(decoder, session, context, text)
                    round_ = session.step(candidate_counts=(counts[column],)).round
                    if is_padded:
                        session, switched = _near(decoder, session, context, text), round_
                        round_ = session.step(candidate_counts=(counts[column],)).round
                    bar.update()
                    if sweep < _WARM_UP_SWEEPS or round_ is None or round_.num_draft_nodes != counts[column]:
                        continue
                    if round_.seconds.after_choice > 0:
                        draft[row].append(round_.seconds.before_choice)
                        after[row, sweep - _WARM_UP_SWEEPS, column] = round_.seconds.after_choice
                    if is_padded and switched is not None:
                        switches.append(switched.seconds.total - round_.seconds.total)
    return draft, after, switches


def _is_past(moment: float) -> Callable[[], bool]:
    """Return what asks the clock whether a moment has gone by."""
    return lambda: time.perf_counter() > moment


def steady_medians(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one figure per size from sweeps over all sizes, free of how fast the machine was in which sweep.

    A machine that is shared slows down for seconds at a time: a plain median then favours the sizes that were lucky.
    Here every time is a level of its sweep times a factor of its size, and both are found by turns as medians of
    logarithms (Tukey's median polish).

    Args:
        seconds: ``(sweeps, sizes)``, NaN where a round is missing; every size has one at least.
    """
    logs = np.log(seconds[~np.isnan(seconds).all(axis=1)])
    factors = np.zeros(logs.shape[1])
    for _ in range(_POLISHES):
        levels = np.nanmedian(logs - factors, axis=1, keepdims=True)
        factors = np.nanmedian(logs - levels, axis=0)
    return np.asarray(np.exp(np.median(levels) + factors))


def _own_text(decoder: Decoder, rng: random.Random) -> list[int]:
    """Return tokens of the target's own making: rounds on them accept as rounds of real decoding do."""
    prompt = [rng.randrange(decoder.target.vocabulary_size) for _ in range(8)]
    room = min(150, decoder.target.position_limit - len(prompt))
    session = decoder.open(prompt, max_new_tokens=room, ignore_eos=True)
    while session.finish_reason is None:
        session.step(candidate_counts=(0,))
    return session.tokens


def _near(decoder: Decoder, session: Session | None, context: int, text: list[int]) -> Session:
    """Return a session whose context is still close to the wanted one."""
    if session is not None and session.finish_reason is None:
        drift = session.target_state.context_length - context
        if drift <= max(32, _DRIFT * context):
            return session
    if session is not None:
        # its buffers serve the next one, with what was captured over them
        session.close()
    prompt = (text * (context // len(text) + 1))[:context]
    room = min(500, decoder.target.position_limit - context)
    return decoder.open(prompt, max_new_tokens=room, ignore_eos=True)


def _profile(
    key: dict[str, str],
    contexts: Sequence[int],
    counts: Sequence[int],
    draft: list[list[float]],
    after: NDArray[np.float64],
    max_count: int,
    repeats: int,
) -> Profile:
    # a count that the builder could not reach anywhere (small vocabularies) leaves the grid
    kept = np.flatnonzero((~np.isnan(after)).any(axis=1).all(axis=0)).tolist()
    after = after[:, :, kept]
    medians = np.stack([steady_medians(row) for row in after])
    high, low = np.nanpercentile(after, [75, 25], axis=1)
    ratios = after / medians[:, None]
    return Profile(
        key=key,
        contexts=tuple(contexts),
        counts=tuple(counts[column] for column in kept),
        draft_seconds=[float(np.median(row)) for row in draft],
        after_seconds=medians,
        spread_seconds=(high - low) / 2,
        max_count=max_count,
        repeats=repeats,
        outlier_share=float(np.mean(ratios[~np.isnan(ratios)] > _OUTLIER)),
    )
