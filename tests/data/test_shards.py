"""Shards: the same windows as from the source, finished work kept through kills and full disks, known contents."""

import dataclasses
import errno
import hashlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from raysys.config import DataConfig, RunConfig
from raysys.data import index as index_module
from raysys.data import shards as module
from raysys.data.corpus import load_corpus
from raysys.data.index import dropped_rows, ignored_values, load_index
from raysys.data.quality import FLAGS
from raysys.data.resample import SAMPLES_VERSION
from raysys.data.shards import Prepared, prepare, to_half, verify
from raysys.data.windows import Traces, read_windows
from raysys.location import Location
from tests.data.conftest import write_set

WINDOW = 4096


def run_config(root, cache, **data) -> RunConfig:
    options = {"root": str(root), "datasets": ("all",), "cache": str(cache)} | data
    return RunConfig(data=DataConfig(**options))


def same_windows(source: pa.Table, shards: pa.Table) -> int:
    """Compares random windows of all traces that both hold; returns how many."""
    a, b = (table.select(["dataset", "chunk", "trace_name"]).to_pylist() for table in (source, shards))
    place = {tuple(row.values()): i for i, row in enumerate(a)}
    ids = np.array([place[tuple(row.values())] for row in b])
    left, right = Traces.from_table(source), Traces.from_table(shards)
    room = np.maximum(0, left.output_samples(ids) - WINDOW)
    starts = np.floor(np.random.default_rng(0).random(len(ids)) * (room + 1)).astype(np.int64)
    for first in range(0, len(ids), 64):
        part = slice(first, first + 64)
        one, valid = read_windows(left, ids[part], starts[part], WINDOW)
        two, again = read_windows(right, np.arange(len(ids))[part], starts[part], WINDOW)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(valid, again)
    return len(ids)


def test_windows_of_shards_are_bit_equal_for_all_twins(ray_cluster, miniatures, tmp_path):
    config = run_config(miniatures, tmp_path / "cache")
    done = prepare(config, f"{tmp_path}/shards")
    assert len(done) == 8
    shards = load_corpus(DataConfig(root=f"{tmp_path}/shards", datasets=("all",), cache=str(tmp_path / "cache")))
    source = load_corpus(config.data)
    assert same_windows(source, shards) == sum(one.traces for one in done)
    assert set(source["rate_hz"].to_pylist()) >= {20.0, 40.0, 100.0, 120.0, 200.0}, "resampled traces are among them"
    assert len(source) - len(shards) == sum(sum(one.left_out.values()) for one in done)


@pytest.mark.realdata
def test_windows_of_shards_are_bit_equal_for_the_real_sets(ray_cluster, real_data, tmp_path):
    config = run_config(real_data, tmp_path / "cache", drop=())
    done = prepare(config, f"{tmp_path}/shards")
    shards = load_corpus(
        DataConfig(root=f"{tmp_path}/shards", datasets=("all",), cache=str(tmp_path / "cache"), drop=())
    )
    assert same_windows(load_corpus(config.data), shards) == sum(one.traces for one in done) == 2936


def test_half_precision_keeps_shape_to_a_thousandth_at_any_amplitude():
    rng = np.random.default_rng(0)
    for amplitude, offset in ((1e-9, 0.0), (1.0, 3e4), (1e9, -1e9)):
        waveform = (amplitude * rng.standard_normal((3, 5000)) + offset).astype(np.float32)
        half, scale = to_half(waveform)
        centred = waveform - waveform.mean(axis=-1, keepdims=True, dtype=np.float64)
        back = half.astype(np.float32) * scale
        assert np.abs(back - centred).max() <= np.abs(centred).max() * 2**-11
        small = np.abs(centred) > 1e-4 * np.abs(centred).max()
        assert np.abs(back - centred)[small].max() <= 2**-11 * np.abs(centred).max()
    half, scale = to_half(np.zeros((3, 10), np.float32))
    assert scale == 1
    assert not half.any()
    assert np.isnan(to_half(np.array([[np.nan, 1, 2]], np.float32))[0]).tolist() == [[True, False, False]]


def test_half_precision_takes_each_mean_of_what_is_finite_and_one_scale_for_all():
    waveform = np.array([[1, 3, np.nan, 5], [-80, 0, 0, 0], [np.inf, 9, 9, 9]], np.float32)
    half, scale = to_half(waveform)
    assert scale == np.float32(60 / 32768), "the largest value of a trace is 2 ** 15 in float16"
    expected = np.array([[-2, 0, np.nan, 2], [-60, 20, 20, 20], [np.inf, 0, 0, 0]])
    np.testing.assert_array_equal(half.astype(np.float32), (expected * 32768 / 60).astype(np.float16))
    assert half.dtype == np.float16


