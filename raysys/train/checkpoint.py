"""Checkpoints without pickle: safetensors for numbers, JSON for the rest.

A checkpoint directory holds model.safetensors, optim.safetensors, state.json, config.json and record.json.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raysys.config import RunConfig


def save_checkpoint(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    guard: dict[str, torch.Tensor],
    state: dict[str, Any],
    config: RunConfig,
    record: dict[str, Any],
) -> None:
    """Writes everything that a run needs to go on exactly where it was.

    Args:
        directory: an existing folder.
        model: the model itself, not its DDP wrapper.
        optimizer: AdamW whose parameters are the model's.
        guard: tensors of the step guard.
        state: step and windows done, and whatever else is plain JSON.
        config: of the run.
        record: of the run (`raysys.record`).
    """
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "model.safetensors")
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"guard.{key}": value for key, value in guard.items()}
    for parameter, values in optimizer.state.items():
        tensors |= {f"{names[parameter]}:{key}": value for key, value in values.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, directory / "optim.safetensors")
    for name, value in (("state", state), ("config", config.to_dict()), ("record", record)):
        (directory / f"{name}.json").write_text(json.dumps(value, indent=1))


def load_checkpoint(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the step guard's tensors and the state, after loading model and optimizer in place.

    Raises:
        ValueError: weights that do not fit the model, naming the keys.
    """
    missing, unexpected = model.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{directory}: missing weights {missing}, unknown weights {unexpected}: another model wrote this"
        )
    parameters = dict(model.named_parameters())
    guard = {}
    for key, value in load_file(directory / "optim.safetensors").items():
        if key.startswith("guard."):
            guard[key.removeprefix("guard.")] = value
            continue
        name, field = key.rsplit(":", 1)
        parameter = parameters[name]
        on_device = value.to(parameter.device) if field != "step" or parameter.is_cuda else value
        optimizer.state[parameter][field] = on_device
    return guard, json.loads((directory / "state.json").read_text())
