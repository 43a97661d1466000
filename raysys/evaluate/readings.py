"""What a network says of one whole window of every labelled trace, reduced to what the scores need."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from raysys.data.fixed_windows import FixedWindows, fixed_windows
from raysys.data.onsets import Onsets
from raysys.data.windows import RATE_HZ
from raysys.evaluate.picks import STEP, Picks, judged_picks, known_frames
from raysys.evaluate.predictions import BATCH, ahead, probabilities

_SEED = 20_220_103
_READ_AT_ONCE = 1024
_FRAME_WINDOWS = 2048
"""Windows of a data set whose frames are kept, to fit a temperature."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Of n windows; what a task does not have is empty.

    Attributes:
        row: (n,) number of the row of the table that each window was cut from.
        truth: (n,) 1 with an onset in the window, 0 in a trace of noise, -1 for neither.
        event: (n,) highest probability of an earthquake.
        num_onsets: (n, 2) onsets of P and of S in the window.
        residual_s: (n, 2) sample of the highest probability minus the nearest onset of the wave; NaN without one.
        picks: of the windows (`raysys.evaluate.picks`).
        frame_probability: (m, 3) float16, of P, S and noise at frames whose labels are known.
        frame_target: (m, 3) float16, their soft labels.
        group: (n,) class, -1 unknown.
        class_probability: (n, classes).
    """

    row: np.ndarray
    truth: np.ndarray
    event: np.ndarray
    num_onsets: np.ndarray
    residual_s: np.ndarray
    picks: Picks
    frame_probability: np.ndarray
    frame_target: np.ndarray
    group: np.ndarray
    class_probability: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Returns the readings of several sets of windows, one after the other."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        picks = Picks.joined([(part.picks, len(part)) for part in parts])
        return cls(**{name: picks if name == "picks" else np.concatenate(of) for name, of in columns.items()})

    def to_bytes(self) -> bytes:
        """Returns a file of NumPy's format .npz with everything."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "picks"}
        arrays |= {f"picks/{f.name}": getattr(self.picks, f.name) for f in fields(self.picks)}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Returns what `to_bytes` wrote."""
        with np.load(io.BytesIO(content)) as file:
            picks = Picks(**{f.name: file[f"picks/{f.name}"] for f in fields(Picks)})
            return cls(picks=picks, **{f.name: file[f.name] for f in fields(cls) if f.name != "picks"})


def read_whole(
    network: nn.Module,
    table: pa.Table,
    split: str,
    task: str,
    device: torch.device,
    label_width_s: float = 0.2,
    group: np.ndarray | None = None,
    num_classes: int = 0,
) -> Readings:
    """Returns the readings of the labelled traces of a split, a pure function of the network and the table.

    Args:
        network: in evaluation mode, on the device.
        table: index rows of one data set.
        split: "dev" or "test".
        task: of the network.
        device: that computes.
        label_width_s: standard deviation of the soft labels that a picker has learnt.
        group: class of each row of the table, for task classify.
        num_classes: of these.
    """
    group = np.full(len(table), -1) if group is None else group
    labelled = group >= 0 if task == "classify" else Onsets.from_table(table).labelled
    rows = np.flatnonzero(labelled & pc.equal(table["split"], split).to_numpy(zero_copy_only=False))
    kept = np.zeros(len(rows), bool)
    kept[np.linspace(0, max(0, len(rows) - 1), min(_FRAME_WINDOWS, len(rows))).astype(int)] = True
    with_frames = kept & (split == "dev")
    parts = [_empty(num_classes)]
    for first, windows in ahead(_slices(table, rows, network.window_samples)):
        for k in range(0, len(windows), BATCH):
            some, at = windows.take(slice(k, k + BATCH)), slice(first + k, first + k + BATCH)
            output = probabilities(network, some.waveform, some.num_valid, device)
            parts.append(_reading(some, output, task, rows[at], group[rows[at]], with_frames[at], label_width_s))
    return Readings.joined(parts)


def _slices(table: pa.Table, rows: np.ndarray, window: int) -> Iterator[tuple[int, FixedWindows]]:
    """Fixed windows of many traces, a part at a time: together they would not fit into memory."""
    for first in range(0, len(rows), _READ_AT_ONCE):
        some = rows[first : first + _READ_AT_ONCE]
        yield first, fixed_windows(table.take(pa.array(some)), len(some), window, seed=_SEED + first)


def _empty(num_classes: int) -> Readings:
    none, pairs, triples = np.zeros(0), np.zeros((0, 2)), np.zeros((0, 3), np.float16)
    counts = np.zeros(0, np.int64)
    picks = Picks(counts, counts, counts, np.zeros((0, 3), np.float32), counts > 0, pairs > 0, none)
    classes = np.zeros((0, num_classes), np.float32)
    return Readings(counts, counts, none, pairs, pairs, picks, triples, triples, counts, classes)


def _reading(windows: FixedWindows, output: Tensor, task: str, row, group, with_frames, width_s: float) -> Readings:
    p, s, _ = windows.onsets()
    num_onsets = np.stack([(~np.isnan(p)).sum(axis=1), (~np.isnan(s)).sum(axis=1)], axis=1)
    truth = np.where(num_onsets.any(axis=1), 1, np.where(windows.noise, 0, -1))
    empty = _empty(output.shape[1] if task == "classify" else 0)
    n = len(windows)
    event, residual, picks = np.full(n, np.nan), np.full((n, 2), np.nan), empty.picks
    frames, classes = (empty.frame_probability, empty.frame_target), np.zeros((n, empty.class_probability.shape[1]))
    if task == "classify":
        classes = output.cpu().numpy()
    else:
        inside = (
            torch.arange(output.shape[-1], device=output.device) < torch.tensor(windows.num_valid).to(output)[:, None]
        )
        quake = output[:, 0] if task == "detect" else 1 - output[:, 2]
        event = torch.where(inside, quake, 0).amax(dim=-1).double().cpu().numpy()
    if task == "pick":
        best = torch.where(inside[:, None], output[:, :2], -1).argmax(dim=-1).cpu().numpy()
        residual = np.stack([_nearest(best[:, k], onset) for k, onset in enumerate((p, s))], axis=1) / RATE_HZ
        picks, frames = judged_picks(windows, output), _frames(windows, output, with_frames, width_s)
    return Readings(row, truth, event, num_onsets, residual, picks, *frames, group, classes.astype(np.float32))


def _nearest(sample: np.ndarray, onset: np.ndarray) -> np.ndarray:
    """Samples minus the nearest onset of each window, NaN where there is none."""
    apart = sample[:, None] - onset
    nearest = np.nan_to_num(np.abs(apart), nan=np.inf).argmin(axis=1)
    return apart[np.arange(len(sample)), nearest]


def _frames(windows: FixedWindows, output: Tensor, chosen: np.ndarray, width_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and soft labels of every `STEP`th sample whose label is known, (m, 3) each.

    P and S are Gaussians around their onsets, and noise is the rest.
    """
    windows, output = windows.take(chosen), output[torch.tensor(chosen, device=output.device)]
    center = np.arange(STEP // 2, output.shape[-1], STEP)
    near = [np.exp(-0.5 * ((center - onset[:, :, None]) / (width_s * RATE_HZ)) ** 2) for onset in windows.onsets()[:2]]
    p, s = (np.nan_to_num(one).max(axis=1, initial=0) for one in near)
    total = np.maximum(1, p + s)
    target = np.stack([p / total, s / total, np.maximum(0, 1 - p - s)], axis=-1)
    found = output[:, :, torch.tensor(center, device=output.device)].transpose(1, 2).cpu().numpy()
    known = known_frames(windows)
    return found[known].astype(np.float16), target[known].astype(np.float16)
