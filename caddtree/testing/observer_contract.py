"""What every observer promises."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.pipeline import Session
from caddtree.core.records import Generation, Round
from caddtree.core.sampler import Processor
from caddtree.plugins.hooks import Kind
from caddtree.plugins.options import options_of
from caddtree.testing.claims import must_work, require
from caddtree.testing.inputs import repeating_texts
from caddtree.testing.losslessness import SAMPLINGS, check_same, check_text_is_the_targets
from caddtree.testing.partners import PartnerCosts, PartnerDrafter, built_in
from caddtree.testing.records import REQUESTS, ROUNDS, made_up_request, made_up_round
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract

Make = Callable[[], Any]
"""A new strategy of the options under test."""

METHODS = ("on_round", "on_finish", "ends_text")
PIPELINES: dict[str, tuple[bool, Mapping[str, Any]]] = {
    "plain decoding": (False, {"name": "chain"}),
    "a chain": (True, {"name": "chain"}),
    "a tree": (True, {"name": "ddtree", "node_budget": 24}),
}
"""Whether anything is drafted, and the tree builder."""

_PROMPT = (1, 2, 3)
_LONG, _ASKED = 2000, 16
"""Tokens of a long answer, and how often a rule is asked in a round that gains many of them."""
_DAY = 86_400
_ALONE = (
    "The text must end at the same token whatever was drafted, so the answer follows from the tokens alone: look at "
    "all of them each time and keep nothing."
)
_HINT = "An observer cannot choose what is said; look at what it does to torch, to the target or to the records."


class ObserverContract(Contract):
    """The contract of an observer: it sees rounds and requests, or says where a text ends, and changes no token.

    A class is ``strategy = YourObserver`` and, where it has options, ``options``; see :class:`Contract` for the rest. A
    rule needs ``texts`` that it ends: those of the kit go in circles, or hold few or many different tokens. What an
    observer keeps outside of itself and the log, such as a file, is shown to the kit by ``noted``::

        def noted(self, observer):
            path = Path(observer.path)
            lines = path.read_text().splitlines()
            path.unlink()
            return path.name, lines
    """

    kind: ClassVar[Kind] = "observer"

    def texts(self, vocabulary_size: int) -> list[list[int]]:
        """Return answers, at least one of which a rule ends; every token is below ``vocabulary_size``."""
        return repeating_texts(vocabulary_size)

    def noted(self, observer: Any) -> object:
        """Return what an observer wrote elsewhere since it was made, comparable with ``==`` and without times."""
        return None

    @pytest.fixture
    def answers(self, target_model: Any) -> list[list[int]]:
        """Return the texts of the checks."""
        texts = [list(text) for text in self.texts(_size(target_model))]
        require(all(texts), "`texts` must return answers of one token or more each")
        return texts

    @pytest.fixture
    def make_rule(self, make: Make) -> Make:
        """Return a function that makes the observer, where it is a rule."""
        if not _has(make(), "ends_text"):
            pytest.skip(f"{self.strategy.__name__} has no ends_text")
        return make

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return answers on all texts, the log, what the observer shows, and what it has ``noted``."""
        said = [_said(strategy, text) for text in self.texts(_size(target_model)) if _has(strategy, "ends_text")]
        with _clocks(_ticking), _heard() as messages:
            for make_request in REQUESTS.values():
                show(strategy, make_request())
        with must_work("`noted` of the contract class"):
            noted = self.noted(strategy)
        return said, messages, _shown(strategy), noted

    def test_it_is_an_observer(self, make: Make) -> None:
        """It has one or more of the three methods, and nothing else by their names."""
        observer = make()
        for name in METHODS:
            found = getattr(observer, name, None)
            require(
                not hasattr(observer, name) or callable(found),
                f"{name} must be a method, found {type(found).__name__}. An observer that does not need it leaves it "
                f"out.",
            )
        require(
            any(_has(observer, name) for name in METHODS),
            f"{self.strategy.__name__} needs on_round(round_), on_finish(generation) or ends_text(tokens)",
        )

    @pytest.mark.parametrize("case", ROUNDS)
    def test_every_round_is_taken(self, make: Make, case: str) -> None:
        """Without draft nodes, without a cost model, with a draft that nobody could use: it happened all the same."""
        observer = make()
        if not _has(observer, "on_round"):
            pytest.skip(f"{self.strategy.__name__} has no on_round")
        with must_work(f"on_round of a round with {case}", "An exception there ends the request."):
            observer.on_round(ROUNDS[case]())

    @pytest.mark.parametrize("case", REQUESTS)
    def test_every_request_is_taken(self, make: Make, case: str) -> None:
        """Cancelled ones, and those without any round, whose speed and tau are 0."""
        observer = make()
        if not _has(observer, "on_finish"):
            pytest.skip(f"{self.strategy.__name__} has no on_finish")
        show(observer, REQUESTS[case](), f"a request: {case}")

    def test_requests_come_as_they_come(self, make: Make) -> None:
        """Two at once, one after another that failed halfway, the same one again."""
        observer = make()
        one, other = made_up_request(3), made_up_request(5)
        for rounds in zip(one.rounds, other.rounds, strict=False):
            for round_ in rounds:
                _show_round(observer, round_, "a round while two requests are open")
        _show_finish(observer, one, "the end of one of two requests that are open")
        # the other one failed in a strategy, which nobody is told
        for number in range(2):
            show(observer, one, f"request {number} after one that failed halfway")

    def test_records_are_left_as_they_were(self, make: Make) -> None:
        """Others see them too, and the caller gets them."""
        observer = make()
        for case, make_request in REQUESTS.items():
            given, expected = make_request(), make_request()
            show(observer, given)
            for index, (mine, right) in enumerate(zip(given.rounds, expected.rounds, strict=True)):
                _require_same_fields(mine, right, f"round {index} of a request ({case})")
            _require_same_fields(given, expected, f"the record of a request ({case})")

    def test_watching_is_fast(self, make: Make) -> None:
        """A round, against writing it as JSON."""
        observer, round_ = make(), made_up_round()
        if not _has(observer, "on_round"):
            pytest.skip(f"{self.strategy.__name__} has no on_round")
        check_speed(
            "on_round",
            lambda: observer.on_round(round_),
            lambda: json.dumps(round_.to_dict()),
            "writing the round as JSON",
            self.slowest_allowed,
        )

    @pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_the_text_is_the_targets_own(self, make: Make, target_model: Any, sampling: Mapping[str, Any]) -> None:
        """Whole requests equal plain decoding token by token, up to where a rule ends them."""

        def decoder(known: Sequence[Sequence[int]]) -> Decoder:
            return _decoder(make(), target_model, known, *PIPELINES["a tree"])

        check_text_is_the_targets(decoder, target_model, sampling, _HINT, lambda text: _cut(make(), text))

    @pytest.mark.parametrize("pipeline", PIPELINES)
    def test_a_text_ends_at_the_same_token_whatever_is_drafted(
        self, make: Make, target_model: Any, answers: list[list[int]], pipeline: str
    ) -> None:
        """All texts at once, round by round in turn, and the first one again; the target is made to say them."""
        known = [[*_PROMPT, *text] for text in answers]
        with must_work("making a decoder"):
            decoder = _decoder(make(), target_model, known, *PIPELINES[pipeline])
        hint = f"{_ALONE if _has(make(), 'ends_text') else _HINT} It was decoded by {pipeline}."
        try:
            with must_work(f"decoding by {pipeline}, several requests in turn"):
                found = _decoded_in_turn(decoder, answers)
                found += _decoded_in_turn(decoder, answers[:1])
        finally:
            decoder.target.close()
        for number, (generation, text) in enumerate(zip(found, [*answers, answers[0]], strict=True)):
            where = f"the answer to request {number} of {len(found)}"
            check_same(generation, _cut(make(), text), where, "the text up to the end that a new rule gives it", hint)

    def test_a_rule_says_true_or_false(self, make_rule: Make, answers: list[list[int]]) -> None:
        """From the first token on; anything else is refused while decoding."""
        rule = make_rule()
        for text in answers:
            for count in range(1, len(text) + 1):
                found = _asked(rule, text[:count])
                require(
                    isinstance(found, bool | np.bool_),
                    f"ends_text must return True or False, found {found!r} ({type(found).__name__}) after {count} "
                    f"tokens. Return it on every way out.",
                )

    def test_a_rule_ends_some_text(self, make_rule: Make, answers: list[list[int]]) -> None:
        """Or nothing would be known about it."""
        require(
            any(_is_end(answer) for text in answers for answer in _said(make_rule(), text)),
            f"{self.strategy.__name__} ends none of the {len(answers)} texts of the kit, so nothing can be said about "
            f"the rule. Override `texts` with some that it ends, or give `options` by which it ends one.",
        )

    def test_a_rule_says_the_same_when_it_is_asked_again(self, make_rule: Make, answers: list[list[int]]) -> None:
        """At once, and about shorter answers after longer ones: a token may be looked at more than once in a round."""
        for text in answers:
            expected, rule = _said(make_rule(), text), make_rule()
            twice = [(_asked(rule, text[:count]), _asked(rule, text[:count])) for count in _counts(text)]
            for which in (0, 1):
                answers_of_turn = [pair[which] for pair in twice]
                _require_same_answers(answers_of_turn, expected, text, f"asked twice, the answer of time {which + 1}")
            rule = make_rule()
            backwards = [_asked(rule, text[:count]) for count in reversed(_counts(text))]
            _require_same_answers(backwards[::-1], expected, text, "asked from the whole answer down to one token")

    def test_a_rule_remembers_no_text(self, make_rule: Make, answers: list[list[int]]) -> None:
        """After other requests, and while another one is open, it says what a new rule says."""
        used = make_rule()
        for turn in range(2):
            for text in answers:
                expected = _said(make_rule(), text)
                _require_same_answers(_said(used, text), expected, text, f"asked after other texts, turn {turn}")
        for one, other in itertools.pairwise(answers):
            rule, first, second = make_rule(), [], []
            for count in range(1, max(len(one), len(other)) + 1):
                first += [_asked(rule, one[:count])] if count <= len(one) else []
                second += [_asked(rule, other[:count])] if count <= len(other) else []
            for text, found in ((one, first), (other, second)):
                _require_same_answers(found, _said(make_rule(), text), text, "asked about two texts in turn")

    def test_a_rule_does_not_look_at_the_clock(self, make_rule: Make, answers: list[list[int]]) -> None:
        """A day that passes within an answer changes nothing: ``should_stop`` of a request is for that."""
        for text in answers:
            rule, half = make_rule(), len(text) // 2
            found = [_asked(rule, text[:count]) for count in range(1, half + 1)]
            with _clocks(_a_day_later):
                found += [_asked(rule, text[:count]) for count in range(half + 1, len(text) + 1)]
            _require_same_answers(found, _said(make_rule(), text), text, "when a day passes in the middle of the text")

    def test_a_rule_takes_any_sequence(self, make_rule: Make, answers: list[list[int]]) -> None:
        """Token ids in a tuple are the same answer as in a list."""
        for text in answers:
            rule, expected = make_rule(), _said(make_rule(), text)
            found = [_asked(rule, tuple(text[:count])) for count in _counts(text)]
            _require_same_answers(found, expected, text, "given the token ids in a tuple")

    def test_the_tokens_of_an_answer_are_left_as_they_were(self, make_rule: Make, answers: list[list[int]]) -> None:
        """Other rules are given the same list."""
        rule = make_rule()
        for text in answers:
            for count in _counts(text):
                given = text[:count]
                _asked(rule, given)
                require(
                    given == text[:count],
                    f"ends_text changed the list of tokens in place: {count} tokens became {given[:12]}. Other rules "
                    f"are given the same list: work on a copy.",
                )

    def test_asking_is_fast(self, make_rule: Make, target_model: Any) -> None:
        """Sixteen answers of 2,000 tokens, which is a round, against one pass over each."""
        rule, generator = make_rule(), torch.Generator().manual_seed(0)
        text = torch.randint(0, _size(target_model), (_LONG,), generator=generator).tolist()
        asked = [text[:count] for count in range(_LONG - _ASKED + 1, _LONG + 1)]
        check_speed(
            f"ends_text of {_ASKED} answers of {_LONG:,} tokens",
            lambda: [rule.ends_text(answer) for answer in asked],
            lambda: [sum(answer) for answer in asked],
            "adding up their tokens",
            self.slowest_allowed,
        )


