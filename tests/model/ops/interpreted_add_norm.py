"""`add_norm` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, poisoned_memory, tensors, value_and_gradients  # noqa: F401

from model.ops.add_norm import add_dropped, add_norm
from model.ops.philox import philox

SEED = torch.tensor(0x1234_5678_9ABC_DEF)
SIZES = [(2, 21, 256), (1, 1, 16), (1, 300, 32)]


def both(batch, length, width, dtype=torch.float64, update=True, **settings):
    rows, vector = (batch, length, width), (width,)

    def run(backend, kind):
        def operator(x, weight, bias, update=None):
            # A product, so that both outputs matter for each other's gradient and x has a use besides.
            r, y = add_norm(x, weight, bias, update=update, backend=backend, **settings)
            return r * r, r * y, x + y

        return value_and_gradients(operator, tensors(rows, vector, vector, *[rows] * update, dtype=kind))

    return run("triton", dtype), run("torch", torch.float64)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("sizes", SIZES)
def test_add_norm_equals_reference(sizes, dropout):
    assert_equal(*both(*sizes, dropout=dropout, seed=SEED), 1e-10)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_norm_alone_equals_reference(sizes):
    assert_equal(*both(*sizes, update=False), 1e-10)


@pytest.mark.parametrize("sizes", SIZES)
def test_add_dropped_equals_reference(sizes):
    found = []
    for backend in ("triton", "torch"):
        inputs = tensors(sizes, sizes)
        found.append(
            value_and_gradients(lambda *x, b=backend: add_dropped(*x, dropout=0.25, seed=SEED, backend=b), inputs)
        )
    assert_equal(*found, 1e-10)


def test_an_element_with_the_bits_of_the_threshold_stays():
    seed, update = torch.tensor(11), torch.ones(1, 1, 16)
    zero = torch.zeros(1, dtype=torch.int64)
    rate = (int(philox(seed, zero, zero, rounds=7)[0]) & 0xFFFF) / 2**16
    for backend in ("triton", "torch"):
        assert add_dropped(torch.zeros(1, 1, 16), update, dropout=rate, seed=seed, backend=backend)[0, 0, 0] > 0


def test_several_tiles_of_a_program(monkeypatch):
    monkeypatch.setattr("model.ops.add_norm.fused.WANTED_PROGRAMS", 2)
    assert_equal(*both(1, 300, 32, dropout=0.25, seed=SEED), 1e-10)


def test_add_norm_in_single_precision():
    assert_equal(*both(2, 150, 64, torch.float32, dropout=0.1, seed=SEED), 1e-5)


def test_one_output_may_have_no_use():
    for wanted in (0, 1):
        grads = []
        for backend in ("triton", "torch"):
            inputs = tensors((2, 21, 16), (16,), (16,), (2, 21, 16))
            x, weight, bias, update = inputs
            out = add_norm(x, weight, bias, update=update, dropout=0.25, seed=SEED, backend=backend)[wanted]
            found = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
            grads.append([torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)])
        assert_equal(*grads, 1e-10)


def test_without_a_seed_nothing_is_dropped():
    with_rate, without = both(2, 21, 16, dropout=0.5), both(2, 21, 16)
    assert_equal(with_rate[0], [x.detach() for x in without[1]], 1e-10)
