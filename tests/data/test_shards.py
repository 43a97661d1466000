"""Shards: the same windows as from the source, finished work kept through kills and full disks, known contents."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from raysys.config import DataConfig, RunConfig
from raysys.data.corpus import load_corpus
from raysys.data.quality import FLAGS
from raysys.data.shards import prepare, to_half, verify
from raysys.data.windows import Traces, read_windows
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
    assert manifest["code"]["data_code"]
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


def many(tmp_path, traces=40) -> RunConfig:
    """A set that makes many shards of 1 MB."""
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal((3, 12_000)).astype(np.float32) for _ in range(8)]
    write_set(tmp_path / "source/many", [waveforms[i % 8] + i for i in range(traces)])
    return run_config(tmp_path / "source", tmp_path / "cache", shard_mb=1)


def test_a_full_disk_is_one_clear_error_and_finished_shards_are_kept(ray_cluster, tmp_path):
    config = many(tmp_path)
    out = tmp_path / "shards/many"
    out.mkdir(parents=True)
    (out / "shard-00003.arrow.part").symlink_to("/dev/full")  # the kernel says ENOSPC, as on a full disk
    with pytest.raises(OSError, match=r"(?s)many: .*shard-00003\.arrow: No space left.*free some space.*kept"):
        prepare(config, f"{tmp_path}/shards")
    assert not (out / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    prepare(config, f"{tmp_path}/shards")
    assert verify(str(out)) == []
    assert not list(out.glob("*.part"))
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
