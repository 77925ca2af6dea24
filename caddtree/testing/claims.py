"""How a check of the kit fails: with a message that stands alone, wherever it is raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BrokenContractError(AssertionError):
    """A strategy breaks its contract: what was wrong, what was found, how to fix it."""


def require(condition: bool, message: str) -> None:
    """Refuse a strategy unless ``condition`` holds.

    Raises:
        BrokenContractError: With ``message``.
    """
    # no assert: the checks hold under python -O, and outside of pytest
    if not condition:
        raise BrokenContractError(message)


@contextmanager
def must_work(what: str, fix: str = "") -> Iterator[None]:
    """Turn an exception of a strategy into the failure of a check.

    Args:
        what: What was done, as in ``draft at temperature 0.7``.
        fix: What an author can do about it.
    """
    try:
        yield
    except BrokenContractError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()).rstrip(".")
        message = f"{what} must work, but raised {type(error).__name__}: {said}. {fix}".strip()
        raise BrokenContractError(message) from error
