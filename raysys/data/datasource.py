"""The Ray Data source: read tasks that cut the windows of a plan."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowTensorArray

from raysys.data.allocator import keep_freed_memory
from raysys.data.plan import Plan, crop_starts, one_onset, onset_starts, uniform
from raysys.data.windows import RATE_HZ, Traces, read_windows

_ROW_BYTES = 36
_LOADED: dict[str, Traces] = {}


def cut_windows(
    traces: Traces, plan: Plan, epochs: np.ndarray, visits: np.ndarray, window: int
) -> dict[str, np.ndarray]:
    """Returns the windows of some visits: waveform (n, 3, window), num_valid, trace, start, dataset and epoch (n,)."""
    ids = visits % len(traces)
    starts = _starts(traces, plan, epochs, visits, ids, window)
    waveform, num_valid = read_windows(traces, ids, starts, window)
    return {
        "waveform": waveform,
        "num_valid": num_valid,
        "trace": ids,
        "start": starts.astype(np.int32),
        "dataset": traces.dataset[ids],
        "epoch": epochs,
    }


def _starts(traces: Traces, plan: Plan, epochs, visits, ids: np.ndarray, window: int) -> np.ndarray:
    """First samples of the windows of some visits, to the traces `ids`."""
    room = traces.output_samples(ids) - window
    starts = crop_starts(visits, epochs, plan.seed, room)
    if not plan.at_onsets:
        return starts
    wanted, wave, place = uniform(visits, epochs, plan.seed, 3)
    onset = one_onset(traces.p_s[ids], traces.s_s[ids], wave) * RATE_HZ
    moved = onset_starts(np.maximum(0, room), onset, window, place)
    return np.where((wanted < plan.at_onsets) & ~np.isnan(onset), moved, starts)


class Blocks(NamedTuple):
    """The windows of a stretch of a plan, block by block."""

    epochs: np.ndarray
    visits: np.ndarray
    sizes: np.ndarray
    """Windows in each block; block i goes to worker i mod world."""


def round_robin_blocks(epochs: np.ndarray, visits: np.ndarray, *, world: int, batch: int, block_rows: int) -> Blocks:
    """Returns the blocks in which workers receive a stretch of a plan.

    Args:
        epochs: of each window, (steps * world * batch,).
        visits: of each window.
        world: number of workers.
        batch: windows per worker and step.
        block_rows: wanted size of a block; the nearest multiple of `batch` is taken.

    Blocks come in rounds of one for each worker, all of the same size. So a splitter that serves the worker with the
    fewest windows first hands them out round-robin.
    """
    steps = len(visits) // (world * batch)
    block_steps = max(1, round(block_rows / batch))
    order, sizes = [], []
    index = np.arange(len(visits)).reshape(steps, world, batch)
    for first in range(0, steps, block_steps):
        part = index[first : first + block_steps].swapaxes(0, 1)
        order.append(part.ravel())
        sizes += [part[0].size] * world
    by_block = np.concatenate(order) if order else np.zeros(0, int)
    return Blocks(epochs[by_block], visits[by_block], np.array(sizes, int))


class WindowDatasource(Datasource):
    """Windows of a stretch of a plan, in blocks that workers take in turn.

    Args:
        traces: object reference to the `Traces` of the training split; nodes fetch it once.
        plan: order of the epochs.
        blocks: what each block holds, in the order of delivery (`round_robin_blocks`).
        window: samples of a window.
        blocks_per_task: blocks that one task yields, to share its overhead.
    """

    def __init__(self, traces, plan: Plan, blocks: Blocks, *, window: int, blocks_per_task: int):
        super().__init__()
        self._traces, self._plan, self._window = traces, plan, window
        self._num_windows = len(blocks.visits)
        self._tasks = _tasks(blocks.sizes, blocks_per_task)
        self.block_bytes = int(blocks.sizes.max(initial=0)) * 3 * window * 4
        # A reference, so that the iterators of all workers share one copy of the order.
        self._order = ray.put((blocks.epochs, blocks.visits))

    def get_name(self) -> str:
        return "Windows"

    def estimate_inmemory_data_size(self) -> int:
        return self._num_windows * (3 * self._window * 4 + _ROW_BYTES)

    @property
    def num_tasks(self) -> int:
        return len(self._tasks)

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        epochs, visits = ray.get(self._order)
        tasks = []
        first = 0
        for bounds in self._tasks:
            part, rows = slice(bounds[0], bounds[-1]), int(bounds[-1] - bounds[0])
            size = rows * (3 * self._window * 4 + _ROW_BYTES)
            metadata = BlockMetadata(num_rows=rows, size_bytes=size, input_files=None, exec_stats=None)
            order = (epochs[part].copy(), visits[part].copy(), bounds - bounds[0], first)
            first += len(bounds) - 1
            read = partial(_read_blocks, self._traces, self._plan, *order, self._window)
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


def _tasks(sizes: np.ndarray, blocks_per_task: int) -> list[np.ndarray]:
    """The bounds of the blocks of each task. Blocks smaller than the others, at the end, get a task of their own.

    Ray Data merges what a task yields until the target size is reached, so that only full blocks may share a task.
    """
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    full = int((sizes == sizes.max(initial=0)).sum())
    starts = [*range(0, full, blocks_per_task), *range(full, len(sizes))]
    return [bounds[first : last + 1] for first, last in pairwise([*starts, len(sizes)])]


def _read_blocks(reference, plan: Plan, epochs, visits, bounds, number: int, window: int) -> Iterator[pa.Table]:
    traces = _load(reference)
    for block, (first, last) in enumerate(pairwise(bounds), start=number):
        columns = cut_windows(traces, plan, epochs[first:last], visits[first:last], window)
        columns["block"] = np.full(last - first, block, np.int32)
        columns["waveform"] = ArrowTensorArray.from_numpy(columns["waveform"])
        yield pa.table(columns)


def _load(reference) -> Traces:
    """The traces behind a reference, unpacked once per process."""
    key = reference.hex()
    if key not in _LOADED:
        keep_freed_memory()
        _LOADED.clear()
        _LOADED[key] = ray.get(reference)
    return _LOADED[key]
