"""The stream: the batches of the plan and nothing else, through Ray Data, crashes and changes of the number of workers."""

import collections
import contextlib
import json
import os
import signal
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.train
import torch
from ray.data.extensions import ArrowTensorArray
from ray.train.torch import TorchTrainer

from raysys.config import DataConfig
from raysys.data.corpus import load_corpus, select, train_plan
from raysys.data.datasource import round_robin_blocks
from raysys.data.stream import Batch, Worker, _ToBatches, _WorkerBlock, process_batches, ray_batches
from raysys.data.windows import Traces

WINDOW = 1024
BATCH = 4


@pytest.fixture(scope="module")
def data(miniatures, tmp_path_factory):
    """Configuration with small blocks and several executions a run, training split and plan of the eight twins."""
    config = DataConfig(
        root=str(miniatures),
        datasets=("all",),
        cache=str(tmp_path_factory.mktemp("cache")),
        block_rows=8,
        blocks_per_task=3,
        shuffle_rows=64,
        cpus_per_read=0.5,
        segment_rows=64,
    )
    traces = Traces.from_table(select(load_corpus(config), "train"))
    return config, traces, train_plan(config, traces, seed=1)


def test_ray_data_and_threads_of_the_process_deliver_the_same_batches(ray_cluster, data):
    config, traces, plan = data
    worker, steps = Worker(0, 1, BATCH), plan.epoch_windows // BATCH + 7  # past the end of an epoch
    arguments = (plan, config, WINDOW, worker, 20, steps)
    ours = list(ray_batches(ray.put(traces), *arguments))
    theirs = list(process_batches(traces, *arguments))
    assert len(ours) == len(theirs) == steps
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    epochs, visits = plan.visits(20, steps * BATCH)
    np.testing.assert_array_equal(torch.cat([b.trace for b in ours]), visits % len(traces))
    np.testing.assert_array_equal(torch.cat([b.epoch for b in ours]), epochs)