@pytest.fixture
def in_process(monkeypatch):
    """Shards are written by this process, one after the other, in place of Ray tasks."""
    write = module._write_shard._function
    monkeypatch.setattr(module, "_write_all", lambda name, folder, calls: [write(*call) for call in calls])


ASSORTED = 14


@pytest.fixture
def assorted(tmp_path) -> RunConfig:
    """A set for several shards of 1 MB: lengths and amplitudes differ, traces 0, 5 and 9 are dead, 7 is not sound."""
    rng = np.random.default_rng(0)
    waveforms = [
        10.0 ** (i % 3) * rng.standard_normal((3, 15_000 + 700 * i)).astype(np.float32) for i in range(ASSORTED)
    ]
    for dead in (0, 5, 9):
        waveforms[dead][:] = 3.0
    waveforms[7][1] = 0.0
    waveforms[7][0, 5] = np.nan
    columns = {
        "source_id": [f"e{i}" for i in range(ASSORTED)],
        "trace_P_arrival_sample": [150 + i for i in range(ASSORTED)],
        "trace_S_arrival_sample": [400 + 3 * i for i in range(ASSORTED)],
        "trace_sampling_rate_hz": [100.0] * 11 + [50.0, 0.0, 50.0],
        "my_pick": [1] * ASSORTED,
    }
    folder = write_set(tmp_path / "source/assorted", waveforms, order="ENZ", columns=columns)
    with (folder / "metadata.csv").open("a") as file:
        file.write('"absent",100,x,1,2,\n')
    return run_config(tmp_path / "source", tmp_path / "cache", shard_mb=1, split_seed=2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shards_hold_what_is_kept_with_its_own_labels_and_amplitudes(in_process, assorted, tmp_path, dtype):
    config = dataclasses.replace(assorted, data=dataclasses.replace(assorted.data, shard_dtype=dtype))
    [done] = prepare(config, f"{tmp_path}/shards")
    out = tmp_path / "shards/assorted"
    left_out = {
        "no such trace in the waveform file (or beyond its end)": 1,
        "sampling rate is zero, negative or missing": 1,
        "dead": 3,
    }
    assert done == Prepared("assorted", str(out), 10, left_out, {"not finite": 1, "dead component": 1})
    shards = load_index(str(out), "assorted", "unused", 2)
    source = load_index(f"{tmp_path}/source/assorted", "assorted", str(tmp_path / "cache"), split_seed=2)
    kept = [i for i, event in enumerate(source["event"].to_pylist()) if event not in ("e0", "e5", "e9")]
    source = source.take(kept)
    same = ["chunk", "trace_name", "event", "split", "p_s", "s_s", "p_phase", "s_phase", "latitude", "start_time"]
    assert shards.select(same).to_pandas().equals(source.select(same).to_pandas())
    assert dropped_rows(shards) == left_out
    assert ignored_values(shards) == ignored_values(source) == {"column my_pick, which looks like a pick": 13}
    assert np.flatnonzero(shards["flags"].to_numpy()).tolist() == [5]
    constant = {"rate_hz": 100.0, "components": "ZNE", "num_components": 3, "node": "", "node_row": -1}
    constant |= {"dtype": np.dtype(dtype).str}
    assert {name: set(shards[name].to_pylist()) for name in constant} == {k: {v} for k, v in constant.items()}
    left, right = Traces.from_table(source), Traces.from_table(shards)
    ids = np.arange(len(kept))
    assert shards["num_samples"].to_pylist() == left.output_samples(ids).tolist() == shards["stride"].to_pylist()
    one, two = (read_windows(traces, ids, np.full(10, 7001), WINDOW)[0] for traces in (left, right))
    if dtype == "float32":
        np.testing.assert_array_equal(one, two)
        return
    mean = [
        np.nanmean(read_windows(left, ids[i : i + 1], [0], n)[0][0], axis=-1)
        for i, n in enumerate(left.output_samples(ids))
    ]
    peak = np.abs(one).max(axis=(1, 2), keepdims=True)
    assert (np.abs(one - np.array(mean)[:, :, None] - two) <= 1e-3 * peak).all()


def test_shards_are_cut_where_they_are_full(assorted, tmp_path):
    """Every row is in one shard; a shard ends with the trace before the next megabyte of all."""
    index = load_index(f"{tmp_path}/source/assorted", "assorted", str(tmp_path / "cache"))
    size = 12 * Traces.from_table(index).output_samples(np.arange(len(index)))
    for limit in (1 << 20, 400_000, 1000, 1 << 30):
        parts = module._parts(index, limit)
        rows = [list(range(first, first + count)) for first, count in parts]
        assert [i for one in rows for i in one] == list(range(len(index)))
        number = np.cumsum(size) // limit
        assert [len(set(number[one])) for one in rows] == [1] * len(rows)
        assert len(parts) == len(set(number))


def test_a_manifest_is_of_its_shards(in_process, assorted, tmp_path):
    prepare(assorted, f"{tmp_path}/shards")
    out = tmp_path / "shards/assorted"
    manifest = json.loads((out / "manifest.json").read_text())
    shards = [f"shard-0000{k}.arrow" for k in range(4)]
    assert [shard["file"] for shard in manifest["shards"]] == shards
    assert sorted(path.name for path in out.iterdir()) == ["index.parquet", "manifest.json", *shards]
    assert sum(shard["traces"] for shard in manifest["shards"]) == 10
    assert (manifest["rate_hz"], manifest["components"], manifest["dropped_for"]) == (100, "ZNE", ["dead", "short"])
    files = load_index(str(out), "assorted", "unused", 2)
    for shard in manifest["shards"]:
        content = (out / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        rows = files.filter(pc.equal(files["file"], f"{out}/{shard['file']}"))
        assert (len(rows), set(rows["file_size"].to_pylist())) == (shard["traces"], {len(content)})
    assert verify(str(out)) == []
    (out / shards[0]).unlink()
    (out / shards[3]).write_bytes(content + b" ")
    assert verify(str(out)) == [shards[0], shards[3]]
    with pytest.raises(FileNotFoundError, match="nothing was prepared"):
        verify(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, False),
        ({"drop": ("short", "dead")}, False),
        ({"drop": ("dead",)}, True),
        ({"shard_dtype": "float16"}, True),
        ({"shard_mb": 2}, True),
        ({"split_seed": 3}, True),
    ],
    ids=str,
)
def test_shards_of_another_form_or_source_are_written_again(in_process, assorted, tmp_path, change, again):
    prepare(assorted, f"{tmp_path}/shards")
    out = tmp_path / "shards/assorted"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    config = dataclasses.replace(assorted, data=dataclasses.replace(assorted.data, **change))
    prepare(config, f"{tmp_path}/shards")
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert (after != before) == again
    fresh = prepare(config, f"{tmp_path}/fresh")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "fresh/assorted").iterdir()}
    assert (fresh[0].traces, fresh[0].flagged) == (10, {"not finite": 1, "dead component": 1})


