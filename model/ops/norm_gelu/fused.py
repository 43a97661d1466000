"""The kernels of `norm_gelu` as PyTorch operators. Shape letters: B batch, S rows of a window, N = B S, D channels, C inputs of a row."""

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from model.ops.backend import fits_norm, require_norm_width
from model.ops.device import require_gpu
from model.ops.launch import runs_of_tiles
from model.ops.norm_gelu.kernels import (
    linear_norm_gelu_grad_kernel,
    linear_norm_gelu_kernel,
    norm_gelu_grad_kernel,
    norm_gelu_kernel,
)
from model.ops.norm_gelu.reference import EPS
from model.ops.partial_sums import sum_parts
from model.ops.precision import sum_dtype, sum_type

ELEMENTS = 2048
"""Of a tile of `norm_gelu`, about."""
LINEAR_ELEMENTS = 4096
"""Of a tile of `linear_norm_gelu`, about."""
WANTED_PROGRAMS = 264
"""Programs of a kernel that adds up gradients of weights, at most: two for each multiprocessor, as many as its registers hold."""

STAGES = 2
"""Tiles that such a program has asked for at a time."""


def _rows(x, frames):
    """Rows of x (..., width) in tiles: how many rows, tiles, tiles of a program that adds up, and such programs."""
    rows = x.numel() // x.shape[-1]
    tiles = triton.cdiv(rows, frames)
    return rows, tiles, *runs_of_tiles(tiles, WANTED_PROGRAMS)


def _constants(x, width, frames):
    acc = sum_type(x)
    return {"D": width, "L": frames, "eps": EPS, "ACC": acc, "num_warps": 4}


