"""What a network says of the targets and of the labelled traces of a data set, as tables."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from model.labels import Labels, pick_targets
from raysys.config import RunConfig
from raysys.data.fixed_windows import FixedWindows, fixed_windows
from raysys.data.labels import TraceLabels
from raysys.data.onsets import Onsets
from raysys.data.windows import Traces, read_windows
from raysys.evaluate.calibration import soft_label_losses
from raysys.evaluate.dev_scores import TOLERANCES_S, hits
from raysys.evaluate.tasks import SPLITS, Targets, identity_columns
from raysys.evaluate.tolerance import find_peaks, match, peak_widths_s

log = logging.getLogger(__name__)
SCORES = ("score_detection", "score_p_or_s", "p_sample_pred", "s_sample_pred")
LABEL_WIDTH = 20.0
"""Samples: the standard deviation of an onset's soft label, the same for every network."""
_SEED = 20_220_101
"""Of the windows cut from labelled traces."""
_CHUNK = 512
"""Traces whose windows are cut together."""
_LEAST = 1e-30


@dataclass(frozen=True)
class Reader:
    """A network in evaluation mode on its device.

    Attributes:
        network: see `model.labels`; `window_samples` is what it reads at least.
        task: pick, detect or classify.
        device: where the network is; on "cuda" it computes in bf16.
        config: of its run, whose classes a classifier has; None for other networks.
    """

    network: nn.Module
    task: str
    device: torch.device
    config: RunConfig | None = None

    @property
    def batch(self) -> int:
        """Windows read at once."""
        return 256 if self.device.type == "cuda" else 32

    def __call__(self, waveform: np.ndarray, num_valid: np.ndarray) -> Tensor:
        """Returns the network's probabilities, float32, on its device."""
        tensors = (torch.tensor(x).to(self.device) for x in (waveform, num_valid))
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            return self.network(*tensors).float()


def read_dataset(reader: Reader, table: pa.Table, targets: Targets) -> dict[str, pd.DataFrame]:
    """Returns all that the scores of a data set need, "dev_task1", "test_windows" and so on.

    Tables of tasks are those of the pick-benchmark with its predictions. "windows" has a row for every labelled trace, "picks" one for
    every pick in these windows. Detectors have no "task23" and no "picks", classifiers have "windows" alone.

    Args:
        reader: the network.
        table: index of the data set, all splits.
        targets: its tasks.
    """
    out, traces = {}, Traces.from_table(table)
    for split in SPLITS:
        if reader.task != "classify":
            for name, rows in targets.of_split(split).items():
                if name == "task1" or reader.task == "pick":
                    out[f"{split}_{name}"] = predict_targets(reader, traces, rows)
        part = table.filter(pa.array(np.array(table["split"].to_pylist()) == split))
        tables = (
            read_classes(reader, part) if reader.task == "classify" else read_labelled(reader, part, split == "dev")
        )
        out |= {f"{split}_{name}": rows for name, rows in tables.items()}
    return out