def show(observer: Any, request: Generation, what: str = "a request") -> None:
    """Show a request to an observer as decoding does: its rounds, then its end."""
    for round_ in request.rounds:
        _show_round(observer, round_, f"round {round_.index} of {what}")
    _show_finish(observer, request, what)


def _show_round(observer: Any, round_: Round, what: str) -> None:
    if _has(observer, "on_round"):
        with must_work(f"on_round of {what}", "An exception there ends the request."):
            observer.on_round(round_)


def _show_finish(observer: Any, request: Generation, what: str) -> None:
    if _has(observer, "on_finish"):
        with must_work(f"on_finish of {what}", "An exception there ends the request."):
            observer.on_finish(request)


def _has(observer: Any, name: str) -> bool:
    return callable(getattr(observer, name, None))


def _is_end(answer: object) -> bool:
    return isinstance(answer, bool | np.bool_) and bool(answer)


def _counts(text: Sequence[int]) -> range:
    return range(1, len(text) + 1)


def _asked(rule: Any, tokens: Sequence[int]) -> Any:
    with must_work(f"ends_text after {len(tokens)} tokens in a {type(tokens).__name__}"):
        return rule.ends_text(tokens)


def _said(rule: Any, text: Sequence[int]) -> list[Any]:
    """Return the answers about a text token by token."""
    return [_asked(rule, list(text[:count])) for count in _counts(text)]


