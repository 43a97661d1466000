"""Numbers: one and two workers agree, ranks draw apart, and twenty steps end where they always did."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.stream import Batch
from raysys.train.data import prepare_training_data
from raysys.train.gradients import GradientMean
from raysys.train.loop import _step_seed
from tests.train.local import local_trainer

GOLDEN = {0: 4.574322, 4: 3.07984, 9: 2.594538, 14: 2.418923, 19: 2.401539}
"""Loss by step."""
TOLERANCE = 2e-4
"""Relative. The run is bit-identical on one machine; other processors and math libraries round otherwise."""


def windows(count: int, samples: int, seed: int = 0) -> torch.Tensor:
    """Noise (count, 3, samples) with an onset in every window."""
    x = torch.randn(count, 3, samples, generator=torch.Generator().manual_seed(seed))
    x[:, :, samples // 2 :] *= 5
    return x


def gradients(rank: int, world: int, folder: Path, config: RunConfig) -> None:
    """Writes the loss and the gradients of one step of `world` workers on eight windows."""
    if world > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = PretrainModel(config.model, config.mask, config.loss)
    x, ids = windows(8, config.model.window_samples), torch.arange(8)
    losses = model(x[rank::world], window_id=ids[rank::world])
    with GradientMean(model.parameters()).of_backward() if world > 1 else nullcontext():
        losses.total.backward()
    loss = losses.total.detach()
    if world > 1:
        dist.all_reduce(loss)
        dist.destroy_process_group()
    if rank == 0:
        parts = {name: p.grad for name, p in model.named_parameters()}
        torch.save({"loss": loss / world, "gradients": parts}, folder / f"{world}.pt")


def test_one_and_two_workers_have_the_same_loss_and_gradient_at_the_same_global_batch(smoke, tmp_path):
    """Masks, negatives and noise follow the window (keyed draws); in training they follow step and rank."""
    config = smoke.override({"loss.diversity_lambda": 1.0})
    gradients(0, 1, tmp_path, config)
    mp.spawn(gradients, args=(2, tmp_path, config), nprocs=2)
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-6, atol=0)
    for name, expected in one["gradients"].items():
        error = (two["gradients"][name] - expected).norm() / expected.norm().clamp_min(1e-6)
        assert error < 2e-5, name


def validation_loss(rank: int, folder: Path, config: RunConfig) -> None:
    """Writes the validation loss of the only batch that the first of two workers has; the second has none."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=20)
    )
    if rank == 0:
        model = PretrainModel(config.model, config.mask, config.loss).eval()
        losses = model(windows(2, config.model.window_samples), window_id=torch.arange(2))
        torch.save(losses.total.detach(), folder / "loss.pt")
    dist.destroy_process_group()


def test_workers_may_have_different_numbers_of_validation_batches(smoke, tmp_path):
    mp.spawn(validation_loss, args=(tmp_path, smoke), nprocs=2)
    assert torch.load(tmp_path / "loss.pt").isfinite()


def test_ranks_and_steps_draw_apart():
    seeds = {_step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(64)}
    assert len(seeds) == 3 * 50 * 64


def twenty_losses(config: RunConfig, folder: Path) -> list[float]:
    """The losses of twenty steps on made windows."""
    config = config.override({"train.max_steps": 20, "train.deterministic": True})
    run = local_trainer(config, prepare_training_data(config), folder)
    losses, samples, size = [], config.model.window_samples, config.train.batch_size
    for step in range(20):
        numbers = torch.zeros(size, dtype=torch.long)
        batch = Batch(windows(size, samples, seed=step), torch.full((size,), samples), numbers, numbers, numbers)
        run._train_step(iter([batch]))
        losses.append(run._write_line(run._end_line())["train/loss"])
    return losses


@pytest.fixture
def deterministic():
    """Leaves the process as it was."""
    yield
    torch.use_deterministic_algorithms(False)


def test_twenty_steps_end_where_they_always_did(smoke, tmp_path, deterministic):
    losses = twenty_losses(smoke, tmp_path)
    assert losses == twenty_losses(smoke, tmp_path), "bit for bit on one machine"
    assert {step: losses[step] for step in GOLDEN} == pytest.approx(GOLDEN, rel=TOLERANCE)
