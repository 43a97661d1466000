"""Stored samples out of files: byte ranges where an array is contiguous, HDF5 where it is chunked or compressed.

Local files are read, not mapped: a mapped file that shrinks or a disk that fails kills the process, a read says what is
wrong. Whatever may pass is tried again, and then told in one line.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import aiohttp
import h5py
import numpy as np

from raysys.location import Location

log = logging.getLogger(__name__)

ATTEMPTS = 4
_FIRST_WAIT_S = 0.25
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError)
"""Errors that do not go away by waiting."""
_GAP_BYTES = 16 << 10
"""Bytes between two components of a window that are read along rather than skipped."""
_JUNK = memoryview(bytearray(_GAP_BYTES))
_REMOTE_GAP_BYTES = 256 << 10
_REMOTE_BLOCK_BYTES = 8 << 20
"""Ranges of an object that lie closer than the gap are fetched as one, up to the block."""


class FileChangedError(OSError):
    """A file is not the one that was indexed."""


def with_retries(read: Callable[[], Any], file: str | Location, before_retry: Callable[[], Any] = lambda: None) -> Any:
    """Returns `read()`, tried up to `ATTEMPTS` times; `before_retry` is called before each further attempt.

    Raises:
        OSError: the file is gone, not the one that was indexed, or cannot be read; names it and the last cause.
    """
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except (FileChangedError, *_PERMANENT):
            raise
        except (OSError, *_network_errors()) as error:
            if attempt == ATTEMPTS - 1:
                raise OSError(f"{file}: failed {ATTEMPTS} times in a row, last with: {error}") from error
            log.warning("%s: %s, trying again (%d of %d)", file, error, attempt + 2, ATTEMPTS)
        time.sleep(_FIRST_WAIT_S * 4**attempt)
        before_retry()


@lru_cache
def _network_errors() -> tuple[type[Exception], ...]:
    """Errors of the clients of object stores that are no OSError."""
    found = [aiohttp.ClientError]
    with contextlib.suppress(ImportError):
        from botocore.exceptions import BotoCoreError, ClientError

        found += [BotoCoreError, ClientError]
    return tuple(found)


class LocalFile:
    """An open file; closed when the last user lets go of it.

    Raises:
        FileNotFoundError, FileChangedError: it is gone, or its size is not the one in the index.
    """

    def __init__(self, path: str, size: int):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._path = path
        found = os.fstat(self._descriptor).st_size
        if size >= 0 and found != size:
            raise FileChangedError(f"{path}: {_changed(found, size)}")

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound now: at exit modules go first
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def read_rows(self, rows: Sequence[memoryview], offset: int, stride: int) -> None:
        """Fills `rows`, all of one length, from pieces of the file that begin `stride` bytes apart.

        Raises:
            FileChangedError: the file ends before.
        """
        length = len(rows[0])
        gap = stride - length
        if gap > _GAP_BYTES:
            for number, row in enumerate(rows):
                self._fill([row], length, offset + number * stride)
            return
        buffers = [rows[0]]
        for row in rows[1:]:
            buffers += (_JUNK[:gap], row) if gap else (row,)
        self._fill(buffers, length + (len(rows) - 1) * stride, offset)

    def _fill(self, buffers: list[memoryview], size: int, offset: int) -> None:
        done = os.preadv(self._descriptor, buffers, offset)
        while done < size:  # a disk may give less than was asked for
            got = os.preadv(self._descriptor, _rest(buffers, done), offset + done)
            if not got:
                end = f"bytes {offset} to {offset + size} are not there"
                raise FileChangedError(f"{self._path}: shorter than when it was indexed ({end})")
            done += got


def _rest(buffers: list[memoryview], done: int) -> list[memoryview]:
    """The buffers without their first bytes."""
    for number, buffer in enumerate(buffers):
        if done < len(buffer):
            return [buffer[done:], *buffers[number + 1 :]]
        done -= len(buffer)
    return []


@lru_cache(maxsize=256)
def open_local(path: str, size: int) -> LocalFile:
    """Returns the open file, the same one for every caller in this process."""
    return LocalFile(path, size)


def read_ranges(files: Sequence[str], first: np.ndarray, last: np.ndarray) -> list[memoryview]:
    """Returns bytes first[i] .. last[i] - 1 of files[i] on object stores; neighbouring ranges are fetched as one.

    Raises:
        FileNotFoundError, FileChangedError: an object is gone or ends before.
        OSError: an object cannot be read, after `ATTEMPTS` attempts.
    """
    codes = np.unique(np.array(files, object).astype(str), return_inverse=True)[1]
    order = np.lexsort((first, codes))
    merged: list[list] = []  # file, first byte, last byte
    place = [(0, 0)] * len(files)
    for i in order.tolist():
        file, a, b = files[i], int(first[i]), int(last[i])
        block = merged[-1] if merged else None
        near = block and block[0] == file and a <= block[2] + _REMOTE_GAP_BYTES
        if near and max(b, block[2]) - block[1] <= _REMOTE_BLOCK_BYTES:
            block[2] = max(b, block[2])
        else:
            merged.append([file, a, b])
        place[i] = (len(merged) - 1, a - merged[-1][1])
    content = _fetch(merged)
    return [
        memoryview(content[block])[at : at + int(b - a)] for (block, at), a, b in zip(place, first, last, strict=True)
    ]


def _fetch(ranges: list[list]) -> list[bytes]:
    """The bytes of (file, first, last) ranges; only those that failed are asked for again."""
    out: list[Any] = [None] * len(ranges)
    places = {file: Location(file) for file in {file for file, _, _ in ranges}}
    fs = places[ranges[0][0]].fs
    waiting = list(range(len(ranges)))
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_WAIT_S * 4 ** (attempt - 1))
        paths = [places[ranges[i][0]].path for i in waiting]
        starts, ends = ([ranges[i][k] for i in waiting] for k in (1, 2))
        for i, got in zip(waiting, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
            out[i] = got
            if isinstance(got, _PERMANENT):
                raise got
        failed = [i for i in waiting if isinstance(out[i], Exception)]
        if not failed:
            break
        log.warning("%s: %s (%d of %d ranges)", ranges[failed[0]][0], out[failed[0]], len(failed), len(waiting))
        waiting = failed
    for (file, a, b), got in zip(ranges, out, strict=True):
        if isinstance(got, Exception):
            raise OSError(f"{file}: failed {ATTEMPTS} times in a row, last with: {got}") from got
        if len(got) != b - a:
            raise FileChangedError(f"{file}: shorter than when it was indexed (bytes {a} to {b} are not there)")
    return out


def read_hdf5(file: str, size: int, node: str, index: tuple[int | slice, ...]) -> np.ndarray:
    """Returns a part of an HDF5 dataset that is chunked, compressed or made of others: what its `index` holds.

    Args:
        node: its name in the group `data`, or its path from the top ("/...").

    Raises:
        OSError: the file, or one that the dataset is made of, is gone, another one, or cannot be read.
    """

    def read() -> np.ndarray:
        content = _hdf5(file, size)
        data = content[node] if node.startswith("/") else content["data"][node]
        for source in data.virtual_sources() if data.is_virtual else ():
            if source.file_name != "." and not os.path.isfile(os.path.join(os.path.dirname(file), source.file_name)):
                raise FileNotFoundError(f"{source.file_name} is gone, of which {file} holds a view")
        return data[index]

    return with_retries(read, file, before_retry=_hdf5.cache_clear)


@lru_cache(maxsize=32)
def _hdf5(file: str, size: int) -> h5py.File:
    place = Location(file)
    found = place.size()
    if size >= 0 and found != size:
        raise FileChangedError(f"{file}: {_changed(found, size)}")
    return open_hdf5(place)


def open_hdf5(file: Location) -> h5py.File:
    """Returns an open HDF5 file, whose links are followed on a disk."""
    return h5py.File(file.path if file.is_local else file.open(), "r")


def _changed(found: int, size: int) -> str:
    if found < size:
        return f"shorter than when it was indexed ({found} bytes, not {size}). Copy or fetch it again"
    return f"not the file that was indexed ({found} bytes, not {size}). Start again, so that it is indexed as it is now"


def write_whole(file: Location, content: Any) -> None:
    """Writes a file whole or not at all, to a disk or an object store.

    Raises:
        OSError: it cannot be written, after `ATTEMPTS` attempts; a full disk is told at once.
    """
    if file.is_local:
        file.write(content)
    else:
        with_retries(lambda: file.write(content), file)