def _cut(observer: Any, text: list[int]) -> list[int]:
    """Return a text up to where a new observer ends it."""
    if not _has(observer, "ends_text"):
        return text
    end = next((count for count in _counts(text) if _is_end(_asked(observer, text[:count]))), len(text))
    return text[:end]


def _require_same_answers(found: Sequence[Any], expected: Sequence[Any], text: Sequence[int], when: str) -> None:
    for count, (mine, right) in enumerate(zip(found, expected, strict=True), 1):
        require(
            _is_end(mine) == _is_end(right),
            f"ends_text says {mine} after {count} tokens ({', '.join(map(str, text[max(0, count - 6) : count]))} at "
            f"the end), {when}, where a new rule that is asked once says {right}. {_ALONE}",
        )


def _require_same_fields(found: Any, expected: Any, where: str) -> None:
    for field in attrs.fields(type(expected)):
        mine, right = getattr(found, field.name, None), getattr(expected, field.name)
        require(
            mine == right,
            f"the observer changed {field.name} of {where} from {right!r} to {mine!r}. Records are shared with other "
            f"observers and the caller: build your own from them.",
        )


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what is logged, by whichever logger and at whatever level."""
    messages: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    ear, root = Ear(), logging.getLogger()
    names = [name for name in logging.root.manager.loggerDict if name.startswith("caddtree")]
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, names))}
    root.addHandler(ear)
    for logger in levels:
        logger.setLevel(logging.DEBUG)
    try:
        yield messages
    finally:
        root.removeHandler(ear)
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _clocks(replaced: Callable[[Callable[[], Any]], Callable[[], Any]]) -> Iterator[None]:
    """Replace the clocks of :mod:`time`, in seconds and in nanoseconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("time", "monotonic", "perf_counter"):
            for clock in (name, f"{name}_ns"):
                patch.setattr(time, clock, replaced(getattr(time, clock)))
        yield


