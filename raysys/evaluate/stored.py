"""Predictions in the folder of an evaluation, which are not computed again while network and data stay the same."""

import hashlib
import io
import json

import pandas as pd
import torch
from torch import nn

from raysys.evaluate.predictions import SCORES
from raysys.location import Location

_VERSION = 2
"""Of the way in which predictions are made; a change of it makes all of them anew."""
_DONE = "fingerprint.json"
_NUMBERS = {name: [""] for name in (*SCORES, "phase_onset")}
_TEXT = dict.fromkeys(("trace_name", "trace_chunk", "event"), str)
_TASKS = ("task1", "task23")


def weights_digest(network: nn.Module, *about) -> str:
    """Returns a digest of a network's weights, of this version, and of whatever else decides its predictions."""
    digest = hashlib.sha256(json.dumps([_VERSION, network.window_samples, *map(str, about)]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def is_stored(folder: Location, mark: str) -> bool:
    """Returns whether a folder holds all predictions of a fingerprint."""
    return (folder / _DONE).exists() and (folder / _DONE).read_json()["fingerprint"] == mark


def store(folder: Location, tables: dict[str, pd.DataFrame], mark: str) -> None:
    """Writes tables, those of tasks as the benchmark's CSV files, and last what says that all are there."""
    if (folder / _DONE).exists():
        (folder / _DONE).remove()
    for name, table in tables.items():
        if name.endswith(_TASKS):
            (folder / f"{name}.csv").write(table.to_csv(index=False))
        else:
            (folder / f"{name}.parquet").write(table.to_parquet(index=False))
    (folder / _DONE).write_json({"fingerprint": mark, "tables": list(tables)})


def load(folder: Location) -> dict[str, pd.DataFrame]:
    """Returns the tables that `store` wrote, every number as it was."""
    tables = {}
    for name in (folder / _DONE).read_json()["tables"]:
        if name.endswith(_TASKS):
            content = io.BytesIO((folder / f"{name}.csv").read())
            tables[name] = pd.read_csv(
                content, float_precision="round_trip", dtype=_TEXT, keep_default_na=False, na_values=_NUMBERS
            )
        else:
            tables[name] = pd.read_parquet(io.BytesIO((folder / f"{name}.parquet").read()))
    return tables