def test_shards_of_an_older_resampling_are_refused_and_prepared_again(in_process, assorted, tmp_path, monkeypatch):
    prepare(assorted, f"{tmp_path}/shards")
    out = tmp_path / "shards/assorted"
    before = (out / "shard-00000.arrow").stat().st_mtime_ns
    for changed in (module, index_module):
        monkeypatch.setattr(changed, "SAMPLES_VERSION", SAMPLES_VERSION + 1)
    with pytest.raises(ValueError, match=rf"index\.parquet: its samples .*now {SAMPLES_VERSION + 1}\).*jobs\.prepare"):
        load_index(str(out), "assorted", "unused", 2)
    prepare(assorted, f"{tmp_path}/shards")
    assert len(load_index(str(out), "assorted", "unused", 2)) == 10
    assert (out / "shard-00000.arrow").stat().st_mtime_ns > before


def test_relative_places_are_those_of_the_job_and_not_of_its_tasks(assorted, tmp_path, monkeypatch):
    """`data.root`, `data.cache`, a path among the data sets, and --out."""
    write, calls = module._write_shard._function, []

    def write_all(name, folder, given):
        monkeypatch.chdir("/")
        calls.extend(pickle.loads(pickle.dumps(given)))
        return [write(*call) for call in calls]

    monkeypatch.setattr(module, "_write_all", write_all)
    monkeypatch.chdir(tmp_path)
    config = run_config("source", "cache", datasets=("./source/assorted",), shard_mb=1)
    [done] = prepare(config, "shards")
    assert done.folder == f"{tmp_path}/shards/assorted"
    assert verify(done.folder) == []
    assert len(calls) == 4
    assert list((tmp_path / "cache").iterdir())


