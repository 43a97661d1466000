"""The law of the optimiser's step: PyTorch's own fused AdamW, bit for bit."""

import torch

from model.ops.adamw import many_tensors

SHAPES, GROUPS, DECAYS, RATES = ((3,), (40, 7), (5,), (2, 9)), [0, 1, 0, 1], [0.0, 0.1, 0.0, 0.0], (1e-2, 3e-2)


def test_steps_are_those_of_pytorch_and_a_skipped_one_is_none():
    torch.manual_seed(0)
    ours = [torch.randn(shape) for shape in SHAPES]
    theirs = [x.clone().requires_grad_() for x in ours]
    settings = zip(theirs, GROUPS, DECAYS, strict=True)
    groups = [{"params": [x], "lr": torch.tensor(RATES[g]), "weight_decay": decay} for x, g, decay in settings]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    many = many_tensors(ours, *([torch.zeros_like(x) for x in ours] for _ in range(2)), GROUPS, DECAYS)
    count, lrs = torch.zeros(()), torch.tensor(RATES)
    for skip in (0.0, 1.0, 0.0):
        grads = [torch.randn(shape) for shape in SHAPES]
        for x, grad in zip(theirs, grads, strict=True):
            x.grad = grad.clone()
        many.locate(grads)
        assert torch.equal(many.norm(), torch.nn.utils.get_total_norm(grads))
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(skip)
        many.step(lrs, count, optimizer.grad_scale, optimizer.found_inf, (0.9, 0.95), 1e-8)
        count += 1 - skip
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
