"""The target's choices by the kernel against its reference and the sampler. FIELD_NOTES property 7."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from caddtree.core import options, sampler
from caddtree.core.sampler import Sampler
from caddtree.kernels.target_choice import gumbel_noise, reference, target_choices, triton_kernel

INF, NAN = float("inf"), float("nan")
SEEDS = [0, 1, 12345, 2**63, 2**64 - 1]
# logarithms of float64 may differ in the last bit; rounded to float32 by one bit at most
NOISE_TOLERANCE = {"rtol": 2e-7, "atol": 2e-7}


@pytest.fixture
def small_splits(monkeypatch):
    """Splits of 16 tokens: few tokens make many splits, with a ragged last one."""
    monkeypatch.setattr(triton_kernel, "_SPLIT", 16)
    monkeypatch.setattr(triton_kernel, "launch_plan", triton_kernel.launch_plan.__wrapped__)


@pytest.fixture
def by_kernel(on_triton):
    return on_triton(target_choices)


def random_logits(rows, vocabulary, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows * 10_000 + vocabulary)
    return (torch.randn(rows, vocabulary, generator=generator) * 2).to(dtype)


def assert_equal(found, expected):
    assert found[0].dtype == torch.int64
    assert found[1].dtype == torch.float32
    assert found[0].tolist() == expected[0].tolist()
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0, equal_nan=True)


@triton.jit
def noise_kernel(bits_ptr, noise_ptr, streams_ptr, vocabulary, BLOCK: tl.constexpr):
    tokens = tl.arange(0, BLOCK)
    stream = tl.load(streams_ptr + tl.program_id(0))
    places = tl.program_id(0) * vocabulary + tokens
    bits = triton_kernel.keyed_bits(tokens + 1, stream).to(tl.int64, bitcast=True)
    tl.store(bits_ptr + places, bits, mask=tokens < vocabulary)
    tl.store(noise_ptr + places, triton_kernel.gumbel_noise(stream, tokens), mask=tokens < vocabulary)


def splitmix64(stream, count):
    """The published generator on Python's integers: output number ``count`` of a stream, from 1 on."""
    mask = (1 << 64) - 1
    value = (stream + count * 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_is_splitmix64_keyed_by_seed_and_position(seed):
    """Its stream is the output at the position of the seed's own stream; 1234567 gives the published numbers."""
    assert [splitmix64(1234567, count) for count in (1, 2)] == [6457827717110365317, 3203168211198807973]
    for position in (0, 1, 2**31, 2**40):
        # the seed enters already mixed, without a step of the counter
        stream = splitmix64(splitmix64(seed, 0), position + 1)
        bits = [splitmix64(stream, token + 1) for token in range(20)]
        uniform = [((value >> 12) + 0.5) / 2**52 for value in bits]
        noise = torch.tensor([-math.log(-math.log(value)) for value in uniform])

        assert [value % 2**64 for value in reference.keyed_bits(seed, torch.tensor([position]), 20)[0].tolist()] == bits
        torch.testing.assert_close(gumbel_noise(seed, [position], 20)[0], noise, **NOISE_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_is_that_of_the_sampler(seed):
    """Bit for bit, from positions on the host and on the device."""
    positions = [0, 1, 7, 100_000, 2**40]
    expected = sampler.gumbel_noise(seed, positions, 100)

    assert gumbel_noise(seed, positions, 100).tolist() == expected.tolist()
    assert gumbel_noise(seed, torch.tensor(positions), 100).tolist() == expected.tolist()
    assert gumbel_noise(seed, range(3), 1).shape == (3, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernels_bits_are_those_of_the_reference(seed):
    """The hash is bit-identical; the noise differs by a rounding of the logarithms at most."""
    positions = torch.tensor([0, 3, 2**31, 2**40])
    streams = reference._mix(positions + 1, added=reference.seed_stream(seed))
    bits, noise = torch.zeros(4, 61, dtype=torch.int64), torch.full((4, 61), NAN)
    noise_kernel[(4,)](bits, noise, streams, 61, BLOCK=64)

    assert bits.tolist() == reference.keyed_bits(seed, positions, 61).tolist()
    torch.testing.assert_close(noise, gumbel_noise(seed, positions, 61), **NOISE_TOLERANCE)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1e-37])
@pytest.mark.parametrize("vocabulary", [1, 2, 61, 1000])
def test_the_reference_chooses_as_the_sampler_does(vocabulary, temperature):
    """Row by row, at the position of its depth."""
    logits, depths = random_logits(6, vocabulary), torch.tensor([0, 1, 1, 2, 5, 3])
    choices, best = reference.target_choices(
        logits, temperature=temperature, seed=11, depths=depths, root_position=1000
    )
    chooses = Sampler(temperature=temperature, seed=11)

    assert choices.tolist() == [
        chooses.choose(row, 1000 + depth) for row, depth in zip(logits, depths.tolist(), strict=True)
    ]
    assert best.tolist() == [max(row) for row in logits.tolist()]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 2, 61, 1000, 4097])
@pytest.mark.parametrize("rows", [1, 9])
def test_every_size_equals_the_reference(by_kernel, rows, vocabulary, dtype, temperature):
    """With the splits of a real launch; 4,097 tokens leave one for the last."""
    keywords = {"temperature": temperature, "seed": 2**64 - 3, "depths": torch.arange(rows) % 4, "root_position": 77}
    logits = random_logits(rows, vocabulary, dtype)

    assert_equal(by_kernel(logits, **keywords), reference.target_choices(logits, **keywords))


