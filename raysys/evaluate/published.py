"""Target files of the pick-benchmark, joined to the traces of an index."""

import io
import logging

import numpy as np
import pandas as pd
import pyarrow as pa

from raysys.data.windows import RATE_HZ
from raysys.evaluate.tasks import SPLITS, Targets, identity_columns
from raysys.location import Location

log = logging.getLogger(__name__)
_COLUMNS = ("trace_name", "trace_idx", "trace_split", "sampling_rate", "start_sample", "end_sample")
_MORE = {"task1": ("trace_type",), "task23": ("phase_label", "full_phase_label", "phase_onset")}
_ALIASES = {"instancecounts": "instance", "instancecountscombined": "instance"}
"""Name of a data set in lower case -> that of its published targets."""


def read_targets(folder: str, table: pa.Table, *, alone: bool = False) -> Targets | None:
    """Returns the published tasks of a data set, at 100 Hz and joined to its index; None where the folder has none for it.

    Args:
        folder: folder or URL that holds NAME/task1.csv and NAME/task23.csv.
        table: index of one data set, all splits.
        alone: no other data set is evaluated, so that the two files may lie in the folder itself.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file without a column, or most of whose rows match no trace.
    """
    name = table["dataset"][0].as_py()
    place = Location(folder)
    if not place.exists():
        raise FileNotFoundError(f"--targets {folder}: no such folder")
    wanted = {name.lower(), _ALIASES.get(name.lower(), name.lower())}
    found = [one for one in place.folders() if one.name.lower() in wanted]
    found += [place] if alone else []
    for one in found:
        files = {task: one / f"{task}.csv" for task in _MORE}
        if any(file.exists() for file in files.values()):
            return Targets(*(_read(file, task, name, table) for task, file in files.items()))
    return None


def _read(file: Location, task: str, name: str, table: pa.Table) -> pd.DataFrame:
    columns = (*_COLUMNS, *_MORE[task])
    if not file.exists():
        log.warning("%s is not there, so %s has no %s", file, name, task)
        return pd.DataFrame(columns=[*columns, "trace_chunk", "event", "row"])
    given = pd.read_csv(io.BytesIO(file.read()), dtype={"trace_name": str, "trace_chunk": str}, keep_default_na=False)
    if lacking := [column for column in columns if column not in given]:
        raise ValueError(f"{file} lacks the column {', '.join(lacking)}: it has {', '.join(given)}")
    given = given[given["trace_split"].isin(SPLITS)].reset_index(drop=True)
    if task == "task1" and _ALIASES.get(name.lower(), name.lower()) == "instance":
        given["trace_name"] = _instance_names(given["trace_name"])
    rows = _rows(given, table)
    split = np.array(table["split"].to_pylist())
    lost, moved = rows < 0, (rows >= 0) & (split[rows] != given["trace_split"].to_numpy())
    log.info("%s: %d rows, %d match no trace, %d one of another split", file, len(given), lost.sum(), moved.sum())
    joined = ~(lost | moved)
    if 2 * joined.sum() < len(given):
        raise ValueError(
            f"{file}: {(~joined).sum()} of {len(given)} rows match no trace of {name} in their split (first: "
            f"{given['trace_name'][np.flatnonzero(~joined)[0]]!r}): are these the targets of this data set?"
        )
    kept = given[joined].reset_index(drop=True)
    return _at_100_hz(kept).assign(**identity_columns(table, rows[joined]), row=rows[joined])


def _rows(given: pd.DataFrame, table: pa.Table) -> np.ndarray:
    """The row of the index of each target, -1 without one: by name, and by chunk or split where names repeat.

    Of traces that agree in all that, the one whose row is nearest to `trace_idx` is taken.
    """
    columns = {"trace_name": "trace_name", "trace_split": "split"} | (
        {"trace_chunk": "chunk"} if "trace_chunk" in given else {}
    )
    known = pd.DataFrame({ours: table[theirs].to_pylist() for ours, theirs in columns.items()})
    known["row"] = np.arange(len(known))
    wanted = given[[*columns, "trace_idx"]].assign(target=np.arange(len(given)))
    rows = np.full(len(given), -1)
    for keys in ([key for key in columns if key != "trace_split"], list(columns)):  # the last wins where it matches
        pairs = wanted.merge(known, on=keys, how="inner", suffixes=("", "_known"))
        pairs["far"] = (pairs["row"] - pairs["trace_idx"].astype(float)).abs()
        pairs = pairs.sort_values(["target", "far"], kind="stable").drop_duplicates("target")
        rows[pairs["target"]] = pairs["row"]
    return rows


def _at_100_hz(given: pd.DataFrame) -> pd.DataFrame:
    factor = RATE_HZ / given["sampling_rate"].astype(float)
    out = given.assign(sampling_rate=RATE_HZ)
    for column in ("start_sample", "end_sample"):
        out[column] = (given[column].astype(float) * factor).round().astype(np.int64)
    if "phase_onset" in given:
        out["phase_onset"] = given["phase_onset"].astype(float) * factor
    return out


def _instance_names(names: pd.Series) -> pd.Series:
    """Names of noise traces of INSTANCE with "noise_" before them: those behind the place where the number of a bucket falls."""
    bucket = pd.to_numeric(names.str.extract(r"bucket(\d+)\$", expand=False)).ffill()
    falls = bucket.diff() < 0
    return names.where(~falls.cummax(), "noise_" + names)
