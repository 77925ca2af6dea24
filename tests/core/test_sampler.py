"""The sampler: its law against exact probabilities, its keys. L-04, L-05, L-13, FT-07."""

from __future__ import annotations

import itertools

import pytest
import scipy.stats
import torch

from caddtree.core.sampler import Sampler, gumbel_noise, keep_top_k, keep_top_p

DRAWS = 100_000


def draws(logits: torch.Tensor, sampler_options: dict, count: int = DRAWS) -> torch.Tensor:
    """One choice per position, many positions at once, with the very noise of ``Sampler.choose``."""
    sampler = Sampler(**sampler_options)
    noise = gumbel_noise(sampler.seed, range(count), len(logits))
    return (sampler.scores(logits) + noise).argmax(-1)


CASES = [
    {"temperature": 0.5},
    {"temperature": 1.0},
    {"temperature": 1.5},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.8},
]


def exact(logits: torch.Tensor, options: dict) -> torch.Tensor:
    """The law in float64, written out: temper, keep the k best, keep the nucleus, renormalise."""
    weights = (logits.double() / options["temperature"]).softmax(-1)
    order = weights.argsort(descending=True).tolist()
    if "top_k" in options:
        for token in order[options["top_k"] :]:
            weights[token] = 0
    if "top_p" in options:
        mass = 0.0
        for token in order:
            if mass >= options["top_p"]:
                weights[token] = 0
            mass += float(weights[token])
    return weights / weights.sum()


@pytest.mark.parametrize("options", CASES)
def test_l04_choices_follow_the_targets_law(options):
    """L-04: chi-squared p > 1e-4, total variation at most 0.01, support inside the law's support."""
    torch.manual_seed(5)
    logits = torch.randn(12) * 1.5
    law = exact(logits, options)
    counts = torch.bincount(draws(logits, options), minlength=12).double()
    support = law > 0

    assert counts[~support].sum() == 0
    assert scipy.stats.chisquare(counts[support], law[support] * counts.sum()).pvalue > 1e-4
    assert 0.5 * (counts / counts.sum() - law).abs().sum() <= 0.01


def test_l04_a_faulty_sampler_is_caught():
    """The test above must fail for noise of the wrong scale."""
    torch.manual_seed(5)
    logits = torch.randn(12) * 1.5
    law = exact(logits, {"temperature": 1.0})
    counts = torch.bincount(draws(logits * 1.05, {"temperature": 1.0}), minlength=12).double()

    assert scipy.stats.chisquare(counts, law * counts.sum()).pvalue < 1e-4


def test_l05_three_tokens_in_a_row_follow_the_joint_law():
    """L-05: a 6-token Markov target, all 216 outcomes enumerated; noise of neighbouring positions is independent."""
    torch.manual_seed(6)
    transition = torch.randn(6, 6) * 1.2
    law = torch.zeros(6, 6, 6, dtype=torch.float64)
    probabilities = transition.double().softmax(-1)
    for a, b, c in itertools.product(range(6), repeat=3):
        law[a, b, c] = probabilities[0, a] * probabilities[a, b] * probabilities[b, c]
    repeats = 50_000
    noise = gumbel_noise(1, range(3 * repeats), 6).view(repeats, 3, 6)
    state = torch.zeros(repeats, dtype=torch.int64)
    path = []
    for row in noise.unbind(1):
        state = (transition[state] + row).argmax(-1)
        path.append(state)
    counts = torch.bincount(path[0] * 36 + path[1] * 6 + path[2], minlength=216)

    assert scipy.stats.chisquare(counts, law.flatten() * repeats).pvalue > 1e-4


def test_noise_is_keyed_by_seed_and_position_only():
    """Same key, same noise; another seed or position, another noise; extremes of the seed are fine."""
    first = gumbel_noise(3, [17], 1000)

    assert torch.equal(first[0], gumbel_noise(3, [5, 17], 1000)[1])
    assert not torch.equal(first, gumbel_noise(3, [18], 1000))
    assert not torch.equal(first, gumbel_noise(4, [17], 1000))
    assert torch.isfinite(gumbel_noise(2**64 - 1, [8191], 5000)).all()
    assert torch.equal(gumbel_noise(3, [17], 10), first[:, :10])


def test_noise_equals_splitmix64_in_python_integers():
    """The tensor arithmetic wraps as 64-bit arithmetic does."""
    mask = 2**64 - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    stream = mix((mix(9) + 6 * 0x9E3779B97F4A7C15) & mask)
    uniform = [((mix((stream + (k + 1) * 0x9E3779B97F4A7C15) & mask) >> 11) + 0.5) / 2**53 for k in range(200)]
    expected = -torch.log(-torch.log(torch.tensor(uniform, dtype=torch.float64)))

    assert torch.allclose(gumbel_noise(9, [5], 200)[0].double(), expected, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_top_p_equals_transformers(value):
    """The nucleus of Transformers' own warper, row by row."""
    from transformers import TopPLogitsWarper

    torch.manual_seed(1)
    scores = torch.randn(50, 40) * 3
    expected = TopPLogitsWarper(value)(None, scores)

    assert torch.equal(keep_top_p(scores, value), expected)


def test_top_k_equals_transformers():
    """Also for k beyond the vocabulary."""
    from transformers import TopKLogitsWarper

    torch.manual_seed(1)
    scores = torch.randn(50, 40)
    for k in (1, 3, 40, 100):
        assert torch.equal(keep_top_k(scores, k), TopKLogitsWarper(k)(None, scores))
