"""The mLSTM cell: recurrence, chunkwise PyTorch and xlstm's own function agree, in values and gradients."""

import pytest
import torch
from xlstm.blocks.mlstm.backends import parallel_stabilized_simple

from model.ops.mlstm_cell import mlstm_cell


def inputs(batch, length, heads, dim, value_directions=2, gate_scale=1.0, fgate_mean=2.0):
    gen = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    q, k = normal(2, batch, length, heads, dim), normal(2, batch, length, heads, dim)
    v = normal(value_directions, batch, length, heads, dim)
    igate = normal(2, batch, length, heads) * gate_scale
    fgate = normal(2, batch, length, heads) * gate_scale + fgate_mean
    return [x.requires_grad_() for x in (q, k, v, igate, fgate)]


def xlstm_both_directions(q, k, v, igate, fgate):
    out = []
    for r in range(2):
        x = [t[r].flip(1) if r else t[r] for t in (q, k, v.expand_as(q), igate[..., None], fgate[..., None])]
        h = parallel_stabilized_simple(*[t.transpose(1, 2) for t in x]).transpose(1, 2)
        out.append(h.flip(1) if r else h)
    return torch.stack(out)


def value_and_gradients(function, tensors):
    h = function(*tensors)
    weight = torch.randn(h.shape, generator=torch.Generator().manual_seed(7), dtype=h.dtype)
    return h, *torch.autograd.grad((h * weight).sum(), tensors)


def error(x, ref):
    return ((x - ref).norm() / ref.norm().clamp_min(1e-300)).item()


CASES = {
    "one frame": (2, 1, 2, 4),
    "less than a chunk": (1, 5, 2, 4, 1),
    "one chunk": (1, 64, 2, 8, 1),
    "ragged": (1, 150, 1, 8),
    "wide gates": (1, 130, 1, 8, 2, 5.0),
}


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_backend_equals_xlstm(backend, case):
    tensors = inputs(*CASES[case])
    ours = value_and_gradients(lambda *x: mlstm_cell(*x, backend=backend), tensors)
    theirs = value_and_gradients(xlstm_both_directions, tensors)
    for name, a, b in zip(("h", "q", "k", "v", "igate", "fgate"), ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-14, f"{name}: {error(a, b):.1e}"


@pytest.mark.parametrize(("igate", "fgate"), [(15.0, 15.0), (15.0, -15.0), (-15.0, 15.0), (-15.0, -15.0)])
def test_extreme_gates_stay_finite_and_equal(igate, fgate):
    q, k, v, i, f = inputs(1, 100, 1, 8)
    tensors = [q, k, v, (i * 0.01 + igate).detach().requires_grad_(), (f * 0.01 + fgate).detach().requires_grad_()]
    ref = value_and_gradients(lambda *x: mlstm_cell(*x, backend="reference"), tensors)
    half = [x.detach().float().requires_grad_() for x in tensors]
    for a, b, c in zip(
        value_and_gradients(lambda *x: mlstm_cell(*x, backend="torch"), tensors),
        value_and_gradients(lambda *x: mlstm_cell(*x, backend="torch"), half),
        ref,
        strict=True,
    ):
        assert (a - c).norm() <= 1e-9 * c.norm() + 1e-12
        assert b.isfinite().all()


def test_chunk_size_does_not_matter():
    from model.ops.mlstm_cell.chunkwise import mlstm_cell_chunkwise

    tensors = inputs(1, 75, 2, 4)
    whole = mlstm_cell_chunkwise(*tensors, chunk=75)
    for chunk in (1, 7, 32):
        assert error(mlstm_cell_chunkwise(*tensors, chunk=chunk), whole) < 1e-12


def test_direction_one_is_direction_zero_of_the_reversed_window():
    tensors = inputs(1, 40, 2, 4)
    h = mlstm_cell(*tensors)
    flipped = mlstm_cell(*[x.flip(0).flip(2) for x in tensors]).flip(0).flip(2)
    assert error(h, flipped) < 1e-12


def test_gates_stay_in_single_precision_under_bfloat16():
    tensors = inputs(1, 200, 2, 16, 2, 1.0, 4.0)
    exact = mlstm_cell(*tensors, backend="reference")
    low = [x.detach().bfloat16() for x in tensors[:3]]
    h = mlstm_cell(*low, tensors[3].detach(), tensors[4].detach(), backend="torch")
    assert h.dtype == torch.bfloat16
    assert error(h.double(), exact) < 2e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"backend": "cuda"}, "backend"), ({"q": torch.zeros(3, 3)}, "q has shape"), ({"igate": torch.zeros(1)}, "igate")],
)
def test_bad_arguments_are_named(change, message):
    q, k, v, igate, fgate = inputs(1, 3, 1, 4)
    kwargs = {"q": q, "k": k, "v": v, "igate": igate, "fgate": fgate} | change
    with pytest.raises(ValueError, match=message):
        mlstm_cell(**kwargs)
