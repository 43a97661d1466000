"""Whether an operator is done by its kernels or in plain PyTorch."""

import importlib.util

TRITON = importlib.util.find_spec("triton") is not None
"""Whether the kernels can be imported; looked up here, as a model that compiles cannot."""


def by_kernels(backend, x, fits=lambda: True):
    """Whether the kernels do it: with "triton" always, with "auto" if x is on a GPU and only then `fits()`, with "torch" never."""
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend={backend!r} is unknown: choose auto, torch or triton")
    if backend == "triton" and not TRITON:
        raise ValueError("backend='triton' needs the package triton: install it, or use backend='torch'")
    return backend == "triton" or (backend == "auto" and x.is_cuda and fits())


def fits_norm(width: int) -> bool:
    """Returns whether the kernels of `add_norm` and `norm_gelu` do this width."""
    return 16 <= width <= 1024 and width & (width - 1) == 0


def require_norm_width(width: int) -> None:
    """Raises a ValueError unless `fits_norm`."""
    if not fits_norm(width):
        raise ValueError(
            f"backend='triton' does a power of 2 of channels from 16 to 1024, not {width}: use backend='torch'"
        )
