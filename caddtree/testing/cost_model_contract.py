"""What every cost model promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from caddtree.core.decoder import Decoder
from caddtree.core.protocols import CostModel
from caddtree.plugins.hooks import Kind
from caddtree.testing.claims import must_work, require
from caddtree.testing.losslessness import SAMPLINGS, check_text_is_the_targets
from caddtree.testing.partners import PartnerDrafter, built_in
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract

Make = Callable[[], CostModel]
"""A new strategy of the options under test."""

COUNTS: dict[str, list[int]] = {
    "many": [0, 1, 2, 3, 4, 7, 10, 11, 64, 256, 1500],
    "the root alone": [0],
    "one": [1],
    "none": [],
    "descending": [256, 64, 10, 1, 0],
    "repeated": [10, 0, 10, 1500, 0],
}
"""Draft nodes that are asked for at once."""
CONTEXTS = (1, 64, 100, 217, 300, 301, 480, 20_000)
"""Committed tokens, inside and far outside of what may have been measured."""

_HINT = "A cost model cannot choose what is said; look at what it does to the decoder in prepare."
_PRECISION = 1e-9
"""Relative: the same price, computed among others."""


class CostModelContract(Contract):
    """The contract of a cost model: draft nodes and context length to the seconds of a round.

    A class is ``strategy = YourCostModel`` and ``options`` that fix what it would otherwise measure, because what is
    measured differs from call to call; see :class:`Contract` for the rest. Profiles that are kept go to a folder of
    the test's own.
    """

    kind: ClassVar[Kind] = "cost_model"

    @pytest.fixture(autouse=True)
    def own_cache_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep the user's profiles out of the test, and the test's out of the user's."""
        monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path / "cache"))

    @pytest.fixture
    def prepared(self, make: Make, target_model: Any) -> Iterator[CostModel]:
        """Return the cost model, prepared for a pipeline."""
        model = make()
        decoder = _prepare(model, target_model)
        yield model
        decoder.target.close()

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return prices after preparation."""
        _prepare(strategy, target_model).target.close()
        return [
            [strategy.before_choice_seconds(context), *after_choice(strategy, COUNTS["many"], context).tolist()]
            for context in CONTEXTS
        ]

    def test_it_is_a_cost_model(self, make: Make) -> None:
        """It has the three methods, and where it has ``switch_seconds``, they are seconds."""
        model = make()
        require(
            isinstance(model, CostModel),
            f"{self.strategy.__name__} needs prepare, before_choice_seconds and after_choice_seconds",
        )
        switch = getattr(model, "switch_seconds", 0.0)
        require(
            isinstance(switch, int | float) and 0 <= switch < np.inf,
            f"switch_seconds must be a finite number of at least 0, found {switch!r}",
        )

    @pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
    def test_there_is_one_price_per_count(self, prepared: CostModel, counts: Sequence[int]) -> None:
        """A float64 array of the shape of the counts, however many they are and whatever their order."""
        for context in CONTEXTS:
            found = after_choice(prepared, counts, context)
            require(
                isinstance(found, np.ndarray) and found.shape == (len(counts),) and found.dtype == np.float64,
                f"after_choice_seconds must return {len(counts)} float64 seconds for {len(counts)} counts, found "
                f"{type(found).__name__} of shape {np.shape(found)} and dtype {getattr(found, 'dtype', None)}",
            )

    @pytest.mark.parametrize("context_length", CONTEXTS)
    def test_every_price_is_finite_and_above_0(self, prepared: CostModel, context_length: int) -> None:
        """After the choice above 0, before it 0 or more, inside and outside of what was measured."""
        _check_prices(prepared, context_length)

    @pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
    def test_many_prices_at_once_are_the_prices_one_by_one(self, prepared: CostModel, counts: Sequence[int]) -> None:
        """A count costs the same in whatever company and order it is asked for."""
        for context, count, price, alone in _priced_twice(prepared, counts):
            require(
                bool(np.isclose(price, alone, rtol=_PRECISION, atol=0, equal_nan=True)),
                f"{count} draft nodes at context {context} cost {alone:.6g} s when asked for alone and "
                f"{price:.6g} s among {list(counts)}. Price every count by itself.",
            )

    def test_a_price_does_not_depend_on_what_was_asked_before(self, prepared: CostModel) -> None:
        """Contexts asked up, then down, and after a caller has written into the answer."""
        up, down = ({each: _prices(prepared, each) for each in order} for order in (CONTEXTS, CONTEXTS[::-1]))
        for context, first in up.items():
            require(
                _same(first, down[context]),
                f"the prices at context {context} changed between two calls, from {first[:4]} to {down[context][:4]}. "
                f"Prices follow from the counts, the context and what prepare found; and the array that is returned "
                f"is the caller's, who may write into it.",
            )

    def test_the_counts_are_left_as_they_were(self, prepared: CostModel) -> None:
        """The array of counts is the caller's."""
        given = np.array(COUNTS["many"])
        with must_work("after_choice_seconds"):
            prepared.after_choice_seconds(given, 64)
        require(
            given.tolist() == COUNTS["many"],
            f"after_choice_seconds changed the counts in place, to {given.tolist()}. Work on a copy.",
        )

    def test_it_answers_before_it_is_prepared(self, make: Make) -> None:
        """It may be asked while its own seconds are being measured: any price will do."""
        _check_prices(make(), 64)

    @pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_the_text_is_the_targets_own(self, make: Make, target_model: Any, sampling: Mapping[str, Any]) -> None:
        """Whole requests through the adaptive builder equal plain decoding token by token."""
        rounds = check_text_is_the_targets(_decoders(make, target_model), target_model, sampling, _HINT)
        for round_ in rounds:
            require(
                round_.predicted_seconds is not None and 0 < round_.predicted_seconds < np.inf,
                f"round {round_.index} is predicted to take {round_.predicted_seconds} seconds",
            )

    def test_the_text_of_a_vocabulary_of_2_is_the_targets_own(self, make: Make) -> None:
        """The smallest vocabulary that leaves a choice."""
        model = self.make_target(2)
        check_text_is_the_targets(_decoders(make, model), model, {}, _HINT)

    def test_pricing_is_fast(self, prepared: CostModel, target_model: Any) -> None:
        """1,025 sizes at once, against ``analytic``."""
        yardstick = built_in(
            "cost_model",
            "analytic",
            flops_per_second=1e9,
            bytes_per_second=1e9,
            overhead_seconds=1e-3,
            draft_seconds=1e-3,
        )
        _prepare(yardstick, target_model).target.close()
        counts = np.arange(1025)
        check_speed(
            "after_choice_seconds of 1,025 sizes",
            lambda: (prepared.before_choice_seconds(300), prepared.after_choice_seconds(counts, 300)),
            lambda: (yardstick.before_choice_seconds(300), yardstick.after_choice_seconds(counts, 300)),
            "cost_model analytic",
            self.slowest_allowed,
        )


