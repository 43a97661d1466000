"""What several kernels do to rows of channels: their norm and its gradient, dropout, exponentials and what is made of them."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
SQRT_HALF = tl.constexpr(0.7071067811865476)
DENSITY = tl.constexpr(0.3989422804014327)
"""Of the normal distribution at 0."""
ROUNDS = tl.constexpr(7)
"""Of Philox; Salmon et al. 2011 find 4x32-7 random enough for every test, 10 is a margin."""


@triton.jit
def rows_of_tile(tile, N, D: tl.constexpr, L: tl.constexpr):
    """Rows (L,) of a tile, offsets (L, D), and which of the N rows exist (L, 1)."""
    row = tile * L + tl.arange(0, L)
    return row, row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :], (row < N)[:, None]


@triton.jit
def normalise(x, D: tl.constexpr, eps: tl.constexpr):
    """Normalised rows of x (L, D) and the inverse of their deviation (L, 1)."""
    x = x - tl.sum(x, 1, keep_dims=True) / D
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1, keep_dims=True) / D + eps)
    return x * inverse, inverse


@triton.jit
def normalise_grad(dunit, unit, inverse, D: tl.constexpr):
    """Gradient of what `normalise` has normalised (L, D)."""
    along = tl.sum(dunit * unit, 1, keep_dims=True) / D
    return inverse * (dunit - tl.sum(dunit, 1, keep_dims=True) / D - unit * along)


@triton.jit
def kept_scale(seed, row, D: tl.constexpr, BELOW: tl.constexpr, ACC: tl.constexpr):
    """What dropout multiplies elements (L, D) by: 0 where its 16 bits are below BELOW, else 1 over the fraction kept; see dropout.py."""
    call = row[:, None] * (D // 8) + tl.arange(0, D // 8)[None, :]
    b0, b1, b2, b3 = tl.philox(seed, call, 0, 0, 0, n_rounds=ROUNDS)
    # Eight channels side by side for every call, all in one thread.
    low = tl.join(tl.join(b0 & 0xFFFF, b2 & 0xFFFF), tl.join(b1 & 0xFFFF, b3 & 0xFFFF))
    high = tl.join(tl.join(b0 >> 16, b2 >> 16), tl.join(b1 >> 16, b3 >> 16))
    bits = tl.reshape(tl.join(low, high), (row.shape[0], D))
    return (bits >= BELOW).to(ACC) * (1.0 / (1.0 - BELOW / 65536.0))


@triton.jit
def exp(x):
    """e^x, for which a GPU has two instructions if results below 1e-38 may be 0; `tl.exp` keeps those and takes five."""
    return tl.exp2(x * LOG2E)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x). 1 / y = rsqrt(y)^2 needs no guard against ranges."""
    root = tl.rsqrt(1.0 + exp(-x))
    return root * root


@triton.jit
def gaussian(h):
    """The normal distribution function at h, and its density."""
    if h.dtype == tl.float64:
        below = 0.5 * (1.0 + tl.erf(h * SQRT_HALF))
        density = DENSITY * tl.exp(-0.5 * h * h)
    else:
        # The distribution function is the sigmoid of an odd function, here a polynomial: error below 7e-6, of h times it below 3e-6
        # (a fit of this project). The coefficients hold the factor -log2(e).
        t = h * h
        odd = -2.3020446 + t * (-0.10522669 + t * (3.6027369e-4 + t * (8.8238392e-5 + t * -3.2289942e-6)))
        root = tl.rsqrt(1.0 + tl.exp2(h * odd))
        below = root * root
        density = DENSITY * tl.exp2(t * -0.72134752)
    return below, density
