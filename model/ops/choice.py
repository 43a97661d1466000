"""Whether an operator is done by its kernels or in plain PyTorch."""


def by_kernels(backend, x, fits=lambda: True):
    """Whether the kernels do it: with "triton" always, with "auto" if x is on a GPU and only then `fits()`, with "torch" never."""
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend={backend!r} is unknown: choose auto, torch or triton")
    return backend == "triton" or (backend == "auto" and x.is_cuda and fits())


def fits_norm(width: int) -> bool:
    """Returns whether the kernels of `add_norm` and `norm_gelu` do this width."""
    return 16 <= width <= 1024 and width & (width - 1) == 0
