"""Runs that are continued under the same name with another configuration: what may change, and what that changes."""

import collections
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysys.config import MAY_CHANGE, keys
from raysys.data import stream
from raysys.record import read_config, write_run
from raysys.train import driver
from raysys.train.data import prepare_training_data
from raysys.train.loop import Trainer
from tests.train.local import local_trainer

RECORD = {"data_fingerprint": "x", "command": "python -m jobs.pretrain smoke", "time": "2026-01-01", "seed": 0}


def test_a_continuation_is_written_down_with_what_changed_and_the_beginning_stays(smoke, tmp_path, caplog):
    directory = str(tmp_path / "run")
    began = smoke.override({"train.num_workers": 2})
    assert write_run(directory, began, RECORD, MAY_CHANGE) == began
    with caplog.at_level("INFO"):
        assert write_run(directory, smoke.override({"train.log_every": 3}), RECORD, MAY_CHANGE) == began
    assert "train.num_workers: 2 -> 1" in caplog.text
    write_run(directory, began, RECORD, MAY_CHANGE)
    assert read_config(directory) == began
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert {key: record[key] for key in RECORD} == RECORD
    assert [again["changes"] for again in record["continuations"]] == [
        {"train.num_workers": [2, 1], "train.log_every": [2, 3]},
        {},
    ]
    assert record["continuations"][0]["command"] == RECORD["command"]


def test_a_key_that_decides_the_result_is_refused_alone_and_nothing_is_written(smoke, tmp_path):
    directory = str(tmp_path / "run")
    write_run(directory, smoke, RECORD, MAY_CHANGE)
    before = (tmp_path / "run" / "record.json").read_text()
    other = smoke.override({"train.num_workers": 2, "train.batch_size": 8})
    with pytest.raises(ValueError, match=r"another configuration:\n  train\.batch_size: 4 -> 8\nGive"):
        write_run(directory, other, RECORD, MAY_CHANGE)
    with pytest.raises(ValueError, match=r"train\.num_workers: 1 -> 2"):  # of a sweep
        write_run(directory, smoke.override({"train.num_workers": 2}), RECORD)
    assert (tmp_path / "run" / "record.json").read_text() == before


@pytest.fixture
def executions(monkeypatch) -> list[int]:
    """Holds the number of read tasks of every execution of Ray Data."""
    real, tasks = stream._dataset, []
    monkeypatch.setattr(stream, "_dataset", lambda source, c: tasks.append(source.num_tasks) or real(source, c))
    return tasks


def test_keys_that_may_change_leave_the_weights_as_they_are(ray_cluster, smoke, data, tmp_path, executions):
    """All of them but the workers, in the middle of a run, down to the last bit."""
    assert set(keys(smoke)) >= MAY_CHANGE
    changes = {
        "data.cache": str(tmp_path / "cache"),
        "data.reader": "ray",
        "data.block_rows": 8,
        "data.blocks_per_task": 1,
        "data.cpus_per_read": 1.0,
        "data.segment_rows": 12,
        "data.prefetch_batches": 1,
        "data.shard_dtype": "float16",
        "data.shard_mb": 7,
        "storage": str(tmp_path),
        "train.cpus_per_worker": 1.0,
        "train.log_every": 3,
        "train.validate_every": None,
        "train.validations_per_epoch": 7.0,
        "train.keep_checkpoints": 1,
        "train.max_failures": 0,
        "train.max_bad_steps": 2,
        "train.patience": 100,
        "train.trackers": ["mlflow"],
        "train.wait_for_nodes_h": 1.0,
    }
    elsewhere = {"train.num_workers", "train.min_workers", "data.root"}  # tests below and of the stream
    assert changes.keys() | elsewhere == MAY_CHANGE
    local_trainer(smoke, data, tmp_path / "whole").run()
    first = local_trainer(smoke, data, tmp_path / "parts")
    first.steps_left = 4
    first.run()
    changed = smoke.override(changes)
    local_trainer(changed, prepare_training_data(changed).shared(), tmp_path / "parts").run()
    assert executions == [2, 1], "stretches of three steps and one, in blocks of two steps, one a task"
    last = f"step{smoke.train.max_steps:09d}/model.safetensors"
    expected, got = load_file(tmp_path / "whole" / last), load_file(tmp_path / "parts" / last)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


