"""One door to every backend of the mLSTM cell."""

from model.ops.backend import TRITON, by_kernels
from model.ops.mlstm_cell.chunkwise import mlstm_cell_chunkwise
from model.ops.mlstm_cell.nxai import mlstm_cell_nxai
from model.ops.mlstm_cell.reference import mlstm_cell_reference

if TRITON:
    from model.ops.mlstm_cell.fused import mlstm_cell_triton

OTHERS = {"reference": mlstm_cell_reference, "xlstm": mlstm_cell_nxai}
"""Backends that no other operator has."""


def mlstm_cell(q, k, v, igate, fgate, *, backend="auto", eps=1e-6):
    """Hidden states (R, B, S, H, E) of the mLSTM cell in R = 1 or 2 time directions, in the dtype of q.

    Direction 0 runs forward in time and direction 1 backward, both over the same memory: nothing needs to be flipped.
    R = 1 is forward only. The maths is that of `reference.py`; gradients are those of the whole formula.

    Args:
        q: Queries (R, B, S, H, E).
        k: Keys (R, B, S, H, E), not yet divided by sqrt(E).
        v: Values (R, B, S, H, E), or (1, B, S, H, E) when both directions share them.
        igate: Log of the input gate (R, B, S, H).
        fgate: Logit of the forget gate (R, B, S, H).
        backend: "reference" (recurrence), "torch" (chunkwise), "triton" (this project's kernels), "xlstm" (NX-AI's
            kernels, no gradient of the normaliser) or "auto": triton on a GPU and torch elsewhere.
        eps: Added to the stabilised denominator.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown or cannot run there.
    """
    _check(q, k, v, igate, fgate)
    if by_kernels(backend, q, others=tuple(OTHERS)):
        return mlstm_cell_triton(q, k, v, igate, fgate, eps)
    return OTHERS.get(backend, mlstm_cell_chunkwise)(q, k, v, igate, fgate, eps)


def _check(q, k, v, igate, fgate):
    if q.ndim != 5 or len(q) not in (1, 2):
        raise ValueError(f"q has shape {tuple(q.shape)}: it must be (R, B, S, H, E) with R = 1 or 2 directions")
    if k.shape != q.shape:
        raise ValueError(f"k has shape {tuple(k.shape)}: it must be that of q, {tuple(q.shape)}")
    if v.shape[1:] != q.shape[1:] or len(v) not in (1, len(q)):
        raise ValueError(f"v has shape {tuple(v.shape)}: it must be that of q, {tuple(q.shape)}, or 1 in front")
    for name, gate in (("igate", igate), ("fgate", fgate)):
        if gate.shape != q.shape[:-1]:
            raise ValueError(f"{name} has shape {tuple(gate.shape)}: it must be (R, B, S, H) = {tuple(q.shape[:-1])}")
