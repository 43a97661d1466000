"""One door to both implementations of `add_norm` and of `add_dropped`."""

from model.ops.add_norm.reference import add_dropped_reference, add_norm_reference
from model.ops.backend import TRITON, by_kernels, fits_norm

if TRITON:
    from model.ops.add_norm.fused import add_dropped_triton, add_norm_triton


def add_norm(x, weight, bias, *, update=None, dropout=0.0, seed=None, backend="auto"):
    """r = x + drop(update), or x where there is no update, and LayerNorm(r), over D with eps 1e-5, both (B, S, D).

    Both together, since the gradient of r then passes through the norm's kernel, which adds it to the norm's own.

    Args:
        x: (B, S, D).
        weight: Scale of the norm (D,).
        bias: Of the norm (D,).
        update: What a residual branch adds (B, S, D).
        dropout: Probability with which an element of the update is dropped.
        seed: 0-dim int64 on the device of x, without which nothing is dropped; what is dropped is a function of it.
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do that width, else torch. The kernels give the
            dtype of x, plain PyTorch under autocast gives a norm in float32.
    """
    if update is None or seed is None:
        dropout = 0.0
    run = add_norm_triton if by_kernels(backend, x, lambda: fits_norm(x.shape[-1])) else add_norm_reference
    return run(x, update, weight, bias, dropout, seed)


def add_dropped(x, update, *, dropout, seed=None, backend="auto"):
    """x + drop(update), (B, S, D); arguments as of `add_norm`."""
    run = add_dropped_triton if by_kernels(backend, x, lambda: fits_norm(x.shape[-1])) else add_dropped_reference
    return x + update if seed is None or dropout == 0 else run(x, update, dropout, seed)
