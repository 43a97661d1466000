"""Triton kernels of `sample_codes`: the noise is made where it is used, and never stored.

The V codes of a group are cut into pieces of W. A call of the random number generator has four outputs, which serve four
pieces, so noise, scores and probabilities have one layout and nothing is shuffled between threads.

Shape letters: N frames, G groups, V codes of a group, W codes of a piece, E channels of a code, L frames of a tile.
"""

# ruff: noqa: RUF005 (Triton does not unpack tuples)

import triton
import triton.language as tl
from triton.language.extra import libdevice

from model.ops.products import dot
from model.ops.rowwise import LN2, exp

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _log2(x):
    """Logarithm by the instruction that a GPU has for it; tl.log2 is twenty."""
    if INTERPRETED:
        return tl.log2(x)
    else:
        return libdevice.fast_log2f(x)


@triton.jit
def _gumbel(bits):
    """-ln(-ln(1 - t)), t = (k + 1/2) / 2^23 for the upper 23 bits k: exact, as is 1 - t, and neither is 0 or 1."""
    t = ((bits >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 0.999999940395355225
    # The fast logarithm of a number near 1 has few digits.
    series = t * (1.0 + t * (0.5 + t * 0.333333333))
    return _log2(tl.where(t < 0.015625, series, _log2(1.0 - t) * -LN2)) * -LN2


@triton.jit
def _noise(seed, row, call, W: tl.constexpr):
    """Noise (L, W) of four pieces of the rows n G + g."""
    place = call * W + tl.arange(0, W)
    a, b, c, d = tl.philox(seed, row[:, None], place[None, :], 0, 0)
    return _gumbel(a), _gumbel(b), _gumbel(c), _gumbel(d)


@triton.jit
def _piece(row, ok, p: tl.constexpr, V: tl.constexpr, W: tl.constexpr):
    """Offsets (L, W) of piece p into (N G, V), and which of them exist."""
    v = p * W + tl.arange(0, W)
    at = row.to(tl.int64)[:, None] * V + v[None, :]
    there = ok[:, None]
    if (p + 1) * W > V:
        there = there & (v < V)[None, :]
    return at, there


@triton.jit
def _scores(logits_ptr, row, ok, p: tl.constexpr, V: tl.constexpr, W: tl.constexpr, ACC: tl.constexpr):
    """Logits (L, W) of piece p: 0 in rows that do not exist, minus infinity in codes that do not."""
    at, there = _piece(row, ok, p, V, W)
    x = tl.load(logits_ptr + at, mask=there, other=0.0).to(ACC)
    if (p + 1) * W > V:
        x = tl.where((p * W + tl.arange(0, W) < V)[None, :], x, float("-inf"))
    return x


@triton.jit
def gumbel_noise_kernel(seed_ptr, noise_ptr, ROWS, V: tl.constexpr, P: tl.constexpr, L: tl.constexpr, W: tl.constexpr):
    """The noise of L of the N G rows."""
    row = tl.program_id(0) * L + tl.arange(0, L)
    seed = tl.load(seed_ptr)
    for p in tl.static_range(P):
        if p % 4 == 0:
            noise = _noise(seed, row, p // 4, W)
        at, there = _piece(row, row < ROWS, p, V, W)
        tl.store(noise_ptr + at, noise[p % 4], there)


@triton.jit
def sample_codes_kernel(
    logits_ptr, codebook_ptr, weight_ptr, seed_ptr, q_ptr, ids_ptr, norms_ptr, share_ptr, N, tiles, G: tl.constexpr, V: tl.constexpr,
    E: tl.constexpr, P: tl.constexpr, L: tl.constexpr, W: tl.constexpr, EP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Samples of `tiles` tiles of frames, and their share of the mean probabilities (V,). Program axes: 0 run of tiles, 1 group.

    For the gradient: norms (2, N, G), the logarithm of the sum of exp(logits), and the largest logit with noise.
    """
    g = tl.program_id(1)
    seed = tl.load(seed_ptr)
    w = tl.arange(0, W)[None, :]
    e = tl.arange(0, EP)
    # Sums over frames stay in their threads until the end.
    share = ()
    for _ in tl.static_range(P):
        share = share + (tl.zeros((L, W), ACC),)
    for step in range(tiles):
        n = (tl.program_id(0) * tiles + step) * L + tl.arange(0, L)
        ok = n < N
        row = n * G + g
        best = tl.full((L, W), float("-inf"), ACC)
        most = tl.full((L, W), float("-inf"), ACC)
        chosen = tl.zeros((L, W), tl.int32)
        x = ()
        for p in tl.static_range(P):
            if p % 4 == 0:
                noise = _noise(seed, row, p // 4, W)
            scores = _scores(logits_ptr, row, ok, p, V, W, ACC)
            noisy = scores + noise[p % 4].to(ACC)
            chosen = tl.where(noisy > best, p, chosen)
            best = tl.maximum(best, noisy)
            most = tl.maximum(most, scores)
            x = x + (scores,)
        most = tl.max(most, 1, keep_dims=True)
        sums = tl.zeros((L, W), ACC)
        probs = ()
        for p in tl.static_range(P):
            prob = exp(x[p] - most)
            sums += prob
            probs = probs + (prob,)
        total = tl.sum(sums, 1, keep_dims=True)
        scale = tl.load(weight_ptr + n, mask=ok, other=0.0).to(ACC)[:, None] / total
        added = ()
        for p in tl.static_range(P):
            added = added + (share[p] + probs[p] * scale,)
        share = added
        top = tl.max(best, 1, keep_dims=True)
        # The first of equals; the last code where all are NaN, so that the look-up stays inside of the codebook.
        ids = tl.min(tl.where(best == top, chosen * W + w, V - 1), 1)
        tl.store(ids_ptr + row, ids.to(tl.int64), ok)
        lse = most + tl.log(total)
        tl.store(norms_ptr + row[:, None], lse, ok[:, None])
        tl.store(norms_ptr + tl.cast(N, tl.int64) * G + row[:, None], top, ok[:, None])
        there = ok[:, None] & (e < E)[None, :]
        code = tl.load(codebook_ptr + (g * V + ids)[:, None] * E + e[None, :], mask=there, other=0.0)
        tl.store(q_ptr + row.to(tl.int64)[:, None] * E + e[None, :], code.to(q_ptr.dtype.element_ty), there)
    out = share_ptr + (tl.program_id(0) * G + g) * V
    for p in tl.static_range(P):
        v = p * W + tl.arange(0, W)
        tl.store(out + v, tl.sum(share[p], 0), v < V)


@triton.jit
def sample_codes_grad_kernel(
    logits_ptr, dsoft_ptr, temperature_ptr, weight_ptr, seed_ptr, norms_ptr, dmean_ptr, dlogits_ptr, N, G: tl.constexpr,
    V: tl.constexpr, P: tl.constexpr, L: tl.constexpr, W: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits of one tile, from that of the soft sample (N, G, V) and of the mean probabilities (G, V).

    Program axes: 0 tile of frames, 1 group.
    """
    g = tl.program_id(1)
    n = tl.program_id(0) * L + tl.arange(0, L)
    ok = n < N
    row = n * G + g
    seed = tl.load(seed_ptr)
    cold = 1.0 / tl.load(temperature_ptr).to(ACC)
    lse = tl.load(norms_ptr + row, mask=ok, other=0.0)[:, None]
    top = tl.load(norms_ptr + tl.cast(N, tl.int64) * G + row, mask=ok, other=0.0)[:, None]
    total = tl.zeros((L, W), ACC)
    along = tl.zeros((L, W), ACC)
    mean_along = tl.zeros((L, W), ACC)
    soft, probs, grads = (), (), ()
    for p in tl.static_range(P):
        if p % 4 == 0:
            noise = _noise(seed, row, p // 4, W)
        at, there = _piece(row, ok, p, V, W)
        grad = tl.load(dsoft_ptr + at, mask=there, other=0.0)
        v = p * W + tl.arange(0, W)
        dmean = tl.load(dmean_ptr + v + g * V, mask=v < V, other=0.0).to(ACC)[None, :]
        scores = _scores(logits_ptr, row, ok, p, V, W, ACC)
        prob = exp(scores - lse)
        hot = exp((scores + noise[p % 4].to(ACC) - top) * cold)
        total += hot
        along += hot * grad.to(ACC)
        mean_along += prob * dmean
        soft, probs, grads = soft + (hot,), probs + (prob,), grads + (grad,)
    total = tl.sum(total, 1, keep_dims=True)
    along = tl.sum(along, 1, keep_dims=True) / total
    scale = cold / total
    mean_along = tl.sum(mean_along, 1, keep_dims=True)
    weight = tl.load(weight_ptr + n, mask=ok, other=0.0).to(ACC)[:, None]
    for p in tl.static_range(P):
        at, there = _piece(row, ok, p, V, W)
        v = p * W + tl.arange(0, W)
        dmean = tl.load(dmean_ptr + v + g * V, mask=v < V, other=0.0).to(ACC)[None, :]
        dlogits = soft[p] * (grads[p].to(ACC) - along) * scale + probs[p] * (dmean - mean_along) * weight
        tl.store(dlogits_ptr + at, dlogits.to(dlogits_ptr.dtype.element_ty), there)


@triton.jit
def codebook_grad_kernel(
    ids_ptr, dcodes_ptr, dcodebook_ptr, N, tiles, G: tl.constexpr, V: tl.constexpr, E: tl.constexpr, L: tl.constexpr, VP: tl.constexpr,
    EP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Each program's share of the codebook's gradient (G, V, E): one-hot ids times the gradient of the samples (N, G, E).

    Program axes: 0 tile of codes and channels, 1 group, 2 run of `tiles` tiles of frames.
    """
    g = tl.program_id(1)
    across = tl.cdiv(E, EP)
    v = (tl.program_id(0) // across) * VP + tl.arange(0, VP)
    e = (tl.program_id(0) % across) * EP + tl.arange(0, EP)
    total = tl.zeros((VP, EP), ACC)
    for step in range(tiles):
        n = (tl.program_id(2) * tiles + step) * L + tl.arange(0, L)
        ok = n < N
        row = n * G + g
        ids = tl.load(ids_ptr + row, mask=ok, other=-1).to(tl.int32)
        at = row.to(tl.int64)[:, None] * E + e[None, :]
        dcodes = tl.load(dcodes_ptr + at, mask=ok[:, None] & (e < E)[None, :], other=0.0)
        one_hot = (ids[None, :] == v[:, None]).to(dcodes.dtype)
        total = dot(one_hot, dcodes, total)
    out = ((tl.program_id(2) * G + g).to(tl.int64) * V + v)[:, None] * E + e[None, :]
    tl.store(dcodebook_ptr + out, total, (v < V)[:, None] & (e < E)[None, :])


@triton.jit
def count_kernel(
    ids_ptr, weight_ptr, counts_ptr, N, tiles, G: tl.constexpr, V: tl.constexpr, L: tl.constexpr, W: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Each program's share of the weight (G, V) of the frames that took a code.

    Program axes: 0 run of `tiles` tiles of frames, 1 group, 2 tile of codes.
    """
    g = tl.program_id(1)
    v = tl.program_id(2) * W + tl.arange(0, W)
    total = tl.zeros((L, W), ACC)
    for step in range(tiles):
        n = (tl.program_id(0) * tiles + step) * L + tl.arange(0, L)
        ok = n < N
        ids = tl.load(ids_ptr + n.to(tl.int64) * G + g, mask=ok, other=-1).to(tl.int32)
        weight = tl.load(weight_ptr + n, mask=ok, other=0.0).to(ACC)
        total += tl.where(ids[:, None] == v[None, :], weight[:, None], 0.0)
    tl.store(counts_ptr + (tl.program_id(0) * G + g) * V + v, tl.sum(total, 0), v < V)
