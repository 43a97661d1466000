"""Checkpoints without pickle: safetensors for numbers, JSON for the rest, and a card that says what they are.

A checkpoint directory holds `FILES`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.hub import load_strict, progress_of, save_weights
from raysys.config import RunConfig
from raysys.train.card import model_card

FILES = ("model.safetensors", "optim.safetensors", "state.json", "config.json", "record.json", "README.md")
"""Of a whole checkpoint."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a run needs to go on exactly where it was, copied to host memory.

    Nothing in it changes when training goes on, so it may be written later and by another thread.
    """

    model: dict[str, Tensor]
    """What is validated: the weights, or their average."""
    optimizer: dict[str, Tensor]
    """Of AdamW ("parameter:field") and of the step guard ("guard.field"), and the weights where `model` is their average
    ("NAME:weights")."""
    state: dict[str, Any]
    """Step, windows and epoch done."""
    metrics: dict[str, Any]
    config: RunConfig
    record: dict[str, Any]
    progress: float = 0.0
    """Of the model's schedules."""

    @classmethod
    def take(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        guard: dict[str, Tensor],
        state: dict[str, Any],
        metrics: dict[str, Any],
        config: RunConfig,
        record: dict[str, Any],
        averaged: nn.Module | None = None,
    ) -> Self:
        """Returns a copy of a run.

        Args:
            model: what was trained.
            optimizer: AdamW whose parameters are the model's.
            guard: tensors of the step guard.
            state: step and windows done, and whatever else is plain JSON.
            metrics: of the last validation, for the card.
            config: of the run.
            record: of the run (`raysys.record`).
            averaged: the model with averaged weights, where there are some.
        """
        names = {parameter: name for name, parameter in model.named_parameters()}
        tensors = {f"guard.{key}": value for key, value in guard.items()}
        for parameter, values in optimizer.state.items():
            tensors |= {f"{names[parameter]}:{key}": value for key, value in values.items()}
        if averaged is not None:
            tensors |= {f"{name}:weights": value for name, value in model.state_dict().items()}
        on_host = _on_host((model if averaged is None else averaged).state_dict()), _on_host(tensors)
        return cls(*on_host, state, metrics, config, record, progress_of(model))

    def write(self, folder: Path) -> None:
        """Writes the checkpoint into an existing folder.

        Raises:
            OSError, safetensors.SafetensorError: the disk is full or fails.
        """
        save_weights(self.model, folder, self.progress)
        save_file(self.optimizer, folder / "optim.safetensors")
        for name, value in (("state", self.state), ("config", self.config.to_dict()), ("record", self.record)):
            (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
        (folder / "README.md").write_text(model_card(self.config, self.record, self.state, self.metrics))


def load_checkpoint(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averaged: nn.Module | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the step guard's tensors and the state, after loading model, optimizer and the averaged weights in place.

    Raises:
        ValueError: weights that do not fit the model, naming the keys.
    """
    validated = load_file(directory / "model.safetensors")
    parameters = dict(model.named_parameters())
    guard, weights = {}, {}
    for key, value in load_file(directory / "optim.safetensors").items():
        if key.startswith("guard."):
            guard[key.removeprefix("guard.")] = value
            continue
        name, field = key.rsplit(":", 1)
        if field == "weights":
            weights[name] = value
            continue
        parameter = parameters[name]
        on_device = value.to(parameter.device) if field != "step" or parameter.is_cuda else value
        optimizer.state[parameter][field] = on_device
    load_strict(model, weights or validated)
    if averaged is not None:
        load_strict(averaged, validated)
    return guard, json.loads((directory / "state.json").read_text())


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies to host memory; the copies are contiguous and share nothing with what is trained on."""
    return {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, value in tensors.items()
    }
