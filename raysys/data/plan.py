"""The order in which windows are delivered: a pure function of (traces, mixture, seed, position).

The stream is one endless sequence, epoch after epoch, without gaps at the seams. A position in it is a count of
windows, so it survives any change of the number of workers: at global batch W x B, step s of rank r takes the
windows position + (s W + r) B ... + B - 1.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_TRAIN_STREAM, _SHUFFLE_STREAM = 1, 2


@dataclass(frozen=True, slots=True)
class Plan:
    """Order of the epochs over datasets whose traces are numbered consecutively in file order.

    Attributes:
        sizes: traces of each dataset; trace ids 0 .. sum(sizes) - 1 run through them in order.
        quotas: trace visits that an epoch makes to each dataset (`mixture` computes them).
        seed: of every permutation and crop.
        crops: windows cut at each visit.
        run_rows: neighbouring traces that stay together until the shuffle.
        shuffle_rows: windows shuffled among each other.
        at_onsets: fraction of the windows that are placed so as to hold an onset.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]
    seed: int
    crops: int = 1
    run_rows: int = 16
    shuffle_rows: int = 8192
    at_onsets: float = 0.0

    @property
    def epoch_windows(self) -> int:
        """Windows in an epoch."""
        return sum(self.quotas) * self.crops

    def visits(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns epoch number (int32) and visit (int64) of `count` windows from position `start`.

        A visit v reads trace v % num_traces; v // num_traces counts how often this epoch has been there before.
        """
        n = self.epoch_windows
        epochs = np.arange(start // n, (start + count - 1) // n + 1) if count else np.zeros(0, int)
        pieces = []
        for epoch in epochs:
            first, last = max(start, epoch * n) - epoch * n, min(start + count, (epoch + 1) * n) - epoch * n
            order = epoch_order(self, int(epoch))[first:last]
            pieces.append((np.full(len(order), epoch, np.int32), order))
        if not pieces:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        return np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])

    def rank_visits(
        self, position: int, first_step: int, steps: int, *, rank: int, world: int, batch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the visits of one rank for `steps` steps, `first_step` steps after `position`."""
        epochs, visits = self.visits(position + first_step * world * batch, steps * world * batch)
        mine = (slice(None), rank)
        return epochs.reshape(steps, world, batch)[mine].ravel(), visits.reshape(steps, world, batch)[mine].ravel()


@lru_cache(maxsize=4)
def epoch_order(plan: Plan, epoch: int) -> np.ndarray:
    """Returns the visits of one epoch in order, (epoch_windows,) int64.

    Runs of neighbouring traces are permuted within each dataset, spread evenly over the epoch so that every stretch
    of it has the mixture of the whole, and finally shuffled trace by trace within stretches of `shuffle_rows`.
    """
    rng = np.random.default_rng((plan.seed, _TRAIN_STREAM, epoch))
    total = sum(plan.sizes)
    keys, starts, lengths = [], [], []
    first = 0
    for size, quota in zip(plan.sizes, plan.quotas, strict=True):
        run_start, run_length = _runs(rng, size, quota, plan.run_rows, total)
        keys.append((np.arange(len(run_start)) + rng.random(len(run_start))) / max(1, len(run_start)))
        starts.append(run_start + first)
        lengths.append(run_length)
        first += size
    by_key = np.argsort(np.concatenate(keys), kind="stable")
    start, length = np.concatenate(starts)[by_key], np.concatenate(lengths)[by_key]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    order = np.repeat(start, length) + within
    if plan.crops > 1:
        again = np.tile(np.arange(plan.crops), len(order))
        order = np.repeat(order, plan.crops)
        order = (order // total * plan.crops + again) * total + order % total
    shuffle = np.random.default_rng((plan.seed, _SHUFFLE_STREAM, epoch))
    stretch = np.arange(len(order)) // plan.shuffle_rows
    return order[np.lexsort((shuffle.random(len(order)), stretch))]


def _runs(rng, size: int, quota: int, run_rows: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Start (as a visit) and length of the runs that take `quota` windows from a dataset of `size` traces.

    Whole passes visit every trace; what remains of the quota is a random choice of runs, the last one cut short.
    """
    starts = np.arange(0, size, run_rows)
    lengths = np.minimum(run_rows, size - starts)
    passes, rest = divmod(quota, size) if size else (0, 0)
    all_starts, all_lengths = [], []
    for k in range(passes + (rest > 0)):
        order = rng.permutation(len(starts))
        length = lengths[order]
        if k == passes:
            length = np.minimum(length, np.maximum(0, rest - (np.cumsum(length) - length)))
        all_starts.append(starts[order][length > 0] + k * total)
        all_lengths.append(length[length > 0])
    if not all_starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(all_starts), np.concatenate(all_lengths)


def mixture(sizes: dict[str, int], alpha: float, weights: dict[str, float]) -> dict[str, int]:
    """Returns how many trace visits an epoch makes to each dataset.

    Args:
        sizes: traces of each dataset's training split.
        alpha: shares are proportional to size ** alpha; 1 visits every trace exactly once.
        weights: shares by hand; they replace `alpha`, and a dataset that is not named gets none.

    Raises:
        ValueError: a weight for a dataset that is not part of the run, or no positive weight.
    """
    unknown = set(weights) - set(sizes)
    if unknown:
        raise ValueError(f"data.weights names {sorted(unknown)}, but the run has only {sorted(sizes)}")
    total = sum(sizes.values())
    if not weights and alpha == 1:
        return dict(sizes)
    share = {name: weights.get(name, 0.0) if weights else float(size) ** alpha for name, size in sizes.items()}
    share = {name: value if sizes[name] else 0.0 for name, value in share.items()}
    if min(share.values()) < 0 or not sum(share.values()):
        raise ValueError(f"data.weights={weights}: weights must not be negative, and one must be positive")
    return {name: round(total * value / sum(share.values())) for name, value in share.items()}


def crop_starts(visits: np.ndarray, epochs: np.ndarray, seed: int, room: np.ndarray) -> np.ndarray:
    """Returns the first sample of every window, uniform in 0 .. room (inclusive), a pure function of its arguments."""
    with np.errstate(over="ignore"):
        return (_of_visit(visits, epochs, seed) % (np.maximum(room, 0).astype(np.uint64) + np.uint64(1))).astype(
            np.int64
        )


MARGIN = 0.1
"""Onsets lie at least this fraction of a window away from its ends, where the trace allows it."""


def onset_starts(room: np.ndarray, onset: np.ndarray, window: int, draw: np.ndarray) -> np.ndarray:
    """Returns first samples of windows that hold an onset, (n,), or that lie anywhere where there is none.

    Args:
        room: last possible first sample of each window, (n,).
        onset: samples from the start of the trace, NaN where there is none.
        window: samples of a window.
        draw: uniform in [0, 1); of the place.
    """
    low = np.clip(np.nan_to_num(onset - (1 - MARGIN) * window, nan=0.0), 0, room)
    high = np.clip(np.nan_to_num(onset - MARGIN * window, nan=np.inf), low, room)
    return np.floor(low + draw * (high - low)).astype(np.int64)


def one_onset(p: np.ndarray, s: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Returns P or S of each trace, (n,), each in half of the cases where there are both, NaN where there is neither."""
    return np.where(np.isnan(s) | (~np.isnan(p) & (draw < 0.5)), p, s)


def uniform(visits: np.ndarray, epochs: np.ndarray, seed: int, count: int) -> list[np.ndarray]:
    """Returns `count` arrays of numbers in [0, 1), each a pure function of its arguments."""
    with np.errstate(over="ignore"):
        x = _of_visit(visits, epochs, seed)
        return [(_mix(x + np.uint64(k + 1)) >> np.uint64(11)) / 2.0**53 for k in range(count)]


def _of_visit(visits: np.ndarray, epochs: np.ndarray, seed: int) -> np.ndarray:
    return _mix(visits.astype(np.uint64) ^ _mix(epochs.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B9)))


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea & Flood 2014): a hash of 64-bit integers without state."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
