"""Trackers: what they hold when it is read back, one run over all its lives, and runs that do not mind when one fails."""

import importlib
import json
import logging
import math
import struct
import threading
from types import SimpleNamespace

import pytest
import ray

from raysys.location import Location
from raysys.train import driver, trackers
from raysys.train.metrics import RunLog
from raysys.train.trackers import Background, Tracked, Trackers
from raysys.tune import trial as trial_module
from tests.train.local import local_trainer


class Kept:
    """A tracker in memory; `trouble` is called with every line before it is kept."""

    def __init__(self, trouble=lambda metrics, step: None):
        self.lines, self.ended, self._trouble = [], 0, trouble

    def log(self, metrics, step):
        self._trouble(metrics, step)
        self.lines.append((step, metrics))

    def finish(self):
        self.ended += 1


@pytest.fixture
def config(smoke, tmp_path):
    """Of a run that has begun, with every tracker."""
    run = Location(tmp_path / "results" / "smoke").make_folder()
    (run / "record.json").write_json({"time": "2026-01-01T00:00:00+0000"})
    return smoke.override({"storage": str(tmp_path / "results"), "train.trackers": ["wandb", "mlflow", "trackio"]})


@pytest.fixture
def instead(monkeypatch):
    """Returns a function that puts another tracker in the place of MLflow's, and no pause between its attempts."""

    def put(make):
        monkeypatch.setattr(trackers, "_TRACKERS", {"mlflow": make})
        monkeypatch.setattr(trackers, "_PAUSE_S", 0.0)

    return put


