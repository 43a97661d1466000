"""Diversity over several ranks is the diversity of one big batch, value and gradient."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.contrastive import diversity_loss, global_mean

WORLD = 2


def all_logits():
    return torch.randn(WORLD, 10, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


def rank(index, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=WORLD)
    logits = all_logits()[index].requires_grad_()
    loss = diversity_loss(global_mean(logits.softmax(-1).mean(0))(), "linear")
    loss.backward()
    torch.save((loss.detach(), logits.grad), f"{folder}/{index}")
    dist.destroy_process_group()


def test_two_ranks_are_one_batch(tmp_path):
    mp.spawn(rank, (str(tmp_path),), WORLD)
    logits = all_logits().requires_grad_()
    want = diversity_loss(logits.softmax(-1).mean((0, 1)), "linear")
    want.backward()
    for index in range(WORLD):
        loss, grad = torch.load(tmp_path / str(index))
        torch.testing.assert_close(loss, want.detach())
        # Gradients are averaged: a rank's part weighs 1 / WORLD.
        torch.testing.assert_close(grad / WORLD, logits.grad[index], rtol=1e-10, atol=1e-14)
