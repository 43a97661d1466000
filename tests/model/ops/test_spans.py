"""What can be checked of `draw_spans` without a GPU: its masks in the interpreter, that it compiles, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
from offline import compile_kernel, run_interpreted  # noqa: E402

from model.ops.spans import draw_spans, fused, kernels  # noqa: E402


@pytest.mark.slow
def test_draw_spans_in_the_interpreter():
    run_interpreted("interpreted_spans.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("num_frames", [1024, fused.MOST_FRAMES])
def test_the_kernel_compiles(num_frames, capability):
    constants = {key: value for key, value in fused.sizes(num_frames, 666, 10).items() if key.isupper() and key != "N"}
    types = {"uniform": "fp32", "frames": "i8"}
    compile_kernel(kernels.draw_spans_kernel, capability, constants, lambda arg: types.get(arg, "i64"), warps=8)


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        frames, index, rank = draw_spans(torch.rand(3, 201), 50, 10, 56)
        assert (frames.shape, frames.dtype) == ((3, 100), torch.bool)
        assert (index.shape, index.dtype) == ((3, 56), torch.int64)
        assert (rank.shape, rank.dtype) == ((3, 100), torch.int64)
