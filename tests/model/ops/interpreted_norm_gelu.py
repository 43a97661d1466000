"""`norm_gelu` on the CPU, in Triton's interpreter. Collected by test_norm_gelu.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, poisoned_memory, tensors, value_and_gradients  # noqa: F401

from model.ops.norm_gelu import norm_gelu


def both(batch, length, width, dtype=torch.float64):
    def run(backend, kind):
        inputs = tensors((batch, length, width), (width,), (width,), dtype=kind)
        return value_and_gradients(lambda *x: norm_gelu(*x, backend=backend), inputs)

    return run("triton", dtype), run("torch", torch.float64)


@pytest.mark.parametrize("sizes", [(2, 21, 256), (1, 1, 16), (1, 300, 32)])
def test_norm_gelu_equals_reference(sizes):
    assert_equal(*both(*sizes), 1e-10)


def test_norm_gelu_in_single_precision():
    assert_equal(*both(2, 150, 64, torch.float32), 1e-5)
