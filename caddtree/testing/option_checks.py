"""Options of a strategy: refused by name where they are wrong, and never ignored."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from caddtree.core.errors import CaddtreeError
from caddtree.plugins.options import OptionInfo, options_of
from caddtree.testing.claims import BrokenContractError, must_work, require

Make = Callable[..., Any]
"""All options of a strategy as keywords -> a new strategy."""


def check_wrong_types_are_refused(strategy: type, options: Mapping[str, Any]) -> None:
    """Refuse a strategy that takes a word for a number, or a number for a word."""
    for option in options_of(strategy):
        wrong = _wrong_value(option.type)
        if wrong is not None:
            _check_refused(strategy, {**options, option.name: wrong}, {option.name: wrong}, "of the wrong type")


def check_invalid_options_are_refused(
    strategy: type, options: Mapping[str, Any], invalid: Collection[Mapping[str, Any]]
) -> None:
    """Refuse a strategy that takes one of the author's invalid sets of options."""
    for changes in invalid:
        _check_known(strategy, changes, "invalid_options")
        _check_refused(strategy, {**options, **changes}, changes, "invalid")


def check_no_option_is_ignored(
    strategy: type,
    make: Make,
    observe: Callable[[Any], object],
    options: Mapping[str, Any],
    others: Mapping[str, Any],
    unobservable: Collection[str],
) -> None:
    """Refuse a strategy one of whose options changes nothing that can be observed.

    Args:
        strategy: The class.
        make: Makes it.
        observe: Returns all that can be seen of a strategy, comparable with ``==``.
        options: A valid set.
        others: Another value for some of them.
        unobservable: Options that the author says show in nothing.
    """
    _check_known(strategy, others, "other_options")
    _check_known(strategy, unobservable, "unobservable_options")
    with must_work(f"using {strategy.__name__} with options {dict(options)}"):
        usual, again = (_outcome(make, observe, options) for _ in range(2))
    require(
        not isinstance(usual, _Refused),
        f"{strategy.__name__} cannot be used with options {dict(options)}: {getattr(usual, 'message', '')}. Give "
        f"`options` that work.",
    )
    require(
        usual == again,
        f"two {strategy.__name__} with the same options {dict(options)} behave differently, so nothing can be said "
        f"about its options. Make it deterministic, or give `options` that fix what it measures.",
    )
    ignored = []
    for option in options_of(strategy):
        if option.name in unobservable:
            continue
        others_outcomes = _other_outcomes(make, observe, options, option, others)
        if all(outcome == usual for outcome in others_outcomes.values()):
            ignored.append(f"{option.name} (tried {', '.join(others_outcomes)})")
    require(
        not ignored,
        f"{strategy.__name__} ignores {'; '.join(ignored)}: nothing that can be observed changes. Use the option or "
        f"remove it; if it works together with another value, name that in `options`; if it cannot be seen from "
        f"outside, as a cache folder, list it in `unobservable_options`.",
    )


def check_accepted_numbers_work(
    strategy: type, make: Make, observe: Callable[[Any], object], options: Mapping[str, Any]
) -> None:
    """Refuse a strategy that takes 0 or -1 for an option and fails over it later."""
    for option in options_of(strategy):
        members = _members(option.type)
        if int not in members and float not in members:
            continue
        for value in (0, -1):
            changed = {**options, option.name: value}
            if _constructs(make, changed):
                with _used(option.name, value):
                    _outcome(make, observe, changed)


def _check_known(strategy: type, names: Collection[str], attribute: str) -> None:
    known = [option.name for option in options_of(strategy)]
    unknown = sorted(set(names) - set(known))
    require(
        not unknown,
        f"{attribute} names {', '.join(unknown)}, which {strategy.__name__} does not have; its options are "
        f"{', '.join(known) or 'none'}. Fields that are private or have init=False are none.",
    )


def _check_refused(strategy: type, options: Mapping[str, Any], wrong: Mapping[str, Any], adjective: str) -> None:
    shown = ", ".join(f"{name} = {value!r}" for name, value in wrong.items())
    try:
        strategy(**options)
    except Exception as error:
        said = " ".join(str(error).split())
        named = any(name in said and (repr(value) in said or str(value) in said) for name, value in wrong.items())
        require(
            named,
            f"{shown}, {adjective}, is refused by {strategy.__name__} with {type(error).__name__}: {said}. The message "
            f"must name the option and show the value that was found.",
        )
        return
    require(
        False,
        f"{strategy.__name__} takes {shown}, {adjective}. Validate it in the class, type before range, as in "
        f"attrs.field(validator=[instance_of(int), ge(1)]).",
    )


@attrs.frozen
class _Refused:
    """An outcome: caddtree's own error, raised behind construction."""

    message: str


def _outcome(make: Make, observe: Callable[[Any], object], options: Mapping[str, Any]) -> object:
    try:
        return observe(make(**options))
    except CaddtreeError as error:
        return _Refused(str(error))
    except BrokenContractError as error:
        if isinstance(error.__cause__, CaddtreeError):
            return _Refused(str(error.__cause__))
        raise


@contextmanager
def _used(name: str, value: object) -> Iterator[None]:
    """Name the option value behind whatever goes wrong."""
    try:
        yield
    except Exception as error:
        message = (
            f"{name} = {value!r} is taken at construction and fails later: {error} If it cannot work, refuse it where "
            f"it enters: {name} must be ..., found {value!r}."
        )
        raise BrokenContractError(message) from error


def _other_outcomes(
    make: Make,
    observe: Callable[[Any], object],
    options: Mapping[str, Any],
    option: OptionInfo,
    others: Mapping[str, Any],
) -> dict[str, object]:
    """Return what can be observed with other values of an option, by the value as it is shown."""
    current = options.get(option.name, option.default)
    is_named = option.name in others
    values = [others[option.name]] if is_named else list(_alternatives(option.type, current))
    found = {}
    for value in values:
        changed = {**options, option.name: value}
        if value == current or not (is_named or _constructs(make, changed)):
            continue
        with _used(option.name, value):
            outcome = _outcome(make, observe, changed)
        # that a derived value is refused says nothing of the option; that one of the author's is may be its meaning
        if is_named or not isinstance(outcome, _Refused):
            found[repr(value)] = outcome
    require(
        bool(found),
        f"no other value of option {option.name} could be tried (it is {current!r}). Name a valid one, as in "
        f"`other_options = {{{option.name!r}: ...}}`.",
    )
    return found


def _constructs(make: Make, options: Mapping[str, Any]) -> bool:
    try:
        make(**options)
    except Exception:
        return False
    return True


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type; a Literal stays whole."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _wrong_value(annotation: Any) -> object:
    """Return a value that is certainly of another type, or None where there is none."""
    members = [member for member in _members(annotation) if member is not type(None)]
    if all(member in (int, float, bool) or typing.get_origin(member) is typing.Literal for member in members):
        return "no such word"
    return 7.5 if members == [str] else None


def _alternatives(annotation: Any, current: Any) -> Iterator[object]:
    """Yield other values of an option's type, those near the current one first."""
    is_number = isinstance(current, int | float)
    for member in _members(annotation):
        if member is bool:
            yield not current
        elif typing.get_origin(member) is typing.Literal:
            yield from typing.get_args(member)
        elif member is int:
            yield from (current + 1, current - 1, current // 2, 2 * current, 1) if is_number else (1, 2, 3, 40)
        elif member is float:
            yield from (2.0 * current, 0.5 * current, current + 1.0) if is_number else (0.5, 1.0, 3.0)
        elif member is type(None):
            yield None
