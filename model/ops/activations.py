"""Functions of Triton that several kernels need: the row-wise norm, and what GELU and its gradient are made of."""

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(0.7071067811865476)
DENSITY = tl.constexpr(0.3989422804014327)
"""Of the normal distribution at 0."""


@triton.jit
def normalise(x, D: tl.constexpr, eps: tl.constexpr):
    """Normalised rows of x (L, D) and the inverse of their deviation (L, 1)."""
    x = x - tl.sum(x, 1, keep_dims=True) / D
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1, keep_dims=True) / D + eps)
    return x * inverse, inverse


@triton.jit
def gaussian(h):
    """The normal distribution function at h, and its density."""
    if h.dtype == tl.float64:
        below = 0.5 * (1.0 + tl.erf(h * SQRT_HALF))
        density = DENSITY * tl.exp(-0.5 * h * h)
    else:
        # Abramowitz & Stegun 7.1.26: error below 1.5e-7, with the exponential that the density needs anyway.
        bell = tl.exp(-0.5 * h * h)
        t = 1.0 / (1.0 + 0.3275911 * SQRT_HALF * tl.abs(h))
        series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        tail = 0.5 * series * bell
        below = tl.where(h > 0, 1.0 - tail, tail)
        density = DENSITY * bell
    return below, density
