"""Models on disk: a folder with model.safetensors and config.json, read back strictly."""

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.picker import PhasePicker
from model.pretrain import PretrainModel

CLASSES = {"PretrainModel": PretrainModel, "PhasePicker": PhasePicker}
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_pretrained(model: nn.Module, directory: str | Path, config: dict | None = None) -> Path:
    """Writes the weights and all that is needed to build the model again; returns the folder.

    Args:
        model: A PretrainModel or a PhasePicker, not wrapped by torch.compile.
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
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps({**content, "run": config}, indent=2) + "\n")
    return directory


def from_pretrained(directory: str | Path) -> nn.Module:
    """Returns the model saved in `directory`, on the CPU and in evaluation mode.

    Raises:
        ValueError: a file or a key of the configuration is missing or unknown, or the weights do not fit; the message names
            every key.
    """
    directory = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} holds no {name}: is it a folder written by save_pretrained?")
    content = json.loads((directory / CONFIG).read_text())
    if content.get("class") not in CLASSES:
        raise ValueError(f"{directory / CONFIG} names the class {content.get('class')!r}, not {' or '.join(CLASSES)}")
    kind = CLASSES[content["class"]]
    parts = _parts(kind)
    missing = [part for part in parts if part not in content]
    if missing:
        raise ValueError(f"{directory / CONFIG} lacks {', '.join(missing)}")
    model = kind(**{part: decode(cls, content[part], part) for part, cls in parts.items()})
    load_strict(model, load_file(directory / WEIGHTS))
    return model.eval()


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
