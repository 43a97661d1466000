"""The kernels of `conv_qkv_gates` as PyTorch operators.

Shape letters: R directions, B batch, S frames, I inner channels, C channels of a tile, G gate columns, padded.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from model.ops.conv_qkv_gates.kernels import (
    conv_qkv_gates_grad_kernel,
    conv_qkv_gates_kernel,
    convolve_grad_kernel,
    weights_grad_kernel,
)
from model.ops.conv_qkv_gates.reference import gate_maps, keys_map
from model.ops.device import require_gpu
from model.ops.launch import runs_of_tiles, settings, with_dense_rows
from model.ops.partial_sums import sum_each
from model.ops.precision import sum_dtype, sum_type

GATES = 16
"""Gate columns, padded to the narrowest product that tensor cores do."""
BLOCK, TAPS = 4, 4
"""Channels of a block of the maps, and taps of the convolution, that the kernels are written for."""


@dataclass(frozen=True, slots=True)
class TileLaunch:
    """How one kernel is launched; changes the speed, not the result."""

    channels: int
    """Most channels of a tile."""
    frames: int
    """Most frames of a tile."""
    programs: int = 0
    """How many programs there should be, about, where each does several tiles."""
    stages: int = 1
    registers: int | None = None
    """Most registers a thread may use; fewer let more programs share a multiprocessor."""


FORWARD = TileLaunch(64, 32)
BACKWARD = TileLaunch(64, 16, 396, registers=168)
WEIGHTS_BACKWARD = TileLaunch(128, 64, 264, stages=3)
"""Half as many channels of wider elements, which take as much shared memory."""
CONVOLVE = TileLaunch(64, 32, 528, registers=128)
FOLD = 8
"""Frames of a tile that different threads hold; sums over the others stay within a thread."""


def fits(inner: int, block: int, taps: int, num_gates: int) -> bool:
    """Returns whether the kernels do these sizes."""
    return inner % 16 == 0 and block == BLOCK and taps == TAPS and num_gates <= GATES


def _cut(x, launch):
    """Channels and frames of a tile."""
    _, length, inner = x.shape
    return math.gcd(inner, launch.channels), min(launch.frames, max(16, triton.next_power_of_2(length)))


def _constants(x, directions, launch):
    channels, frames = _cut(x, launch)
    acc = sum_type(x)
    constants = {"I": x.shape[-1], "R": directions, "C": channels, "L": frames, "ACC": acc}
    return constants | settings(4, launch.stages, launch.registers)


def outputs(x, directions, num_gates):
    """Empty convolved input, keys (R, B, S, I), values (1, B, S, I), and shares of the gates (I / C, 2, R, B, S, H)."""
    batch, length, inner = x.shape
    a, k = (x.new_empty(directions, batch, length, inner) for _ in range(2))
    shares = (inner // _cut(x, FORWARD)[0], 2, directions, batch, length, num_gates // 2)
    return a, k, x.new_empty(1, batch, length, inner), x.new_empty(shares, dtype=sum_dtype(x))


def conv_qkv_gates_shares(x, taps, bias, wk, wv, on_a, on_x, num_gates, directions, first):
    """Fills `outputs`; gates are the sum of their shares, one of each tile of channels, and of their bias."""
    require_gpu(x)
    batch, length, inner = x.shape
    filled = outputs(x, directions, num_gates)
    channels, frames = _cut(x, FORWARD)
    conv_qkv_gates_kernel[(inner // channels, triton.cdiv(length, frames), batch)](
        x, taps, bias, wk, wv, on_a, on_x, *filled, batch, length, x.stride(1), FIRST=first, G=GATES,
        H=num_gates // 2, **_constants(x, directions, FORWARD),
    )  # fmt: skip
    return filled


@torch.library.custom_op("raysys::conv_qkv_gates", mutates_args=())
def conv_qkv_gates_forward(
    x: Tensor, taps: Tensor, bias: Tensor, wk: Tensor, wv: Tensor, on_a: Tensor, on_x: Tensor, gate_bias: Tensor,
    directions: int, first: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Convolved input, keys (R, B, S, I), values (1, B, S, I), gates (R, B, S, 2 H); x is dense but for a row stride."""
    *filled, shares = conv_qkv_gates_shares(x, taps, bias, wk, wv, on_a, on_x, len(gate_bias), directions, first)
    return *filled, shares.sum(0).movedim(0, -2).flatten(-2) + gate_bias


