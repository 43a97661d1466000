"""What an index says of good files, and what is said of bad ones."""

import logging
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import seisbench.data
from fsspec.implementations.local import LocalFileSystem

from raysys.config import DataConfig
from raysys.data import index as module
from raysys.data.catalog import resolve
from raysys.data.corpus import load_corpus, summary
from raysys.data.index import SCHEMA, dropped_rows, ignored_values, load_index, unlabelled
from raysys.data.resample import SAMPLES_VERSION
from raysys.data.windows import Traces, read_windows
from tests.data.conftest import write_set


def test_every_twin_is_indexed_with_its_quirks(miniatures, tmp_path):
    config = DataConfig(root=str(miniatures), datasets=("all8",), cache=str(tmp_path))
    rows = {row["dataset"]: row for row in summary(load_corpus(config))}
    assert list(rows) == ["ETHZ", "GEOFON", "STEAD", "InstanceCounts", "MLAAPDE", "Iquique", "PNW", "OBST2024"]
    assert all(row["traces"] == 40 for row in rows.values()), "chunks that reuse trace names lose nothing"
    assert all(row["p_labels"] > 0 for row in rows.values()), "upper and lower case phases, Pg, Pn ... are found"
    assert len(rows["ETHZ"]["rates_hz"]) > 1
    assert rows["MLAAPDE"]["rates_hz"] == [40.0]
    assert all(row["train"] + row["dev"] + row["test"] == 40 for row in rows.values())
    assert all(min(row["train"], row["test"]) > 0 for row in rows.values()), "no set is for one purpose only"
    assert rows["GEOFON"]["p_labels"] > rows["GEOFON"]["s_labels"] > 0


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
    assert dropped["component order is not made of Z, N, E, 1, 2"] == 1
    assert dropped["component order has two letters for one component"] == 1
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
        file["data_format/dimension_order"] = "NCW"
    with pytest.raises(
        ValueError, match=r"noise/waveforms\.hdf5: data_format/dimension_order is 'NCW'.*store traces in"
    ):
        load_index(str(folder), "noise", str(tmp_path / "cache"))


def test_an_unknown_name_gets_a_suggestion_and_a_missing_set_a_command(miniatures, tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'STAED'.*did you mean 'STEAD'"):
        resolve(("STAED",), str(miniatures))
    with pytest.raises(FileNotFoundError, match=r"data set STEAD: no folder .*jobs\.prepare.*--download"):
        resolve(("stead",), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder below it"):
        resolve(("all",), str(tmp_path / "missing"))


def test_noise_and_quakes_of_a_set_without_splits_are_in_training_and_in_testing(miniatures, tmp_path):
    table = load_index(str(miniatures / "obst2024"), "OBST2024", str(tmp_path))
    noise = np.isnan(table["p_s"].to_numpy())
    splits = np.array(table["split"].to_pylist())
    assert set(splits[noise]) >= {"train", "test"}
    assert set(splits[~noise]) >= {"train", "test"}


def test_two_seeds_have_two_splits_and_each_comes_back(tmp_path):
    folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 40)
    one, two, again = (
        load_index(str(folder), "set", str(tmp_path / "cache"), seed)["split"].to_pylist() for seed in (0, 1, 0)
    )
    assert one == again
    assert one != two


def touched(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        (lambda folder, monkeypatch: None, False),
        (lambda folder, monkeypatch: touched(folder / "waveforms_b.hdf5"), True),
        (lambda folder, monkeypatch: touched(folder / "metadata_a.csv"), True),
        (lambda folder, monkeypatch: monkeypatch.setattr(module, "VERSION", module.VERSION + 1), True),
    ],
    ids=["nothing", "waveforms of the last chunk", "metadata of the first", "schema"],
)
def test_whatever_an_index_is_made_from_makes_it_anew(tmp_path, monkeypatch, caplog, change, rebuilt):
    caplog.set_level(logging.INFO)
    for chunk in ("_a", "_b"):
        folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 2, chunk=chunk)
    load_index(str(folder), "set", str(tmp_path / "cache"))
    caplog.clear()
    change(folder, monkeypatch)
    load_index(str(folder), "set", str(tmp_path / "cache"))
    assert ("indexed 4 traces" in caplog.text) == rebuilt


def test_two_folders_and_two_names_share_a_cache_without_mixing(tmp_path):
    folders = [tmp_path / place / "set" for place in ("here", "there")]
    for folder, rate_hz in zip(folders, (20.0, 30.0), strict=True):
        write_set(folder, [np.ones((3, 500), np.float32)] * 2, rate_hz=rate_hz)
        for file in folder.iterdir():
            os.utime(file, (0, 0))
    for _ in range(2):
        for folder, name, rate_hz in ((folders[0], "a", 20.0), (folders[0], "b", 20.0), (folders[1], "a", 30.0)):
            table = load_index(str(folder), name, str(tmp_path / "cache"))
            assert table["dataset"].to_pylist() == [name] * 2
            assert table["rate_hz"].to_pylist() == [rate_hz] * 2
            assert set(table["file"].to_pylist()) == {f"{folder}/waveforms.hdf5"}


