"""The mean of the workers' gradients."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch._dynamo.utils import counters

from model.pretrain import PretrainModel
from raysys.presets import PRESETS
from raysys.train.gradients import GradientMean

WORKERS, MICRO_BATCHES = 2, 3
BUCKETS = {"one": (16.0, 16.0), "many": (1e-9, 0.0), "two": (5e-4, 0.0), "a small last one": (16.0, 5.5e-4)}
"""In 10^6 bytes, full and last."""


class Net(nn.Module):
    """Two layers of use and one parameter without any."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.idle = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a scalar."""
        return self.layers(x).mean()


def micro_batches(rank: int) -> torch.Tensor:
    """(micro-batches, rows, 8) of one worker."""
    return torch.randn(MICRO_BATCHES, 4, 8, generator=torch.Generator().manual_seed(rank))


def accumulate(rank: int, folder: Path) -> None:
    """Writes the gradients of two optimiser steps of one worker, each of several micro-batches, for all sizes of buckets."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    found = {}
    for name, sizes in BUCKETS.items():
        torch.manual_seed(0)
        net = Net()
        mean, found[name] = GradientMean(net.parameters(), *sizes), []
        for _ in range(2):
            *first, last = micro_batches(rank)
            for x in first:
                net(x).backward()
            with mean.of_backward():
                net(last).backward()
            found[name].append({key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None})
            net.zero_grad()
    dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


class Branches(nn.Module):
    """Two layers of equal shape beside each other, called in an order that differs between workers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, swapped: bool) -> torch.Tensor:
        """Returns a scalar."""
        if swapped:
            return 3 * self.two(x).square().mean() + self.one(x).square().mean()
        return self.one(x).square().mean() + 3 * self.two(x).square().mean()


def branches(rank: int, folder: Path) -> None:
    """Writes the order in which gradients came, and their means, of one worker."""
    torch.manual_seed(0)
    net, order = Branches(), []
    for name, parameter in net.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    with GradientMean(net.parameters(), 1e-9, 0.0).of_backward():
        net(torch.ones(2, 4), swapped=rank == 1).backward()
    dist.destroy_process_group()
    torch.save((order, {name: p.grad for name, p in net.named_parameters()}), folder / f"{rank}.pt")


def test_buckets_travel_in_one_order_whatever_the_order_of_the_gradients(tmp_path):
    mp.spawn(branches, args=(tmp_path,), nprocs=WORKERS)
    (order, found), (other_order, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS))
    assert order != other_order
    torch.manual_seed(0)
    net = Branches()
    net(torch.ones(2, 4), swapped=False).backward()
    for means in (found, other):
        torch.testing.assert_close(means, {name: p.grad for name, p in net.named_parameters()})


def test_every_worker_gets_the_mean_whatever_the_buckets(tmp_path):
    torch.manual_seed(0)
    net = Net()
    for rank in range(WORKERS):
        for x in micro_batches(rank):
            (net(x) / WORKERS).backward()
    expected = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert "idle" not in expected
    mp.spawn(accumulate, args=(tmp_path,), nprocs=WORKERS)
    for rank in range(WORKERS):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name in BUCKETS:
            for step in found[name]:
                torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-7)


def test_what_comes_last_travels_in_a_small_bucket():
    config = PRESETS["base"]()
    parameters = list(PretrainModel(config.model, config.mask, config.loss).parameters())
    buckets = GradientMean(parameters)._buckets
    backward = iter(parameters[::-1])
    for bucket in buckets:
        assert {id(p) for p in bucket} == {id(next(backward)) for _ in bucket}
    assert next(backward, None) is None
    megabytes = [sum(p.numel() for p in bucket) * 4e-6 for bucket in buckets]
    assert len(buckets) == 3
    assert megabytes[0] >= 40
    assert 0.5 < megabytes[-1] <= 1


def test_layers_compile_as_they_do_with_one_worker(tmp_path):
    config = PRESETS["base"]().override({"model.window_samples": 1024})
    waveform = torch.randn(2, 3, 1024)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        programs = []
        for averages in (False, True):
            torch._dynamo.reset()
            counters.clear()
            model = PretrainModel(config.model, config.mask, config.loss)
            model.compile_parts(backend="aot_eager")
            if averages:
                with GradientMean(model.parameters()).of_backward():
                    model(waveform).total.backward()
            else:
                model(waveform).total.backward()
            programs.append(counters["aot_autograd"]["ok"])
    finally:
        dist.destroy_process_group()
    assert programs[0] == programs[1]
