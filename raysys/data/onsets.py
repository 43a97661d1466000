"""The catalogued onsets of traces, as arrays: what fine-tuning and evaluation take their labels from."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.resample import RATE_HZ


@dataclass(frozen=True, slots=True)
class Onsets:
    """Onsets of n traces or windows, in samples at 100 Hz from the first sample of each.

    Attributes:
        p: (n, K) onsets of P in rising order, NaN behind them; K is that of the trace with most.
        s: (n, K') onsets of S.
        other: (n, K'') onsets of phases that are neither.
        noise: (n,) True where the whole trace is known to be noise.
    """

    p: np.ndarray
    s: np.ndarray
    other: np.ndarray
    noise: np.ndarray

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Returns the onsets of the rows of an index (`raysys.data.index.SCHEMA`)."""
        p, s = (
            np.column_stack([table[f"{w}_s"].to_numpy(zero_copy_only=False), _padded(table[f"{w}_more_s"])])
            for w in "ps"
        )
        other = _padded(table["other_s"])
        category = pc.match_substring(pc.utf8_lower(table["category"]), "noise").to_numpy(zero_copy_only=False)
        silent = np.isnan(p).all(axis=1) & np.isnan(s).all(axis=1) & np.isnan(other).all(axis=1)
        return cls(*(np.sort(onset * RATE_HZ, axis=1) for onset in (p, s, other)), category & silent)

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def labelled(self) -> np.ndarray:
        """(n,) True where there is a P or an S, or the trace is known to be noise."""
        return ~np.isnan(self.p).all(axis=1) | ~np.isnan(self.s).all(axis=1) | self.noise

    def take(self, ids: slice | np.ndarray) -> Self:
        """Returns those of some of the traces."""
        return type(self)(self.p[ids], self.s[ids], self.other[ids], self.noise[ids])

    def inside(self, starts: np.ndarray, num_valid: np.ndarray) -> Self:
        """Returns the onsets in a window of each trace, counted from its first sample.

        Args:
            starts: first sample of the windows, (n,).
            num_valid: samples of each window that are data, (n,); onsets in the padding are not in it.
        """
        first, length = np.asarray(starts)[:, None], np.asarray(num_valid)[:, None]

        def cut(onset: np.ndarray) -> np.ndarray:
            sample = onset - first
            return np.sort(np.where((sample >= 0) & (sample < length), sample, np.nan), axis=1)  # NaN last

        return type(self)(cut(self.p), cut(self.s), cut(self.other), self.noise)


def _padded(lists: pa.ChunkedArray) -> np.ndarray:
    """Lists of numbers as the rows of an array, with NaN behind them."""
    lists = lists.combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    out = np.full((len(lists), int(lengths.max(initial=0))), np.nan)
    out[np.arange(out.shape[1]) < lengths[:, None]] = lists.flatten().to_numpy()
    return out