@conv_qkv_gates_forward.register_fake
def _(x, taps, bias, wk, wv, on_a, on_x, gate_bias, directions, first):
    *filled, shares = outputs(x, directions, len(gate_bias))
    return *filled, shares.new_empty(*filled[0].shape[:3], len(gate_bias))


def _weights_grads(x, a, dk, dv, dgates, num_gates):
    """Shares of the gradients of the maps, of A and X, and of the gates' bias."""
    directions, batch, length, inner = a.shape
    rows = batch * length
    wide = x.element_size() > 2
    launch = replace(WEIGHTS_BACKWARD, channels=WEIGHTS_BACKWARD.channels // 2) if wide else WEIGHTS_BACKWARD
    channels, frames = _cut(x, launch)
    columns = inner // channels
    tiles, runs = runs_of_tiles(triton.cdiv(directions * rows, frames), launch.programs // (4 * columns))
    x_tiles = triton.cdiv(triton.cdiv(rows, frames), runs)
    sums = (x.new_empty(runs, *size, dtype=sum_dtype(x)) for size in ((2, BLOCK * inner), (2, inner, GATES), (GATES,)))
    dmaps, don, dgate_bias = sums
    weights_grad_kernel[(4, columns, runs)](
        dk, dv, dgates, a, x, dmaps, don, dgate_bias, rows, x.stride(1), tiles, x_tiles, G=GATES, USED=num_gates,
        **_constants(x, directions, launch),
    )  # fmt: skip
    return dmaps, don, dgate_bias


def conv_qkv_gates_grads(
    x, taps, bias, wk, wv, on_a, on_x, directions, first, num_gates, a, da, dk, dv, dgates, dx, dq=None
):
    """Shares of the gradients of the maps (runs, 2, 16 I / 4), of A and X (runs, 2, I, G), of taps and bias (runs, 5, I), and of the
    gates' bias (runs, G); that of x into `dx`.

    `dx` (B, S, I) is dense but for a row stride; dgates (R, B, S, G) are those of the gates before any cap, and may hold
    anything in columns that are no gates. `dq`, if given, is added to `da`.
    """
    batch, length, inner = x.shape
    dconv = torch.empty_like(dk)
    channels, frames = _cut(x, BACKWARD)
    tiles, runs = runs_of_tiles(batch * triton.cdiv(length, frames), BACKWARD.programs // (inner // channels))
    turn = da.stride(0) if directions > 1 else 0
    dtaps = x.new_empty(runs, TAPS + 1, inner, dtype=sum_dtype(x))
    conv_qkv_gates_grad_kernel[(inner // channels, runs)](
        x, taps, bias, wk, on_a, da, dq, dk, dgates, dconv, dtaps, batch, length, x.stride(1), tiles, turn,
        QUERIES=dq is not None, FIRST=first, G=GATES, USED=num_gates, FOLD=min(frames, FOLD), **_constants(x, directions, BACKWARD),
    )  # fmt: skip

    dmaps, don, dgate_bias = _weights_grads(x, a, dk, dv, dgates, num_gates)

    channels, frames = _cut(x, CONVOLVE)
    tiles, runs = runs_of_tiles(batch * triton.cdiv(length, frames), CONVOLVE.programs // (inner // channels))
    convolve_grad_kernel[(inner // channels, runs)](
        taps, wv, on_x, dconv, dv, dgates, dx, batch, length, tiles, dx.stride(1), FIRST=first, G=GATES, USED=num_gates,
        **_constants(x, directions, CONVOLVE),
    )  # fmt: skip
    return dmaps, don, dtaps, dgate_bias


def sizes(inner: int) -> tuple[int, int, int, int]:
    """Elements of the gradients of the maps, of A and X, of taps and bias, of the gates' bias."""
    return 2 * BLOCK * inner, 2 * inner * GATES, (TAPS + 1) * inner, GATES


@torch.library.custom_op("raysys::conv_qkv_gates_grad", mutates_args=())
def conv_qkv_gates_backward(
    x: Tensor, taps: Tensor, bias: Tensor, wk: Tensor, wv: Tensor, on_a: Tensor, on_x: Tensor, directions: int,
    first: int, num_gates: int, a: Tensor, da: Tensor, dk: Tensor, dv: Tensor, dgates: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of x, and one behind the other those of the maps (2, 16 I / 4), of A and X (2, I, G), of taps and bias (5, I), of the gates' bias (G,)."""
    dx = x.new_empty(x.shape)
    numbers = (directions, first, num_gates)
    inputs = (x, taps, bias, wk, wv, on_a, on_x)
    return dx, sum_each(*conv_qkv_gates_grads(*inputs, *numbers, a, da, dk, dv, dgates, dx))


@conv_qkv_gates_backward.register_fake
def _(x, taps, bias, wk, wv, on_a, on_x, directions, first, num_gates, a, da, dk, dv, dgates):
    return x.new_empty(x.shape), x.new_empty(sum(sizes(x.shape[-1])), dtype=sum_dtype(x))


def _setup(ctx, inputs, output):
    *tensors, gate_bias, ctx.directions, ctx.first = inputs
    ctx.num_gates = len(gate_bias)
    ctx.save_for_backward(*tensors, output[0])


def _backward(ctx, da, dk, dv, dgates):
    *tensors, a = ctx.saved_tensors
    if not da[0].is_contiguous():  # one gradient for all directions, expanded, is read as it is
        da = da.contiguous()
    padded = F.pad(dgates, (0, GATES - ctx.num_gates)).contiguous()
    numbers = (ctx.directions, ctx.first, ctx.num_gates)
    dx, sums = conv_qkv_gates_backward(*tensors, *numbers, a, da, dk.contiguous(), dv.contiguous(), padded)
    inner = dx.shape[-1]
    dmaps, don, dtaps, dgate_bias = sums.split(sizes(inner))
    dmaps = (d.view(-1, BLOCK * BLOCK).t() for d in dmaps.view(2, -1))
    don_a, don_x = don.view(2, inner, GATES)
    dtaps = dtaps.view(TAPS + 1, inner)
    return dx, dtaps[:TAPS], dtaps[TAPS], *dmaps, don_a.t(), don_x.t(), dgate_bias[: ctx.num_gates], None, None


conv_qkv_gates_forward.register_autograd(_backward, setup_context=_setup)


def _rows(weight):
    """(16, I / 4) for the blocks (I / 4, out, in)."""
    return weight.flatten(1).t().contiguous()


def require_fit(inner, map_weight, taps, num_gates):
    """Raises a ValueError if the kernels are not written for these sizes."""
    if not fits(inner, map_weight.shape[-1], taps.shape[-1], num_gates):
        raise ValueError(
            f"backend='triton' needs a multiple of 16 channels, not {inner}, blocks of {BLOCK}, not {map_weight.shape[-1]}, "
            f"{TAPS} taps, not {taps.shape[-1]}, and at most {GATES} gates, not {num_gates}: use backend='torch'"
        )


def conv_qkv_gates_triton(x, conv_weight, conv_bias, q_weight, k_weight, v_weight, gate_weight, gate_bias, directions):
    """As `conv_qkv_gates_reference`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: sizes that the kernels are not written for.
    """
    num_gates = len(gate_weight)
    require_fit(x.shape[-1], q_weight, conv_weight, num_gates)
    x = with_dense_rows(x)
    on_a, on_x = (
        F.pad(on, (0, 0, 0, GATES - num_gates)) for on in gate_maps(gate_weight, q_weight, k_weight, v_weight)
    )
    maps = (_rows(w) for w in (keys_map(q_weight, k_weight), v_weight))
    taps = conv_weight.t().contiguous()
    return conv_qkv_gates_forward(x, taps, conv_bias, *maps, on_a, on_x, gate_bias, len(directions), int(directions[0]))