def predict_targets(reader: Reader, traces: Traces, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns targets with the columns `SCORES`.

    Scores are those of samples inside of the target. Samples of onsets count from the start of the trace at `sampling_rate`, as
    `phase_onset` does. A target without any sample in its trace has NaN.
    """
    found = [np.zeros((0, len(SCORES)))]
    for output, first, last in around(reader, traces, *(rows[k] for k in ("row", "start_sample", "end_sample"))):
        scores = _detected(output, first, last) if reader.task == "detect" else _picked(output, first, last)
        found.append(torch.where((last > first)[:, None], scores, torch.nan).double().cpu().numpy())
    scores = np.concatenate(found)
    scores[:, 2:] += rows["start_sample"].to_numpy(np.float64)[:, None]
    return rows.assign(**dict(zip(SCORES, scores.T, strict=True)))


def around(reader: Reader, traces: Traces, rows, start, end) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields, batch by batch, a network's output on windows around pieces of traces, and where in it a piece begins and ends.

    A window has the network's length, or that of the longest piece where that is longer. It is centred on the piece where the trace
    is long enough.
    """
    rows, start, end = (np.asarray(x).astype(np.int64) for x in (rows, start, end))
    window = max(reader.network.window_samples, int((end - start).max(initial=0)))

    def cut(part: slice):
        room = np.maximum(0, traces.output_samples(rows[part]) - window)
        begin = np.clip((start[part] + end[part] - window) // 2, 0, room)
        waveform, num_valid = read_windows(traces, rows[part], begin, window)
        return waveform, num_valid, start[part] - begin, np.minimum(end[part] - begin, num_valid)

    parts = [slice(first, first + reader.batch) for first in range(0, len(rows), reader.batch)]
    for waveform, num_valid, first, last in read_ahead(cut, parts):
        yield reader(waveform, num_valid), *(torch.tensor(x).to(reader.device) for x in (first, last))


def read_labelled(reader: Reader, table: pa.Table, with_losses: bool = False) -> dict[str, pd.DataFrame]:
    """Returns "windows", one of every labelled trace of one split, and "picks" of a picker.

    Args:
        reader: the network.
        table: index rows of one split of one data set.
        with_losses: "windows" has those that a temperature is fitted to (`raysys.evaluate.calibration`).
    """
    windows, picks, seen = [], [], 0
    for part, identity in _labelled_windows(reader, table, Onsets.from_table(table).labelled):
        output = reader(part.waveform, part.num_valid)
        p, s, _ = part.onsets()
        some = {"quake": ~np.isnan(p[:, 0]) | ~np.isnan(s[:, 0]), "noise": part.noise}
        if reader.task == "pick":
            read, found = _read_picks(part, output, with_losses)
            picks.append(found.assign(window=found["window"] + seen))
        else:
            read = {"event_score": _detected(output, *_inside(part, output))[:, 0].double().cpu().numpy()}
        windows.append(pd.DataFrame(identity | some | read))
        seen += len(part)
    tables = {"windows": windows, "picks": picks} if reader.task == "pick" else {"windows": windows}
    return {name: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for name, parts in tables.items()}


def read_classes(reader: Reader, table: pa.Table) -> dict[str, pd.DataFrame]:
    """Returns "windows": class and probabilities of one window of every trace of one split whose class is known."""
    group, windows = TraceLabels.from_table(table, reader.config).group, []
    for part, identity in _labelled_windows(reader, table, group >= 0, group):
        probability = reader(part.waveform, part.num_valid).double().cpu().numpy()
        columns = {f"class_{k}": column for k, column in enumerate(probability.T)}
        windows.append(pd.DataFrame(identity | columns))
    return {"windows": pd.concat(windows, ignore_index=True) if windows else pd.DataFrame()}


def read_ahead(read: Callable, parts: list) -> Iterator:
    """Yields what `read` makes of each part, the next one being read in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(read, parts[0]) if parts else None
        for part in [*parts[1:], None]:
            if coming is not None:
                ready, coming = coming.result(), pool.submit(read, part) if part is not None else None
                yield ready


def _labelled_windows(
    reader: Reader, table: pa.Table, known: np.ndarray, group: np.ndarray | None = None
) -> Iterator[tuple[FixedWindows, dict]]:
    """Batches of one fixed window a trace that is known, and the columns that name them."""
    rows = np.flatnonzero(known)
    parts = [(k, rows[first : first + _CHUNK]) for k, first in enumerate(range(0, len(rows), _CHUNK))]

    def cut(part: tuple[int, np.ndarray]) -> tuple[FixedWindows, np.ndarray]:
        number, mine = part
        taken = table.take(pa.array(mine)).combine_chunks()
        windows = fixed_windows(taken, len(mine), reader.network.window_samples, _SEED + number)
        return windows, mine[windows.row]

    for windows, mine in read_ahead(cut, parts):
        for first in range(0, len(windows), reader.batch):
            few = slice(first, first + reader.batch)
            classes = {} if group is None else {"group": group[mine[few]]}
            yield windows.take(few), identity_columns(table, mine[few]) | classes


def _read_picks(part: FixedWindows, output: Tensor, with_losses: bool) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Columns of windows, and a table of the picks in them."""
    num_valid, target, known = _label(part, output)
    samples, values = zip(*(find_peaks(output[:, k], num_valid) for k in range(2)), strict=True)
    inside = torch.arange(output.shape[-1], device=output.device) < num_valid[:, None]
    best = torch.where(inside[:, None], output[:, :2], -1).argmax(dim=-1).cpu().numpy()
    columns = {"event_score": _detected(1 - output[:, 2:], *_inside(part, output))[:, 0].double().cpu().numpy()}
    for name, right in hits(part, best).items():
        wave = part.onsets()["ps".index(name[0])]
        columns[name] = np.full(len(part), np.nan)
        columns[name][~np.isnan(wave[:, 0])] = right
    picks = []
    for wave, onsets, sample, value in zip("PS", part.onsets(), samples, values, strict=False):
        columns[f"{wave.lower()}_onsets"] = (~np.isnan(onsets)).sum(axis=1)
        at = sample[:, None].expand(-1, 3, -1)
        probability, certain = output.gather(2, at).cpu().numpy(), known.gather(1, sample).cpu().numpy() > 0
        sample, there = sample.cpu().numpy(), value.cpu().numpy() > 0
        late = {f"late_{t:g}s": match(sample, there, onsets, t)[there] for t in TOLERANCES_S}
        which = {"window": np.nonzero(there)[0], "wave": wave, "sample": sample[there], "known": certain[there]}
        of_pick = {name: probability[:, k][there].astype(float) for k, name in enumerate("psn")}
        of_pick["width_s"] = peak_widths_s(output[:, "PS".index(wave)].cpu().numpy(), sample)[there]
        picks.append(pd.DataFrame(which | of_pick | late))
    losses = soft_label_losses(output, target, known) if with_losses else torch.zeros(0, 0)
    columns |= {f"loss_{k}": column for k, column in enumerate(losses.cpu().numpy().T)}
    return columns, pd.concat(picks, ignore_index=True)


def _label(part: FixedWindows, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Valid samples of windows (B,), their soft labels (B, 3, T) and where these are known (B, T)."""
    tensors = (torch.tensor(x, dtype=torch.float32, device=output.device) for x in part.onsets())
    noise, num_valid = (torch.tensor(x, device=output.device) for x in (part.noise, part.num_valid))
    labels = Labels(*tensors, noise, torch.full_like(num_valid, -1))
    return num_valid, *pick_targets(labels, num_valid, output.shape[-1], LABEL_WIDTH)


def _inside(part: FixedWindows, output: Tensor) -> tuple[Tensor, Tensor]:
    last = torch.tensor(part.num_valid, device=output.device)
    return torch.zeros_like(last), last


def _picked(output: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The columns `SCORES` of pickers (B, 4), samples counted from the first of the piece."""
    detection = _detected(1 - output[:, 2:], first, last)[:, :1]
    t = torch.arange(output.shape[-1], device=output.device)
    inside = (t >= first[:, None]) & (t < last[:, None])
    peak, sample = torch.where(inside[:, None], output[:, :2], -1).max(dim=-1)
    ratio = peak[:, :1].clamp_min(0) / peak[:, 1:].clamp_min(_LEAST)
    return torch.cat([detection, ratio, sample - first[:, None]], dim=1)


def _detected(output: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The columns `SCORES` of detectors (B, 4) for probabilities (B, 1, T): the highest one in the piece."""
    t = torch.arange(output.shape[-1], device=output.device)
    inside = (t >= first[:, None]) & (t < last[:, None])
    highest = torch.where(inside, output[:, 0], 0).amax(dim=-1, keepdim=True)
    return torch.cat([highest, torch.full_like(highest.expand(-1, 3), torch.nan)], dim=1)
