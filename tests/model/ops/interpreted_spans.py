"""`draw_spans` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import poisoned_memory  # noqa: F401

from model.config import MaskConfig
from model.masking import num_masked, span_mask
from model.ops.spans import draw_spans


@pytest.mark.parametrize(
    ("num_frames", "ratio", "span"), [(1024, 0.65, 10), (100, 0.5, 7), (64, 0.02, 10), (30, 0.95, 4), (33, 0.5, 1)]
)
def test_the_kernel_draws_the_spans_of_the_law(num_frames, ratio, span):
    config = MaskConfig(ratio=ratio, span_frames=span)
    uniform = torch.rand(5, 2 * num_frames + 1, generator=torch.Generator().manual_seed(num_frames))
    uniform[0, -1], uniform[1, -1] = 0.0, 1 - 2**-24
    wanted = span_mask(uniform, config)
    total = num_masked(num_frames, config)
    frames, index, rank = draw_spans(uniform, total, span, wanted.index.shape[1], backend="triton")
    assert torch.equal(frames, wanted.frames)
    assert (frames.sum(dim=1) == total).all()
    assert torch.equal(index, wanted.index)
    assert torch.equal(rank, wanted.rank)


def test_equal_numbers_still_make_the_right_number_of_frames():
    uniform = torch.full((2, 2 * 100 + 1), 0.5)
    frames, _index, _rank = draw_spans(uniform, 50, 10, 56, backend="triton")
    assert (frames.sum(dim=1) == 50).all()
