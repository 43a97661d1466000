"""Everything between the up- and the down-projection as one PyTorch operator, made of the kernels of its neighbours.

As one operator it has one gradient of the up-projection's output, whose halves two kernels write side by side, and the weights
are brought into the kernels' layouts by one launch.

Shape letters: R directions, B batch, S frames, I inner channels, H heads, E channels of a head.
"""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from model.ops.conv_qkv_gates import fused as conv_qkv_gates
from model.ops.device import require_gpu
from model.ops.head_norm_gate.fused import head_norm_gate_forward, head_norm_gate_grads
from model.ops.head_norm_gate.reference import EPS as NORM_EPS
from model.ops.mlstm_cell import fused as cell
from model.ops.mlstm_mixer import reference
from model.ops.mlstm_mixer.kernels import prepare_grad_kernel, prepare_kernel
from model.ops.mlstm_mixer.kernels_hidden import hidden_norm_gate_kernel
from model.ops.partial_sums import sum_each
from model.ops.precision import sum_dtype, sum_type

BLOCKS = 8
"""Blocks of four channels of a program that prepares weights."""
NARROW = 64
"""Most channels of a head that one kernel takes from states to what the down-projection reads; it may use all registers."""


def _constants(x, num_gates):
    acc = sum_type(x)
    return {"G": conv_qkv_gates.GATES, "USED": num_gates, "K": BLOCKS, "ACC": acc, "num_warps": 1}


def _prepared(wide, taps):
    """Room for the prepared weights, see kernels.py."""
    inner = len(taps)
    return wide.new_empty(12 + 2 * conv_qkv_gates.GATES, inner, dtype=sum_dtype(wide))


def _parts(prepared):
    """Taps, maps of keys and values, A and X as `conv_qkv_gates` takes them."""
    return prepared.split([4, 4, 4, conv_qkv_gates.GATES, conv_qkv_gates.GATES])


