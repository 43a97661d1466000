"""Who decides between kernels and plain PyTorch: every operator asks `by_kernels`, and so does who draws
random numbers that only the kernels need.

"auto" is the kernels on a GPU for sizes that they do, "triton" always the kernels, "torch" never. Other backends that an
operator has besides are its own; the mLSTM cell alone has some.
"""

import importlib.util

TRITON = importlib.util.find_spec("triton") is not None
"""Whether the kernels can be imported; looked up here, as a model that compiles cannot."""


def by_kernels(backend, x, fits=lambda: True, others=()):
    """Returns whether the kernels do it, for a tensor x of the operator.

    Args:
        backend: "auto", "torch", "triton", or one of the others, which are no kernels of this project.
        x: "auto" asks whether it is on a GPU.
        fits: says whether the kernels do these sizes; "auto" alone asks, and on a GPU only.
        others: backends that the operator has besides.

    Raises:
        ValueError: the backend is unknown, or needs a package that is not there.
    """
    *most, last = "auto", "torch", "triton", *others
    if backend not in (*most, last):
        raise ValueError(f"backend={backend!r} is unknown: choose {', '.join(most)} or {last}")
    if backend == "triton" and not TRITON:
        raise ValueError("backend='triton' needs the package triton: install it, or use backend='torch'")
    return backend == "triton" or (backend == "auto" and TRITON and x.is_cuda and fits())


def fits_norm(width: int) -> bool:
    """Returns whether the kernels of `add_norm` and `norm_gelu` do this width."""
    return 16 <= width <= 1024 and width & (width - 1) == 0


def require_norm_width(width: int) -> None:
    """Raises a ValueError unless `fits_norm`."""
    if not fits_norm(width):
        raise ValueError(
            f"backend='triton' does a power of 2 of channels from 16 to 1024, not {width}: use backend='torch'"
        )
