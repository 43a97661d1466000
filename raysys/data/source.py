"""The Ray Data source: read tasks that cut the windows of a plan."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowTensorArray

from raysys.data.plan import Plan, crop_starts
from raysys.data.windows import Traces, read_windows

_ROW_BYTES = 32
_LOADED: dict[str, Traces] = {}


def cut(traces: Traces, plan: Plan, epochs: np.ndarray, visits: np.ndarray, window: int) -> dict[str, np.ndarray]:
    """Returns the windows of some visits: waveform (n, 3, window), num_valid, trace, start, dataset and epoch (n,)."""
    ids = visits % len(traces)
    starts = crop_starts(visits, epochs, plan.seed, traces.output_samples(ids) - window)
    waveform, num_valid = read_windows(traces, ids, starts, window)
    return {
        "waveform": waveform,
        "num_valid": num_valid,
        "trace": ids,
        "start": starts.astype(np.int32),
        "dataset": traces.dataset[ids],
        "epoch": epochs,
    }


class WindowDatasource(Datasource):
    """Windows of a stretch of a plan, in its order; one read task cuts several blocks.

    Args:
        traces: object reference to the `Traces` of the training split; nodes fetch it once.
        plan: order of the epochs.
        epochs: epoch of each window, (n,) int32.
        visits: visit of each window, (n,) int64 (`Plan.visits`).
        window: samples of a window.
        block_rows: windows in a block.
        blocks_per_task: blocks that one task yields, to share its overhead.
    """

    def __init__(self, traces, plan: Plan, epochs, visits, *, window: int, block_rows: int, blocks_per_task: int):
        super().__init__()
        self._traces, self._plan, self._window = traces, plan, window
        self._epochs, self._visits = epochs, visits
        self._block_rows, self._task_rows = block_rows, block_rows * blocks_per_task

    def get_name(self) -> str:
        return "Windows"

    def estimate_inmemory_data_size(self) -> int:
        return len(self._visits) * (3 * self._window * 4 + _ROW_BYTES)

    @property
    def num_tasks(self) -> int:
        return -(-len(self._visits) // self._task_rows)

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        tasks = []
        for first in range(0, len(self._visits), self._task_rows):
            epochs = self._epochs[first : first + self._task_rows]
            visits = self._visits[first : first + self._task_rows]
            size = len(visits) * (3 * self._window * 4 + _ROW_BYTES)
            metadata = BlockMetadata(num_rows=len(visits), size_bytes=size, input_files=None, exec_stats=None)
            read = partial(_blocks, self._traces, self._plan, epochs, visits, self._window, self._block_rows)
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


def _blocks(reference, plan: Plan, epochs, visits, window: int, block_rows: int) -> Iterator[pa.Table]:
    traces = _load(reference)
    for first in range(0, len(visits), block_rows):
        part = slice(first, first + block_rows)
        columns = cut(traces, plan, epochs[part], visits[part], window)
        columns["waveform"] = ArrowTensorArray.from_numpy(columns["waveform"])
        yield pa.table(columns)


def _load(reference) -> Traces:
    """The traces behind a reference, unpacked once per process."""
    key = reference.hex()
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = ray.get(reference)
    return _LOADED[key]
