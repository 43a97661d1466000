"""Triton kernels over many tensors: a program does one chunk of one tensor, which a table of addresses names.

The table is (5, C) int64: addresses of the chunk's parameters, gradients, and first and second moments, and its elements.
"""

# ruff: noqa: SIM108 (the two sides are compiled apart)

import triton
import triton.language as tl


@triton.jit
def _chunk(table_ptr, row, c, C, ALIGNED: tl.constexpr):
    """Address of chunk c in one of the table's rows."""
    ptr = tl.load(table_ptr + row * C + c).to(tl.pointer_type(tl.float32))
    return tl.multiple_of(ptr, 16) if ALIGNED else ptr


@triton.jit
def squares_kernel(table_ptr, squares_ptr, C, SIZE: tl.constexpr, ALIGNED: tl.constexpr):
    """Sum of squares of the gradients of every chunk (C,), the last one first: what is read last is still in the cache for AdamW."""
    c = C - 1 - tl.program_id(0)
    count = tl.load(table_ptr + 4 * C + c)
    grad_ptr = _chunk(table_ptr, 1, c, C, ALIGNED) + tl.arange(0, SIZE)
    # Without a mask four elements are loaded at once.
    if count == SIZE:
        grad = tl.load(grad_ptr)
    else:
        grad = tl.load(grad_ptr, mask=tl.arange(0, SIZE) < count, other=0.0)
    tl.store(squares_ptr + c, tl.sum(grad * grad, 0))


@triton.jit
def _update(
    table_ptr, c, decay, lr, scale, correct1, correct2, C, ok, beta1: tl.constexpr, beta2: tl.constexpr, eps: tl.constexpr,
    SIZE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, SIZE)
    param_ptr, grad_ptr = _chunk(table_ptr, 0, c, C, ALIGNED) + at, _chunk(table_ptr, 1, c, C, ALIGNED) + at
    first_ptr, second_ptr = _chunk(table_ptr, 2, c, C, ALIGNED) + at, _chunk(table_ptr, 3, c, C, ALIGNED) + at
    grad, param = tl.load(grad_ptr, mask=ok), tl.load(param_ptr, mask=ok)
    first, second = tl.load(first_ptr, mask=ok), tl.load(second_ptr, mask=ok)
    grad = grad / scale
    first += (1.0 - beta1) * (grad - first)
    second = beta2 * second + (1.0 - beta2) * grad * grad
    param = param * (1.0 - lr * decay) - lr / correct1 * first / (tl.sqrt(second / correct2) + eps)
    tl.store(param_ptr, param, ok)
    tl.store(first_ptr, first, ok)
    tl.store(second_ptr, second, ok)


@triton.jit
def adamw_kernel(
    table_ptr, decay_ptr, lr_ptr, step_ptr, scale_ptr, skip_ptr, C, beta1: tl.constexpr, beta2: tl.constexpr,
    log_beta1: tl.constexpr, log_beta2: tl.constexpr, eps: tl.constexpr, SIZE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One step of AdamW in place, the gradient divided by `scale`; none where `skip` is not 0.

    Weight decay and learning rate are those of the chunk (C,); `step` counts the steps before this one.
    """
    if tl.load(skip_ptr) == 0.0:
        c = tl.program_id(0)
        decay, lr, scale = tl.load(decay_ptr + c), tl.load(lr_ptr + c), tl.load(scale_ptr)
        step = tl.load(step_ptr) + 1.0
        correct1 = 1.0 - tl.exp(step * log_beta1)  # 1 - beta^t
        correct2 = 1.0 - tl.exp(step * log_beta2)
        count = tl.load(table_ptr + 4 * C + c)
        if count == SIZE:
            _update(table_ptr, c, decay, lr, scale, correct1, correct2, C, None, beta1, beta2, eps, SIZE, ALIGNED)
        else:
            ok = tl.arange(0, SIZE) < count
            _update(table_ptr, c, decay, lr, scale, correct1, correct2, C, ok, beta1, beta2, eps, SIZE, ALIGNED)
