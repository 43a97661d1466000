"""One door to both implementations of `mlstm_mixer`."""

from model.ops.backend import TRITON, by_kernels
from model.ops.mlstm_mixer.reference import mlstm_mixer_reference

if TRITON:
    from model.ops.conv_qkv_gates.fused import fits
    from model.ops.mlstm_mixer.fused import mlstm_mixer_triton


def mlstm_mixer(
    wide, taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, norm_weight, skip, *, directions=(False, True), cap=None,
    backend="auto", cell_backend=None,
):  # fmt: skip
    """What the mLSTM layer does between its projections: `conv_qkv_gates`, the cell and `head_norm_gate`; (B, S, I).

    Args:
        wide: Up-projected input, x beside z (B, S, 2 I).
        taps: Of the depthwise convolution (I, 4), the last one on the frame itself.
        conv_bias: (I,).
        wq: Blocks (I / 4, 4, 4) as (block, out, in); likewise wk and wv.
        gate_weight: Of input and forget gates (2 H, 3 I), columns in the order q, k, v.
        gate_bias: (2 H,).
        norm_weight: Scale of the norm of every head less one (I,).
        skip: Weight of the convolved input (I,).
        directions: For each direction whether it runs backward in time, all with the same weights: (False, True), (False,) or (True,).
        cap: Gates g become cap * tanh(g / cap); None leaves them as they are.
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do these sizes, else the three operators
            one by one, each as its own "auto" says.
        cell_backend: Of the cell, where another one is wanted than `backend`; "reference", "xlstm" and "torch" keep the three
            operators apart.
    """
    weights = (taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, norm_weight, skip)
    if directions == (True,):  # the cell alone takes one direction to be forward
        settings = {"cap": cap, "backend": backend, "cell_backend": cell_backend}
        return mlstm_mixer(wide.flip(1), *weights, directions=(False,), **settings).flip(1)
    sizes = (wide.shape[-1] // 2, wq.shape[-1], taps.shape[-1], len(gate_bias))
    whole = cell_backend in (None, "auto", "triton")
    if whole and by_kernels(backend, wide, lambda: fits(*sizes)):
        return mlstm_mixer_triton(wide, *weights, directions, cap)
    settings = {"directions": directions, "cap": cap, "backend": backend, "cell_backend": cell_backend or backend}
    return mlstm_mixer_reference(wide, *weights, **settings)