def wandb_runs(tmp_path) -> dict[str, dict]:
    """What W&B has written to send later: a log of protobuf records in blocks of 32 KiB, one file a life."""
    from wandb.proto import wandb_internal_pb2

    runs = {}
    for file in sorted(tmp_path.glob("results/**/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        raw, at, whole = file.read_bytes(), 7, b""
        while at + 7 <= len(raw):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, size, kind = struct.unpack_from("<IHB", raw, at)
            whole, at = whole + raw[at + 7 : at + 7 + size], at + 7 + size
            if kind not in (1, 4):  # the whole of a record, or its end
                continue
            record, whole = wandb_internal_pb2.Record.FromString(whole), b""
            if record.HasField("run"):
                run = runs.setdefault(record.run.run_id, {"metrics": {}})
                items = record.run.config.update
                run["config"] = {item.key: json.loads(item.value_json) for item in items if item.key != "_wandb"}
                run["group"], run["name"] = record.run.run_group or None, record.run.display_name
            if record.HasField("history"):
                line = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                step = line.pop("_step", 0)
                run["metrics"].setdefault(step, {}).update({k: v for k, v in line.items() if "/" in k})
    return runs


def mlflow_runs(tmp_path) -> dict[str, dict]:
    """What is in MLflow's database beside the runs."""
    from mlflow import MlflowClient

    client, runs = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/results/mlflow.db"), {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            metrics = {}
            for key in run.data.metrics:
                for point in client.get_metric_history(run.info.run_id, key):
                    metrics.setdefault(point.step, {})[key] = point.value
            group = run.data.tags.get("raysys.group")
            assert experiment.name == (group or "raysys")
            assert run.info.status == "FINISHED"
            runs[run.info.run_id] = {"config": run.data.params, "metrics": metrics, "group": group}
            runs[run.info.run_id]["name"] = run.info.run_name
    return runs


def trackio_runs(tmp_path) -> dict[str, dict]:
    """What is in Trackio's database."""
    from trackio.sqlite_storage import SQLiteStorage

    runs = {}
    for name in SQLiteStorage.get_runs("raysys"):
        metrics, config = {}, SQLiteStorage.get_run_config("raysys", name)
        for line in SQLiteStorage.get_logs("raysys", name):
            metrics.setdefault(line["step"], {}).update({k: v for k, v in line.items() if "/" in k})
        runs[name] = {"config": config, "metrics": metrics, "group": config.get("_Group"), "name": name}
    return runs


READ = {"wandb": wandb_runs, "mlflow": mlflow_runs, "trackio": trackio_runs}


@pytest.fixture(params=READ)
def tracked(request, tmp_path, monkeypatch):
    """Returns functions (configuration, trial, lines: a life of a run) and (what a tracker holds), without a network."""
    pytest.importorskip(request.param)
    for name in ("WANDB_PROJECT", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    offline = {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    if request.param == "trackio":
        for name in ("trackio.sqlite_storage", "trackio.utils"):
            monkeypatch.setattr(importlib.import_module(name), "TRACKIO_DIR", tmp_path / "trackio")

    def live(config, lines, trial=None):
        run = Trackers.of(config.override({"train.trackers": [request.param]}), trial)
        for step, metrics in lines:
            run.log(metrics, step)
        run.finish()

    return live, lambda: READ[request.param](tmp_path)


def test_two_lives_of_a_run_are_one_run_with_all_lines_and_the_configuration(config, tracked, caplog):
    live, runs = tracked
    lines = [(step, {"val/loss": 1 / (step + 1), "dev/p_hit_0.1s": 0.5}) for step in range(5)]
    live(config.override({"train.log_every": 3}), lines[:3])
    live(config.override({"train.log_every": 4}), lines[2:])
    assert not [record for record in caplog.records if record.name.startswith("raysys")]
    (run,) = runs().values()
    assert run["name"].startswith("smoke")
    assert run["group"] is None
    assert {step: pytest.approx(metrics) for step, metrics in lines} == run["metrics"]
    assert {"optim.lr", "train.log_every", "data.datasets"} <= run["config"].keys(), "dotted keys, none nested"
    assert float(run["config"]["optim.lr"]) == config.optim.lr
    assert json.loads(run["config"]["data.datasets"]) == ["all"]


def test_trials_are_runs_of_their_own_in_the_group_of_their_sweep(config, tracked):
    live, runs = tracked
    sweep = Location(config.storage) / config.name
    for place in ("trial_a", "seeds/trial_b", "trial_a"):
        live(config, [(1, {"val/loss": 2.0})], sweep / place)
    held = runs().values()
    assert {run["group"] for run in held} == {"smoke"}
    assert len(held) == 2
    assert {run["name"].split("-")[0] for run in held} == {"smoke/trial_a", "smoke/seeds/trial_b"}


def test_the_id_is_of_the_folder_and_of_the_beginning(config):
    first = Tracked.of(config)
    assert Tracked.of(config.override({"train.max_steps": 99, "train.seed": 3})).id == first.id
    place = first.folder / "trial_a"
    assert Tracked.of(config, place).id not in (first.id, Tracked.of(config, first.folder / "trial_b").id)
    assert (Tracked.of(config, place).name, Tracked.of(config, place).group) == ("smoke/trial_a", "smoke")
    (first.folder / "record.json").write_json({"time": "2026-01-01T00:00:01+0000"})
    assert Tracked.of(config).id != first.id, "begun anew under the same name"


def test_credentials_stay_here(config):
    places = {"data.datasets": ["s3://key:secret@bucket/a"], "data.root": "https://token@host/b"}
    told = Tracked.of(config.override(places)).config
    assert json.loads(told["data.datasets"]) == ["s3://***@bucket/a"]
    assert told["data.root"] == "https://***@host/b"
    assert told["train.max_steps"] == config.train.max_steps
    assert told["data.weights"] == "{}"


def test_a_tracker_gets_finite_scalars_and_nothing_else(tmp_path):
    kept = Kept()
    log = RunLog(tmp_path, 10, tracker=kept)
    log.write({"val/loss": 1.0, "probe/macro_ap": math.nan, "windows": 3}, 4)
    log.close()
    assert (kept.lines, kept.ended) == ([(4, {"val/loss": 1.0})], 1)


def test_a_tracker_gets_what_tensorboard_gets_and_failing_it_is_told_once(config, data, tmp_path, instead, caplog):
    kept = Kept()
    config = config.override({"train.trackers": ["mlflow", "mlflow"]})
    instead(lambda run: kept)
    local_trainer(config, data, tmp_path / "a", tmp_path / "results").run()
    lines = [json.loads(line) for line in (tmp_path / "results" / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, **metrics} for step, metrics in kept.lines] == lines
    assert kept.ended == 1

    def full(run):
        raise OSError("No space left on token=abc device")

    instead(full)
    local_trainer(config, data, tmp_path / "b", tmp_path / "results").run()
    warnings = [record.getMessage() for record in caplog.records if "tracker" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("tracker mlflow: OSError: No space left on token=*** device; training goes on")
    local_trainer(config, data, tmp_path / "c", None, rank=1, world=2)
    assert len(kept.lines) == len(lines), "other ranks send nothing"


def test_what_failed_for_a_while_is_sent_later_and_what_is_always_refused_is_dropped(instead):
    attempts = []

    def trouble(metrics, step):
        attempts.append(step)
        if step == 2 or (attempts.count(1) < 3 and step == 1):
            raise ConnectionError("no network")

    kept, begun = Kept(trouble), []

    def make():
        begun.append(1)
        if len(begun) == 1:
            raise ConnectionError("no network")
        return kept

    instead(None)
    tracker = Background("it", make)
    for step in range(10):
        tracker.log({"x": float(step)}, step)
    tracker.finish()
    tracker.wait(10.0)
    assert [step for step, _ in kept.lines] == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert attempts.count(2) == 3
    assert len(begun) == 2
    assert kept.ended == 1


def test_a_tracker_that_hangs_holds_up_neither_a_step_nor_the_end(config, instead, monkeypatch, caplog):
    free = threading.Event()
    instead(lambda run: Kept(lambda metrics, step: free.wait(60)))
    monkeypatch.setattr(trackers, "_END_S", 0.1)
    run = Trackers.of(config.override({"train.trackers": ["mlflow"]}))
    for step in range(1000):
        run.log({"x": 1.0}, step)
    run.finish()
    assert "tracker mlflow: it has not taken everything in time" in caplog.text
    free.set()


@pytest.mark.parametrize("start", ["driver.train_run", "sweep.sweep"])
def test_a_missing_package_is_refused_before_anything_starts(config, monkeypatch, start):
    module, name = start.split(".")
    module = importlib.import_module(f"raysys.{'train' if module == 'driver' else 'tune'}.{module}")
    monkeypatch.setattr(module, "connect", lambda: pytest.fail("too late"))
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "mlflow" else 1)
    words = r"^train\.trackers: mlflow not installed: pip install mlflow-skinny, on every node$"
    with pytest.raises(ModuleNotFoundError, match=words):
        getattr(module, name)(config)


def test_a_trial_is_tracked_in_its_own_folder(config, data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Trackers, "of", lambda config, trial: seen.append((config, trial)))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(trial_module.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "a"))
    monkeypatch.setattr(trial_module, "TuneReporter", lambda _: trial_module.Reporter)
    monkeypatch.setattr(trial_module, "JudgingReporter", lambda *_: local_trainer(config, data, tmp_path).reporter)
    monkeypatch.setattr(trial_module.Trainer, "run", lambda self: None)
    for name in ("raysys.train.metrics", "raysys.data.corpus"):  # that a trial makes quiet, in this process as well
        monkeypatch.setattr(logging.getLogger(name), "setLevel", lambda level: None)
    trial_module.single_worker_trial({}, config=config, data=data, record={}, folder=Location(tmp_path))
    assert seen == [(config, Location(tmp_path / "trial_a"))]


def test_a_trial_ends_its_trackers_before_its_last_report_at_which_its_process_ends(config, data, tmp_path, instead):
    kept = Kept()
    instead(lambda run: kept)
    config = config.override({"train.trackers": ["mlflow"], "train.max_steps": 4, "train.validate_every": 2})
    for trial, ended in ((Location(tmp_path / "trial_a"), [0, 1]), (None, [0, 0])):
        run = local_trainer(config, data, tmp_path / str(trial is None), tmp_path)
        report, kept.ended, at_reports, run.trial = run.reporter.report, 0, [], trial
        run.reporter.report = lambda *told, at=at_reports, real=report: (at.append(kept.ended), real(*told))
        run.run()
        assert (at_reports, kept.ended) == (ended, 1)


class Reports(ray.train.UserCallback):
    """Writes down the steps that were reported."""

    def __init__(self, file):
        self.file = str(file)

    def after_report(self, run_context, metrics, checkpoint):
        """As Ray Train calls it."""
        with open(self.file, "a") as file:
            file.write(f"{metrics[0]['step']}\n")


def test_callbacks_of_ray_train_are_called_after_every_report(ray_cluster, smoke, tmp_path):
    config = smoke.override({"storage": str(tmp_path), "train.max_steps": 4, "train.validate_every": 2})
    assert driver.train_run(config, [Reports(tmp_path / "reports")])["step"] == 4
    assert (tmp_path / "reports").read_text().split() == ["2", "4"]
