"""What an index says of good files, and what is said of bad ones."""

import logging

import h5py
import numpy as np
import pyarrow as pa
import pytest

from raysys.config import DataConfig
from raysys.data.catalog import resolve
from raysys.data.corpus import load_corpus, summary
from raysys.data.index import assign_missing_split, dropped_rows, load_index
from tests.data.conftest import write_set


def test_every_twin_is_indexed_with_its_quirks(miniatures, tmp_path):
    config = DataConfig(root=str(miniatures), datasets=("all8",), cache=str(tmp_path))
    rows = {row["dataset"]: row for row in summary(load_corpus(config))}
    assert list(rows) == ["ETHZ", "GEOFON", "STEAD", "InstanceCounts", "MLAAPDE", "Iquique", "PNW", "OBST2024"]
    assert all(row["traces"] == 40 for row in rows.values()), "chunks that reuse trace names lose nothing"
    assert all(row["p_labels"] > 0 for row in rows.values()), "upper and lower case phases, Pg, Pn ... are found"
    assert len(rows["ETHZ"]["rates_hz"]) > 1
    assert rows["MLAAPDE"]["rates_hz"] == [40.0]
    assert all(row["train"] > row["dev"] > 0 or row["train"] > 0 for row in rows.values())


def test_a_second_look_comes_from_the_cache_until_a_file_changes(noise_set, tmp_path, caplog):
    folder, _ = noise_set
    caplog.set_level(logging.INFO)
    first = load_index(str(folder), "noise", str(tmp_path / "cache"))
    assert "indexed 10 traces" in caplog.text
    caplog.clear()
    assert load_index(str(folder), "noise", str(tmp_path / "cache")).to_pandas().equals(first.to_pandas())
    assert "indexed" not in caplog.text
    with (folder / "metadata.csv").open("a") as file:
        file.write('"bucket0$0,:3,:900",100.0,train\n')
    changed = load_index(str(folder), "noise", str(tmp_path / "cache"))
    assert "files changed" in caplog.text
    assert dropped_rows(changed) == {"duplicate identity": 1}


def test_bad_rows_are_left_out_counted_and_named(tmp_path, caplog):
    waveforms = [np.random.default_rng(i).standard_normal((3, 500)).astype(np.float32) for i in range(6)]
    folder = write_set(
        tmp_path / "bad",
        waveforms,
        columns={"split": ["train"] * 6, "trace_component_order": ["ZNE", "XYZ", "ZZE", "Z", "ZNE", "Z12"]},
    )
    text = (folder / "metadata.csv").read_text().replace('"bucket0$4,:3,:500",100.0', '"bucket0$99,:3,:500",100.0')
    text += '"nowhere",100.0,train,ZNE\n"bucket0$0,:3,:500",0.0,train,ZNE\n"bucket0$0,:3,:9999",100.0,train,ZNE\n'
    (folder / "metadata.csv").write_text(text)
    table = load_index(str(folder), "bad", str(tmp_path / "cache"))
    assert table["trace_name"].to_pylist() == ["bucket0$0,:3,:500", "bucket0$5,:3,:500"]
    dropped = dropped_rows(table)
    assert dropped["no such trace in the waveform file (or beyond its end)"] == 3
    assert dropped["sampling rate is zero, negative or missing"] == 1
    assert dropped["component order is not made of Z, N, E, 1, 2"] == 2
    assert dropped["component order does not match the stored components"] == 1
    assert "metadata.csv row 6, trace_name bucket0$99" in caplog.text


def test_a_truncated_file_is_one_clear_error(noise_set, tmp_path):
    folder, _ = noise_set
    content = (folder / "waveforms.hdf5").read_bytes()
    (folder / "waveforms.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"noise/waveforms\.hdf5: unreadable HDF5 file.*fetch it again"):
        load_index(str(folder), "noise", str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("*")), "nothing half-written is left behind"


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda f: (f / "waveforms.hdf5").unlink(), FileNotFoundError, r"waveforms\.hdf5 is missing"),
        (lambda f: (f / "metadata.csv").unlink(), FileNotFoundError, r"no metadata\*\.csv"),
        (lambda f: (f / "metadata.csv").write_text("trace_name,split\n"), ValueError, "no usable trace"),
        (lambda f: (f / "metadata.csv").write_text("a,b\n1,2\n"), ValueError, "no column trace_name"),
    ],
)
def test_an_unusable_folder_is_one_clear_error(noise_set, tmp_path, break_it, error, message):
    folder, _ = noise_set
    break_it(folder)
    with pytest.raises(error, match=message):
        load_index(str(folder), "noise", str(tmp_path / "cache"))


def test_a_file_in_another_dimension_order_is_refused(noise_set, tmp_path):
    folder, _ = noise_set
    with h5py.File(folder / "waveforms.hdf5", "a") as file:
        del file["data_format/dimension_order"]
        file["data_format/dimension_order"] = "WC"
    with pytest.raises(ValueError, match="dimension_order is 'WC'"):
        load_index(str(folder), "noise", str(tmp_path / "cache"))


def test_an_unknown_name_gets_a_suggestion_and_a_missing_set_a_command(miniatures, tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'STAED'.*did you mean 'STEAD'"):
        resolve(("STAED",), str(miniatures))
    with pytest.raises(FileNotFoundError, match=r"data set STEAD: no folder .*jobs\.prepare.*--download"):
        resolve(("stead",), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder below it"):
        resolve(("all",), str(tmp_path / "missing"))


def test_a_missing_split_never_parts_an_event_and_never_follows_the_row_order(miniatures, tmp_path):
    table = load_index(str(miniatures / "obst2024"), "OBST2024", str(tmp_path))
    noise = np.array(
        [not e and np.isnan(p) for e, p in zip(table["event"].to_pylist(), table["p_s"].to_pylist(), strict=True)]
    )
    splits = np.array(table["split"].to_pylist())
    assert set(splits[noise]) >= {"train"}
    assert set(splits[~noise]) >= {"train"}
    events = ["a", "a", "b", "b", "c", "c"] * 50
    made = table.slice(0, 1).take([0] * 300)
    for name, values in (("event", events), ("split", [""] * 300)):
        made = made.set_column(made.schema.get_field_index(name), name, pa.array(values))
    got = assign_missing_split(made, "x", seed=0)["split"].to_pylist()
    assert {len({s for s, e in zip(got, events, strict=True) if e == event}) for event in "abc"} == {1}