def test_an_index_is_in_file_order_and_holds_the_first_of_twins(tmp_path):
    """Rows of the metadata in any order; a name twice in a chunk is one trace, in two chunks it is two."""
    lines = {"_b": [1, 0], "_a": [2, 0, 1, 2, 2]}
    for chunk, rows in lines.items():
        folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 3, chunk=chunk)
        text = "".join(f'"bucket0${row},:3,:500",100,e{i}\n' for i, row in enumerate(rows))
        (folder / f"metadata{chunk}.csv").write_text(
            f"trace_name,trace_sampling_rate_hz,source_id\n{text}absent,100,\n"
        )
    table = load_index(str(folder), "set", str(tmp_path / "cache"))
    found = list(zip(*(table[c].to_pylist() for c in ("chunk", "node_row", "event")), strict=True))
    assert found == [("_a", 0, "e1"), ("_a", 1, "e2"), ("_a", 2, "e0"), ("_b", 0, "e1"), ("_b", 1, "e0")]
    assert (np.diff(table["offset"].to_numpy()[:3]) > 0).all()
    assert dropped_rows(table) == {
        "duplicate identity": 2,
        "no such trace in the waveform file (or beyond its end)": 2,
    }


def test_traces_of_compressed_files_are_in_the_order_of_their_blocks(tmp_path):
    folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 12, compression="gzip")
    header, *lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / "metadata.csv").write_text("\n".join([header, *lines[::-1]]) + "\n")
    table = load_index(str(folder), "set", str(tmp_path / "cache"))
    assert set(table["offset"].to_pylist()) == {-1}
    assert table["node_row"].to_pylist() == list(range(12))


def test_a_scan_flags_the_rows_that_are_flawed_however_many_are_looked_at_together(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_SCAN_ROWS", 3)
    waveforms = [np.random.default_rng(i).standard_normal((3, 900)).astype(np.float32) for i in range(10)]
    for dead in (1, 3, 9):
        waveforms[dead][:] = 4.0
    folder = write_set(tmp_path / "set", waveforms)
    blind = load_index(str(folder), "set", str(tmp_path / "cache"))
    assert not blind["flags"].to_numpy().any()
    for _ in range(2):
        seen = load_index(str(folder), "set", str(tmp_path / "cache"), scan=True)
        assert np.flatnonzero(seen["flags"]).tolist() == [1, 3, 9]
    assert caplog.text.count("looking at 10 traces, once") == 1
    assert seen.drop_columns("flags").to_pandas().equals(blind.drop_columns("flags").to_pandas())


def test_an_index_that_came_with_shards_gets_its_name_and_place_and_must_fit(noise_set, tmp_path):
    folder, _ = noise_set
    table = load_index(str(folder), "noise", str(tmp_path / "cache"))
    files = pa.array([f"shard-{i % 2}.arrow" for i in range(10)])
    (tmp_path / "moved").mkdir()
    table = table.set_column(SCHEMA.names.index("file"), "file", files)
    pq.write_table(table.replace_schema_metadata({"samples": str(SAMPLES_VERSION)}), tmp_path / "moved/index.parquet")
    moved = load_index(f"{tmp_path}/moved/", "other", str(tmp_path / "cache"))
    assert moved["dataset"].to_pylist() == ["other"] * 10
    assert moved["file"].to_pylist() == [f"{tmp_path}/moved/shard-{i % 2}.arrow" for i in range(10)]
    assert moved.schema.names == SCHEMA.names
    for version, metadata in ((0, None), (99, {"samples": "99"})):
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "moved/index.parquet")
        message = rf"index\.parquet: its samples .*version {version}, now {SAMPLES_VERSION}\).*jobs\.prepare"
        with pytest.raises(ValueError, match=message):
            load_index(f"{tmp_path}/moved", "other", str(tmp_path / "cache"))
    pq.write_table(table.drop_columns("scale"), tmp_path / "moved/index.parquet")
    with pytest.raises(ValueError, match="has another layout: prepare the shards again"):
        load_index(f"{tmp_path}/moved", "other", str(tmp_path / "cache"))


def chunked(folder, *chunks: str) -> Path:
    for chunk in chunks:
        write_set(folder, [np.ones((3, 500), np.float32)] * 2, chunk=chunk, columns={"split": ["train", "dev"]})
    return folder


