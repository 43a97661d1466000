"""The same few windows of test for every network, to look at."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from raysys.data.onsets import Onsets
from raysys.data.windows import Traces, read_windows
from raysys.evaluate.material import Material
from raysys.evaluate.predictions import target_curves
from raysys.evaluate.tasks import windows_of

NUM_EXAMPLES = 32
_NOISE_EVERY = 4


@dataclass(frozen=True, slots=True)
class Example:
    """A target window of task 1: number of the data set, row of its table, samples at 100 Hz."""

    dataset: int
    row: int
    start: int
    end: int


def choose_examples(materials: list[Material], count: int = NUM_EXAMPLES) -> list[Example]:
    """Returns windows of test, the data sets in turn, of each three earthquakes before one of noise, spread over its traces."""
    queues = [_in_turn(k, material) for k, material in enumerate(materials)]
    chosen: list[Example] = []
    for place in range(count):
        chosen += [queue[place] for queue in queues if place < len(queue)]
    return sorted(chosen[:count], key=lambda one: (one.dataset, one.row, one.start))


def _in_turn(dataset: int, material: Material) -> list[Example]:
    targets = material.targets["test_task1"]
    start, end = windows_of(targets)
    quake = (targets["trace_type"] == "earthquake").to_numpy(bool)
    quakes, noise = (_spread(np.flatnonzero(kind)) for kind in (quake, ~quake))
    order = []
    while len(order) < NUM_EXAMPLES and (quakes or noise):
        take = noise if noise and (len(order) % _NOISE_EVERY == _NOISE_EVERY - 1 or not quakes) else quakes
        order.append(take.pop(0))
    row = targets["row"].to_numpy(np.int64)
    return [Example(dataset, int(row[k]), int(start[k]), int(end[k])) for k in order]


def _spread(places: np.ndarray) -> list[int]:
    """At most `NUM_EXAMPLES` of them, from everywhere, first those that lie far apart."""
    chosen = (
        places[np.linspace(0, len(places) - 1, min(len(places), NUM_EXAMPLES)).astype(int)] if len(places) else places
    )
    stride = np.argsort([int(f"{k:08b}"[::-1], 2) for k in range(len(chosen))], kind="stable")
    return chosen[stride].tolist()


def example_windows(materials: list[Material], examples: list[Example]) -> dict[str, np.ndarray]:
    """Returns waveform (n, 3, T), num_valid (n,), onsets p and s (n, K) in samples of the window, dataset and trace (n,)."""
    length = max((one.end - one.start for one in examples), default=0)
    waveform, num_valid = np.zeros((len(examples), 3, length), np.float32), np.zeros(len(examples), np.int32)
    inside, names = [], []
    for k, one in enumerate(examples):
        table = materials[one.dataset].table.slice(one.row, 1)
        read, _ = read_windows(Traces.from_table(table), np.array([0]), np.array([one.start]), one.end - one.start)
        waveform[k, :, : read.shape[-1]], num_valid[k] = read[0], one.end - one.start
        inside.append(Onsets.from_table(table).inside(np.array([one.start]), num_valid[k : k + 1]))
        names.append((materials[one.dataset].name, table["trace_name"][0].as_py()))
    out = {"waveform": waveform, "num_valid": num_valid}
    for wave in ("p", "s"):
        found = [getattr(one, wave)[0] for one in inside]
        out[wave] = np.full((len(found), max((len(one) for one in found), default=0)), np.nan)
        for k, one in enumerate(found):
            out[wave][k, : len(one)] = one
    return out | {name: np.array([one[k] for one in names], str) for k, name in enumerate(("dataset", "trace"))}


def example_curves(
    network: nn.Module, materials: list[Material], examples: list[Example], device: torch.device
) -> np.ndarray:
    """Returns the probabilities of a network in the example windows, (n, C, T) float16, zero outside of a trace."""
    parts = []
    length = max((one.end - one.start for one in examples), default=0)
    for number in sorted({one.dataset for one in examples}):
        mine = [one for one in examples if one.dataset == number]
        columns = (np.array([getattr(one, name) for one in mine]) for name in ("row", "start", "end"))
        for _, curves, inside in target_curves(network, materials[number].table, *columns, device):
            curves = torch.where(inside[:, None], curves, 0).half().cpu().numpy()
            parts.append(np.pad(curves, ((0, 0), (0, 0), (0, length - curves.shape[-1]))))
    return np.concatenate(parts) if parts else np.zeros((0, 0, 0), np.float16)


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns a file of NumPy's format .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