def _heads(num_gates, *tensors):
    """Views (R, B, S, H, E) of tensors (R, B, S, I)."""
    return (t.unflatten(-1, (num_gates // 2, -1)) for t in tensors)


def _hidden_norm_gate(a, k, v, z, norm_weight, skip, gates, states, cut):
    """Hidden states (R, B, S, H, E) and what `head_norm_gate` makes of them (B, S, I), for a, k (R, B, S, H, E), v (1, B, S, H, E)."""
    directions, batch, length, heads, _ = a.shape
    overlap, *scales = gates
    h, y = torch.empty_like(a), a.new_empty(z.shape)
    hidden_norm_gate_kernel[(heads, cut.num_chunks, batch)](
        a, k, v, z, *scales, *states, norm_weight, skip, h, overlap, y, batch, length, heads, cut.num_chunks, z.stride(1),
        R=directions, norm_eps=NORM_EPS, **cell.scale_and_eps(a, reference.EPS),
        **cell.constants_of(a, cut, replace(cut.hidden, registers=None)),
    )  # fmt: skip
    return h, y


@torch.library.custom_op("raysys::mlstm_mixer", mutates_args=())
def mlstm_mixer_forward(
    wide: Tensor, taps: Tensor, conv_bias: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, gate_weight: Tensor,
    gate_bias: Tensor, norm_weight: Tensor, skip: Tensor, directions: int, cap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(B, S, I), and what the gradient needs: a, k, v, gates, h, four tensors of the cell, prepared weights; contiguous inputs."""
    require_gpu(wide)
    prepared = _prepared(wide, taps)
    inner, num_gates = len(taps), len(gate_bias)
    prepare_kernel[(triton.cdiv(inner // 4, BLOCKS),)](
        taps, wq, wk, wv, gate_weight, prepared, inner, **_constants(wide, num_gates)
    )
    taps, *rest = _parts(prepared)
    x, z = wide.chunk(2, dim=-1)
    a, k, v, shares = conv_qkv_gates.conv_qkv_gates_shares(x, taps, conv_bias, *rest, num_gates, directions, 0)
    heads = tuple(_heads(num_gates, a, k, v))
    of_gates = shares[:, 0], shares[:, 1]
    cut = cell.plan_of(heads[0])
    if a.shape[-1] <= NARROW * heads[0].shape[-2] and not cut.pairs:
        gates, cell_gates, states = cell.cell_states(*heads, *of_gates, gate_bias, cap)
        h, y = _hidden_norm_gate(*heads, z, norm_weight, skip, cell_gates, states, cut)
        return y, a, k, v, gates, h, cell_gates, *states, prepared
    gates, h, *saved = cell.cell_forward(*heads, *of_gates, reference.EPS, gate_bias, cap)
    return head_norm_gate_forward(h, a, z, norm_weight, skip), a, k, v, gates, h, *saved, prepared


@mlstm_mixer_forward.register_fake
def _(wide, taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, norm_weight, skip, directions, cap):
    x, z = wide.chunk(2, dim=-1)
    a, k, v, shares = conv_qkv_gates.outputs(x, directions, len(gate_bias))
    h, *saved = cell.outputs(*_heads(len(gate_bias), a))
    return x.new_empty(z.shape), a, k, v, torch.empty_like(shares[0]), h, *saved, _prepared(wide, taps)


def _vectors(inner):
    """Elements of the gradients of the biases of convolution and gates, and of norm and skip."""
    return inner, conv_qkv_gates.GATES, inner, inner


@torch.library.custom_op("raysys::mlstm_mixer_grad", mutates_args=())
def mlstm_mixer_backward(
    wide: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, gate_weight: Tensor, conv_bias: Tensor, norm_weight: Tensor, skip: Tensor,
    a: Tensor, k: Tensor, v: Tensor, gates: Tensor, h: Tensor, cell_gates: Tensor, memory: Tensor, norm: Tensor, start: Tensor,
    prepared: Tensor, dy: Tensor, cap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `wide`, of taps (I, 4), of the maps (3, I / 4, 4, 4), of the gates' weights, and of vectors, one behind the other.

    These are: bias of the convolution (I,), bias of the gates (G,), norm and skip (I,).
    """
    x, z = wide.chunk(2, dim=-1)
    inner, num_gates, directions = x.shape[-1], len(gate_weight), len(a)
    dwide = torch.empty_like(wide)
    dx, dz = dwide.chunk(2, dim=-1)
    rho = torch.empty_like(cell_gates[0])
    dh, da, dweights = head_norm_gate_grads(h, a, z, norm_weight, skip, dy, dz, rho)

    dgates = gates.new_empty(*a.shape[:3], conv_qkv_gates.GATES)
    of_gates = dgates[..., : num_gates // 2], dgates[..., num_gates // 2 :]
    saved = (h, cell_gates, memory, norm, start)
    grads = cell.cell_backward(*_heads(num_gates, a, k, v), *gates, reference.EPS, *saved, dh, *of_gates, cap, rho)

    taps, *rest = _parts(prepared)
    inputs = (x, taps, conv_bias, *rest, directions, 0, num_gates, a, da.expand_as(a))
    dq, dk, dv = (t.flatten(-2) for t in grads)
    shares = conv_qkv_gates.conv_qkv_gates_grads(*inputs, dk, dv, dgates, dx, dq)
    sums = sum_each(*shares, dweights)
    dmaps, don, dtaps, _ = sums[: sum(conv_qkv_gates.sizes(inner))].split(conv_qkv_gates.sizes(inner))
    dtaps_out, dw, dgate = (sums.new_empty(size) for size in ((inner, 4), (3, inner // 4, 4, 4), gate_weight.shape))
    prepare_grad_kernel[(triton.cdiv(inner // 4, BLOCKS), 3)](
        wq, wk, wv, gate_weight, dtaps, dmaps, don, dtaps_out, dw, dgate, inner, **_constants(wide, num_gates)
    )
    return dwide, dtaps_out, dw, dgate, sums[-sum(_vectors(inner)) :]


@mlstm_mixer_backward.register_fake
def _(
    wide, wq, wk, wv, gate_weight, conv_bias, norm_weight, skip, a, k, v, gates, h, cell_gates, memory, norm, start,
    prepared, dy, cap,
):  # fmt: skip
    inner = wide.shape[-1] // 2
    sizes = ((inner, 4), (3, inner // 4, 4, 4), gate_weight.shape, (sum(_vectors(inner)),))
    return torch.empty_like(wide), *(prepared.new_empty(size) for size in sizes)


def _setup(ctx, inputs, output):
    wide, _taps, conv_bias, wq, wk, wv, gate_weight, _gate_bias, norm_weight, skip, _, ctx.cap = inputs
    ctx.save_for_backward(wide, wq, wk, wv, gate_weight, conv_bias, norm_weight, skip, *output[1:])


def _backward(ctx, dy, *_):
    dwide, dtaps, dmaps, dgate, vectors = mlstm_mixer_backward(*ctx.saved_tensors, dy.contiguous(), ctx.cap)
    dconv_bias, dgate_bias, *dweights = vectors.split(_vectors(len(dtaps)))
    return dwide, dtaps, dconv_bias, *dmaps, dgate, dgate_bias[: len(dgate)], *dweights, None, None


mlstm_mixer_forward.register_autograd(_backward, setup_context=_setup)


def mlstm_mixer_triton(wide, taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, norm_weight, skip, directions, cap):
    """As `mlstm_mixer_reference`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: sizes that the kernels are not written for.
    """
    conv_qkv_gates.require_fit(wide.shape[-1] // 2, wq, taps, len(gate_bias))
    tensors = (t.contiguous() for t in (wide, taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, norm_weight, skip))
    return mlstm_mixer_forward(*tensors, len(directions), cap or 0.0)[0]
