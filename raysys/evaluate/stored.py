"""Predictions in the folder of an evaluation, which are not computed again while network and data stay the same."""

import hashlib
import io
import json

import numpy as np
import pandas as pd
import torch
from torch import nn

from raysys.evaluate.material import Material
from raysys.evaluate.predictions import PREDICTED
from raysys.evaluate.readings import Readings
from raysys.evaluate.tasks import SPLITS
from raysys.location import Location

_VERSION = 1
"""Of the way in which predictions are made; a change of it makes all of them anew."""
_DONE = "fingerprint.json"
Computed = tuple[dict[str, pd.DataFrame], dict[str, Readings]]


def fingerprint(network: nn.Module, *about) -> str:
    """Returns a digest of a network's weights, of this version, and of whatever else decides predictions."""
    digest = hashlib.sha256(json.dumps([_VERSION, network.window_samples, *map(str, about)]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def is_stored(folder: Location, mark: str) -> bool:
    """Returns whether a folder holds the predictions of a fingerprint, all of them."""
    return (folder / _DONE).exists() and (folder / _DONE).read_json().get("fingerprint") == mark


def finish(folder: Location, mark: str) -> None:
    """Says that a folder is complete, which is the last thing that is written."""
    (folder / _DONE).write_json({"fingerprint": mark})


def store(folder: Location, computed: Computed, mark: str) -> None:
    """Writes the benchmark's files, and the readings of whole windows."""
    if (folder / _DONE).exists():
        (folder / _DONE).remove()
    tables, readings = computed
    for key, table in tables.items():
        (folder / f"{key}.csv").write(table.drop(columns="row").to_csv(index=False))
    for split, one in readings.items():
        (folder / f"{split}_windows.npz").write(one.to_bytes())
    finish(folder, mark)


def load(folder: Location, material: Material) -> Computed:
    """Returns what `store` wrote. The numbers of CSV files come back as they were."""
    tables = {}
    for key, targets in material.targets.items():
        if (folder / f"{key}.csv").exists():
            content = io.BytesIO((folder / f"{key}.csv").read())
            columns = pd.read_csv(content, float_precision="round_trip", usecols=list(PREDICTED)).astype(np.float64)
            tables[key] = targets.assign(**{name: columns[name].to_numpy() for name in PREDICTED})
    return tables, {split: Readings.from_bytes((folder / f"{split}_windows.npz").read()) for split in SPLITS}
