"""What `jobs.prepare --dry-run` says beforehand is what is written."""

import shutil
from collections import namedtuple

import numpy as np
import pytest

from raysys.config import DataConfig
from raysys.data import forecast
from raysys.data.forecast import shard_bytes, shards_forecast
from raysys.data.index import load_index
from tests.data.conftest import write_set


@pytest.fixture
def coarse(tmp_path) -> DataConfig:
    """Three vertical traces at 50 Hz in double precision."""
    waves = [np.zeros((1, 1000))] * 3
    write_set(tmp_path / "sets" / "coarse", waves, rate_hz=50.0, order="Z", columns={"split": ["train", "dev", "test"]})
    return DataConfig(root=str(tmp_path / "sets"), datasets=("all",), cache=str(tmp_path / "cache"))


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("float16", 2)])
def test_bytes_are_those_of_the_stored_and_of_the_resampled_components(coarse, dtype, item):
    index = load_index(f"{coarse.root}/coarse", "coarse", coarse.cache)
    assert shard_bytes(index, dtype) == (3 * 1000 * 8, 3 * 3 * 2000 * item)


def test_a_line_for_each_data_set_and_one_for_the_room(coarse, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    for free, says in ((5e9, "5.0 GB free"), (1e3, "0.0 MB free: too little")):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: usage(free))
        lines = shards_forecast(coarse, str(tmp_path / "a" / "b")).splitlines()
        assert lines[1] == "  coarse: 3 traces, 0.0 MB to read, about 0.1 MB to write"
        assert lines[-1] == f"--out {tmp_path}/a/b: about 0.1 MB to write, {says}"
    assert "unknown" in shards_forecast(coarse, "s3://bucket/x").splitlines()[-1]
    assert [forecast._size(count) for count in (2.5e6, 3.4e9, 1.2e12)] == ["2.5 MB", "3.4 GB", "1.2 TB"]