def _launch(x, early, last):
    """Frames of a tile, and the constants of both kernels of `norm_gelu`."""
    frames = max(1, ELEMENTS // x.shape[-1])
    return frames, _constants(x, x.shape[-1], frames) | {"EARLY": early is not None, "LAST": last is not None}


@torch.library.custom_op("raysys::norm_gelu", mutates_args=())
def norm_gelu_forward(
    x: Tensor, weight: Tensor, bias: Tensor, early: Tensor | None, offset: Tensor | None, last_weight: Tensor | None,
    last_bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """(B, S, D); everything is contiguous."""
    require_gpu(x)
    frames, constants = _launch(x, early, last_weight)
    rows, tiles, _each, _programs = _rows(x, frames)
    y = torch.empty_like(x)
    vectors = (offset, weight, bias, last_weight, last_bias)
    norm_gelu_kernel[(tiles,)](x, early, *vectors, y, rows, x.shape[-2], **constants)
    return y


@norm_gelu_forward.register_fake
def _(x, weight, bias, early, offset, last_weight, last_bias):
    return torch.empty_like(x)


@torch.library.custom_op("raysys::norm_gelu_grad", mutates_args=())
def norm_gelu_backward(
    x: Tensor, weight: Tensor, bias: Tensor, early: Tensor | None, offset: Tensor | None, last_weight: Tensor | None, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x and of early, and of weight, bias, offset, last weight and last bias together (5, D); () where there is none."""
    frames, constants = _launch(x, early, last_weight)
    rows, _tiles, each, programs = _rows(x, frames)
    dx = torch.empty_like(x)
    dearly = torch.empty_like(x) if early is not None else x.new_empty(())
    shares = x.new_empty(programs, 5, x.shape[-1], dtype=sum_dtype(x))
    norm_gelu_grad_kernel[(programs,)](
        x, early, offset, weight, bias, last_weight, dy, dx, dearly, shares, rows, x.shape[-2], each, STAGES=STAGES,
        **constants,
    )  # fmt: skip
    return dx, dearly, sum_parts(shares)


@norm_gelu_backward.register_fake
def _(x, weight, bias, early, offset, last_weight, dy):
    dearly = torch.empty_like(x) if early is not None else x.new_empty(())
    return torch.empty_like(x), dearly, x.new_empty(5, x.shape[-1], dtype=sum_dtype(x))


def _setup(ctx, inputs, output):
    *tensors, _last_bias = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dy):
    *_, early, _offset, last_weight = ctx.saved_tensors
    dx, dearly, sums = norm_gelu_backward(*ctx.saved_tensors, dy.contiguous())
    dweight, dbias, doffset, dlast_weight, dlast_bias = sums
    of_early = (None, None) if early is None else (dearly, doffset)
    return dx, dweight, dbias, *of_early, *((None, None) if last_weight is None else (dlast_weight, dlast_bias))


norm_gelu_forward.register_autograd(_backward, setup_context=_setup)


def _linear_launch(x, weight):
    width, inputs = weight.shape
    # A product of the tensor cores has 16 rows at least.
    frames = max(16, LINEAR_ELEMENTS // width)
    return frames, _constants(x, width, frames) | {"C": inputs}


@torch.library.custom_op("raysys::linear_norm_gelu", mutates_args=())
def linear_norm_gelu_forward(x: Tensor, linear: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(..., D) for x (..., C) and linear (D, C); everything is contiguous."""
    require_gpu(x)
    frames, constants = _linear_launch(x, linear)
    rows, tiles, _each, _programs = _rows(x, frames)
    y = x.new_empty(*x.shape[:-1], len(linear))
    linear_norm_gelu_kernel[(tiles,)](x, linear.t().contiguous(), weight, bias, y, rows, **constants)
    return y


@linear_norm_gelu_forward.register_fake
def _(x, linear, weight, bias):
    return x.new_empty(*x.shape[:-1], len(linear))


@torch.library.custom_op("raysys::linear_norm_gelu_grad", mutates_args=())
def linear_norm_gelu_backward(
    x: Tensor, linear: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of x, () unless wanted, and those of weight, bias and the transpose of linear together (2 + C, D)."""
    frames, constants = _linear_launch(x, linear)
    rows, _tiles, each, programs = _rows(x, frames)
    dx = torch.empty_like(x) if wanted else x.new_empty(())
    width, inputs = linear.shape
    shares = x.new_empty(programs, 2 + inputs, width, dtype=sum_dtype(x))
    linear_norm_gelu_grad_kernel[(programs,)](
        x, linear.t().contiguous(), weight, bias, dy, dx, shares, rows, each, INPUT=wanted, **constants
    )
    return dx, sum_parts(shares)


@linear_norm_gelu_backward.register_fake
def _(x, linear, weight, bias, dy, wanted):
    dx = torch.empty_like(x) if wanted else x.new_empty(())
    return dx, x.new_empty(2 + linear.shape[1], len(linear), dtype=sum_dtype(x))


def _linear_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _linear_backward(ctx, dy):
    wanted = ctx.needs_input_grad[0]
    dx, sums = linear_norm_gelu_backward(*ctx.saved_tensors, dy.contiguous(), wanted)
    return dx if wanted else None, sums[2:].t(), sums[0], sums[1]


linear_norm_gelu_forward.register_autograd(_linear_backward, setup_context=_linear_setup)


def norm_gelu_triton(x, weight, bias, early, offset, last_weight, last_bias):
    """As `norm_gelu_reference`, by this project's kernels.

    Raises:
        ValueError: a width that the kernels are not written for.
    """
    require_norm_width(x.shape[-1])
    early = None if early is None else early.to(x.dtype)
    tensors = (x, weight, bias, early, offset, last_weight, last_bias)
    return norm_gelu_forward(*(None if t is None else t.contiguous() for t in tensors))


def padded_inputs(inputs: int, with_bias: bool) -> int:
    """Returns the inputs of the kernels: with a bias one more, and zeros up to a multiple of 16."""
    return 16 * triton.cdiv(inputs + 1, 16) if with_bias else inputs


def fits(width: int, inputs: int, with_bias: bool) -> bool:
    """Returns whether the kernels of `linear_norm_gelu` do these sizes."""
    return fits_norm(width) and padded_inputs(inputs, with_bias) in (16, 32)


def bias_as_column(x: Tensor, linear: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x (..., F) with a column of ones and linear (D, F) with the bias beside it, both with zeros up to `padded_inputs`."""
    spare = padded_inputs(x.shape[-1], True) - x.shape[-1] - 1
    ones = F.pad(x.new_ones(*x.shape[:-1], 1), (0, spare))
    return torch.cat([x, ones], dim=-1), F.pad(torch.cat([linear, bias[:, None]], dim=1), (0, spare))


def linear_norm_gelu_triton(x, linear, weight, bias, linear_bias=None):
    """gelu(LayerNorm(linear x + linear_bias)), by this project's kernels; see `linear_norm_gelu`.

    Raises:
        ValueError: sizes that the kernels are not written for.
    """
    if linear_bias is not None:
        x, linear = bias_as_column(x, linear, linear_bias)
    width, inputs = linear.shape
    require_norm_width(width)
    if inputs not in (16, 32):
        raise ValueError(f"backend='triton' does 16 or 32 inputs, not {inputs}: use backend='torch'")
    return linear_norm_gelu_forward(*(t.contiguous() for t in (x, linear.to(x.dtype), weight, bias)))