def test_batches_are_views_of_their_block():
    waveform = np.arange(8 * 3 * 5, dtype=np.float32).reshape(8, 3, 5)
    waveform.flags.writeable = False  # as in the object store
    columns = {name: np.arange(8, dtype=np.int32) for name in Batch._fields} | {"block": np.full(8, 7)}
    block = pa.table(columns | {"waveform": ArrowTensorArray.from_numpy(waveform)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        received = _ToBatches(BATCH, pin=False)(block)
    received.check(7, Worker(0, 1, BATCH))
    first, second = received.batches
    assert first.waveform.data_ptr() == waveform.ctypes.data
    np.testing.assert_array_equal(second.waveform, waveform[BATCH:])
    np.testing.assert_array_equal(second.trace, np.arange(BATCH, 8))


def test_blocks_go_round_robin_and_hold_every_window_once():
    epochs, visits = np.zeros(3 * 4 * 17, np.int32), np.arange(3 * 4 * 17)
    blocks = round_robin_blocks(epochs, visits, world=3, batch=4, block_rows=20)
    np.testing.assert_array_equal(np.sort(blocks.visits), visits)
    edges = np.cumsum([0, *blocks.sizes])
    for rank in range(3):
        mine = np.concatenate([blocks.visits[edges[i] : edges[i + 1]] for i in range(rank, len(blocks.sizes), 3)])
        np.testing.assert_array_equal(mine, visits.reshape(17, 3, 4)[:, rank].ravel())


def test_a_block_out_of_order_stops_the_run():
    batch = Batch(*(torch.zeros(BATCH) for _ in Batch._fields))
    _WorkerBlock(5, [batch]).check(5, Worker(1, 2, BATCH))
    with pytest.raises(RuntimeError, match=r"rank 1 received block 7 .* in place of block 5"):
        _WorkerBlock(7, [batch]).check(5, Worker(1, 2, BATCH))
    with pytest.raises(RuntimeError, match="out of order"):
        _WorkerBlock(5, [batch]).check(5, Worker(1, 2, BATCH + 1))


@pytest.mark.slow
def test_a_vanished_reading_process_is_replaced_and_no_batch_changes(ray_cluster, data):
    """Ray Data reads the lost blocks again elsewhere, as on another node."""
    import psutil  # comes with Ray, and is there when Ray is imported

    config, traces, plan = data
    worker, steps = Worker(0, 1, BATCH), 3 * plan.epoch_windows // BATCH
    arguments = (plan, config, WINDOW, worker, 0, steps)
    killed, same = 0, True
    theirs = process_batches(traces, *arguments)
    for step, ours in enumerate(ray_batches(ray.put(traces), *arguments)):
        same &= all(torch.equal(x, y) for x, y in zip(ours, next(theirs), strict=True))
        for process in psutil.Process().children(recursive=True) if step > 3 and killed < 2 else ():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ray::ReadWin"):
                    process.kill()
                    killed += 1
                    break
    assert killed == 2
    assert same
    assert step == steps - 1


def crc(batch: Batch) -> int:
    return zlib.crc32(batch.waveform.numpy().tobytes())


def consume(args: dict) -> None:
    """A training worker that only logs what it was given, reports its position, and may be killed once."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    position, attempt = args["position"], 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            position, attempt = json.loads((Path(folder) / "state.json").read_text())
        attempt += 1
    steps = (args["end"] - position) // (world * BATCH)
    stream = ray_batches(
        args["traces"], args["plan"], args["config"], WINDOW, Worker(rank, world, BATCH), position, steps
    )
    with (Path(args["folder"]) / f"{attempt}-{rank}.jsonl").open("w") as log:
        for step, batch in enumerate(stream, start=1):
            line = [position, batch.trace.tolist(), batch.epoch.tolist(), crc(batch)]
            log.write(json.dumps(line) + "\n")
            log.flush()
            position += world * BATCH
            if args["kill_at"] and attempt == 0 and rank == 1 and position >= args["kill_at"]:
                time.sleep(5)  # until the controller has asked for reports: a checkpoint it has not heard of is lost
                os.kill(os.getpid(), signal.SIGKILL)
            if args["kill_at"] and step % 5 == 0:
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "state.json").write_text(json.dumps([position, attempt]))
                    ray.train.report({"position": position}, checkpoint=ray.train.Checkpoint(folder))


def fit(data, folder: Path, *, workers: int, end: int, position: int = 0, kill_at: int = 0) -> dict[int, dict]:
    """Returns attempt -> (position, rank) -> what was delivered there."""
    config, traces, plan = data
    (folder / "log").mkdir(parents=True)
    args = {"traces": ray.put(traces), "plan": plan, "config": config, "folder": str(folder / "log")}
    TorchTrainer(
        consume,
        train_loop_config=args | {"position": position, "end": end, "kill_at": kill_at},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.25}),
        run_config=ray.train.RunConfig(
            name="run", storage_path=str(folder), failure_config=ray.train.FailureConfig(max_failures=1)
        ),
    ).fit()
    attempts: dict[int, dict] = collections.defaultdict(dict)
    for file in (folder / "log").glob("*.jsonl"):
        attempt, rank = map(int, file.stem.split("-"))
        for line in file.read_text().splitlines():
            place, *what = json.loads(line)
            attempts[attempt][place, rank] = what
    return attempts


def planned(data, *, workers: int, end: int, position: int = 0) -> dict:
    """Returns (position, rank) -> what the plan has there, read by this process without Ray."""
    config, traces, plan = data
    steps, found = (end - position) // (workers * BATCH), {}
    for rank in range(workers):
        stream = process_batches(traces, plan, config, WINDOW, Worker(rank, workers, BATCH), position, steps)
        for step, batch in enumerate(stream):
            place = position + step * workers * BATCH
            found[place, rank] = [batch.trace.tolist(), batch.epoch.tolist(), crc(batch)]
    return found


def ids(*histories: dict) -> collections.Counter:
    """How often every (epoch, trace) was delivered."""
    batches = [what for history in histories for what in history.values()]
    return collections.Counter(pair for trace, epoch, _ in batches for pair in zip(epoch, trace, strict=True))


@pytest.mark.slow
def test_exactly_once_through_a_killed_worker_and_a_change_of_their_number(ray_cluster, data, tmp_path):
    """What the model has seen, in the lives of two workers of which one is killed, then of one, is the plan."""
    _, traces, plan = data
    change, end = (int(epochs * plan.epoch_windows) // 8 * 8 for epochs in (0.8, 1.5))
    lives = fit(data, tmp_path / "two", workers=2, end=change, kill_at=plan.epoch_windows // 2)
    assert sorted(lives) == [0, 1]
    resumed = min(place for place, _ in lives[1])
    assert 0 < resumed <= plan.epoch_windows // 2
    two = {key: what for key, what in lives[0].items() if key[0] < resumed} | lives[1]
    assert two == planned(data, workers=2, end=change), "ids, epochs and samples, batch for batch and rank for rank"
    [one] = fit(data, tmp_path / "one", workers=1, position=change, end=end).values()
    assert one == planned(data, workers=1, position=change, end=end)
    seen = ids(two, one)
    assert (max(seen.values()), seen.total()) == (1, end)
    assert {trace for epoch, trace in seen if epoch == 0} == set(range(len(traces))), "the epoch's rest, nothing lost"
    executions = change // 2 // data[0].segment_rows, (end - change) // data[0].segment_rows
    assert min(executions) >= 1, "each run needs more than one execution of Ray Data"