@pytest.mark.parametrize(
    ("chunks", "listed", "extra", "unused"),
    [
        (["_a", "_b"], "_a\n", [], ["_b"]),
        (["_a", "_b"], "\r\n_b \r\n\r\n_a", [], []),
        (["_a", "_b"], "\n", [], []),
        (["", "_b"], None, [], ["_b"]),
        (["", "_b"], "_b\n", [], [""]),
        (["_a"], None, ["metadata_c.csv", "waveforms_d.hdf5", "metadata_c.csv.bak"], ["_c", "_d"]),
    ],
)
def test_the_chunks_are_those_that_seisbench_finds_and_others_are_named(
    tmp_path, caplog, chunks, listed, extra, unused
):
    folder = chunked(tmp_path / "set", *chunks)
    if listed is not None:
        (folder / "chunks").write_bytes(listed.encode())
    for name in extra:
        (folder / name).write_text("trace_name\n")
    table = load_index(str(folder), "set", str(tmp_path / "cache"))
    found = sorted(set(table["chunk"].to_pylist()))
    assert found == sorted(set(chunks) - set(unused))
    if not listed or " " not in listed:
        assert found == seisbench.data.WaveformDataset.available_chunks(folder)
    assert [reason.split("'")[1] for reason in ignored_values(table)] == sorted(unused)
    assert all(f"not used: chunk {chunk!r}" in caplog.text for chunk in unused)


def test_a_chunk_that_is_named_and_not_there_is_an_error(tmp_path):
    folder = chunked(tmp_path / "set", "_a")
    (folder / "chunks").write_text("_a\n_b\n")
    with pytest.raises(FileNotFoundError, match=r"set/metadata_b\.csv is missing, a chunk of this data set"):
        load_index(str(folder), "set", str(tmp_path / "cache"))


def test_rows_without_a_name_are_left_out_and_counted(tmp_path):
    folder = chunked(tmp_path / "set", "_a", "_b")
    with (folder / "metadata_a.csv").open("a") as file:
        file.write(",,\n,100,train\n\n")
    (folder / "metadata_b.csv").write_text("trace_name,trace_sampling_rate_hz,split\n")
    table = load_index(str(folder), "set", str(tmp_path / "cache"))
    assert table["chunk"].to_pylist() == ["_a", "_a"]
    assert dropped_rows(table) == {"a row without trace_name": 2}


def test_what_is_not_used_is_said_whenever_a_set_is_read(tmp_path, caplog):
    columns = {
        "trace_P_arrival_sample": [-12345, 100],
        "trace_X_arrival_sample": [5, -1],
        "my_s_pick": [1, 2],
        "Split": ["train", "dev"],
        "source_origin_time": ["2020-01-01", "2020-01-01T00:00:00"],
    }
    folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 2, columns=columns)
    for _ in range(2):
        caplog.clear()
        table = load_index(str(folder), "set", str(tmp_path / "cache"))
        assert ignored_values(table) == {
            "onset that is impossible (outside the trace)": 2,
            "origin time that cannot be read": 1,
            "column trace_X_arrival_sample, which looks like a pick": 2,
            "column my_s_pick, which looks like a pick": 2,
            "column Split, which looks like split": 2,
        }
        assert "set: not used: column my_s_pick, which looks like a pick (2)" in caplog.text
        assert caplog.text.count("columns of picks are trace_<phase>_arrival_sample") == 1
        assert "set: no trace has an onset of S" in caplog.text
        assert unlabelled(table) == "S"


def test_a_set_without_labels_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 2)
    load_index(str(folder), "mine", str(tmp_path / "cache"))
    assert "mine: indexed 2 traces, P onsets in 0, S in 0" in caplog.text
    assert "mine: no trace has an onset of P or S" in caplog.text


def test_identifiers_of_one_event_in_two_forms_have_one_split(tmp_path):
    for chunk, form in (("_a", "{}"), ("_b", "{}.0")):
        columns = {"source_id": [form.format(1000 + i) for i in range(40)]}
        folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 40, chunk=chunk, columns=columns)
    table = load_index(str(folder), "set", str(tmp_path / "cache")).to_pandas()
    assert table["event"].nunique() == 40
    assert (table.groupby("event")["split"].nunique() == 1).all()
    assert table["split"].nunique() == 3


def as_shards(table: pa.Table, folder: Path) -> None:
    folder.mkdir()
    metadata = table.schema.metadata | {b"samples": str(SAMPLES_VERSION)}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "index.parquet")


