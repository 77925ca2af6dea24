"""Names the component and the place in whatever a strategy raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from caddtree.core.errors import GroupError, NumericalError, ResourceError, StageError


@contextmanager
def stage(kind: str, component: object, where: str) -> Iterator[None]:
    """Turn an exception of a component into a :class:`StageError` that names it.

    Args:
        kind: What the component is: ``drafter``, ``tree_builder``, ...
        component: The object at work.
        where: ``prefill`` or ``round 3``.
    """
    try:
        yield
    except (GroupError, NumericalError, ResourceError, StageError, torch.OutOfMemoryError):
        # what is no component's fault has its own name
        raise
    except Exception as error:
        name = type(component).__name__
        raise StageError(f"{kind} {name} failed in {where}: {type(error).__name__}: {error}") from error
