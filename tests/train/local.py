"""A training loop in the process of the test, and windows made for it."""

from pathlib import Path

import torch

from raysys.config import RunConfig
from raysys.data.stream import Batch
from raysys.train.data import TrainingData
from raysys.train.loop import Trainer
from raysys.train.reporter import SilentReporter


def local_trainer(
    config: RunConfig,
    data: TrainingData,
    folder: Path,
    log_folder: Path | None = None,
    *,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
) -> Trainer:
    """Returns a rank of a run on the CPU that keeps its checkpoints in `folder`."""
    return Trainer(
        config,
        data,
        rank=rank,
        world=world,
        device=torch.device("cpu"),
        reporter=SilentReporter(folder),
        record={},
        log_folder=log_folder,
        start=start,
    )


def made_batch(count: int, samples: int, seed: int = 0) -> Batch:
    """Noise in torch's default precision, with an onset in the middle of every window and no padding."""
    x = torch.randn(count, 3, samples, generator=torch.Generator().manual_seed(seed))
    x[:, :, samples // 2 :] *= 5
    numbers = torch.zeros(count, dtype=torch.long)
    return Batch(x, torch.full((count,), samples), numbers, numbers, numbers, numbers)


def read_double(trainer: Trainer) -> Trainer:
    """Returns a trainer made in float64, whose encoder now takes the windows in float64 too."""
    trainer.model.backbone.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return trainer