def after_choice(model: CostModel, counts: Sequence[int], context_length: int) -> NDArray[np.float64]:
    """Return the seconds after the choice."""
    with must_work(f"after_choice_seconds for counts {list(counts)} at context {context_length}"):
        return model.after_choice_seconds(np.array(counts, dtype=np.int64), context_length)


def _decoders(make: Make, model: Any) -> Callable[[Sequence[Sequence[int]]], Decoder]:
    return lambda known: Decoder(
        target=model,
        drafter=PartnerDrafter(known),
        tree_builder=built_in("tree_builder", "caddtree", max_node_budget=16),
        verifier=built_in("verifier", "sdpa"),
        cost_model=make(),
    )


def _prepare(model: CostModel, target_model: Any) -> Decoder:
    """Prepare a cost model for a pipeline, and return that."""
    decoder = _decoders(lambda: model, target_model)(())
    with must_work("prepare"):
        decoder.prepare()
    return decoder


def _prices(model: CostModel, context_length: int) -> list[float]:
    found = np.asarray(after_choice(model, COUNTS["many"], context_length))
    prices = [float(model.before_choice_seconds(context_length)), *np.ravel(found).tolist()]
    if found.flags.writeable:
        found[...] = -1.0  # as a caller might
    return prices


def _priced_twice(model: CostModel, counts: Sequence[int]) -> Iterator[tuple[int, int, float, float]]:
    """Yield context, count, its price among the others and alone."""
    for context in CONTEXTS:
        together = np.ravel(after_choice(model, counts, context)).tolist()
        for count, price in zip(counts, together, strict=False):
            yield context, count, price, float(np.ravel(after_choice(model, [count], context))[0])


def _check_prices(model: CostModel, context_length: int) -> None:
    after = np.ravel(after_choice(model, COUNTS["many"], context_length))
    # a NaN compares false
    for count, seconds in zip(COUNTS["many"], after.tolist(), strict=False):
        require(
            0 < seconds < np.inf,
            f"a price must be finite and above 0, found {seconds:g} seconds for {count} draft nodes at context "
            f"{context_length}. Outside of what is known hold the nearest known price.",
        )
    with must_work(f"before_choice_seconds at context {context_length}"):
        before = model.before_choice_seconds(context_length)
    require(
        isinstance(before, float | int) and 0 <= before < np.inf,
        f"before_choice_seconds must be a finite number of at least 0, found {before!r} at context {context_length}",
    )


def _same(first: Sequence[float], second: Sequence[float]) -> bool:
    return np.array_equal(np.array(first), np.array(second), equal_nan=True)
