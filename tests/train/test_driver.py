"""The driver: what it asks of Ray Train, what it gives its workers, and which ends of a run are no end."""

import errno
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch

from jobs.errors import plain_text
from raysys.lease import LEASE
from raysys.location import Location
from raysys.ray_internals import CHECKPOINT_LIST, WorkersNotStarted
from raysys.train import driver
from raysys.train.data import TrainingData
from raysys.train.loop import Trainer
from raysys.train.storage import newest_checkpoint


def ends(monkeypatch, *outcomes) -> list:
    """Makes Ray Train end with these outcomes, one after the other; returns what is left of them."""
    left = list(outcomes)

    def fit():
        outcome = left.pop(0)
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(return_value={"finished": outcome}, metrics={})

    monkeypatch.setattr(driver, "trainer", lambda *arguments: SimpleNamespace(fit=fit))
    monkeypatch.setattr(driver, "_PAUSE_S", 0.0)
    return left


def no_machines() -> ray.train.ControllerError:
    """What Ray Train raises when it has waited for machines as often as it may."""
    return ray.train.ControllerError(WorkersNotStarted(num_workers=2))


def test_a_run_goes_on_after_machines_were_taken_away_or_missing(smoke, monkeypatch):
    left = ends(monkeypatch, False, no_machines(), no_machines(), True)
    assert driver._fit(smoke, {}).return_value["finished"]
    assert not left


def test_waiting_for_machines_ends(smoke, monkeypatch):
    left = ends(monkeypatch, no_machines(), no_machines(), True)
    with pytest.raises(ray.train.ControllerError):
        driver._fit(smoke.override({"train.wait_for_nodes_h": 0.0}), {})
    assert len(left) == 2


def test_other_errors_of_the_controller_end_the_run(smoke, monkeypatch):
    left = ends(monkeypatch, ray.train.ControllerError(RuntimeError("an unreadable snapshot")), True)
    with pytest.raises(ray.train.ControllerError, match="unreadable"):
        driver._fit(smoke, {})
    assert left == [True]


def after_checkpoint(config, step: int, error: Exception):
    """An end of Ray Train by an error, after it has registered a checkpoint."""

    def end() -> Exception:
        run = Path(config.storage) / config.name
        run.mkdir(parents=True, exist_ok=True)
        (run / f"step{step:09d}").mkdir(exist_ok=True)
        newest = {"checkpoint_dir_name": f"step{step:09d}", "metrics": {}}
        known = {"checkpoint_results": [newest], "latest_checkpoint_result": newest}
        (run / CHECKPOINT_LIST).write_text(json.dumps(known))
        return error

    return end


def test_failures_count_only_while_no_checkpoint_comes_between(smoke, monkeypatch, tmp_path):
    config = smoke.override({"storage": str(tmp_path)})
    lost = ray.train.WorkerGroupError("a node is gone", {})
    left = ends(monkeypatch, after_checkpoint(config, 4, lost), after_checkpoint(config, 8, lost), True)
    assert driver._fit(config, {}).return_value["finished"]
    assert not left
    assert newest_checkpoint(Location(tmp_path / "smoke")) == "step000000008"
    left = ends(monkeypatch, after_checkpoint(config, 12, lost), after_checkpoint(config, 12, lost), True)
    with pytest.raises(ray.train.WorkerGroupError, match="a node is gone"):
        driver._fit(config, {})
    assert left == [True]


def test_hours_of_waiting_begin_anew_after_every_checkpoint(smoke, monkeypatch, tmp_path):
    config = smoke.override({"storage": str(tmp_path), "train.wait_for_nodes_h": 0.1 / 3600})
    ends(monkeypatch, *(after_checkpoint(config, step, no_machines()) for step in (4, 8, 12)), True)
    monkeypatch.setattr(driver, "_PAUSE_S", 0.2)
    assert driver._fit(config, {}).return_value["finished"]
    left = ends(monkeypatch, no_machines(), no_machines(), True)
    monkeypatch.setattr(driver, "_PAUSE_S", 0.2)
    with pytest.raises(ray.train.ControllerError):
        driver._fit(config, {})
    assert left == [True]


def test_a_storage_that_refuses_ray_trains_list_is_tried_again(smoke, monkeypatch):
    ends(monkeypatch, ray.train.ControllerError(OSError("AWS Error SLOW_DOWN")), True)
    assert driver._fit(smoke, {}).return_value["finished"]


