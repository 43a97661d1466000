"""Who decides between kernels and plain PyTorch."""

import pytest
import torch

from model.ops.backend import TRITON, by_kernels, fits_norm
from model.ops.contrast import op as contrast
from model.ops.conv_qkv_gates import op as conv_qkv_gates
from model.ops.feed_forward import op as feed_forward
from model.ops.gumbel_codes import op as gumbel_codes
from model.ops.spans import op as spans


class OnGPU(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


def test_kernels_where_they_are_asked_for_or_on_a_gpu():
    x = torch.ones(1)
    assert by_kernels("triton", x)
    assert not by_kernels("torch", x)
    assert not by_kernels("auto", x)
    with pytest.raises(ValueError, match="backend='cuda' is unknown: choose auto, torch or triton"):
        by_kernels("cuda", x)
    assert not by_kernels("xlstm", x, others=("reference", "xlstm"))
    with pytest.raises(ValueError, match="choose auto, torch, triton, reference or xlstm"):
        by_kernels("cuda", x, others=("reference", "xlstm"))


def test_without_triton_its_kernels_are_refused(monkeypatch):
    monkeypatch.setattr("model.ops.backend.TRITON", False)
    with pytest.raises(ValueError, match="needs the package triton"):
        by_kernels("triton", torch.ones(1))
    assert not by_kernels("auto", torch.ones(1).as_subclass(OnGPU))


@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
def test_the_choice_is_made_while_a_model_compiles(backend):
    compiled = torch.compile(lambda x: x + by_kernels(backend, x), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)) == (backend == "triton")


def context(width, dtype=torch.bfloat16):
    return torch.empty(1, 1, width, dtype=dtype)


@pytest.mark.skipif(not TRITON, reason="without Triton nothing fits")
@pytest.mark.parametrize(
    ("fits", "inside", "outside"),
    [
        (fits_norm, [(16,), (512,), (1024,)], [(8,), (24,), (2048,)]),
        (
            lambda *x: contrast.fits(context(*x)),
            [(16,), (256,), (64, torch.float16)],
            [(8,), (96,), (512,), (64, torch.float32)],
        ),
        (lambda *x: feed_forward.fits(*x), [(208, 128), (8, 16)], [(208, 256), (204, 128), (24, 8), (80, 48)]),
        (
            lambda *x: conv_qkv_gates.fits(*x),
            [(256, 4, 4, 8), (16, 4, 4, 16)],
            [(264, 4, 4, 8), (256, 8, 4, 8), (256, 4, 3, 8), (256, 4, 4, 17)],
        ),
        (lambda *x: gumbel_codes.fits(*x), [(2048, 512)], [(2049, 512), (2048, 513)]),
        (spans.fits, [(4096,)], [(4097,)]),
    ],
    ids=["norms", "contrast", "feed_forward", "conv_qkv_gates", "gumbel_codes", "spans"],
)
def test_sizes_up_to_the_borders_are_done_by_kernels(fits, inside, outside):
    assert all(fits(*sizes) for sizes in inside)
    assert not any(fits(*sizes) for sizes in outside)


def test_on_a_gpu_kernels_do_what_fits():
    x = torch.ones(1).as_subclass(OnGPU)
    assert by_kernels("auto", x)
    assert not by_kernels("auto", x, lambda: False)
    assert by_kernels("triton", x, lambda: False)
    assert not by_kernels("torch", x)
