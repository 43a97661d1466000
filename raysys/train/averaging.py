"""The moving average of the weights of a model over its steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raysys.config import RunConfig


class WeightAverage:
    """PyTorch's moving average of parameters and buffers, whose decay is smaller in the first steps.

    After step t the average is d times what it was and 1 - d times the weights, d = min(decay, (1 + t) / (10 + t)); before the
    first step it is the weights.

    Args:
        model: whose weights are averaged, before anything is hooked to it.
        decay: below 1; 0: there is no average, and nothing happens.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._model, self._decay = model, decay
        # Buffers too: the statistics of a batch norm belong to the weights that it stands among.
        self._averaged = AveragedModel(model, multi_avg_fn=self._towards, use_buffers=True) if decay else None

    @property
    def model(self) -> nn.Module | None:
        """A model with the averaged weights, None without an average."""
        return self._averaged and self._averaged.module

    def go_on(self, step: int) -> None:
        """Has to be called when so many steps are done and the average after them was loaded into `model`."""
        if self._averaged:
            self._averaged.n_averaged.fill_(step + 1)

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights, as they are before the first step or after one more step."""
        if self._averaged:
            self._averaged.update_parameters(self._model)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Gives the model the averaged weights for a while.

        They are copied to and fro, since the optimiser and compiled code know the places of the weights.
        """
        if not self._averaged:
            yield
            return
        own, averaged = (list(model.state_dict().values()) for model in (self._model, self.model))
        kept = [value.clone() for value in own]
        _copy(averaged, own)
        try:
            yield
        finally:
            _copy(kept, own)

    def _towards(self, averaged: list[Tensor], weights: list[Tensor], _: Tensor) -> None:
        step = int(self._averaged.n_averaged)  # PyTorch counts the weights before the first step, too
        get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))(averaged, weights, step)


def weight_average(config: RunConfig, model: nn.Module) -> WeightAverage:
    """Returns the average that a configuration asks for; pretraining has none."""
    return WeightAverage(model, 0.0 if config.task == "pretrain" else config.finetune.average)


def _copy(values: list[Tensor], places: list[Tensor]) -> None:
    for value, place in zip(values, places, strict=True):
        place.copy_(value)
