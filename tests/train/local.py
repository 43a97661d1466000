"""A training loop in the process of the test."""

from pathlib import Path

import torch

from raysys.config import RunConfig
from raysys.train.data import TrainingData
from raysys.train.loop import Trainer
from raysys.train.reporter import SilentReporter


def local_trainer(config: RunConfig, data: TrainingData, folder: Path, log_folder: Path | None = None) -> Trainer:
    """Returns the only rank of a run on the CPU that keeps its checkpoints in `folder`."""
    return Trainer(
        config,
        data,
        rank=0,
        world=1,
        device=torch.device("cpu"),
        reporter=SilentReporter(folder),
        record={},
        log_folder=log_folder,
    )
