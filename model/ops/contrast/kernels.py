"""Triton kernels of `contrast`: as kernels of attention do, they go through tiles of scores that never leave a program.

Logits are in base 2: products times `factor`, log2(e) / temperature, and, for cosines, times the inverse lengths of both vectors,
which so stay as they come, and every product of 16-bit numbers is exact.

Shape letters: B batch, M frames of a window, D channels, L frames of a program, P frames of a tile that it meets, W bytes of
counts of a frame. Program axes: 0 tile of frames, 1 window.
"""

import triton
import triton.language as tl

from model.ops.products import dot
from model.ops.rowwise import LN2, LOG2E

NEVER = tl.constexpr(-1e30)
SMALLEST = tl.constexpr(1e-12)
"""Length below which a vector is not brought to length 1, as in PyTorch."""
FEW = tl.constexpr(8)
"""Frames of a tile at the end of `contrast_grad_kernel`."""


@triton.jit
def _rows(ptr, first, rows, M, D: tl.constexpr):
    """Tile (rows, D) of the M rows from the first one on, 0 where there is none."""
    at = (first + rows.to(tl.int64))[:, None] * D + tl.arange(0, D)[None, :]
    return tl.load(ptr + at, mask=(rows < M)[:, None], other=0.0)


@triton.jit
def _store(ptr, first, rows, M, value, D: tl.constexpr):
    at = (first + rows.to(tl.int64))[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(ptr + at, value.to(ptr.dtype.element_ty), (rows < M)[:, None])


@triton.jit
def lengths_kernel(
    context_ptr, targets_ptr, inverse_ptr, positive_ptr, N, D: tl.constexpr, L: tl.constexpr, COSINE: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Inverse lengths of contexts and of targets (2, N), and their products (N,). Program axis: tiles of the N = B M frames."""
    n = tl.program_id(0) * L + tl.arange(0, L)
    context = _rows(context_ptr, 0, n, N, D).to(ACC)
    target = _rows(targets_ptr, 0, n, N, D).to(ACC)
    of_context = tl.full((L,), 1.0, ACC)
    of_target = tl.full((L,), 1.0, ACC)
    if COSINE:
        of_context /= tl.maximum(tl.sqrt(tl.sum(context * context, 1)), SMALLEST)
        of_target /= tl.maximum(tl.sqrt(tl.sum(target * target, 1)), SMALLEST)
    tl.store(inverse_ptr + n, of_context, n < N)
    tl.store(inverse_ptr + N + n, of_target, n < N)
    tl.store(positive_ptr + n, tl.sum(context * target, 1) * of_context * of_target, n < N)


@triton.jit
def contrast_kernel(
    context_ptr, targets_ptr, ids_ptr, counts_ptr, inverse_ptr, positive_ptr, temperature_ptr, loss_ptr, right_ptr, scale_ptr,
    mean_ptr, pull_ptr, N, M, W, TILES: tl.constexpr, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, LEARNED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Loss of L frames, whether the positive is best, the logarithm `scale` of what the softmax divides by, and the mean target.

    That mean, `pull`, is what the gradient needs of the negatives. LEARNED: `mean`, of the logits, less the positive's, too.
    """
    first = tl.program_id(1).to(tl.int64) * M
    i = tl.program_id(0) * L + tl.arange(0, L)
    ok = i < M
    factor = LOG2E / tl.load(temperature_ptr).to(ACC)
    context = _rows(context_ptr, first, i, M, D)
    scaled = tl.load(inverse_ptr + first + i, mask=ok, other=0.0) * factor
    own = tl.load(ids_ptr + first + i, mask=ok, other=0)
    positive = tl.load(positive_ptr + first + i, mask=ok, other=0.0) * factor
    # The positive comes first, so the largest logit is known to be one that counts.
    top = positive
    total = tl.full((L,), 1.0, ACC)
    mean = tl.zeros((L,), ACC)
    pull = tl.zeros((L, D), ACC)
    for number in range(TILES):
        start = number * P
        j = start + tl.arange(0, P)
        there = j < M
        target = _rows(targets_ptr, first, j, M, D)
        length = tl.load(inverse_ptr + N + first + j, mask=there, other=0.0)
        ids = tl.load(ids_ptr + first + j, mask=there, other=0)
        at = (first + i)[:, None] * W + j[None, :]
        count = tl.load(counts_ptr + at, mask=ok[:, None] & there[None, :], other=0).to(tl.int32)
        drawn = (count > 0) & (own[:, None] != ids[None, :])
        logit = dot(context, tl.trans(target), tl.zeros((L, P), ACC)) * scaled[:, None] * length[None, :]
        logit = tl.where(drawn, logit, NEVER)
        higher = tl.maximum(top, tl.max(logit, 1))
        faded = tl.exp2(top - higher)
        share = count.to(ACC) * tl.exp2(logit - higher[:, None])
        total = total * faded + tl.sum(share, 1)
        if LEARNED:
            mean = mean * faded + tl.sum(share * logit, 1)
        pull = dot((share * length[None, :]).to(target.dtype), target, pull * faded[:, None])
        top = higher
    scale = top + tl.log2(total)
    tl.store(loss_ptr + first + i, (scale - positive) * LN2, ok)
    tl.store(right_ptr + first + i, top == positive, ok)
    tl.store(scale_ptr + first + i, scale, ok)
    if LEARNED:
        others = 1.0 - tl.exp2(positive - scale)
        tl.store(mean_ptr + first + i, (mean / total - others * positive) * LN2, ok)
    _store(pull_ptr, first, i, M, pull * (1.0 / total)[:, None], D)


@triton.jit
def _unit_grad(dunit, x, inverse, COSINE: tl.constexpr):
    """Gradient of x (L, D) from that of x brought to length 1."""
    if COSINE:
        along = tl.sum(dunit * x, 1) * inverse * inverse
        dunit = (dunit - x * along[:, None]) * inverse[:, None]
    return dunit


@triton.jit
def _finish(
    context_ptr, targets_ptr, inverse_ptr, positive_ptr, scale_ptr, pull_ptr, grad_ptr, dcontext_ptr, dtargets_ptr,
    temperature, first, j, N, M, D: tl.constexpr, COSINE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Turns what all contexts say of targets (rows j of dtargets) into their gradients, and writes those of their own contexts."""
    ok = j < M
    grad = tl.load(grad_ptr + first + j, mask=ok, other=0.0) / temperature
    positive = tl.load(positive_ptr + first + j, mask=ok, other=0.0) * (LOG2E / temperature)
    push = grad * (1.0 - tl.exp2(positive - tl.load(scale_ptr + first + j, mask=ok, other=0.0)))
    inverse = tl.load(inverse_ptr + first + j, mask=ok, other=0.0)
    length = tl.load(inverse_ptr + N + first + j, mask=ok, other=0.0)
    context = _rows(context_ptr, first, j, M, D).to(ACC)
    target = _rows(targets_ptr, first, j, M, D).to(ACC)
    dtarget = _rows(dtargets_ptr, first, j, M, D).to(ACC) - (push * inverse)[:, None] * context
    dcontext = grad[:, None] * _rows(pull_ptr, first, j, M, D).to(ACC) - (push * length)[:, None] * target
    _store(dtargets_ptr, first, j, M, _unit_grad(dtarget, target, length, COSINE), D)
    _store(dcontext_ptr, first, j, M, _unit_grad(dcontext, context, inverse, COSINE), D)


@triton.jit
def contrast_grad_kernel(
    context_ptr, targets_ptr, ids_ptr, counts_ptr, inverse_ptr, positive_ptr, temperature_ptr, scale_ptr, pull_ptr, grad_ptr,
    dcontext_ptr, dtargets_ptr, N, M, W, TILES: tl.constexpr, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, COSINE: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of L targets, which go through all contexts of their window, and of the contexts of the same frames."""
    first = tl.program_id(1).to(tl.int64) * M
    j = tl.program_id(0) * L + tl.arange(0, L)
    ok = j < M
    temperature = tl.load(temperature_ptr).to(ACC)
    factor = LOG2E / temperature
    target = _rows(targets_ptr, first, j, M, D)
    length = tl.load(inverse_ptr + N + first + j, mask=ok, other=0.0)
    own = tl.load(ids_ptr + first + j, mask=ok, other=0)
    dtarget = tl.zeros((L, D), ACC)
    for number in range(TILES):
        start = number * P
        i = start + tl.arange(0, P)
        there = i < M
        context = _rows(context_ptr, first, i, M, D)
        inverse = tl.load(inverse_ptr + first + i, mask=there, other=0.0)
        scale = tl.load(scale_ptr + first + i, mask=there, other=0.0)
        grad = tl.load(grad_ptr + first + i, mask=there, other=0.0)
        ids = tl.load(ids_ptr + first + i, mask=there, other=0)
        at = (first + i)[:, None] * W + j[None, :]
        count = tl.trans(tl.load(counts_ptr + at, mask=there[:, None] & ok[None, :], other=0)).to(tl.int32)
        drawn = (count > 0) & (own[:, None] != ids[None, :])
        logit = dot(target, tl.trans(context), tl.zeros((L, P), ACC)) * (length * factor)[:, None] * inverse[None, :]
        prob = count.to(ACC) * tl.exp2(tl.where(drawn, logit - scale[None, :], NEVER))
        dtarget = dot((prob * (grad * inverse)[None, :]).to(context.dtype), context, dtarget)

    # The rest is done a few frames at a time: whole tiles of four tensors would fill the registers of the loop above too.
    _store(dtargets_ptr, first, j, M, dtarget * (1.0 / temperature), D)
    # What one thread has written another one may read.
    tl.debug_barrier()
    for begin in range(0, L, FEW):
        few = tl.program_id(0) * L + begin + tl.arange(0, FEW)
        _finish(
            context_ptr, targets_ptr, inverse_ptr, positive_ptr, scale_ptr, pull_ptr, grad_ptr, dcontext_ptr, dtargets_ptr,
            temperature, first, few, N, M, D, COSINE, ACC,
        )  # fmt: skip
