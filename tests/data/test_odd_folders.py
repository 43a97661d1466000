"""No odd folder becomes a silent wrong value: it is read as SeisBench reads it, or left out and counted, or refused by name."""

import dataclasses
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import seisbench
import seisbench.data as sbd
from hypothesis import HealthCheck, given, settings

from raysys.data.index import dropped_rows, ignored_values, load_index
from raysys.data.resample import read_rates
from raysys.data.windows import COMPONENT_ROW, Traces, read_windows
from tests.data.odd_folders import PICKS, SPLITS, OddFolder, odd_folders

EXAMPLES = int(os.environ.get("ODD_FOLDERS", 300))
"""More of them, and others every time: ODD_FOLDERS=5000 pytest -s tests/data/test_odd_folders.py"""
FEW = "ODD_FOLDERS" not in os.environ
OUTCOMES: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def quiet():
    level, seisbench.logger.level = seisbench.logger.level, logging.ERROR
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    seisbench.logger.level = level
    print("\nodd folders:", dict(sorted(OUTCOMES.items())))


@settings(
    max_examples=EXAMPLES,
    derandomize=FEW,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
@given(odd=odd_folders())
def test_an_odd_folder_is_read_as_seisbench_reads_it_or_left_out_or_refused(odd):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "odd"
        folder.mkdir()
        odd.write(folder)
        OUTCOMES["folders"] += 1
        table, refusal = _indexed(folder, f"{place}/cache")
        must = np.array(odd.must_be_read())
        if table is None:
            OUTCOMES["folders refused"] += 1
            assert str(folder) in refusal
            stated = re.search("data_format/(dimension_order|component_order|sampling_rate)", refusal)
            assert stated or not must.any()
            assert not stated or stated[1] == "dimension_order" or odd.needs(stated[1])
            return
        kept = table["trace_name"].to_pylist()
        missing = np.array([name not in kept for name in odd.columns["trace_name"]])
        assert len(set(kept)) == len(kept)
        assert len(set(odd.columns["trace_name"])) <= len(kept) + sum(dropped_rows(table).values())
        assert not (missing & must).any()
        OUTCOMES["rows left out"] += int(missing.sum())
        _compare(folder, odd, table)
        _compare_events_and_splits(odd, table)
        _compare_counts(odd, table)


def _indexed(folder: Path, cache: str) -> tuple[pa.Table | None, str]:
    """The index of a folder, or what was said against it."""
    try:
        return load_index(str(folder), "odd", cache), ""
    except ValueError as error:
        return None, str(error)


def _seisbench(folder: Path) -> sbd.WaveformDataset | None:
    """SeisBench's reading of a folder; None where it refuses it as a whole."""
    try:
        return sbd.WaveformDataset(folder, component_order="ZNE", dimension_order="NCW")
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None


def _compare(folder: Path, odd: OddFolder, table: pa.Table) -> None:
    """Compares windows and picks of the traces that were kept."""
    theirs = _seisbench(folder)
    if theirs is None:
        theirs = _told(folder, table)
        OUTCOMES["folders that SeisBench refuses"] += 1
    traces = Traces.from_table(table)
    native = dataclasses.replace(traces, up=np.ones_like(traces.up), down=np.ones_like(traces.down))
    for i, row in enumerate(table.to_pylist()):
        number = int(np.argmax(theirs.metadata["trace_name"] == row["trace_name"]))
        stated = theirs.metadata.iloc[number]
        rate_hz = stated["trace_sampling_rate_hz"]  # SeisBench takes the file's only where no row states one
        assert rate_hz == row["rate_hz"] or np.isnan(rate_hz)
        assert stated["trace_component_order"] in (row["components"], tuple(row["components"]))
        theirs.component_order = _wanted(row["components"])
        stored = theirs.get_waveforms(number).astype(np.float32)
        start = stored.shape[1] // 3
        x, valid = read_windows(native, np.array([i, i]), np.array([0, start]), 70)
        assert valid.tolist() == [stored.shape[1], stored.shape[1] - start]
        for got, first in zip(x, (0, start), strict=True):
            np.testing.assert_array_equal(got, np.pad(stored[:, first:], ((0, 0), (0, 70 - stored.shape[1] + first))))
        _compare_picks(odd, stated, row)
        _rest_is_zero(traces, i)
        OUTCOMES["rows as SeisBench"] += 1


def _told(odd: Path, table: pa.Table) -> sbd.WaveformDataset:
    """SeisBench's reading of the same file with the orders and rates that were understood."""
    folder = Path(shutil.copytree(odd, odd.parent / "told"))
    metadata = pd.read_csv(folder / "metadata.csv")
    metadata = metadata[metadata["trace_name"].isin(table["trace_name"].to_pylist())].drop_duplicates("trace_name")
    known = table.select(["trace_name", "rate_hz", "components"]).to_pandas().set_index("trace_name")
    metadata["trace_sampling_rate_hz"] = known["rate_hz"].loc[metadata["trace_name"]].values
    metadata["trace_component_order"] = known["components"].loc[metadata["trace_name"]].values
    metadata.to_csv(folder / "metadata.csv", index=False)
    with h5py.File(folder / "waveforms.hdf5", "a") as file:
        order = file["data_format/dimension_order"].asstr()[()] if "data_format/dimension_order" in file else "CW"
        file.pop("data_format", None)
        file["data_format/dimension_order"] = "".join(order)
    return sbd.WaveformDataset(folder, component_order="ZNE", dimension_order="NCW")


def _wanted(order: str) -> str:
    """The letters of rows Z, N and E, by which SeisBench finds the channels of an order."""
    for letters in ("ZNE", "Z12", "ZRT"):
        if set(letters) <= set(order):
            return letters
    rows = {COMPONENT_ROW[letter]: letter for letter in order}
    return "".join(rows.get(row, "ZNE"[row]) for row in range(3))


def _compare_picks(odd: OddFolder, stated: pd.Series, row: dict) -> None:
    found, _ = odd.onsets(row["trace_name"], row["num_samples"])
    for wave, expected in found.items():
        theirs = {float(stated.get(f"trace_{phase}_arrival_sample", np.nan)) for phase in PICKS[wave]}
        assert {x for x in theirs if 0 < x < row["num_samples"]} <= set(expected)
        first = [row[f"{wave}_s"]] if expected else []
        onsets = np.array([*first, *row[f"{wave}_more_s"]]) * read_rates(np.array([row["rate_hz"]]))
        np.testing.assert_allclose(onsets, sorted(expected))
        assert expected or np.isnan(row[f"{wave}_s"])
        assert row[f"{wave}_phase"] in (expected[min(expected)] if expected else {""})


def _compare_events_and_splits(odd: OddFolder, table: pa.Table) -> None:
    """A trace keeps its split, or gets the last split of its event and of those in the same traces, or they share one."""
    rows = {row["trace_name"]: row for row in table.to_pylist()}
    groups: list[tuple[set[str], set[str]]] = []  # traces, and the events in them
    for name, row in rows.items():
        events = odd.events(name)
        assert [row["event"], *row["more_events"]] == (events or [""])
        mine = ({name}, set(events))
        for other in [group for group in groups if group[1] & mine[1]]:
            groups.remove(other)
            mine = (mine[0] | other[0], mine[1] | other[1])
        groups.append(mine)
    for names, events in groups:
        stated = {name: odd.splits(name) for name in names}
        given = set().union(*stated.values()) if events else set()
        missing = {rows[name]["split"] for name in names if not stated[name]}
        assert all({rows[name]["split"]} == split for name, split in stated.items() if split)
        assert missing <= ({max(given, key=SPLITS.index)} if given else set(SPLITS))
        assert len(missing) <= 1


def _compare_counts(odd: OddFolder, table: pa.Table) -> None:
    """Of second rows that were merged, and of onsets that cannot be."""
    rows = table.to_pylist()
    dropped, ignored = dropped_rows(table), ignored_values(table)
    assert dropped.get("duplicate identity", 0) == sum(len(odd.rows(row["trace_name"])) - 1 for row in rows)
    contradicting = "rows of one trace that contradict each other"
    assert dropped.get(contradicting, 0) in (0, sum(len(odd.splits(name)) > 1 for name in odd.columns["trace_name"]))
    if contradicting not in dropped:
        impossible = sum(odd.onsets(row["trace_name"], row["num_samples"])[1] for row in rows)
        assert ignored.get("onset that is impossible (outside the trace)", 0) == impossible


def _rest_is_zero(traces: Traces, i: int) -> None:
    """At 100 Hz: rows without a channel, and what lies behind the end."""
    length = int(traces.output_samples(np.array([i]))[0])
    window = min(length, 300) + 20
    start = max(0, length - window + 20)
    np.zeros((3, window), np.float32).fill(7)
    x, valid = read_windows(traces, np.array([i]), np.array([start]), window)
    filled = list(traces.rows[traces.order[i]])
    assert valid[0] == length - start
    assert (np.delete(x[0], filled, axis=0) == 0).all()
    assert (x[0, :, valid[0] :] == 0).all()
    assert np.isfinite(x).all()
