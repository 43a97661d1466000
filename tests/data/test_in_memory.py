"""Traces in the object store, without Ray: parts hold whole traces in order, and windows come out as from the disk."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from raysys.data import in_memory as module
from raysys.data.in_memory import MAX_STORE_FRACTION, load_into_memory
from raysys.data.windows import read_windows
from tests.data.local_store import LocalStore


@pytest.fixture
def store(monkeypatch) -> LocalStore:
    """An object store inside this process with room for everything."""
    store = LocalStore()
    read = module._read_part._function
    remote = SimpleNamespace(remote=lambda traces, *bounds: [store.put(x) for x in read(store.get(traces), *bounds)])
    monkeypatch.setattr(module, "ray", store)
    monkeypatch.setattr(module, "_read_part", remote)
    monkeypatch.setattr(module, "_smallest_store", lambda: 1e9)
    return store


@pytest.mark.parametrize("part_bytes", [1 << 20, 30_000, 4])
def test_windows_from_the_store_are_those_from_the_disk(mixed, store, monkeypatch, part_bytes):
    monkeypatch.setattr(module, "_PART_BYTES", part_bytes)
    shared = load_into_memory(mixed)
    lengths = mixed.output_samples(np.arange(len(mixed)))
    sizes = [store.get(part).nbytes for part in shared.in_memory.parts]
    assert sum(sizes) == 12 * lengths.sum()
    assert max(sizes) <= part_bytes + 12 * lengths.max()
    assert len(sizes) == {1 << 20: 1, 30_000: -(-sum(sizes) // 30_000), 4: len(mixed)}[part_bytes]
    ids = np.random.default_rng(0).permutation(len(mixed))
    starts = ids % 250
    expected = read_windows(mixed, ids, starts, 200)
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 99, dtype))
    for traces in (shared, pickle.loads(pickle.dumps(shared))):
        for ours, theirs in zip(read_windows(traces, ids, starts, 200), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def test_traces_that_fill_more_than_their_share_of_a_store_are_left_on_the_disk(mixed, store, monkeypatch):
    needed = 12 * int(mixed.output_samples(np.arange(len(mixed))).sum()) / MAX_STORE_FRACTION
    for room, fits in ((1.01 * needed, True), (0.99 * needed, False)):
        monkeypatch.setattr(module, "_smallest_store", lambda room=room: room)
        assert (load_into_memory(mixed).in_memory is not None) == fits


def test_the_smallest_store_of_the_living_nodes_decides(monkeypatch):
    nodes = [(True, 5.0), (False, 1.0), (True, 3.0)]
    found = [{"Alive": alive, "Resources": {"object_store_memory": room}} for alive, room in nodes]
    monkeypatch.setattr(module, "ray", SimpleNamespace(nodes=lambda: found))
    assert module._smallest_store() == 3.0
    found.append({"Alive": True, "Resources": {}})
    assert module._smallest_store() == 0.0