@pytest.mark.parametrize("refusal", [OSError("AWS Error ACCESS_DENIED"), PermissionError(errno.EACCES, "denied")])
def test_a_storage_that_refuses_for_good_ends_the_run_at_once_in_one_line(smoke, monkeypatch, refusal):
    left = ends(monkeypatch, ray.train.ControllerError(refusal), True)
    with pytest.raises(OSError, match=r"/smoke: the storage refuses .*(DENIED|denied).* rights") as ended:
        driver._fit(smoke, {})
    assert left == [True]
    assert plain_text(ended.value) == str(ended.value)


def test_a_storage_that_does_not_answer_the_driver_itself_is_tried_again(smoke, monkeypatch):
    def silent(run):
        raise OSError(errno.ETIMEDOUT, "no answer")

    left = ends(monkeypatch, no_machines(), True)
    for name in ("newest_checkpoint", "repair_checkpoint_list"):
        monkeypatch.setattr(driver, name, silent)
    assert driver._fit(smoke, {}).return_value["finished"]
    assert not left


@pytest.mark.parametrize(
    ("changes", "workers", "resources"),
    [
        ({}, 1, {"CPU": 0.5}),
        ({"train.device": "cuda", "train.num_workers": 3}, 3, {"CPU": 0.5, "GPU": 1}),
        ({"train.cpus_per_worker": 2.0}, 1, {"CPU": 2.0}),
        ({"train.device": "cuda", "train.num_workers": 4, "train.min_workers": 2}, (2, 4), {"CPU": 0.5, "GPU": 1}),
        ({"train.num_workers": 2, "train.min_workers": 2}, 2, {"CPU": 0.5}),
    ],
)
@pytest.mark.parametrize("cluster", [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}, {}])
def test_workers_ask_for_what_the_configuration_says_whatever_the_cluster_has(
    smoke, monkeypatch, changes, workers, resources, cluster
):
    """Else a run on a cluster that starts GPU nodes on demand would train on CPUs, and no GPU node would ever start."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: cluster)
    scaling = driver.scaling(smoke.override(changes))
    assert scaling.num_workers == workers
    assert scaling.resources_per_worker == resources
    assert scaling.use_gpu == ("GPU" in resources)


def test_a_run_needs_its_least_workers_and_room_for_a_task_that_reads_for_them(smoke):
    values = {"train.num_workers": 4, "train.cpus_per_worker": 2.0, "data.cpus_per_read": 0.25}
    assert driver.wanted(smoke.override(values)) == {"CPU": 8.0}, "threads of the workers read"
    assert driver.wanted(smoke.override(values | {"data.reader": "ray"})) == {"CPU": 8.25}
    elastic = values | {"train.min_workers": 2, "train.device": "cuda"}
    assert driver.wanted(smoke.override(elastic)) == {"CPU": 4.0, "GPU": 2.0}


def test_a_worker_without_the_gpu_that_it_was_promised_says_where_and_what_to_do(smoke, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert driver.worker_device(smoke) == torch.device("cpu")
    with pytest.raises(RuntimeError, match=r"finds no CUDA device on node .*nvidia-smi.*train\.device=cpu"):
        driver.worker_device(smoke.override({"train.device": "cuda"}))


def test_storage_is_a_url_or_an_absolute_folder(smoke, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for storage, directory in (
        ("s3://bucket/x", "s3://bucket/x/smoke"),
        ("s3://bucket//x/", "s3://bucket/x/smoke"),
        ("./runs/", f"{tmp_path}/runs/smoke"),
        ("runs", f"{tmp_path}/runs/smoke"),
        ("~/runs", "/home/me/runs/smoke"),
    ):
        config = smoke.override({"storage": storage})
        assert driver.run_location(config).url == directory
        told = driver.trainer(driver.train_worker, config, {}).run_config
        assert f"{told.storage_path}/{told.name}" == directory, "Ray Train writes where the driver does"


def test_ray_train_keeps_the_best_checkpoints_and_counts_failures(smoke, tmp_path):
    changes = {"storage": str(tmp_path), "train.keep_checkpoints": 5, "train.max_failures": 7}
    config = smoke.override(changes | {"search.objective": "val/top1_tie"})
    run = driver.trainer(driver.train_worker, config, {}).run_config
    assert (run.name, run.storage_path) == ("smoke", str(tmp_path))
    checkpoints = run.checkpoint_config
    assert checkpoints.num_to_keep == 5
    assert (checkpoints.checkpoint_score_attribute, checkpoints.checkpoint_score_order) == ("val/top1_tie", "max")
    assert run.failure_config.max_failures == 7


def test_a_continued_run_keeps_the_workers_that_it_was_planned_for(smoke, monkeypatch, tmp_path):
    given = []

    def fit(config, arguments, *more):
        given.append((config, arguments))
        return SimpleNamespace(metrics={"step": 8})

    monkeypatch.setattr(driver, "connect", lambda: None)
    monkeypatch.setattr(TrainingData, "shared", lambda self: self)
    monkeypatch.setattr(driver, "_fit", fit)
    began = smoke.override({"storage": str(tmp_path), "train.num_workers": 4, "train.min_workers": 2})
    now = began.override({"train.num_workers": 1, "train.min_workers": None, "train.log_every": 3})
    for config in (began, now):
        assert driver.train_run(config) == {"step": 8, "directory": f"{tmp_path}/smoke"}
    assert [config for config, _ in given] == [began, now]
    assert given[0][1]["config"] == began
    assert given[1][1]["config"] == began.override({"train.log_every": 3})
    assert given[1][1]["log_folder"] == f"{tmp_path}/smoke"
    driver.train_run(began.override({"storage": "memory://runs"}))
    assert given[2][1]["log_folder"] is None, "nothing can be appended to there"
    assert (given[0][1]["start"], given[0][1]["run"]) == (0, f"{tmp_path}/smoke")
    assert not (tmp_path / "smoke" / LEASE).exists(), "given back"
    assert given[1][1]["record"]["data_fingerprint"] == given[1][1]["data"].fingerprint


def test_a_finished_run_starts_no_workers(smoke, monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "connect", lambda: None)
    monkeypatch.setattr(TrainingData, "shared", lambda self: self)
    monkeypatch.setattr(driver, "_fit", lambda *_: SimpleNamespace(metrics={"step": 9}))
    config = smoke.override({"storage": str(tmp_path)})
    (tmp_path / "smoke" / "step000000008").mkdir(parents=True)
    for windows, step in ((31, 9), (32, 8)):
        metrics = {"step": 8, "windows": windows}
        result = {"checkpoint_dir_name": "step000000008", "metrics": metrics}
        content = {"checkpoint_results": [result], "latest_checkpoint_result": result}
        (tmp_path / "smoke" / CHECKPOINT_LIST).write_text(json.dumps(content))
        assert driver.train_run(config)["step"] == step


def test_a_second_driver_is_refused_while_the_first_trains(smoke, monkeypatch, tmp_path):
    config = smoke.override({"storage": str(tmp_path)})

    def fit(*_):
        before = (tmp_path / "smoke" / "record.json").read_text()
        with pytest.raises(ValueError, match=f"{tmp_path}/smoke is written by another driver"):
            driver.train_run(config)
        assert (tmp_path / "smoke" / "record.json").read_text() == before
        return SimpleNamespace(metrics={"step": 8})

    monkeypatch.setattr(driver, "connect", lambda: None)
    monkeypatch.setattr(TrainingData, "shared", lambda self: self)
    monkeypatch.setattr(driver, "_fit", fit)
    assert driver.train_run(config)["step"] == 8


def test_ctrl_c_means_what_it_did_before_once_ray_train_has_ended(smoke, monkeypatch):
    def fit():
        signal.signal(signal.SIGINT, lambda *_: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "trainer", lambda *_: SimpleNamespace(fit=fit))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        driver._fit(smoke, {})
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_worker_writes_logs_and_checkpoints_and_the_others_nothing(smoke, data, context, monkeypatch):
    monkeypatch.setattr(driver, "configure_logging", lambda: None)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    config = smoke.override({"train.max_steps": 2})
    run = Location(context.folder / "noted")
    (run / "record.json").write_json({})
    arguments = {"config": config, "data": data, "record": {}, "run": run.url, "start": 0}
    assert driver.train_worker(arguments | {"log_folder": str(context.folder / "logs")}) == {"finished": True}
    assert context.registered == [(2, "step000000002")]
    assert (run / "record.json").read_json() == {"devices": ["CPU"]}
    record = json.loads((context.folder / "run" / "step000000002" / "record.json").read_text())
    assert record == {"devices": ["CPU"]}
    assert (context.folder / "logs" / "metrics.jsonl").exists()
    assert not (context.folder / "run" / "metrics.jsonl").exists()
    driver.train_worker(arguments | {"log_folder": None})
    lines = (context.folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2, "sent to the storage with the last checkpoint"
    context.rank = 1
    monkeypatch.setattr(Trainer, "run", lambda _: {})
    assert driver.train_worker(arguments | {"log_folder": str(context.folder / "other")}) == {"finished": False}
    assert not (context.folder / "other").exists()
