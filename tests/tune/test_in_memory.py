"""One copy of the training traces in the object store gives every trial the windows that it would read itself."""

import dataclasses
import logging
import pickle

import numpy as np
import pytest
import ray

from raysys.data import in_memory as module
from raysys.data.datasource import cut_windows
from raysys.data.in_memory import load_into_memory
from raysys.data.windows import Traces, read_windows
from raysys.train.data import prepare_training_data


@pytest.fixture(scope="module")
def data(smoke):
    """Eight data sets of several rates, formats and flaws."""
    return prepare_training_data(smoke)


@ray.remote
def windows_in_a_worker(traces: Traces, ids, starts, window: int):
    """Windows, and the bytes that this process has read for them."""
    traces.in_memory.crop(ids[:1], starts[:1], window)  # Ray's own reading of libraries is over
    before = rchar()
    waveform, valid = read_windows(traces, ids, starts, window)
    return waveform, valid, rchar() - before


def rchar() -> int:
    with open("/proc/self/io") as file:
        return int(file.read().split()[1])


@pytest.mark.parametrize("part_bytes", [64 << 20, 100_000])
def test_the_shared_copy_gives_the_same_windows_bit_for_bit(ray_cluster, data, monkeypatch, part_bytes):
    monkeypatch.setattr(module, "_PART_BYTES", part_bytes)
    shared = load_into_memory(data.traces)
    assert (len(shared.in_memory.parts) > 10) == (part_bytes < 1 << 20)
    for window in (512, 20_000):  # the second is longer than some traces
        own = cut_windows(data.traces, data.plan, *data.plan.visits(0, 300), window)
        ours = cut_windows(shared, data.plan, *data.plan.visits(0, 300), window)
        assert own.keys() == ours.keys()
        for name in own:
            assert (ours[name].dtype, ours[name].tobytes()) == (own[name].dtype, own[name].tobytes()), name


def test_trials_read_nothing_from_storage(ray_cluster, data):
    shared = load_into_memory(data.traces)
    shared.in_memory.crop(np.array([0]), np.array([0]), 100)
    assert not pickle.loads(pickle.dumps(dataclasses.replace(shared.in_memory, parts=[])))._mapped, "no samples travel"
    ids = np.arange(len(data.traces))
    starts = np.zeros(len(ids), int)
    waveform, _, read = ray.get(windows_in_a_worker.remote(ray.put(shared), ids, starts, 512))
    np.testing.assert_array_equal(waveform, read_windows(data.traces, ids, starts, 512)[0])
    assert read < 0.01 * waveform.nbytes


def test_what_does_not_fit_is_read_from_storage_and_said(ray_cluster, data, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_STORE_FRACTION", 1e-6)
    with caplog.at_level(logging.WARNING):
        assert load_into_memory(data.traces) is data.traces
    assert "every trial reads its windows from storage" in caplog.text


def test_a_file_that_is_gone_is_named(ray_cluster, data):
    files = ("/nowhere/waveforms.hdf5", *data.traces.files[1:])
    with pytest.raises(OSError, match=r"/nowhere/waveforms.hdf5"):
        load_into_memory(dataclasses.replace(data.traces, files=files))
