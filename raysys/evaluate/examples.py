"""The same few windows of test for every network, to look at."""

import io
from dataclasses import dataclass

import numpy as np
import torch

from raysys.data.onsets import Onsets
from raysys.data.windows import Traces, read_windows
from raysys.evaluate.material import Material
from raysys.evaluate.predictions import Reader, around

NUM_EXAMPLES = 32
_NOISE_EVERY = 4


@dataclass(frozen=True, slots=True)
class Example:
    """A target of task 1: number of the data set, row of its table, samples at 100 Hz."""

    dataset: int
    row: int
    start: int
    end: int


def choose_examples(materials: list[Material], count: int = NUM_EXAMPLES) -> list[Example]:
    """Returns targets of test, the data sets in turn, of each three earthquakes before one of noise, from everywhere in it."""
    queues = [_in_turn(k, material, count) for k, material in enumerate(materials)]
    chosen = [queue[place] for place in range(count) for queue in queues if place < len(queue)]
    return sorted(chosen[:count], key=lambda one: (one.dataset, one.row, one.start))


def example_windows(materials: list[Material], examples: list[Example]) -> dict[str, np.ndarray]:
    """Returns waveform (n, 3, T), num_valid (n,), onsets p and s (n, K) in samples of the window, dataset and trace (n,)."""
    length = _longest(examples)
    waveform, num_valid = np.zeros((len(examples), 3, length), np.float32), np.zeros(len(examples), np.int32)
    onsets, names = [], []
    for k, one in enumerate(examples):
        table = materials[one.dataset].table.slice(one.row, 1).combine_chunks()
        start, size = np.array([one.start]), one.end - one.start
        waveform[k, :, :size], num_valid[k : k + 1] = (
            x[0] if x.ndim > 1 else x for x in read_windows(Traces.from_table(table), np.array([0]), start, size)
        )
        onsets.append(Onsets.from_table(table).inside(start, num_valid[k : k + 1]))
        names.append((materials[one.dataset].name, table["trace_name"][0].as_py()))
    out = {"waveform": waveform, "num_valid": num_valid}
    for wave in ("p", "s"):
        rows = [getattr(one, wave)[0] for one in onsets]
        out[wave] = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
        for k, row in enumerate(rows):
            out[wave][k, : len(row)] = row
    return out | {name: np.array([one[k] for one in names], str) for k, name in enumerate(("dataset", "trace"))}


def example_curves(reader: Reader, materials: list[Material], examples: list[Example]) -> np.ndarray:
    """Returns the probabilities of a network in the example windows, (n, C, T) float16, zero outside of a trace."""
    curves = []
    for number in sorted({one.dataset for one in examples}):
        mine = [one for one in examples if one.dataset == number]
        columns = (np.array([getattr(one, name) for one in mine]) for name in ("row", "start", "end"))
        for output, first, last in around(reader, Traces.from_table(materials[number].table), *columns):
            t = first[:, None] + torch.arange(_longest(examples), device=output.device)
            at = t.clamp(0, output.shape[-1] - 1)[:, None].expand(-1, output.shape[1], -1)
            cut = torch.where((t < last[:, None])[:, None], output.gather(2, at), 0)
            curves.append(cut.half().cpu().numpy())
    return np.concatenate(curves) if curves else np.zeros((0, 0, 0), np.float16)


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns a file of NumPy's format .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _longest(examples: list[Example]) -> int:
    return max((one.end - one.start for one in examples), default=0)


def _in_turn(dataset: int, material: Material, count: int) -> list[Example]:
    rows = material.targets.of_split("test")["task1"]
    quake = (rows["trace_type"] == "earthquake").to_numpy(bool)
    quakes, noise = (_spread(np.flatnonzero(kind), count) for kind in (quake, ~quake))
    order: list[int] = []
    while len(order) < count and (quakes or noise):
        turn = len(order) % _NOISE_EVERY == _NOISE_EVERY - 1
        order.append((noise if noise and (turn or not quakes) else quakes).pop(0))
    columns = rows[["row", "start_sample", "end_sample"]].to_numpy(np.int64)
    return [Example(dataset, *map(int, columns[k])) for k in order]


def _spread(places: np.ndarray, count: int) -> list[int]:
    """At most `count` of the places; the first few lie as far from each other as all of them."""
    if not len(places):
        return []
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), count)).astype(int))]
    order = sorted(range(len(chosen)), key=lambda k: f"{k:016b}"[::-1])
    return chosen[order].tolist()