@pytest.mark.parametrize("temperature", [1e-40, 1e-37, 0.01, 1, 3.0, 1e6])
def test_every_temperature_equals_the_reference(by_kernel, small_splits, temperature):
    """From the arg-max, over logits and noise alike, to noise alone: the best of a split is weighed as in its row."""
    logits, depths = random_logits(40, 100), torch.arange(40)
    keywords = {"temperature": temperature, "seed": 5, "depths": depths, "root_position": 3}
    found = by_kernel(logits, **keywords)

    assert_equal(found, reference.target_choices(logits, **keywords))
    if temperature < 1e-30:
        assert found[0].tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_of_equal_logits_the_lowest_token_is_chosen(by_kernel, small_splits, levels):
    """Within a split and between splits."""
    logits = torch.randint(0, levels, (9, 100), generator=torch.Generator().manual_seed(levels)).half()
    found = by_kernel(logits)

    assert_equal(found, reference.target_choices(logits))
    assert found[0].tolist() == [row.index(max(row)) for row in logits.tolist()]


def test_the_two_zeros_are_one_logit(by_kernel):
    """Their bits differ."""
    assert by_kernel(torch.tensor([[-1.0, -0.0, 0.0], [-1.0, 0.0, -0.0]]))[0].tolist() == [1, 1]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_of_minus_infinity_are_never_chosen(by_kernel, small_splits, temperature):
    """Not even where whole splits hold nothing else; a row of them has no choice, but one in range."""
    logits = torch.full((3, 70), -INF)
    logits[0, [20, 66]] = 0.0
    logits[1, 69] = -7.0
    keywords = {"temperature": temperature, "seed": 9, "root_position": 4}
    choices, best = by_kernel(logits, **keywords)

    assert_equal((choices[:2], best), (reference.target_choices(logits, **keywords)[0][:2], logits.amax(-1)))
    assert choices[0] in (20, 66)
    assert 0 <= choices[2] < 70


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("place", [0, 40, 69])
@pytest.mark.parametrize(
    ("values", "expected"), [([NAN], NAN), ([-NAN], NAN), ([INF], INF), ([INF, NAN], NAN), ([NAN] * 70, NAN)]
)
def test_a_logit_that_is_no_number_shows_in_the_best(by_kernel, small_splits, values, expected, place, temperature):
    """In its own row only, and the choice stays in range."""
    logits = random_logits(3, 70)
    places = (torch.arange(len(values)) + place) % 70
    logits[1, places] = torch.tensor(values)
    choices, best = by_kernel(logits, temperature=temperature, root_position=0)

    assert_equal(
        (choices[::2], best), (reference.target_choices(logits, temperature=temperature)[0][::2], logits.amax(-1))
    )
    assert best[1] == expected or (best[1].isnan() and expected != INF)
    assert 0 <= choices[1] < 70


@pytest.mark.parametrize("root", [0, 1, 2**33])
def test_the_root_position_may_be_known_to_the_device_only(by_kernel, root):
    """As a tensor it gives what the number does."""
    logits, depths = random_logits(5, 61), torch.tensor([0, 1, 2, 2, 1])
    expected = reference.target_choices(logits, temperature=1.0, seed=3, depths=depths, root_position=root)
    for position in (root, torch.tensor([root])):
        found = by_kernel(logits, temperature=1.0, seed=3, depths=depths, root_position=position)
        assert_equal(found, expected)
        found = reference.target_choices(logits, temperature=1.0, seed=3, depths=depths, root_position=position)
        assert_equal(found, expected)


def test_a_row_chooses_alone_as_it_does_in_a_tree(by_kernel, small_splits):
    """Rows of one depth share their noise, whatever lies beside them."""
    logits, depths = random_logits(8, 100), torch.tensor([0, 1, 1, 2, 2, 2, 3, 4])
    choices, _ = by_kernel(logits, temperature=1.0, seed=8, depths=depths, root_position=10)
    alone = [
        by_kernel(logits[row : row + 1], temperature=1.0, seed=8, root_position=10 + depth)[0].item()
        for row, depth in enumerate(depths.tolist())
    ]

    assert choices.tolist() == alone


def test_rows_and_depths_may_lie_anywhere(by_kernel, small_splits):
    """Slices of rows, of columns, transposed logits, every second depth."""
    logits, depths = random_logits(6, 150), torch.arange(12)[::2]
    for view in (logits[1::2], logits[:, 10:90], logits.T.contiguous().T):
        keywords = {"temperature": 1.0, "depths": depths[: len(view)], "root_position": 1}
        assert_equal(by_kernel(view, **keywords), reference.target_choices(view, **keywords))


def test_noise_without_a_position_is_refused():
    """It would be the same at every round."""
    with pytest.raises(ValueError, match="above 0 need root_position"):
        target_choices(torch.zeros(2, 3), temperature=0.5)


def test_no_rows_make_no_choices(by_kernel):
    """A launch without programs would be an error."""
    assert [found.shape for found in by_kernel(torch.zeros(0, 5))] == [(0,), (0,)]


def test_the_smallest_temperature_is_that_of_the_options():
    """Kernels import nothing of the package, so the number is written down twice."""
    assert reference.SMALLEST_TEMPERATURE == options.SMALLEST_TEMPERATURE
