"""Fused log-softmax and top-k against its reference, a sorted list and the host's marginals."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from caddtree.core import options
from caddtree.core.marginals import Marginals
from caddtree.kernels import candidates as door
from caddtree.kernels.candidates import best_candidates, reference, triton_kernel

INF, NAN = float("inf"), float("nan")
# the largest rounding of a float32 difference of logits, times 4
TOLERANCE = {"rtol": 5e-7, "atol": 2e-6}


@pytest.fixture
def small_splits(monkeypatch):
    """Splits of 64 tokens: few tokens make many splits, with a ragged last one."""
    monkeypatch.setattr(triton_kernel, "_COLUMNS", 16)
    monkeypatch.setattr(triton_kernel, "_STEPS", 4)
    monkeypatch.setattr(triton_kernel, "launch_plan", triton_kernel.launch_plan.__wrapped__)


@pytest.fixture
def by_kernel(on_triton):
    return on_triton(best_candidates)


def random_logits(rows, vocabulary, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows * 10_000 + vocabulary)
    return (torch.randn(rows, vocabulary, generator=generator) * 4).to(dtype)


def assert_equal(found, expected):
    assert found[0].dtype == torch.int64
    assert found[1].dtype == torch.float32
    assert found[0].tolist() == expected[0].tolist()
    torch.testing.assert_close(found[1], expected[1], equal_nan=True, **TOLERANCE)


def sorted_candidates(logits, width, temperature):
    """The definition once more: a sorted list, and a normaliser in float64."""
    tokens, log_probs = [], []
    for row in logits.double().tolist():
        order = sorted(range(len(row)), key=lambda token: (-row[token], token))[:width]
        scores = torch.tensor(row, dtype=torch.float64) / (temperature or 1.0)
        tokens.append(order)
        log_probs.append((scores - scores.logsumexp(0))[order].tolist())
    return torch.tensor(tokens), torch.tensor(log_probs)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocabulary", "width"), [(1, 1, 1), (3, 61, 16), (2, 1000, 7), (2, 4097, 16)])
def test_the_reference_is_a_sorted_list(rows, vocabulary, width, dtype, temperature):
    """Logits of 16 bits tie in every row."""
    logits = random_logits(rows, vocabulary, dtype)

    assert_equal(
        reference.best_candidates(logits, width, temperature=temperature),
        sorted_candidates(logits, width, temperature),
    )


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("vocabulary", [2, 61, 1000])
def test_the_reference_equals_the_hosts_marginals(vocabulary, dtype, temperature):
    """Ties and their order across the cut included."""
    logits = random_logits(5, vocabulary, dtype)
    marginals = Marginals.from_logits(logits, 16, temperature=temperature)
    tokens, log_probs = reference.best_candidates(logits, 16, temperature=temperature)

    assert_equal(
        (tokens[:, : marginals.width], log_probs[:, : marginals.width]), (marginals.tokens, marginals.log_probs)
    )
    assert (log_probs[:, marginals.width :] == -INF).all()


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("rows", "vocabulary", "width"), [(1, 1, 1), (3, 2, 4), (2, 61, 16), (1, 4097, 16)])
def test_every_size_equals_the_reference(by_kernel, rows, vocabulary, width, dtype, temperature):
    """With the splits of a real launch; 4,097 tokens leave one for the last."""
    logits = random_logits(rows, vocabulary, dtype)

    assert_equal(
        by_kernel(logits, width, temperature=temperature),
        reference.best_candidates(logits, width, temperature=temperature),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("rows", "vocabulary", "width"), [(2, 61, 3), (2, 128, 16), (2, 129, 5), (1, 1000, 8)])
def test_many_splits_equal_the_reference(by_kernel, small_splits, rows, vocabulary, width, dtype):
    """Up to 16 of them, more than the width and fewer."""
    logits = random_logits(rows, vocabulary, dtype)

    assert_equal(by_kernel(logits, width), reference.best_candidates(logits, width))


def test_the_widest_choice_equals_the_reference(by_kernel, small_splits):
    """64 candidates: the columns of a split and the splits of a row are fewer."""
    logits = random_logits(1, 300)

    assert_equal(by_kernel(logits, 64), reference.best_candidates(logits, 64))


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_of_equal_logits_the_lower_token_comes_first(by_kernel, small_splits, levels):
    """Within a column, between columns, between splits, and across the cut."""
    logits = torch.randint(0, levels, (3, 200), generator=torch.Generator().manual_seed(levels)).half()
    found = by_kernel(logits, 8)

    assert_equal(found, sorted_candidates(logits, 8, 0.0))
    assert_equal(found, reference.best_candidates(logits, 8))


def test_the_best_of_a_row_may_share_a_column_or_a_split(by_kernel, small_splits):
    """Columns are 16 tokens apart; token 70 to 77 lie in one split."""
    logits = random_logits(2, 200).clamp(max=5.0)
    logits[0, [3, 19, 35, 51]] += 20
    logits[1, 70:78] += 20
    found = by_kernel(logits, 4)

    assert_equal(found, reference.best_candidates(logits, 4))
    assert sorted(found[0][0].tolist()) == [3, 19, 35, 51]


def test_the_two_zeros_are_one_logit(by_kernel):
    """Their bits differ; the lower token comes first whichever it holds."""
    logits = torch.tensor([[-1.0, -0.0, 0.0, -0.0, 0.0]])

    assert by_kernel(logits, 4)[0].tolist() == [[1, 2, 3, 4]]
    assert_equal(by_kernel(logits, 4), reference.best_candidates(logits, 4))


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_row_shorter_than_the_width_ends_in_minus_infinity(by_kernel, small_splits, temperature):
    """Whether the vocabulary ends or the logits are -inf, a whole row of them included."""
    logits = random_logits(4, 70)
    logits[0, 3:] = -INF
    logits[1] = -INF
    logits[2, :69] = -INF
    logits[3, 64:] = -INF
    tokens, log_probs = by_kernel(logits, 8, temperature=temperature)

    assert_equal((tokens, log_probs), reference.best_candidates(logits, 8, temperature=temperature))
    assert [(row > -INF).sum().item() for row in log_probs] == [3, 0, 1, 8]
    assert log_probs[2, 0] == 0
    assert_equal(by_kernel(logits[3:, :3], 8), reference.best_candidates(logits[3:, :3], 8))


@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("value", [NAN, -NAN, INF])
@pytest.mark.parametrize("place", [0, 40, 69])
def test_a_logit_that_is_no_number_spoils_its_row_alone(by_kernel, small_splits, place, value, temperature):
    """Also beside -inf, and far from the candidates; tokens stay in range."""
    logits = random_logits(4, 70)
    logits[1, place] = value
    logits[2] = -INF
    logits[2, place] = value
    tokens, log_probs = by_kernel(logits, 8, temperature=temperature)
    expected = reference.best_candidates(logits, 8, temperature=temperature)

    assert log_probs[1:3].isnan().all()
    assert expected[1][1:3].isnan().all()
    assert ((tokens >= 0) & (tokens < 70)).all()
    assert_equal((tokens[::3], log_probs[::3]), (expected[0][::3], expected[1][::3]))


@pytest.mark.parametrize("temperature", [1e-40, 1e-37, 1e-3, 50.0, 1])
def test_every_temperature_equals_the_reference(by_kernel, small_splits, temperature):
    """A tiny one makes the best token certain, and the others impossible rather than NaN."""
    logits = random_logits(2, 100)

    assert_equal(
        by_kernel(logits, 4, temperature=temperature), reference.best_candidates(logits, 4, temperature=temperature)
    )


def test_rows_may_lie_anywhere(by_kernel, small_splits):
    """Slices of rows, of columns, and transposed logits."""
    logits = random_logits(6, 150)
    for view in (logits[1::2], logits[:, 10:90], logits.T.contiguous().T):
        assert_equal(by_kernel(view, 4), reference.best_candidates(view, 4))


def test_what_the_kernel_does_not_take_goes_to_the_reference(by_kernel, monkeypatch):
    """Wider choices than its registers hold, and blocks without rows."""
    monkeypatch.setattr(triton_kernel, "best_candidates", None)
    logits = random_logits(2, 100)

    assert_equal(by_kernel(logits, door.LARGEST_KERNEL_WIDTH + 1), reference.best_candidates(logits, 65))
    assert [found.shape for found in by_kernel(logits[:0], 4)] == [(0, 4), (0, 4)]


def test_on_a_cpu_no_kernel_is_loaded():
    """All three doors of a round's decisions compute without Triton."""
    code = """
import sys, torch
from caddtree.kernels import accept_walk, candidates, target_choice
candidates.best_candidates(torch.zeros(1, 3), 2)
choices, best = target_choice.target_choices(torch.zeros(2, 3), temperature=1.0, root_position=4)
accept_walk.accept_walk(choices, best, torch.tensor([1, 2]), torch.tensor([-1, 0]), 2, 3)
assert not [name for name in sys.modules if name.startswith("caddtree") and name.endswith("triton_kernel")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_smallest_temperature_is_that_of_the_options():
    """Kernels import nothing of the package, so the number is written down twice."""
    assert reference.SMALLEST_TEMPERATURE == options.SMALLEST_TEMPERATURE
