"""`norm_gelu` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
import triton
import triton.language as tl
from interpreted import assert_equal, poisoned_memory, tensors, value_and_gradients  # noqa: F401

from model.ops.norm_gelu import fused, linear_norm_gelu, norm_gelu
from model.ops.rowwise import gaussian

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


@pytest.mark.parametrize("inputs", [16, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", SIZES)
def test_linear_norm_gelu_equals_reference(sizes, inputs):
    assert_equal(*linear_both(*sizes, inputs), 1e-10)


def test_programs_that_do_several_tiles(monkeypatch):
    monkeypatch.setattr(fused, "WANTED_PROGRAMS", 2)
    assert_equal(*both(2, 150, 32, early=True, last=True), 1e-10)
    assert_equal(*linear_both(2, 150, 32, 16), 1e-10)


@triton.jit
def gaussian_kernel(h_ptr, below_ptr, density_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    below, density = gaussian(tl.load(h_ptr + at))
    tl.store(below_ptr + at, below)
    tl.store(density_ptr + at, density)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 7e-6)])
def test_the_distribution_function_and_its_density(dtype, tolerance):
    h = torch.linspace(-9, 9, 1024, dtype=dtype)
    below, density = torch.empty_like(h), torch.empty_like(h)
    gaussian_kernel[(1,)](h, below, density, 1024)
    normal, exact = torch.distributions.Normal(0.0, 1.0), h.double()
    torch.testing.assert_close(below.double(), normal.cdf(exact), rtol=0, atol=tolerance)
    torch.testing.assert_close(density.double(), normal.log_prob(exact).exp(), rtol=0, atol=tolerance)


@pytest.mark.slow
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


def test_a_bias_of_the_map_and_a_last_norm():
    inputs = tensors((2, 21, 9), (32, 9), *[(32,)] * 5)

    def run(backend):
        def operator(x, linear, weight, bias, linear_bias, *last):
            return linear_norm_gelu(x, linear, weight, bias, linear_bias=linear_bias, last=last, backend=backend)

        return value_and_gradients(operator, inputs)

    assert_equal(run("triton"), run("torch"), 1e-10)
