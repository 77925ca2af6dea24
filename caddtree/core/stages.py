"""Names the component, who provides it, and the place in whatever a strategy raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from caddtree.core.errors import GroupError, NumericalError, ResourceError, StageError, blamed
from caddtree.core.provider import named, provider_of


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
        raise StageError(f"{kind} {named(component)} failed in {where}: {type(error).__name__}: {error}") from error


@contextmanager
def setting_up(kind: str, component: object) -> Iterator[None]:
    """Name the plugin in an exception of its component before the first request.

    What caddtree raises on purpose keeps its type; what else a plugin raises becomes a :class:`StageError`. The
    components of caddtree itself name themselves.
    """
    try:
        yield
    except (GroupError, StageError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not provider_of(component):
            raise
        raise blamed(error, f"{kind} {named(component)}", StageError) from error
