"""`norm_gelu` on the CPU, in Triton's interpreter. Collected by test_norm_gelu.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, poisoned_memory, tensors, value_and_gradients  # noqa: F401

from model.ops.norm_gelu import linear_norm_gelu, norm_gelu

SIZES = [(2, 21, 256), (1, 1, 16), (1, 300, 32)]


def both(batch, length, width, dtype=torch.float64, early=False, last=False):
    rows, vector = (batch, length, width), (width,)

    def run(backend, kind):
        inputs = tensors(rows, vector, vector, *[rows, vector] * early, *[vector, vector] * last, dtype=kind)

        def operator(x, weight, bias, *rest):
            names = {"early": rest[0], "offset": rest[1]} if early else {}
            return norm_gelu(x, weight, bias, **names, last=rest[-2:] if last else None, backend=backend)

        return value_and_gradients(operator, inputs)

    return run("triton", dtype), run("torch", torch.float64)


def linear_both(batch, length, width, inputs, dtype=torch.float64):
    shapes = ((batch, length, inputs), (width, inputs), (width,), (width,))

    def run(backend, kind):
        return value_and_gradients(lambda *x: linear_norm_gelu(*x, backend=backend), tensors(*shapes, dtype=kind))

    return run("triton", dtype), run("torch", torch.float64)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_norm_gelu_equals_reference(sizes, early, last):
    assert_equal(*both(*sizes, early=early, last=last), 1e-10)


@pytest.mark.parametrize("inputs", [16, 32])
@pytest.mark.parametrize("sizes", SIZES)
def test_linear_norm_gelu_equals_reference(sizes, inputs):
    assert_equal(*linear_both(*sizes, inputs), 1e-10)


def test_norm_gelu_in_single_precision():
    assert_equal(*both(2, 150, 64, torch.float32, early=True, last=True), 1e-5)
    assert_equal(*linear_both(2, 150, 64, 16, torch.float32), 1e-5)


def test_an_input_that_needs_no_gradient_gets_none():
    x, *weights = tensors((2, 21, 16), (32, 16), (32,), (32,))
    x = x.detach()
    grads = [
        torch.autograd.grad(linear_norm_gelu(x, *weights, backend=backend).square().sum(), weights)
        for backend in ("triton", "torch")
    ]
    assert_equal(*grads, 1e-10)