def _a_day_later(clock: Callable[[], Any]) -> Callable[[], Any]:
    shift = _DAY * 1_000_000_000 if isinstance(clock(), int) else _DAY
    return lambda: clock() + shift


def _ticking(clock: Callable[[], Any]) -> Callable[[], Any]:
    """Return a clock that goes on by a millisecond whenever it is looked at: it measures the same twice."""
    ticks = itertools.count(1)
    unit, now = (1_000_000, 0) if isinstance(clock(), int) else (1e-3, 0.0)
    return lambda: now + next(ticks) * unit


def _shown(observer: Any) -> list[tuple[str, object]]:
    """Return what an observer shows besides its options: public fields, attributes and properties, as plain values."""
    options = {option.name for option in options_of(type(observer))}
    properties = [
        name for cls in type(observer).__mro__ for name, member in vars(cls).items() if isinstance(member, property)
    ]
    names = [*(field.name for field in attrs.fields(type(observer))), *getattr(observer, "__dict__", {}), *properties]
    public = [name for name in dict.fromkeys(names) if name not in options and not name.startswith("_")]
    return [(name, _plain(getattr(observer, name))) for name in public]


def _plain(value: Any) -> object:
    """Return a value whose ``==`` says whether it looks the same."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, Mapping):
        return [(_plain(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if attrs.has(type(value)):
        return [(field.name, _plain(getattr(value, field.name))) for field in attrs.fields(type(value))]
    # a lock, a file, a connection: another one of the same kind does not show
    return type(value).__name__


def _decoder(
    observer: Any, model: Any, known: Sequence[Sequence[int]], is_drafted: bool, builder: Mapping[str, Any]
) -> Decoder:
    return Decoder(
        target=model,
        drafter=PartnerDrafter(known) if is_drafted else built_in("drafter", "none"),
        tree_builder=built_in("tree_builder", **builder),
        verifier=built_in("verifier", "sdpa"),
        cost_model=PartnerCosts(),
        observers=[observer],
    )


def _decoded_in_turn(decoder: Decoder, texts: Sequence[list[int]]) -> list[Generation]:
    """Return what comes out where the target says these texts, all of them open at once."""
    sessions: list[Session] = [
        decoder.open(list(_PROMPT), max_new_tokens=len(text), processors=[_saying(text)]) for text in texts
    ]
    while any(session.finish_reason is None for session in sessions):
        for session in sessions:
            if session.finish_reason is None:
                session.step()
    return [session.generation() for session in sessions]


def _saying(text: Sequence[int]) -> Processor:
    """Return a processor by which the target says this text."""

    def process(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = tokens.shape[1] - len(_PROMPT)
        if not 0 <= place < len(text):
            return scores
        said = torch.full_like(scores, -torch.inf)
        said[:, text[place]] = 0.0
        return said

    return process


def _size(model: Any) -> int:
    size: int = model.get_input_embeddings().weight.shape[0]
    return size
