"""From the plan to batches without Ray: where windows are cut, how blocks are distributed, what every rank receives."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from raysys.config import DataConfig
from raysys.data import datasource, stream
from raysys.data.datasource import Blocks, WindowDatasource, _tasks, cut_windows, round_robin_blocks
from raysys.data.plan import Plan
from raysys.data.stream import WaitClock, Worker, process_batches, ray_batches
from raysys.data.windows import read_windows
from tests.data.local_store import LocalDataset, LocalStore

WINDOW = 200


@pytest.fixture
def store(monkeypatch) -> LocalStore:
    """An object store inside this process, from which the source reads."""
    store = LocalStore()
    monkeypatch.setattr(datasource, "ray", store)
    monkeypatch.setattr(datasource, "_LOADED", {})
    monkeypatch.setattr(stream, "_dataset", LocalDataset)
    return store


def plan_of(traces, seed=4) -> Plan:
    sizes = tuple(np.bincount(traces.dataset).tolist())
    return Plan(sizes=sizes, quotas=sizes, seed=seed, run_rows=4, shuffle_rows=32)


def test_windows_are_cut_where_their_columns_say(mixed):
    plan = dataclasses.replace(plan_of(mixed), crops=2)
    epochs, visits = plan.visits(250, 100)
    assert set(epochs) == {0, 1}
    columns, trace = cut_windows(mixed, plan, epochs, visits, WINDOW), visits % len(mixed)
    np.testing.assert_array_equal(columns["trace"], trace)
    np.testing.assert_array_equal(columns["dataset"], mixed.dataset[trace])
    np.testing.assert_array_equal(columns["epoch"], epochs)
    waveform, num_valid = read_windows(mixed, trace, columns["start"], WINDOW)
    np.testing.assert_array_equal(columns["waveform"], waveform)
    np.testing.assert_array_equal(columns["num_valid"], num_valid)


def test_windows_lie_anywhere_in_their_trace_and_no_further(mixed):
    again, trace = np.divmod(np.arange(1200), 12)  # a hundred visits of the traces of one file
    visits, epochs = again * len(mixed) + trace, np.zeros(1200, np.int32)
    columns = cut_windows(mixed, plan_of(mixed), epochs, visits, 298)
    assert (columns["num_valid"] == 298).all()
    room = mixed.output_samples(columns["trace"]) - 298
    assert set(room) == {2, 3, 157}
    for most in (2, 3):
        assert np.unique(columns["start"][room == most]).tolist() == list(range(most + 1))
    assert (cut_windows(mixed, plan_of(mixed), epochs, visits, 1000)["start"] == 0).all()


def test_seed_epoch_and_visit_cut_a_trace_elsewhere(mixed):
    ids, zeros = np.flatnonzero(mixed.output_samples(np.arange(len(mixed))) == 455), np.zeros(500, np.int32)
    first, *others = (
        cut_windows(mixed, plan_of(mixed, seed), zeros[: len(ids)] + epoch, ids + again * len(mixed), WINDOW)["start"]
        for seed, epoch, again in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    for other in others:
        assert (other != first).mean() > 0.9


@pytest.mark.parametrize(
    ("block_rows", "sizes"), [(20, [20, 20, 20, 8]), (23, [24, 24, 20]), (1, [4] * 17), (1000, [68])]
)
def test_blocks_have_the_nearest_multiple_of_the_batch_and_come_in_rounds(block_rows, sizes):
    epochs, visits = np.arange(204, dtype=np.int32) // 50, np.arange(204) * 7
    blocks = round_robin_blocks(epochs, visits, world=3, batch=4, block_rows=block_rows)
    assert blocks.sizes.tolist() == np.repeat(sizes, 3).tolist()
    np.testing.assert_array_equal(blocks.epochs, blocks.visits // 7 // 50)
    assert blocks.visits[: sizes[0]].tolist() == visits.reshape(17, 3, 4)[: sizes[0] // 4, 0].ravel().tolist()


def test_nothing_to_deal_is_no_block():
    blocks = round_robin_blocks(np.zeros(0, np.int32), np.zeros(0, np.int64), world=2, batch=4, block_rows=8)
    assert [len(column) for column in blocks] == [0, 0, 0]


def test_full_blocks_share_tasks_and_smaller_ones_do_not():
    bounds = [bound.tolist() for bound in _tasks(np.array([8, 8, 8, 8, 8, 6, 6]), 3)]
    assert bounds == [[0, 8, 16, 24], [24, 32, 40], [40, 46], [46, 52]]


def test_tasks_yield_numbered_blocks_and_promise_what_they_hold(mixed, store):
    plan = plan_of(mixed)
    blocks = round_robin_blocks(*plan.visits(90, 78), world=2, batch=3, block_rows=12)
    assert blocks.sizes.tolist() == [12] * 6 + [3] * 2
    made = WindowDatasource(store.put(mixed), plan, blocks, window=WINDOW, blocks_per_task=4)
    tasks = made.get_read_tasks(1)
    assert made.num_tasks == len(tasks) == 4
    tables = [list(task()) for task in tasks]
    assert [len(part) for part in tables] == [4, 2, 1, 1]
    for task, part in zip(tasks, tables, strict=True):
        assert task.metadata.num_rows == sum(len(table) for table in part)
        assert task.metadata.size_bytes == pytest.approx(sum(table.nbytes for table in part), rel=0.01)
    tables = list(itertools.chain(*tables))
    assert [set(table["block"].to_pylist()) for table in tables] == [{number} for number in range(8)]
    trace, epoch = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("trace", "epoch"))
    np.testing.assert_array_equal(trace, blocks.visits % len(mixed))
    np.testing.assert_array_equal(epoch, blocks.epochs)
    assert made.estimate_inmemory_data_size() == sum(task.metadata.size_bytes for task in tasks)
    assert made.block_bytes == 12 * 3 * WINDOW * 4


def test_a_process_that_has_read_others_reads_the_traces_that_it_is_told_to(mixed, store):
    blocks = Blocks(np.zeros(3, np.int32), np.arange(3), np.array([3]))
    for traces in (mixed, dataclasses.replace(mixed, dataset=mixed.dataset + 1)):
        made = WindowDatasource(store.put(traces), plan_of(mixed), blocks, window=8, blocks_per_task=1)
        [[table]] = [list(task()) for task in made.get_read_tasks(1)]
        np.testing.assert_array_equal(table["dataset"], traces.dataset[:3])


@pytest.mark.parametrize("segment_rows", [1, 4, 9, 1000])
@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_receives_its_part_of_the_plan_by_both_readers(mixed, store, monkeypatch, world, segment_rows):
    """However many steps one execution of the Ray Data plan has, from a position in mid-epoch on."""
    told = []
    monkeypatch.setattr(stream, "broadcast_from_rank_zero", lambda x: told.append(x) or x if x else told[-1])
    config = DataConfig(block_rows=8, blocks_per_task=2, segment_rows=segment_rows, prefetch_batches=2)
    plan, position, batch, steps = plan_of(mixed), 100, 4, 7
    arguments = (plan, config, WINDOW)
    workers = [Worker(rank, world, batch) for rank in range(world)]
    by_tasks = zip(*(ray_batches(store.put(mixed), *arguments, w, position, steps) for w in workers), strict=True)
    by_thread = zip(*(process_batches(mixed, *arguments, w, position, steps) for w in workers), strict=True)
    epochs, visits = (part.reshape(steps, world, batch) for part in plan.visits(position, steps * world * batch))
    assert set(epochs.ravel()) == ({0} if world == 1 else {0, 1})
    count = 0
    for step, (one, two) in enumerate(zip(by_tasks, by_thread, strict=True)):
        for rank in range(world):
            expected = cut_windows(mixed, plan, epochs[step, rank], visits[step, rank], WINDOW)
            for ours in (one[rank], two[rank]):
                for name, value in ours._asdict().items():
                    np.testing.assert_array_equal(value, expected[name])
        count += 1
    assert count == steps
    assert len(told) == (0 if world == 1 else -(-steps // max(1, segment_rows // batch)))


@pytest.mark.parametrize("steps", [0, 1, 9])
def test_a_thread_reads_every_batch_once_whatever_it_reads_ahead(mixed, monkeypatch, steps):
    read = []
    monkeypatch.setattr(stream, "cut_windows", lambda *arguments: read.append(arguments) or cut_windows(*arguments))
    config = DataConfig(prefetch_batches=3)
    batches = process_batches(mixed, plan_of(mixed), config, WINDOW, Worker(0, 1, 2), 0, steps)
    assert len(list(batches)) == len(read) == steps


def test_the_global_batch_is_that_of_all_workers():
    assert Worker(1, 3, 8).global_batch == 24


def test_the_clock_counts_the_wait_for_data_and_not_the_work_on_it(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stream.time, "perf_counter", lambda: now[0])

    def slow():
        for item in range(3):
            now[0] += 2
            yield item
        now[0] += 1

    clock = WaitClock()
    for _ in range(2):
        for _ in clock.timed(slow()):
            now[0] += 5
    assert clock.seconds == 2 * (3 * 2 + 1)


def test_a_cpu_takes_batches_as_they_are():
    batches = [object(), object()]
    assert list(stream.to_device(iter(batches), torch.device("cpu"))) == batches