def test_shards_refuse_another_seed_than_that_of_their_splits(tmp_path):
    folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 20)
    table = load_index(str(folder), "set", str(tmp_path / "cache"), 3)
    as_shards(table, tmp_path / "shards")
    shards = load_index(str(tmp_path / "shards"), "set", str(tmp_path / "cache"), 3)
    assert shards["split"].to_pylist() == table["split"].to_pylist()
    with pytest.raises(ValueError, match=r"data\.split_seed=0, but 20 traces of .*drawn with 3.*--data\.split-seed 3"):
        load_index(str(tmp_path / "shards"), "set", str(tmp_path / "cache"), 0)


def test_shards_whose_splits_were_given_take_any_seed(noise_set, tmp_path):
    folder, _ = noise_set
    table = load_index(str(folder), "noise", str(tmp_path / "cache"), 3)
    as_shards(table, tmp_path / "shards")
    assert len(load_index(str(tmp_path / "shards"), "noise", str(tmp_path / "cache"), 0)) == 10


def test_an_index_that_cannot_be_kept_or_read_is_made_anew_and_says_so(noise_set, tmp_path, monkeypatch, caplog):
    folder, cache = noise_set[0], tmp_path / "cache"
    (tmp_path / "file").touch()
    table = load_index(str(folder), "noise", f"{tmp_path}/file/cache")
    assert len(table) == 10
    assert "noise: its index cannot be kept" in caplog.text
    assert "--data.cache" in caplog.text
    load_index(str(folder), "noise", str(cache))
    [cached] = cache.iterdir()
    cached.write_bytes(cached.read_bytes()[:-50])
    assert load_index(str(folder), "noise", str(cache)).to_pandas().equals(table.to_pandas())
    assert f"the cached index {cached} cannot be read" in caplog.text


@pytest.mark.parametrize("file", ["waveforms.hdf5", "metadata.csv"])
def test_a_file_that_this_user_may_not_read_is_no_broken_one(noise_set, tmp_path, monkeypatch, file):
    folder, _ = noise_set

    def refuse(opened):
        def wrapped(path, *arguments, **options):
            if str(path).endswith(file):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        return wrapped

    monkeypatch.setattr(h5py, "File", refuse(h5py.File))
    monkeypatch.setattr(LocalFileSystem, "open", lambda fs, path, mode="rb": refuse(open)(path, mode))
    with pytest.raises(PermissionError, match=rf"noise/{file}: this user may not read it: ask its owner"):
        load_index(str(folder), "noise", str(tmp_path / "cache"))


def test_relative_places_are_found_from_any_working_directory(noise_set, tmp_path, monkeypatch):
    """The processes of a cluster have other working directories: root, a path among the data sets, and the cache."""
    waveforms = noise_set[1]
    for root, name in ((".", "noise"), ("none", "noise"), ("none", "./noise")):
        config = DataConfig(root=root, datasets=(name,), cache="cache")
        monkeypatch.chdir(tmp_path)
        traces = Traces.from_table(load_corpus(config))
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        x, _ = read_windows(pickle.loads(pickle.dumps(traces)), np.array([3]), np.array([10]), 512)
        np.testing.assert_array_equal(x[0], waveforms[3][:, 10:522])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_channels_without_a_row_are_told(tmp_path, caplog):
    waveforms = [np.random.default_rng(i).standard_normal((5, 500)).astype(np.float32) for i in range(4)]
    orders = ["ZNE12", "H1Z2T", "ZNE12", "ZE212"]
    folder = write_set(tmp_path / "set", waveforms, columns={"trace_component_order": orders})
    table = load_index(str(folder), "set", str(tmp_path / "cache"))
    assert dropped_rows(table) == {"component order has two letters for one component": 1}
    assert "set: 2 traces of order ZNE12: channels 1, 2 are not read" in caplog.text
    assert "set: 1 traces of order H1Z2T: channels H, T are not read" in caplog.text
    x, _ = read_windows(Traces.from_table(table), np.arange(3), np.full(3, 20), 450)
    for got, stored, channels in zip(x, waveforms, ([0, 1, 2], [2, 1, 3], [0, 1, 2]), strict=False):
        np.testing.assert_array_equal(got, stored[channels, 20:470])


def test_rates_that_are_taken_for_others_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = write_set(tmp_path / "set", [np.ones((3, 500), np.float32)] * 4)
    text = (folder / "metadata.csv").read_text()
    for row, rate in enumerate(("100.05", "40.0", "99.99", "33.333333333")):
        text = text.replace(f'bucket0${row},:3,:500",100.0', f'bucket0${row},:3,:500",{rate}')
    (folder / "metadata.csv").write_text(text)
    load_index(str(folder), "set", str(tmp_path / "cache"))
    assert "set: 2 traces have a rate a little off a round one (at most: 100.05 Hz, taken for 100)" in caplog.text
