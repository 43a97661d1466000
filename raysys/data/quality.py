"""What can be wrong with a seismogram, how it is told, and the table that counts it."""

import difflib
import json

import numpy as np
import pyarrow as pa

from raysys.data.windows import Traces, whole_traces

FLAGS = {
    "not finite": 1,
    "dead": 2,
    "dead component": 4,
    "clipped": 8,
    "gap": 16,
    "short": 32,
}
"""Reason -> bit. "dead" means that all components are constant, "dead component" that some are."""

_CLIP_SHARE = 0.005
"""A trace is clipped when at least this share of its samples sits in runs at its largest or smallest value."""
_GAP_S = 1.0
"""A gap is a stretch at least this long in which every live component stands still."""
_SHORT_S = 5.0


def trace_flags(waveform: np.ndarray, rate_hz: float = 100.0) -> int:
    """Returns the flags of one trace, a sum of `FLAGS`.

    Args:
        waveform: (components, samples), any unit.
        rate_hz: sampling rate.
    """
    flags = 0
    finite = np.isfinite(waveform)
    if not finite.all():
        flags |= FLAGS["not finite"]
        waveform = np.where(finite, waveform, 0.0)
    if waveform.shape[-1] < _SHORT_S * rate_hz:
        flags |= FLAGS["short"]
    low, high = waveform.min(axis=-1), waveform.max(axis=-1)
    live = high > low
    if not live.any():
        return flags | FLAGS["dead"]
    if not live.all():
        flags |= FLAGS["dead component"]
    still = np.diff(waveform[live], axis=-1) == 0
    if _longest_run(still.all(axis=0)) >= _GAP_S * rate_hz:
        flags |= FLAGS["gap"]
    at_rail = (waveform[live] == low[live, None]) | (waveform[live] == high[live, None])
    if ((at_rail[:, 1:] & still).mean(axis=-1) > _CLIP_SHARE).any():
        flags |= FLAGS["clipped"]
    return flags


def flag_traces(table: pa.Table) -> np.ndarray:
    """Returns the flags of every trace of an index, (rows,) int32, after reading all of them."""
    flags = np.zeros(len(table), np.int32)
    for i, waveform in whole_traces(Traces.from_table(table)):
        flags[i] = trace_flags(waveform)
    return flags


def mask(names: tuple[str, ...]) -> int:
    """Returns the bits of some reasons.

    Raises:
        ValueError: an unknown reason, with the nearest known one.
    """
    for name in names:
        if name not in FLAGS:
            near = difflib.get_close_matches(name, FLAGS, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"data.drop: unknown reason {name!r}{hint} (known: {', '.join(FLAGS)})")
    return sum(FLAGS[name] for name in set(names))


def reasons(flags: np.ndarray) -> dict[str, int]:
    """Returns how many traces carry each flag, reasons without any left out."""
    counts = {reason: int(((flags & bit) != 0).sum()) for reason, bit in FLAGS.items()}
    return {reason: count for reason, count in counts.items() if count}


def quality_row(dataset: str, traces: int, left_out: dict[str, int], kept: dict[str, int], scanned: bool) -> dict:
    """Returns one data set's row of the quality report.

    Args:
        dataset: name.
        traces: that are kept.
        left_out: reason -> traces that are not.
        kept: flaw -> traces that are kept with it, and repaired.
        scanned: whether somebody has looked at the samples; if not, flaws are unknown rather than absent.
    """
    return {"dataset": dataset, "traces": traces, "left_out": left_out, "kept": kept, "scanned": scanned}


def quality_report(corpus: pa.Table) -> list[dict]:
    """Returns the rows (`quality_row`) that came with a corpus: what was left out of it, and what was kept though flawed."""
    return json.loads((corpus.schema.metadata or {}).get(b"quality", b"[]"))


LEGEND = "traces by flaw: -N left out, N kept and repaired; ?: nobody has looked, data.scan does"
"""Of `quality_table`."""


def quality_table(rows: list[dict]) -> str:
    """Returns the report as text: one line a data set, one column a reason."""
    names = list(dict.fromkeys(reason for row in rows for reason in (*row["left_out"], *row["kept"])))
    lines = [["data set", "traces", *names]]
    for row in rows:
        cells = []
        for name in names:
            out, kept = row["left_out"].get(name, 0), row["kept"].get(name, 0)
            unknown = name in FLAGS and not row["scanned"] and not out
            cells.append("?" if unknown else " ".join([f"-{out}"] * bool(out) + [f"{kept} kept"] * bool(kept)))
        lines.append([row["dataset"], str(row["traces"]), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _longest_run(mask: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
