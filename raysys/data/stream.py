"""Batches for one training worker, the same ones whether Ray Data or threads of the process read them."""

import collections
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ExecutionOptions
from ray.data.collate_fn import ArrowBatchCollateFn
from ray.data.extensions import ArrowTensorArray
from ray.train.collective import broadcast_from_rank_zero

from raysys.config import DataConfig
from raysys.data.datasource import WindowDatasource, cut_windows, round_robin_blocks
from raysys.data.plan import Plan
from raysys.data.windows import Traces

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Windows on the training device, to be read and not written; B windows of T samples.

    On a CPU the tensors of the Ray Data stream lie in Ray's object store, where the reading task wrote them.
    """

    waveform: torch.Tensor
    """(B, 3, T) float32, components in the order Z, N, E, as stored: not normalised."""
    num_valid: torch.Tensor
    """(B,) int32, samples that are data; zeros follow them."""
    trace: torch.Tensor
    """(B,) int64, number of the trace in the training split."""
    start: torch.Tensor
    """(B,) int32, first sample of the window in its trace."""
    dataset: torch.Tensor
    """(B,) int32, number of its data set."""
    epoch: torch.Tensor
    """(B,) int32."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Which part of every global batch this process takes."""

    rank: int
    world: int
    batch: int
    """Windows per worker and micro-batch."""

    @property
    def global_batch(self) -> int:
        return self.world * self.batch


class WaitClock:
    """How long the consumer of a stream has waited for data."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, batches: Iterator) -> Iterator:
        while True:
            start = time.perf_counter()
            item = next(batches, None)
            self.seconds += time.perf_counter() - start
            if item is None:
                return
            yield item


def ray_batches(
    traces_ref,
    plan: Plan,
    config: DataConfig,
    window: int,
    worker: Worker,
    position: int,
    steps: int,
    *,
    pin: bool = False,
) -> Iterator[Batch]:
    """Yields `steps` batches from `position` on, read by Ray Data tasks anywhere in the cluster.

    Rank 0 plans a stretch for all workers; one execution reads it in order and hands out its blocks round-robin, so that the
    batches of every worker are known exactly at every step.

    Args:
        traces_ref: object reference to the `Traces` of the training split.
        plan: order of the epochs.
        config: block sizes and prefetch.
        window: samples of a window.
        worker: rank, world size and batch size.
        position: windows that all workers together have consumed before.
        steps: micro-batches to yield.
        pin: put batches into pinned memory, for asynchronous copies to a GPU.
    """
    segment = max(1, config.segment_rows // worker.batch)
    for first in range(0, steps, segment):
        start = position + first * worker.global_batch
        count = min(segment, steps - first) * worker.global_batch
        iterator = None
        if worker.rank == 0:
            blocks = round_robin_blocks(
                *plan.visits(start, count), world=worker.world, batch=worker.batch, block_rows=config.block_rows
            )
            source = WindowDatasource(traces_ref, plan, blocks, window=window, blocks_per_task=config.blocks_per_task)
            dataset = _dataset(source, config)
            iterator = dataset.iterator() if worker.world == 1 else dataset.streaming_split(worker.world, equal=False)
        if worker.world > 1:
            iterator = broadcast_from_rank_zero(iterator)[worker.rank]
        ahead = -(-config.prefetch_batches * worker.batch // config.block_rows)
        received = iterator.iter_torch_batches(
            batch_size=None, prefetch_batches=max(1, ahead), collate_fn=_ToBatches(worker.batch, pin), device="cpu"
        )
        for number, block in enumerate(received):
            block.check(number * worker.world + worker.rank, worker)
            yield from block.batches


@dataclass(frozen=True, slots=True)
class _WorkerBlock:
    """The batches of a block that a worker received, and the number that the block has in the plan."""

    number: int
    batches: list[Batch]

    def check(self, expected: int, worker: Worker) -> None:
        """Raises RuntimeError unless this is the block that the plan has here."""
        if self.number != expected or any(len(batch.trace) != worker.batch for batch in self.batches):
            sizes = sorted({len(batch.trace) for batch in self.batches})
            raise RuntimeError(
                f"rank {worker.rank} received block {self.number} (batches of {sizes}) in place of block {expected}: the "
                "stream is out of order. Continue from the last checkpoint, or with data.reader=process"
            )


class _ToBatches(ArrowBatchCollateFn):
    """Cuts a block into batches: views of the object store, or copies in pinned memory; Ray Data runs it ahead."""

    def __init__(self, size: int, pin: bool):
        self._size, self._pin = size, pin

    def __call__(self, block: pa.Table) -> _WorkerBlock:
        [number] = set(block["block"].to_pylist())
        columns = [_tensor(block[name].chunk(0)).split(self._size) for name in Batch._fields]
        parts = zip(*columns, strict=True)
        return _WorkerBlock(number, [Batch(*(x.pin_memory() if self._pin else x for x in part)) for part in parts])


def _tensor(column: pa.Array) -> torch.Tensor:
    """The same memory as a tensor. (DLPack, since torch warns of NumPy arrays that are read-only.)"""
    if isinstance(column, ArrowTensorArray):
        return torch.from_dlpack(column.storage.flatten()).view(-1, *column.type.shape)
    return torch.from_dlpack(column)


def _dataset(source: WindowDatasource, config: DataConfig) -> ray.data.Dataset:
    dataset = ray.data.read_datasource(source, override_num_blocks=source.num_tasks, num_cpus=config.cpus_per_read)
    dataset.set_name("windows")
    dataset.context.enable_progress_bars = False
    dataset.context.target_max_block_size = source.block_bytes  # so that blocks are neither merged nor split
    dataset.context.execution_options = ExecutionOptions(preserve_order=True)
    return dataset


def process_batches(
    traces: Traces,
    plan: Plan,
    config: DataConfig,
    window: int,
    worker: Worker,
    position: int,
    steps: int,
    *,
    pin: bool = False,
) -> Iterator[Batch]:
    """Yields the batches of `ray_batches`, read ahead by one thread of this process."""

    def read(step: int) -> Batch:
        where = {"rank": worker.rank, "world": worker.world, "batch": worker.batch}
        columns = cut_windows(traces, plan, *plan.rank_visits(position, step, 1, **where), window)
        tensors = (torch.from_numpy(columns[name]) for name in Batch._fields)
        return Batch(*(tensor.pin_memory() if pin else tensor for tensor in tensors))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="windows") as pool:
        ahead = collections.deque(pool.submit(read, step) for step in range(min(steps, config.prefetch_batches)))
        for step in range(steps):
            batch = ahead.popleft().result()
            if step + config.prefetch_batches < steps:
                ahead.append(pool.submit(read, step + config.prefetch_batches))
            yield batch


def to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields batches on the device; a GPU gets each while it is still at the step before."""
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(side):
            moved = Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for tensor in moved:
            tensor.record_stream(current)
        yield moved
