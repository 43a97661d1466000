"""Numbers: one and two workers agree, ranks draw apart, and twenty steps end where they always did."""

import collections
import re
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.utils import parameters_to_vector

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.train.gradients import GradientMean
from raysys.train.loop import Trainer, _step_seed
from tests.train.local import local_trainer, made_batch, read_double

GOLDEN = {0: 3.9848051071, 4: 3.3295731544, 9: 2.6124789715, 14: 2.4691100121, 19: 2.4727363586}
"""Loss by step."""
NORMS = {
    "mask_embedding": 2.64048354831,
    "backbone.encoder.convs": 3.31384161665,
    "norm": 19.5831201134,
    "backbone.project": 2.35295054665,
    "learnable_skip": 17.8847187286,
    "backbone.unet.down": 12.804312677,
    "conv1d": 11.5711934196,
    "igate": 0.249917867456,
    "fgate": 14.9944000621,
    "backbone.unet.down_pool": 5.71317304551,
    "backbone.unet.bottom": 13.7796108824,
    "backbone.unet.up_pool": 8.08146109159,
    "backbone.unet.up": 12.5833730757,
    "head": 2.41189483377,
    "codebook": 15.9544702275,
    "quantizer.logits": 22.1258785147,
    "quantizer.output": 2.39065436707,
}
"""Norm of the parameters of a part after the last step."""


def gradients(rank: int, world: int, folder: Path, config: RunConfig) -> None:
    """Writes the loss and the gradients of one step of `world` workers on eight windows."""
    if world > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = PretrainModel(config.model, config.mask, config.loss)
    x, ids = made_batch(8, config.model.window_samples).waveform, torch.arange(8)
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
    dist.barrier()  # else the second may have left before the first has found it
    if rank == 0:
        model = PretrainModel(config.model, config.mask, config.loss).eval()
        losses = model(made_batch(2, config.model.window_samples).waveform, window_id=torch.arange(2))
        torch.save(losses.total.detach(), folder / "loss.pt")
    dist.destroy_process_group()


def test_workers_may_have_different_numbers_of_validation_batches(smoke, tmp_path):
    mp.spawn(validation_loss, args=(tmp_path, smoke), nprocs=2)
    assert torch.load(tmp_path / "loss.pt").isfinite()


def test_ranks_and_steps_draw_apart():
    seeds = {_step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(64)}
    assert len(seeds) == 3 * 50 * 64


def first_draws(run: Trainer) -> list[float]:
    """The first random number of each of two steps of a trainer."""
    run._take_step = lambda _: {"draw": torch.rand(())}
    draws = []
    for _ in range(2):
        run._train_step(iter([made_batch(1, 8)]))
        draws.append(run._end_line().numbers[0].item())
    return draws


def test_runs_differ_by_seed_and_their_ranks_begin_alike_and_draw_apart(smoke, data, tmp_path):
    seeds = [smoke.override({"train.seed": seed}) for seed in (0, 0, 1)]
    runs = [local_trainer(config, data, tmp_path, rank=rank, world=3) for config in seeds for rank in range(3)]
    weights = [parameters_to_vector(run.model.parameters()) for run in runs]
    draws = [first_draws(run) for run in runs]
    assert all(torch.equal(weights[0], other) for other in weights[1:6])
    assert not torch.isclose(weights[0], weights[6]).all()
    assert draws[:3] == draws[3:6]
    assert len({draw for run in draws[3:] for draw in run}) == 6 * 2


def trained(run: Trainer, steps: int) -> list[float]:
    """The losses of a trainer's first steps on made windows, the second one of each batch half empty."""
    losses, samples = [], run.config.model.window_samples
    for step in range(steps):
        batch = made_batch(run.config.train.batch_size, samples, seed=step)
        batch.num_valid[1] = samples // 2
        run._train_step(iter([batch]))
        losses.append(run._write_line(run._end_line())["train/loss"])
    return losses


@pytest.fixture
def deterministic(smoke):
    """A run of twenty steps with deterministic algorithms; leaves the process as it was."""
    yield smoke.override({"train.max_steps": 20, "train.deterministic": True, "optim.quantizer_lr": 2e-3})
    torch.use_deterministic_algorithms(False)


def test_a_run_repeats_itself_bit_for_bit(deterministic, data, tmp_path):
    runs = [local_trainer(deterministic, data, tmp_path) for _ in range(2)]
    assert trained(runs[0], 5) == trained(runs[1], 5)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(*(parameters_to_vector(run.model.parameters()) for run in runs))


def part(name: str) -> str:
    """The part of the model to which a parameter belongs."""
    own = re.search(r"[if]gate|conv1d|norm|codebook|mask_embedding|learnable_skip", name)
    return own[0] if own else re.sub(r"\.\d.*|\.(weight|bias)", "", name)


def test_twenty_steps_end_where_they_always_did(deterministic, double, data, tmp_path):
    """In float64 the roundings of processors and libraries stay below 1e-14 (their instruction sets were compared)."""
    run = read_double(local_trainer(deterministic, data, tmp_path))
    losses = trained(run, 20)
    norms = collections.defaultdict(float)
    for name, parameter in run.model.named_parameters():
        norms[part(name)] += parameter.square().sum().item()
    assert {step: losses[step] for step in GOLDEN} == pytest.approx(GOLDEN, rel=1e-9)
    assert {name: value**0.5 for name, value in norms.items()} == pytest.approx(NORMS, rel=1e-9)