def test_a_shard_that_is_finished_is_kept_and_one_of_another_source_is_not(assorted, tmp_path):
    index = load_index(f"{tmp_path}/source/assorted", "assorted", str(tmp_path / "cache"))
    write = module._write_shard._function
    here = Location(tmp_path)
    first = write(index.slice(0, 3), here, 4, "made from this", assorted.data)
    when = (tmp_path / "shard-00004.arrow").stat().st_mtime_ns
    assert write(index.slice(0, 3), here, 4, "made from this", assorted.data) == first
    assert (tmp_path / "shard-00004.arrow").stat().st_mtime_ns == when
    other = write(index.slice(3, 2), here, 4, "made from that", assorted.data)
    assert (first["traces"], first["left_out"], other["traces"], other["left_out"]) == (2, {"dead": 1}, 2, {})


def test_shards_that_are_written_again_are_no_data_set_until_they_are_whole(
    in_process, assorted, tmp_path, monkeypatch
):
    prepare(assorted, f"{tmp_path}/shards")
    out = tmp_path / "shards/assorted"

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_all", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(dataclasses.replace(assorted, data=dataclasses.replace(assorted.data, drop=())), f"{tmp_path}/shards")
    assert {path.suffix for path in out.iterdir()} == {".arrow"}


def test_only_the_flaws_that_are_dropped_for_count_as_left_out(in_process, assorted, tmp_path):
    config = dataclasses.replace(assorted, data=dataclasses.replace(assorted.data, drop=("dead component",)))
    [done] = prepare(config, f"{tmp_path}/shards")
    assert (done.traces, done.flagged) == (12, {"dead": 3})
    assert done.left_out["dead component"] == 1
    assert not {"dead", "not finite"} & set(done.left_out)
    [none] = prepare(run_config(tmp_path / "source", tmp_path / "cache", drop=()), f"{tmp_path}/all")
    assert (none.traces, none.flagged) == (13, {"not finite": 1, "dead": 3, "dead component": 1})


def test_float16_shards_are_read_like_any_other(ray_cluster, noise_set, tmp_path):
    folder, waveforms = noise_set
    config = run_config(folder.parent, tmp_path / "cache", datasets=("noise",), shard_dtype="float16")
    prepare(config, f"{tmp_path}/shards")
    table = load_corpus(DataConfig(root=f"{tmp_path}/shards", datasets=("noise",), cache=str(tmp_path / "cache")))
    x, _ = read_windows(Traces.from_table(table), np.array([3]), np.array([100]), 512)
    mean = waveforms[3].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(x[0], (waveforms[3] - mean)[:, 100:612], atol=3e-3)
    manifest = json.loads((tmp_path / "shards/noise/manifest.json").read_text())
    assert manifest["dtype"] == "float16"


def test_the_manifest_tells_what_the_files_are_and_verify_finds_a_flipped_bit(ray_cluster, noise_set, tmp_path):
    folder, _ = noise_set
    prepare(run_config(folder.parent, tmp_path / "cache", datasets=("noise",)), f"{tmp_path}/shards")
    out = tmp_path / "shards/noise"
    manifest = json.loads((out / "manifest.json").read_text())
    [shard] = manifest["shards"]
    content = (out / shard["file"]).read_bytes()
    assert shard["bytes"] == len(content)
    assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["samples"] == SAMPLES_VERSION
    assert shard["traces"] == 10
    with pa.ipc.open_file(out / shard["file"]) as reader:
        assert reader.get_batch(0).num_rows == 10, "any Arrow program reads it"
    assert verify(str(out)) == []
    (out / shard["file"]).write_bytes(content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:])
    assert verify(str(out)) == [shard["file"]]


