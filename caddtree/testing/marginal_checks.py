"""What every draft must be: candidates of a position, best first, normalised over the vocabulary."""

from __future__ import annotations

import torch

from caddtree.core.marginals import LARGEST_LOG_PROB, Marginals
from caddtree.testing.claims import require

_NORMALISATION = 1e-3
"""By how much the probabilities of a row may exceed 1."""
_CLOSE = 1e-3
"""Log-probabilities that are computed in another order or in larger pieces."""

Draft = tuple[list[list[int]], list[list[float]]] | None


def check_draft(marginals: Marginals, *, max_depth: int, block_size: int, vocabulary_size: int) -> None:
    """Refuse a draft that is too deep, of the wrong types, or no set of distributions."""
    check_types(marginals)
    limit = min(max_depth, block_size - 1)
    require(
        1 <= marginals.depth <= limit,
        f"a draft must have 1 to {limit} positions (max_depth {max_depth}, block_size {block_size}), found "
        f"{marginals.depth}. Return None to draft nothing, and cut the block at request.max_depth.",
    )
    check_distributions(marginals, vocabulary_size)


def check_types(marginals: Marginals) -> None:
    """Refuse anything but int64 tokens and float32 log-probabilities."""
    require(isinstance(marginals, Marginals), f"draft must return Marginals or None, found {type(marginals).__name__}")
    found = (marginals.tokens.dtype, marginals.log_probs.dtype)
    require(
        found == (torch.int64, torch.float32),
        f"marginals hold int64 tokens and float32 log_probs, found {found[0]} and {found[1]}",
    )


def check_distributions(marginals: Marginals, vocabulary_size: int) -> None:
    """Refuse rows that are no distributions over the vocabulary, or not ordered best first."""
    require(
        marginals.width <= vocabulary_size,
        f"the marginals are {marginals.width} wide, but the vocabulary has {vocabulary_size} tokens. Clip the width.",
    )
    for depth, (tokens, log_probs) in enumerate(
        zip(marginals.tokens.cpu(), marginals.log_probs.cpu(), strict=True), start=1
    ):
        where = f"at depth {depth}"
        require(
            bool((log_probs <= LARGEST_LOG_PROB).all()),
            f"log_probs must be numbers of at most 0, found {_shown(log_probs[~(log_probs <= LARGEST_LOG_PROB)])} "
            f"{where}. A draft that is not finite is thrown away whole.",
        )
        require(
            bool((log_probs[1:] <= log_probs[:-1]).all()),
            f"candidates must be ordered best first, found {_shown(log_probs)} {where}",
        )
        real = log_probs > -torch.inf
        require(bool(real.any()), f"a position without candidates is no position, found only -inf {where}. Cut there.")
        total = float(log_probs[real].double().exp().sum())
        require(
            total <= 1 + _NORMALISATION,
            f"the probabilities of a position must sum to 1 over the whole vocabulary, found {total:.4g} {where} over "
            f"{int(real.sum())} candidates. Normalise before the best are taken: Marginals.from_logits does.",
        )
        ids = tokens[real].tolist()
        require(
            all(0 <= token < vocabulary_size for token in ids),
            f"draft tokens must lie in 0..{vocabulary_size - 1}, found "
            f"{[token for token in ids if not 0 <= token < vocabulary_size][:3]} {where}",
        )
        require(len(set(ids)) == len(ids), f"the candidates of a position must differ, found {ids[:16]} {where}")


def check_widening(marginals: Marginals, vocabulary_size: int) -> None:
    """Refuse wider marginals that are other marginals, or wider than the vocabulary."""
    wider, width = marginals.widen(100 * vocabulary_size), marginals.width
    check_types(wider)
    check_distributions(wider, vocabulary_size)
    require(
        wider.depth == marginals.depth and wider.width >= marginals.width,
        f"widen must keep the depth and return at least as many candidates, found {wider.depth} x {wider.width} from "
        f"{marginals.depth} x {marginals.width}",
    )
    require(
        is_close(as_plain(marginals), as_plain(Marginals(wider.tokens[:, :width], wider.log_probs[:, :width]))),
        "widen must add candidates behind those that were there, found other first ones",
    )


def as_plain(marginals: Marginals | None) -> Draft:
    """Return a draft as lists, comparable with ``==``."""
    return None if marginals is None else (marginals.tokens.tolist(), marginals.log_probs.tolist())


def is_close(first: Draft, second: Draft) -> bool:
    """Tell whether two drafts offer the same candidates with the same probabilities, up to rounding."""
    if first is None or second is None:
        return first is second
    if first[0] != second[0]:
        return False
    return torch.allclose(torch.tensor(first[1]), torch.tensor(second[1]), rtol=0, atol=_CLOSE)


def shown(draft: Draft) -> str:
    """Return the likeliest tokens of a draft in words."""
    return "nothing" if draft is None else f"{[row[0] for row in draft[0][:8]]} first"


def _shown(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist()[:8])
