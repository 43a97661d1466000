"""Data sets and shards on an S3 server that fails now and then, or for good."""

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from raysys.config import DataConfig
from raysys.data import files
from raysys.data.corpus import load_corpus
from raysys.data.index import load_index
from raysys.data.windows import Traces, read_windows
from tests.data.conftest import write_set

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
pytest.importorskip("moto")


class FaultyStore:
    """A local S3 server of which every `fail_every`-th request for an object answers 503."""

    def __init__(self):
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.fail_every, self.requests, self.failed = 0, 0, 0
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __call__(self, environ, start_response):
        with self._lock:
            of_an_object = environ["PATH_INFO"].count("/") > 2
            self.requests += of_an_object
            fails = of_an_object and self.fail_every and self.requests % self.fail_every == 0
            self.failed += bool(fails)
        if fails:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        return self._app(environ, start_response)

    def close(self):
        self._server.shutdown()


@pytest.fixture
def store(monkeypatch):
    """The server with an empty bucket, known to every S3 client of this process."""
    import s3fs

    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = FaultyStore()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(files, "_FIRST_WAIT_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    files._hdf5.cache_clear()
    boto3.client("s3").create_bucket(Bucket="seismograms")
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()


def upload(folder: Path, prefix: str) -> None:
    client = boto3.client("s3")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "seismograms", f"{prefix}/{path.relative_to(folder)}")


def traces_at(folder: str, cache: Path) -> Traces:
    return Traces.from_table(load_index(folder, "set", str(cache)))


@pytest.fixture
def impatient(monkeypatch):
    """Clients that give up at once, so that our own attempts are what is tested."""
    import s3fs

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}])
def test_windows_from_a_store_that_fails_now_and_then_equal_those_of_the_disk(store, tmp_path, storage):
    waveforms = [np.random.default_rng(i).standard_normal((3, 900 + i)).astype(np.float32) for i in range(40)]
    folder = write_set(tmp_path / "set", waveforms, rate_hz=100.0, **storage)
    upload(folder, "data/set")
    store.fail_every = 4
    near, far = traces_at(str(folder), tmp_path / "near"), traces_at("s3://seismograms/data/set", tmp_path / "far")
    ids = np.random.default_rng(0).permutation(40)
    for first in range(0, 40, 8):
        one, _ = read_windows(near, ids[first : first + 8], np.full(8, 33), 512)
        two, _ = read_windows(far, ids[first : first + 8], np.full(8, 33), 512)
        np.testing.assert_array_equal(one, two)
    assert store.failed > 0


def test_only_ranges_that_failed_are_fetched_again(store, impatient, tmp_path, caplog):
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal((3, 30_000)).astype(np.float32) for _ in range(8)]
    folder = write_set(tmp_path / "set", waveforms)
    upload(folder, "data/set")
    near, far = traces_at(str(folder), tmp_path / "near"), traces_at("s3://seismograms/data/set", tmp_path / "far")
    ids = np.array([0, 2, 4, 6])  # too far apart to be one range
    store.fail_every, store.requests = 3, 0
    one, _ = read_windows(far, ids, np.full(4, 9), 512)
    two, _ = read_windows(near, ids, np.full(4, 9), 512)
    np.testing.assert_array_equal(one, two)
    assert (store.failed, store.requests) == (1, 5)
    assert "(1 of 4 ranges)" in caplog.text


def test_neighbours_are_fetched_as_one_range(store, tmp_path):
    waveforms = [np.random.default_rng(i).standard_normal((3, 900)).astype(np.float32) for i in range(40)]
    upload(write_set(tmp_path / "set", waveforms), "data/set")
    traces = traces_at("s3://seismograms/data/set", tmp_path / "cache")
    before = store.requests
    read_windows(traces, np.arange(16), np.zeros(16, int), 512)
    assert store.requests - before == 1


def test_a_store_that_is_down_is_one_clear_error(store, impatient, tmp_path):
    waveforms = [np.random.default_rng(i).standard_normal((3, 900)).astype(np.float32) for i in range(4)]
    upload(write_set(tmp_path / "set", waveforms), "data/set")
    traces = traces_at("s3://seismograms/data/set", tmp_path / "cache")
    store.fail_every = 1
    with pytest.raises(
        OSError, match=r"s3://seismograms/data/set/waveforms\.hdf5: failed 4 times in a row, last with: .*reduce"
    ):
        read_windows(traces, np.arange(4), np.zeros(4, int), 512)
    with pytest.raises(OSError, match=r"failed 4 times in a row"):
        load_index("s3://seismograms/data/set", "set", str(tmp_path / "other"))


def test_an_object_that_vanished_or_shrank_is_told_at_once(store, tmp_path):
    waveforms = [np.random.default_rng(i).standard_normal((3, 900)).astype(np.float32) for i in range(4)]
    folder = write_set(tmp_path / "set", waveforms)
    upload(folder, "data/set")
    traces = traces_at("s3://seismograms/data/set", tmp_path / "cache")
    content = (folder / "waveforms.hdf5").read_bytes()
    boto3.client("s3").put_object(
        Bucket="seismograms", Key="data/set/waveforms.hdf5", Body=content[: traces.offset[3] + 100]
    )
    with pytest.raises(OSError, match="shorter than when it was indexed"):
        read_windows(traces, np.array([3]), np.array([0]), 512)
    boto3.client("s3").delete_object(Bucket="seismograms", Key="data/set/waveforms.hdf5")
    with pytest.raises(FileNotFoundError):
        read_windows(traces, np.array([0]), np.array([0]), 512)


@pytest.mark.slow
def test_prepare_from_a_failing_store_to_a_failing_store(store, miniatures, tmp_path):
    """The job itself, with a Ray of its own; every seventh request fails."""
    for name in ("mlaapde", "pnw"):
        shutil.copytree(miniatures / name, tmp_path / "source" / name)
    upload(tmp_path / "source", "whole")
    store.fail_every = 7
    command = [
        sys.executable,
        "-m",
        "jobs.prepare",
        "smoke",
        "--data.root",
        "s3://seismograms/whole",
        "--data.datasets",
        "all",
    ]
    command += ["--data.cache", str(tmp_path / "cache"), "--data.shard-mb", "2", "--out", "s3://seismograms/shards"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    root = Path(__file__).parents[2]
    job = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert job.returncode == 0, job.stderr[-3000:]
    assert store.failed > 10
    store.fail_every = 5
    cache = str(tmp_path / "cache")
    far = load_corpus(DataConfig(root="s3://seismograms/shards", datasets=("all",), cache=cache))
    near = load_corpus(DataConfig(root=str(tmp_path / "source"), datasets=("all",), cache=cache))
    assert far["trace_name"].to_pylist() == near["trace_name"].to_pylist()
    ids = np.arange(0, len(far), 3)
    one, _ = read_windows(Traces.from_table(far), ids, np.full(len(ids), 77), 2048)
    two, _ = read_windows(Traces.from_table(near), ids, np.full(len(ids), 77), 2048)
    np.testing.assert_array_equal(one, two)
