"""What `draw_spans` says of its outputs before anything runs, and that its largest window compiles."""

import pytest
import torch

pytest.importorskip("triton")
from launches import recorded

from model.ops.spans import draw_spans, fused


@pytest.mark.slow
def test_windows_of_the_most_frames_compile():
    with recorded() as found:
        draw_spans(torch.empty(2, 2 * fused.MOST_FRAMES + 1), 666, 10, 672, backend="triton")
    found[0].compile()


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        frames, index, rank = draw_spans(torch.rand(3, 201), 50, 10, 56, backend="triton")
        assert (frames.shape, frames.dtype) == ((3, 100), torch.bool)
        assert (index.shape, index.dtype) == ((3, 56), torch.int64)
        assert (rank.shape, rank.dtype) == ((3, 100), torch.int64)