class Stopped(Exception):
    """Ends a life of a run in the middle."""


def watched_worker(args: dict) -> dict:
    """The worker of a run that writes down every batch it trains on, and walks out after `stop` windows of the run."""
    batches = Trainer._batches

    def watched(self):
        worker = self.worker
        with (Path(args["watch"]) / f"{args['life']}-{worker.rank}.jsonl").open("w") as file:
            for batch in batches(self):
                if args["stop"] and self.windows >= args["stop"]:
                    raise Stopped
                line = [self.windows, batch.epoch.tolist(), batch.trace.tolist(), self.lr_scale]
                file.write(json.dumps(line) + "\n")
                file.flush()
                yield batch

    Trainer._batches = watched
    try:
        return driver.train_worker(args)
    except Stopped:
        return {"finished": True}  # or the driver would start it anew


@pytest.mark.slow
def test_exactly_once_when_an_elastic_run_grows_and_is_continued_with_fewer_workers(
    ray_cluster, smoke, tmp_path, monkeypatch
):
    """An epoch of two planned workers: begun by one, as no more find room; by two, when they do; finished by one."""
    config = smoke.override(
        {
            "storage": str(tmp_path),
            "data.reader": "ray",
            "train.num_workers": 2,
            "train.min_workers": 1,
            "train.cpus_per_worker": 0.25,
            "train.max_steps": None,
            "train.epochs": 1.0,
            "train.batch_size": 8,
            "train.validate_every": 2,
        }
    )
    data = prepare_training_data(config)
    epoch, batch = data.plan.epoch_windows, config.train.batch_size
    run, watch = tmp_path / config.name, tmp_path / "watch"
    watch.mkdir()
    real = driver.trainer

    def life(changes: dict, number: int, stop: int) -> dict:
        extra = {"watch": str(watch), "life": number, "stop": stop}
        monkeypatch.setattr(
            driver, "trainer", lambda _, c, arguments, *more: real(watched_worker, c, arguments | extra, *more)
        )
        return driver.train_run(config.override(changes))

    life({"train.cpus_per_worker": 1.5}, 0, epoch // 3)  # of the two CPUs of this Ray
    life({}, 1, 2 * epoch // 3)
    metrics = life({"train.num_workers": 1}, 2, 0)

    assert metrics["windows"] == epoch == data.plan.epoch_windows
    lives: dict[int, list] = collections.defaultdict(list)
    for file in watch.glob("*.jsonl"):
        lives[int(file.stem.split("-")[0])] += [json.loads(line) for line in file.read_text().splitlines()]
    began = [min(position for position, *_ in lives[number]) for number in range(3)]
    assert 0 == began[0] < began[1] < began[2], "every life goes on from a checkpoint of the one before"
    ends = [*began[1:], epoch]
    seen = collections.Counter(
        (epoch, trace)
        for number in range(3)
        for position, epochs, traces, _ in lives[number]
        if position < ends[number]  # what came after the checkpoint was done again
        for epoch, trace in zip(epochs, traces, strict=True)
    )
    assert max(seen.values()) == 1
    assert sum(1 for e, _ in seen if e == 0) == epoch, "every row of the epoch"
    assert sum(1 for e, _ in seen if e == 1) < 2 * batch, "the last step may begin the next"
    scales = [{scale for *_, scale in lives[number]} for number in range(3)]
    assert scales == [{0.5**0.5}, {1.0}, {0.5**0.5}], "with half of the planned batch, lr over the square root of two"
    record = json.loads((run / "record.json").read_text())
    assert [again["changes"] for again in record["continuations"]] == [
        {"train.cpus_per_worker": [1.5, 0.25]},
        {"train.num_workers": [2, 1], "train.cpus_per_worker": [1.5, 0.25]},
    ]
