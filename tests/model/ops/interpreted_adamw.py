"""`many_tensors` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch

from model.ops.adamw import many_tensors
from raysys.train.optim import AdamW, StepGuard, set_lr

SHAPES = ((3,), (5000,), (64, 128), (1,), (4096,), (2, 4097))
GROUPS = [0, 0, 0, 1, 1, 1]
DECAYS = [0.1, 0.1, 0.1, 0.0, 0.0, 0.0]
RATES = (1e-2, 3e-2)
BETAS, EPS = (0.9, 0.95), 1e-8


def normal(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def made(parameters):
    moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    return many_tensors(parameters, *moments, GROUPS, DECAYS, backend="triton"), moments


def take(many, count, scale=1.0, skip=0.0):
    many.step(torch.tensor(RATES), torch.tensor(float(count)), torch.tensor(scale), torch.tensor(skip), BETAS, EPS)


@pytest.mark.parametrize("shift", [0, 1])
def test_steps_equal_those_of_pytorch(shift):
    """Gradients lie elsewhere at every step; with a shift they do not lie on a border of 16 bytes."""
    parameters = normal(0)
    exact = [p.double().requires_grad_() for p in parameters]
    split = GROUPS.index(1)
    groups = [
        {"params": p, "lr": lr, "weight_decay": decay}
        for p, lr, decay in zip((exact[:split], exact[split:]), RATES, (0.1, 0.0), strict=True)
    ]
    theirs = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    many, _ = made(parameters)
    for step in range(4):
        grads = []
        for parameter, grad in zip(exact, normal(step + 1), strict=True):
            buffer = torch.full((grad.numel() + 64,), float("nan"))
            place = buffer[16 + shift : 16 + shift + grad.numel()].view(grad.shape)
            grads.append(place.copy_(grad))
            parameter.grad = grad.double() / 2
        many.locate(grads)
        assert many.aligned == (shift == 0)
        torch.testing.assert_close(many.norm(), torch.nn.utils.get_total_norm(grads), rtol=1e-6, atol=0)
        take(many, step, scale=2.0)
        theirs.step()
    for ours, reference in zip(parameters, exact, strict=True):
        torch.testing.assert_close(ours.double(), reference.detach(), rtol=1e-6, atol=1e-7)


def test_a_skipped_step_changes_nothing():
    parameters = normal(0)
    many, moments = made(parameters)
    many.locate([torch.full_like(p, float("nan")) for p in parameters])
    assert many.norm().isnan()
    take(many, 0, skip=1.0)
    assert all(torch.equal(p, before) for p, before in zip(parameters, normal(0), strict=True))
    assert not any(m.any() for kind in moments for m in kind)


def test_tensors_that_the_kernels_cannot_walk_through_are_refused():
    parameter = torch.zeros(4, 6).t()
    with pytest.raises(ValueError, match="contiguous float32"):
        many_tensors([parameter], [parameter], [parameter], [0], [0.0], backend="triton")


def optimizer():
    """Parameters, and the optimiser of a GPU over them."""
    parameters = [torch.nn.Parameter(p) for p in normal(0)]
    split = GROUPS.index(1)
    groups = [
        {"params": p, "weight_decay": decay, "lr": torch.tensor(0.0), "peak_lr": lr}
        for p, decay, lr in zip((parameters[:split], parameters[split:]), (0.1, 0.0), RATES, strict=True)
    ]
    found = AdamW(groups, BETAS, torch.device("cuda"), backend="triton")
    set_lr(found, 1.0)
    return parameters, found


def take_steps(parameters, found, steps):
    guard = StepGuard(torch.device("cpu"))
    for step in steps:
        for parameter, grad in zip(parameters, normal(step + 1), strict=True):
            parameter.grad = grad if step >= 0 else torch.full_like(grad, float("nan"))
        guard.step(found, found.grad_norm(), clip=1.0)


def test_an_optimiser_that_was_read_from_a_checkpoint_goes_on_as_before():
    parameters, found = optimizer()
    take_steps(parameters, found, (0, 1))
    again, loaded = optimizer()
    for old, new in zip(parameters, again, strict=True):
        new.data.copy_(old.data)
        # A checkpoint has a count of steps for every parameter.
        loaded.state[new] = {key: value.clone() for key, value in found.state[old].items()}
    take_steps(parameters, found, (2, 3))
    take_steps(again, loaded, (2, 3))
    assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))
    assert {loaded.state[p]["step"].item() for p in again} == {4.0}


def test_a_skipped_step_is_not_counted():
    parameters, found = optimizer()
    take_steps(parameters, found, (0, -1, 1))
    others, plain = optimizer()
    take_steps(others, plain, (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))
    assert found.state[parameters[0]]["step"] == 2
