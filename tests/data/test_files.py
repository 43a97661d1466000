"""Bytes out of files: the right ones however they are read, and another attempt for what may pass."""

import errno
import os

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pytest

from raysys.data import files
from raysys.data.files import FileChangedError, LocalFile, read_hdf5, read_ranges, with_retries, write_whole
from raysys.location import Location


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that were waited, without waiting them."""
    seconds = []
    monkeypatch.setattr(files.time, "sleep", seconds.append)
    return seconds


def failing(times: int, error: Exception):
    """A read that fails so many times."""
    left = [error] * times

    def read(*_):
        if left:
            raise left.pop()
        return "content"

    return read


def test_what_may_pass_is_tried_four_times_with_longer_and_longer_waits(waits, caplog):
    cleared = []
    assert with_retries(failing(3, OSError("busy")), "x", before_retry=lambda: cleared.append(len(waits))) == "content"
    assert waits == [0.25, 1.0, 4.0]
    assert cleared == [1, 2, 3], "what is cached is forgotten before each further attempt"
    assert [r.getMessage()[-8:] for r in caplog.records] == ["(2 of 4)", "(3 of 4)", "(4 of 4)"]
    with pytest.raises(OSError, match="x: failed 4 times in a row, last with: busy"):
        with_retries(failing(4, OSError("busy")), "x")
    assert len(waits) == 6, "nobody waits after the last attempt"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), PermissionError(), IsADirectoryError(), FileChangedError(), ValueError()], ids=repr
)
def test_what_does_not_pass_is_told_at_once(waits, error):
    with pytest.raises(type(error)):
        with_retries(failing(1, error), "x")
    assert waits == []


@pytest.fixture
def numbers(tmp_path):
    """A file of 200,000 bytes, of which neighbours differ, and those bytes."""
    content = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    (tmp_path / "numbers").write_bytes(content)
    return str(tmp_path / "numbers"), content


@pytest.mark.parametrize("gap", [0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 60_000])
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_of_a_file_are_read_over_small_gaps_and_large(numbers, gap, rows):
    path, content = numbers
    length, offset = 500, 123
    got = [bytearray(length) for _ in range(rows)]
    LocalFile(path, len(content)).read_rows([memoryview(row) for row in got], offset, length + gap)
    assert got == [
        content[begin : begin + length] for begin in range(offset, offset + rows * (length + gap), length + gap)
    ]


def test_a_local_file_of_another_size_is_not_the_one_that_was_indexed(numbers):
    path, content = numbers
    LocalFile(path, -1), LocalFile(path, len(content))
    with pytest.raises(FileChangedError, match=r"shorter than when it was indexed \(200000 bytes, not 200001\)"):
        LocalFile(path, len(content) + 1)
    with pytest.raises(FileChangedError, match=r"not the file that was indexed \(200000 bytes, not 199999\)"):
        LocalFile(path, len(content) - 1)
    with pytest.raises(FileChangedError, match="bytes 199900 to 200001 are not there"):
        LocalFile(path, len(content)).read_rows([memoryview(bytearray(101))], 199_900, 101)
    with pytest.raises(FileChangedError, match="bytes 199900 to 200040 are not there"):
        LocalFile(path, len(content)).read_rows([memoryview(bytearray(60)), memoryview(bytearray(60))], 199_900, 80)


@pytest.fixture(scope="module")
def store():
    """An object store in memory, with two objects of 12 MB, and their bytes."""
    fs = fsspec.filesystem("memory")
    content = {f"memory://store/{k}": np.random.default_rng(k).bytes(12_000_000) for k in (0, 1)}
    for file, data in content.items():
        fs.pipe_file(file, data)
    yield content
    fs.rm("/store", recursive=True)


RANGES = {
    "unsorted neighbours in two objects": ([(0, 900, 950), (1, 40, 90), (0, 10, 20), (1, 0, 60), (0, 25, 800)], 2),
    "one within another": ([(0, 100, 5000), (0, 200, 300)], 1),
    "one over the end of another": ([(0, 4990, 5010), (0, 100, 5000)], 1),
    "a gap of 256 KiB": ([(0, 0, 10), (0, 10 + (256 << 10), 300_000)], 1),
    "a gap of more": ([(0, 0, 10), (0, 11 + (256 << 10), 300_000)], 2),
    "8 MiB in all": ([(1, 5, 4_000_000), (1, 4_000_000, 5 + (8 << 20))], 1),
    "more than 8 MiB": ([(1, 5, 4_000_000), (1, 4_000_000, 6 + (8 << 20))], 2),
    "the same twice": ([(1, 7, 9), (1, 7, 9)], 1),
}


@pytest.mark.parametrize("name", RANGES)
def test_ranges_of_objects_come_in_the_order_asked_for_and_neighbours_as_one(store, monkeypatch, name):
    ranges, requests = RANGES[name]
    fetched = []
    fetch = files._fetch
    monkeypatch.setattr(files, "_fetch", lambda merged: fetched.extend(merged) or fetch(merged))
    names = list(store)
    got = read_ranges([names[k] for k, _, _ in ranges], *np.array(ranges)[:, 1:].T)
    assert [bytes(one) for one in got] == [store[names[k]][a:b] for k, a, b in ranges]
    assert len(fetched) == requests


def test_an_object_that_ends_before_or_is_gone_is_told_at_once(store, waits):
    first, second = store
    with pytest.raises(FileChangedError, match="bytes 11999990 to 12000001 are not there"):
        read_ranges([second, first], np.array([0, 11_999_990]), np.array([5, 12_000_001]))
    with pytest.raises(FileNotFoundError):
        read_ranges([f"{first}x"], np.array([0]), np.array([5]))
    assert waits == []


def test_ranges_that_fail_are_waited_for_and_asked_for_again(store, monkeypatch, waits):
    fs, asked = fsspec.filesystem("memory"), []
    cat_ranges = type(fs).cat_ranges

    def busy(self, paths, starts, ends, **options):
        """The second range fails three times."""
        asked.append(list(starts))
        got = cat_ranges(self, paths, starts, ends, **options)
        if len(asked) < 4:
            got[starts.index(3_000_000)] = OSError("busy")
        return got

    monkeypatch.setattr(type(fs), "cat_ranges", busy)
    file = next(iter(store))
    first = np.array([0, 3_000_000, 6_000_000])
    got = read_ranges([file] * 3, first, first + 50)
    assert [bytes(one) for one in got] == [store[file][a : a + 50] for a in first]
    assert asked == [[0, 3_000_000, 6_000_000], *[[3_000_000]] * 3]
    assert waits == [0.25, 1.0, 4.0]


@pytest.mark.parametrize("shape", [(3, 40), (5, 3, 40)])
def test_hdf5_reads_take_the_row_and_the_samples_asked_for(tmp_path, shape):
    stored, file = np.random.default_rng(0).standard_normal(shape), str(tmp_path / "a.hdf5")
    with h5py.File(file, "w") as out:
        out.create_dataset("data/node", data=stored, compression="gzip")
    part = (slice(1, 3), slice(7, 19))
    for index in ((0, *part), (4, *part)) if len(shape) == 3 else (part,):
        for node in ("node", "/data/node"):
            np.testing.assert_array_equal(read_hdf5(file, os.path.getsize(file), node, index), stored[index])
    for wrong in (-1, 1):
        with pytest.raises(FileChangedError):
            read_hdf5(file, os.path.getsize(file) + wrong, "node", part)


def test_a_view_of_a_file_that_is_gone_is_no_zeros(tmp_path):
    """HDF5 itself fills in what is missing."""
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["data/node"] = np.ones((3, 20))
    view = h5py.VirtualLayout((3, 20), "f8")
    view[:] = h5py.VirtualSource("source.hdf5", "data/node", (3, 20))
    with h5py.File(tmp_path / "view.hdf5", "w") as file:
        file.create_group("data").create_virtual_dataset("node", view)
    arguments = (str(tmp_path / "view.hdf5"), -1, "node", (slice(0, 2), slice(3, 9)))
    assert (read_hdf5(*arguments) == np.ones((2, 6))).all()
    (tmp_path / "source.hdf5").unlink()
    files._hdf5.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"source\.hdf5 is gone, of which .*view\.hdf5 holds a view"):
        read_hdf5(*arguments)


@pytest.mark.parametrize("most", [1, 7, 500, 900, 1600])
@pytest.mark.parametrize("gap", [0, 40])
def test_a_read_that_gives_less_than_was_asked_for_goes_on(numbers, monkeypatch, most, gap):
    path, content = numbers
    preadv = os.preadv

    def some(descriptor, buffers, offset):
        got = b"".join(bytes(len(buffer)) for buffer in buffers)[:most]
        found = os.pread(descriptor, len(got), offset)
        for buffer in buffers:
            part, found = found[: len(buffer)], found[len(buffer) :]
            buffer[: len(part)] = part
        return preadv(descriptor, [bytearray(len(got))], offset)

    monkeypatch.setattr(os, "preadv", some)
    rows = [bytearray(500) for _ in range(3)]
    LocalFile(path, -1).read_rows([memoryview(row) for row in rows], 11, 500 + gap)
    assert rows == [content[first : first + 500] for first in range(11, 11 + 3 * (500 + gap), 500 + gap)]
    with pytest.raises(FileChangedError, match="bytes 199900 to 200001 are not there"):
        LocalFile(path, -1).read_rows([memoryview(bytearray(101))], 199_900, 101)


def test_a_full_disk_is_told_at_once_and_a_store_that_fails_is_asked_again(tmp_path, monkeypatch, waits):
    near, far = Location(tmp_path / "file"), Location("memory://written/object")
    for content in (b"first", pa.py_buffer(b"2")):
        write_whole(near, content)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(1, OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="file: No space left") as caught:
            write_whole(near, b"third")
    assert (caught.value.errno, waits) == (errno.ENOSPC, [])
    assert near.read() == b"2"
    write = failing(2, OSError("busy"))
    pipe_file = far.fs.pipe_file
    monkeypatch.setattr(type(far.fs), "pipe_file", lambda fs, path, value: write() and pipe_file(path, value))
    write_whole(far, memoryview(b"far"))
    assert (far.read(), waits) == (b"far", [0.25, 1.0])
    far.remove()
