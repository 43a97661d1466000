"""Models on disk: a folder with model.safetensors and config.json, read back strictly."""

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.backbone import Backbone
from model.classifier import SequenceClassifier
from model.detector import EventDetector
from model.picker import PhasePicker
from model.pretrain import PretrainModel

CLASSES = {kind.__name__: kind for kind in (PretrainModel, PhasePicker, EventDetector, SequenceClassifier, Backbone)}
OF_TASK = {
    "pretrain": "PretrainModel",
    "pick": "PhasePicker",
    "detect": "EventDetector",
    "classify": "SequenceClassifier",
}
"""The class that a run of a task trains; runs that were written earlier name no task."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_pretrained(model: nn.Module, directory: str | Path, config: dict | None = None) -> Path:
    """Writes the weights and all that is needed to build the model again; returns the folder.

    Args:
        model: One of `CLASSES`, not wrapped by torch.compile.
        directory: Is made where it does not exist.
        config: Anything JSON can hold that should travel along (the run's whole configuration), under the key "run".

    Raises:
        ValueError: the model is of another class.
    """
    name = type(model).__name__
    if name not in CLASSES:
        raise ValueError(f"cannot save a {name}: pass the {' or '.join(CLASSES)} inside it")
    parts = {part: getattr(model, f"{part}_config") for part in _parts(type(model))}
    content = {"class": name, **{part: dataclasses.asdict(value) for part, value in parts.items()}}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_weights({key: value.contiguous() for key, value in model.state_dict().items()}, directory, progress_of(model))
    (directory / CONFIG).write_text(json.dumps({**content, "run": config}, indent=2) + "\n")
    return directory


def save_weights(state: dict[str, Tensor], directory: Path, progress: float) -> None:
    """Writes a state dict of contiguous tensors, and how far schedules (temperatures) had come, in [0, 1]."""
    save_file(state, directory / WEIGHTS, metadata={"format": "pt", "progress": repr(progress)})


def progress_of(model: nn.Module) -> float:
    """Returns how far the schedules of a model have come, in [0, 1]; 0 where it has none."""
    return getattr(model, "progress", 0.0)


def from_pretrained(directory: str | Path) -> nn.Module:
    """Returns a saved model, on the CPU and in evaluation mode, its temperatures as they were.

    Args:
        directory: What `save_pretrained` wrote, a checkpoint of a run, or the run itself: its newest checkpoint.

    Raises:
        ValueError: a file or a key of the configuration is missing or unknown, or the weights do not fit; the message names
            every key.
    """
    directory = _newest_checkpoint(Path(directory))
    content = json.loads((directory / CONFIG).read_text())
    of_run = OF_TASK.get(content.get("task", "pretrain")) if "loss" in content else None
    name = content.get("class", of_run)  # a run's configuration names no class
    if name not in CLASSES:
        raise ValueError(f"{directory / CONFIG} names the class {name!r}, not {' or '.join(CLASSES)}")
    kind = CLASSES[name]
    parts = _parts(kind)
    missing = [part for part in parts if part not in content]
    if missing:
        raise ValueError(f"{directory / CONFIG} lacks {', '.join(missing)}")
    model = kind(**{part: decode(cls, content[part], part) for part, cls in parts.items()})
    load_strict(model, load_file(directory / WEIGHTS))
    if isinstance(model, PretrainModel):
        with safe_open(directory / WEIGHTS, "pt") as file:
            model.set_schedule(float((file.metadata() or {}).get("progress", 0.0)))
    return model.eval()


def _newest_checkpoint(directory: Path) -> Path:
    """The folder itself if it holds a model, else the newest whole checkpoint in it."""
    whole = [
        folder
        for folder in (directory, *sorted(directory.glob("step*[0-9]"), reverse=True))
        if all((folder / name).is_file() for name in (CONFIG, WEIGHTS))
    ]
    if not whole:
        raise ValueError(
            f"{directory} holds no {CONFIG} with {WEIGHTS}, and no checkpoint that does: is it a model or a run?"
        )
    return whole[0]


def load_strict(model: nn.Module, state: dict[str, Tensor]):
    """Loads a state dict.

    Raises:
        ValueError: keys are missing or unexpected or have another shape; the message names them.
    """
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if own[key].shape != state[key].shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise ValueError(f"the weights do not fit a {type(model).__name__}: {text}")
    model.load_state_dict(state)


def decode(kind: type, data: dict[str, Any], path: str) -> Any:
    """Returns the dataclass `kind` made of nested dicts as JSON holds them.

    Raises:
        ValueError: a key is unknown or a choice is none of the possible ones; `path` leads the message.
    """
    types = get_type_hints(kind)
    values = {}
    for key, value in data.items():
        if key not in types:
            close = difflib.get_close_matches(key, types, 1)
            hint = f"did you mean {close[0]}?" if close else f"it may be {', '.join(types)}"
            raise ValueError(f"{path}.{key} is unknown: {hint}")
        if dataclasses.is_dataclass(types[key]):
            value = decode(types[key], value, f"{path}.{key}")
        elif get_origin(types[key]) is tuple:
            value = tuple(value)
        elif get_origin(types[key]) is Literal and value not in get_args(types[key]):
            raise ValueError(f"{path}.{key}={value!r}: choose one of {', '.join(map(str, get_args(types[key])))}")
        values[key] = value
    return kind(**values)


def _parts(kind: type[nn.Module]) -> dict[str, type]:
    """Returns the configuration dataclasses that the class takes, by the name of the argument."""
    return {name: hint for name, hint in get_type_hints(kind.__init__).items() if dataclasses.is_dataclass(hint)}
