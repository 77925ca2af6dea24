"""Committed KV rows moved by the kernel against plain indexing, bit for bit."""

from __future__ import annotations

import pytest
import torch

from caddtree.kernels import availability
from caddtree.kernels.commit_rows import RowMover, commit_rows, reference, triton_kernel

CONTEXT = 5
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
PATHS = {
    "root": [0],
    "prefix": [0, 1, 2, 3],
    "one jump": [0, 2, 3],
    "into rows still to be read": [0, 2, 4, 5, 6, 9],
    "padded": [0, 3, -1, -1, -1],
    "padded prefix": [0, 1, -1],
    "padding only": [-1, -1],
    "padding inside": [0, -1, 4, 6],
    "without the root": [3],
    "no place left": [0, 1, 2, 11],
}


@pytest.fixture(autouse=True)
def triton_runs(monkeypatch):
    monkeypatch.setattr(availability, "takes_triton", lambda tensor: True)


def random_buffers(count, heads=2, capacity=17, head_dim=8, dtype=torch.float32):
    """Return buffers of any bits whatever: every pattern of a NaN among them."""
    bits = BITS[dtype.itemsize]
    generator = torch.Generator().manual_seed(head_dim)
    size = (count, 1, heads, capacity, head_dim)
    limits = torch.iinfo(bits)
    return list(torch.randint(limits.min, limits.max, size, generator=generator, dtype=bits).view(dtype))


def as_bits(buffers):
    return [buffer.contiguous().view(BITS[buffer.dtype.itemsize]).tolist() for buffer in buffers]


def assert_equals_reference(buffers, path, context_length=CONTEXT):
    """Compare the whole buffers, so that rows beside the path are seen to be untouched."""
    path = torch.tensor(path, dtype=torch.int64)
    before = as_bits(buffers)
    expected = [buffer.clone() for buffer in buffers]
    reference.commit_rows(expected, path, context_length)
    RowMover(buffers)(path, context_length)

    assert as_bits(buffers) == as_bits(expected)
    # an oracle of its own: row by row from what was there before
    for old, new in zip(before, as_bits(buffers), strict=True):
        for head, rows in enumerate(old[0]):
            wanted = list(rows)
            for place, node in enumerate(path.tolist()):
                if node >= 0:
                    wanted[int(context_length) + place] = rows[int(context_length) + node]
            assert new[0][head] == wanted


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_every_kind_of_path_equals_plain_indexing(path):
    """Moved rows hold what their source held before anything moved; all other rows keep their bits."""
    assert_equals_reference(random_buffers(4), path)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8]
)
@pytest.mark.parametrize("head_dim", [1, 3, 20, 128])
def test_every_type_and_row_length_moves_bit_for_bit(dtype, head_dim):
    """Rows of 1 byte up to many units, also such that no large unit fits."""
    assert_equals_reference(random_buffers(2, head_dim=head_dim, dtype=dtype), [0, 2, 3, 7])


def test_long_paths_and_wide_rows_are_moved_in_tiles():
    """64 rows of 256 numbers, more than one program holds; one buffer and one head are enough of each."""
    buffers = random_buffers(1, heads=1, capacity=140, head_dim=256)
    plan = triton_kernel.launch_plan(1, 1, 128, 8, 64, is_context_on_device=False)

    assert plan.grid[2] > 1
    assert_equals_reference(buffers, [node + node // 2 for node in range(64)])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_context_length_may_lie_on_the_device(dtype):
    """A captured launch serves every length."""
    assert_equals_reference(random_buffers(2), [0, 3, 4], torch.tensor([2], dtype=dtype))


def test_an_empty_context_and_the_last_row_are_within_reach():
    """Rows at both ends of the buffers."""
    assert_equals_reference(random_buffers(2, capacity=6), [0, 2, 5], 0)


@pytest.mark.parametrize(("offset", "end"), [(0, 8), (1, 9), (2, 10), (0, 6), (4, 12)])
def test_buffers_may_be_parts_of_a_larger_one(offset, end):
    """Heads and rows with gaps between, beginning at any number: no unit spans into a gap."""
    whole = random_buffers(3, heads=4, capacity=14, head_dim=12, dtype=torch.float16)
    before = [buffer.clone() for buffer in whole]
    parts = [buffer[:, 1:3, 2:, offset:end] for buffer in whole]
    assert_equals_reference(parts, [0, 2, 5], 3)

    for old, new in zip(before, whole, strict=True):
        new[:, 1:3, 2:, offset:end] = old[:, 1:3, 2:, offset:end]
    assert as_bits(whole) == as_bits(before)


@pytest.mark.parametrize(
    ("head_dim", "offset", "unit_bytes"), [(16, 0, 8), (6, 0, 4), (16, 2, 4), (16, 1, 2), (5, 0, 2)]
)
def test_units_are_as_large_as_rows_and_addresses_allow(head_dim, offset, unit_bytes):
    """Half-precision rows move in 8 bytes where every row of every buffer begins at a multiple of 8."""
    flat = torch.zeros(2 * 3 * head_dim + offset, dtype=torch.float16)
    shifted = flat[offset:].view(1, 2, 3, head_dim)
    table = triton_kernel.buffer_table([torch.zeros_like(shifted), shifted])

    assert table.unit_bytes == unit_bytes
    assert table.row_units * unit_bytes == head_dim * 2


def test_a_mover_serves_round_after_round():
    """It reads the buffers as they are at each call."""
    buffers = random_buffers(2)
    expected = [buffer.clone() for buffer in buffers]
    mover = RowMover(buffers)
    for path, context_length in (([0, 2], 3), ([0, 1, 4], 5), ([0], 8)):
        mover(torch.tensor(path), context_length)
        reference.commit_rows(expected, torch.tensor(path), context_length)

    assert as_bits(buffers) == as_bits(expected)


@pytest.mark.parametrize("runs", [True, False])
def test_the_door_takes_the_kernel_where_triton_runs(monkeypatch, runs):
    """Elsewhere plain indexing moves the rows, with the same result."""
    taken = []
    kernel = triton_kernel.move_rows
    monkeypatch.setattr(triton_kernel, "move_rows", lambda *call: taken.append(1) or kernel(*call))
    monkeypatch.setattr(availability, "takes_triton", lambda tensor: runs)
    buffers = random_buffers(2)
    expected = [buffer.clone() for buffer in buffers]
    commit_rows(buffers, torch.tensor([0, 3]), CONTEXT)
    reference.commit_rows(expected, torch.tensor([0, 3]), CONTEXT)

    assert bool(taken) == runs
    assert as_bits(buffers) == as_bits(expected)


def test_no_buffers_are_nothing_to_move():
    """A model without attention layers commits as any other."""
    commit_rows([], torch.tensor([0, 2]), CONTEXT)


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(1, 2, 17, 4),
        torch.zeros(1, 2, 17, 8, dtype=torch.float16),
        torch.zeros(1, 17, 2, 8).transpose(1, 2),
    ],
)
def test_buffers_of_two_forms_are_refused(other):
    """The message shows both."""
    with pytest.raises(ValueError, match=r"must be alike, found .* at 1 and .* at 0"):
        RowMover([torch.zeros(1, 2, 17, 8), other])


@pytest.mark.parametrize("buffer", [torch.zeros(2, 17, 8), torch.zeros(2, 2, 17, 8), torch.zeros(1, 2, 8, 17).mT])
def test_what_is_no_kv_buffer_is_refused(buffer):
    """The message shows the shape and the strides."""
    with pytest.raises(ValueError, match=r"buffer 0 must be \(1, kv_heads, capacity, head_dim\).*found shape"):
        RowMover([buffer])
