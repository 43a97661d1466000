"""What a run learns: all that the training loop does not know. Pretraining and fine-tuning are its two kinds."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from raysys.config import RunConfig
from raysys.data.stream import Batch, Worker
from raysys.train.data import TrainingData
from raysys.train.step import Losses


class Task(Protocol):
    """One worker's side of what is learnt."""

    model: nn.Module
    lrs: dict[str, float]
    """Part of the model -> peak learning rate, where it is not `optim.lr`."""
    flops: float | None
    """Operations of a step for one window; None where nobody counts them."""

    def begin(self) -> None:
        """Gives the model what it begins with; not called where a checkpoint is loaded."""

    def compile(self) -> bool:
        """Compiles the model in place; returns whether its steps can be recorded as a CUDA graph."""

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """Returns the loss of a batch, and numbers to be logged."""

    def set_schedule(self, progress: float) -> None:
        """Sets what is annealed to its value at `progress` in [0, 1] of the budget."""

    def frozen(self, progress: float) -> frozenset[str]:
        """Returns the parts of the model that do not learn at `progress` in [0, 1] of this stage of the run."""

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Returns metrics and histograms of the fixed windows, equal on all ranks."""

    def outputs(self) -> Iterator[Tensor]:
        """Yields what the model makes of the fixed windows, batch by batch: to find numbers that are not finite."""


def task_of(config: RunConfig, data: TrainingData, worker: Worker, device: torch.device) -> Task:
    """Returns the task of a configuration, with its model on the device."""
    if config.task == "pretrain":
        from raysys.train.pretraining import Pretraining

        return Pretraining(config, data, worker, device)
    from raysys.train.finetuning import Finetuning

    return Finetuning(config, data, worker, device)
