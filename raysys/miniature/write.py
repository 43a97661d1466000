"""Miniatures on disk, in SeisBench format: metadata*.csv and waveforms*.hdf5 in one folder a data set."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from raysys.miniature.quirks import Twin
from raysys.miniature.simulate import simulate
from raysys.miniature.twins import TWINS

ALL8 = tuple(TWINS)
"""Names of the eight data sets."""

MARKER = "miniature.json"
"""Present in every folder written here. Only a folder that has it is ever replaced."""

PUBLIC = ("split", "trace_", "source_", "station_", "path_", "event_id", "preferred_")
"""Columns that start so are written; all others serve the generator only."""

BLOCK = 64
"""Traces a block: small, so that even a miniature has several."""

logger = logging.getLogger("raysys.miniature")


def write_miniatures(
    root: Path | str, names: tuple[str, ...] = ALL8, traces: int = 200, seed: int = 0
) -> dict[str, Path]:
    """Returns the folder of each data set asked for, written as `root`/<name in lower case>.

    The content is a function of (name, traces, seed). A folder appears whole or not at all; an older miniature is replaced.

    Args:
        root: folder below which the data sets go; made if missing.
        names: which of the eight.
        traces: number of traces a data set. From about 40 on every quirk of a set is present.
        seed: of all random numbers.

    Raises:
        ValueError: an unknown name, fewer than one trace, or a folder in the way that is no miniature.
    """
    if traces < 1:
        raise ValueError(f"traces={traces}: a miniature needs at least one trace")
    for name in names:
        if name not in TWINS:
            near = difflib.get_close_matches(name, ALL8, n=1, cutoff=0.3)
            raise ValueError(
                f"names: unknown data set {name!r}{f', did you mean {near[0]!r}?' if near else ''} (known: {', '.join(ALL8)})"
            )
    folders = {}
    for name in names:
        began = time.perf_counter()
        folder = Path(root) / name.lower()
        with whole_or_nothing(folder, {"name": name, "traces": traces, "seed": seed}) as unfinished:
            table = _write_twin(TWINS[name], unfinished, traces, seed)
        log_folder(name, folder, table, time.perf_counter() - began)
        folders[name] = folder
    return folders


@contextlib.contextmanager
def whole_or_nothing(folder: Path, facts: dict) -> Iterator[Path]:
    """Gives a temporary folder that becomes `folder` when the block ends well and vanishes when it does not.

    Raises:
        ValueError: `folder` exists and was not written by this module.
    """
    if folder.exists() and not (folder / MARKER).exists():
        raise ValueError(f"{folder} exists and is no miniature: it is left alone. Choose another root")
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        (unfinished / MARKER).write_text(json.dumps(facts) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_chunk(folder: Path, chunk: str, data_format: dict, rows: list[dict], waves: list[np.ndarray]) -> None:
    """Writes one pair of metadata and waveform files with SeisBench's own writer; components are in the order given."""
    from seisbench.data import WaveformDataWriter  # takes seconds to import

    # The writer reports its progress on stderr and offers no way to turn that off.
    with (
        contextlib.redirect_stderr(io.StringIO()),
        WaveformDataWriter(folder / f"metadata{chunk}.csv", folder / f"waveforms{chunk}.hdf5") as writer,
    ):
        writer.data_format = data_format
        writer.bucket_size = BLOCK
        for row, wave in zip(rows, waves, strict=True):
            writer.add_trace(row, wave)


def log_folder(name: str, folder: Path, table: pd.DataFrame, seconds: float) -> None:
    """Logs one line on a folder just written."""
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    rates = "/".join(f"{rate:g}" for rate in sorted(table.trace_sampling_rate_hz.unique()))
    arrivals = [column for column in table.columns if column.endswith("_arrival_sample")]
    picks = int(table[arrivals].notna().sum().sum())
    logger.info(
        "%s: %d traces, %d picks, %s Hz, %.1f MB in %.1f s -> %s", name, len(table), picks, rates, size, seconds, folder
    )


def _write_twin(twin: Twin, folder: Path, traces: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, zlib.crc32(twin.name.encode())])
    table, waves = simulate(twin, traces, rng)
    data_format = {
        "dimension_order": "CW",
        "component_order": twin.component_order,
        "measurement": "velocity",
        "unit": twin.unit,
        "instrument_response": "not restituted",
    }
    if len(twin.rates_hz) == 1:
        data_format["sampling_rate"] = float(*twin.rates_hz)
    parts = list(table.groupby("chunk", sort=True)) if "chunk" in table else [("", table)]
    public = [column for column in table.columns if column.startswith(PUBLIC)]
    for chunk, part in parts:
        write_chunk(folder, chunk, data_format, part[public].to_dict("records"), [waves[i] for i in part.index])
    if "chunk" in table:
        (folder / "chunks").write_text("".join(f"{chunk}\n" for chunk, _ in parts))
    return table