def test_a_second_prepare_does_nothing_and_a_changed_source_everything(ray_cluster, noise_set, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder, _ = noise_set
    config = run_config(folder.parent, tmp_path / "cache", datasets=("noise",))
    first = prepare(config, f"{tmp_path}/shards")
    shard = tmp_path / "shards/noise/shard-00000.arrow"
    before = shard.stat().st_mtime_ns
    assert prepare(config, f"{tmp_path}/shards") == first
    assert shard.stat().st_mtime_ns == before
    with (folder / "metadata.csv").open("a") as file:
        file.write("\n")
    prepare(config, f"{tmp_path}/shards")
    assert "its source or its form has changed" in caplog.text
    assert shard.stat().st_mtime_ns > before


def test_shards_never_go_where_the_source_is(noise_set, tmp_path):
    folder, _ = noise_set
    config = run_config(folder.parent, tmp_path / "cache", datasets=("noise",))
    with pytest.raises(ValueError, match="holds the source of noise"):
        prepare(config, str(folder.parent))


@pytest.mark.parametrize("out", ["data", "data/", "./data", "x/../data", "{}/data", "file://{}/data"])
def test_the_place_of_the_source_is_known_under_any_name(in_process, noise_set, tmp_path, monkeypatch, out):
    (tmp_path / "data").mkdir()
    noise_set[0].rename(tmp_path / "data/noise")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="holds the source of noise"):
        prepare(run_config("data", tmp_path / "cache", datasets=("noise",)), out.format(tmp_path))


def many(tmp_path, traces=40) -> RunConfig:
    """A set that makes many shards of 1 MB."""
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal((3, 12_000)).astype(np.float32) for _ in range(8)]
    write_set(tmp_path / "source/many", [waveforms[i % 8] + i for i in range(traces)])
    return run_config(tmp_path / "source", tmp_path / "cache", shard_mb=1)


@ray.remote
def write_on_a_full_disk(index, folder, number, *arguments):
    """Writes a shard as ever, but for shard 3 there is no room."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(os, "fsync", full if number == 3 else os.fsync):
        return module._write_shard._function(index, folder, number, *arguments)


def test_a_full_disk_is_one_clear_error_and_finished_shards_are_kept(ray_cluster, tmp_path, monkeypatch):
    config = many(tmp_path)
    out = tmp_path / "shards/many"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_shard", write_on_a_full_disk)
        with pytest.raises(OSError, match=r"(?s)many: .*shard-00003\.arrow: No space left.*free some space.*kept"):
            prepare(config, f"{tmp_path}/shards")
    assert not (out / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    prepare(config, f"{tmp_path}/shards")
    assert verify(str(out)) == []
    assert not list(out.glob(".*")), "nothing half-written stays"
    shards = [path.with_suffix(".arrow") for path in finished]
    assert all(path.exists() for path in shards)


@pytest.mark.slow
def test_a_killed_prepare_goes_on_where_it_stopped(ray_cluster, tmp_path):
    """kill -9 of the job in mid-work; the finished shards are not written again and the result is the undisturbed one."""
    config = many(tmp_path, traces=400)
    prepare(config, f"{tmp_path}/undisturbed")
    out = tmp_path / "killed/many"
    command = [sys.executable, "-m", "jobs.prepare", "smoke", "--data.root", config.data.root, "--data.shard-mb", "1"]
    command += ["--data.datasets", "all", "--data.cache", config.data.cache, "--out", str(out.parent)]
    address = ray.get_runtime_context().gcs_address
    job = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "RAY_ADDRESS": address})
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.json"))) < 3:
        assert time.monotonic() < deadline
        assert job.poll() is None, "finished before it could be killed"
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()
    time.sleep(1.0)  # tasks of a driver that died are cancelled
    assert not (out / "manifest.json").exists()
    kept = {path.with_suffix(".arrow"): path.with_suffix(".arrow").stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(kept) >= 3
    prepare(config, str(out.parent))
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    one, two = (json.loads((folder / "manifest.json").read_text()) for folder in (out, tmp_path / "undisturbed/many"))
    assert one["shards"] == two["shards"]
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "undisturbed/many").iterdir()}


def test_flaws_are_counted_and_dropped_by_policy_on_both_paths(ray_cluster, miniatures, tmp_path):
    """A scan of the HDF5 files and the flags of the shards say the same of every trace."""
    config = run_config(miniatures, tmp_path / "cache", drop=(), scan=True)
    prepare(config, f"{tmp_path}/shards")
    source = load_corpus(config.data)
    shards = load_corpus(DataConfig(root=f"{tmp_path}/shards", datasets=("all",), cache=str(tmp_path / "c"), drop=()))
    np.testing.assert_array_equal(source["flags"].to_numpy(), shards["flags"].to_numpy())
    flags = source["flags"].to_numpy()
    kept = load_corpus(run_config(miniatures, tmp_path / "cache", drop=("dead", "clipped"), scan=True).data)
    assert len(kept) == int((flags & (FLAGS["dead"] | FLAGS["clipped"]) == 0).sum()) < len(source)
