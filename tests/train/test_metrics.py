"""What a run says: alarms with cause and remedy, Ray metrics, and the dashboard that shows them."""

import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raysys.codebook_health import CodebookHealth
from raysys.train import metrics
from raysys.train.metrics import EXPORTED, RayMetrics, RunLog, exported_name
from tests.train.local import local_trainer

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "raysys.json"


def test_the_dashboard_shows_the_metrics_that_the_code_exports_and_no_others():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    shown = {name for text in expressions for name in re.findall(r"\bray_raysys_\w+", text)}
    assert shown == {exported_name(name) for name in EXPORTED}


def test_every_exported_metric_is_one_that_a_run_writes(smoke, data, picking, labelled, tmp_path):
    written = set()
    for config, read in ((smoke, data), (picking, labelled)):
        folder = tmp_path / config.task
        folder.mkdir()
        local_trainer(config.override({"train.max_steps": 2, "train.validate_every": 2}), read, folder, folder).run()
        written |= {key for line in (folder / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    only_gpu = {"perf/mfu", "mem/peak_gib"}
    assert set(EXPORTED) - only_gpu <= written


def test_an_alarm_names_cause_and_remedy_once_until_it_is_over(tmp_path, caplog):
    log = RunLog(tmp_path, 10, health=CodebookHealth(100, 0.3))
    for step, perplexity in enumerate((10.0, 10.0, 29.9, 30.0, 10.0)):
        log.write({"codebook/hard_perplexity": perplexity, "codebook/used_fraction": 0.0}, step)
        assert step > 0 or not caplog.records, "an untrained model has not collapsed"
    alarms = [record.message for record in caplog.records if "ALARM collapse" in record.message]
    assert len(alarms) == 2
    assert "is 10% of its codes, less than 30% (search.min_perplexity_fraction)" in alarms[0]
    assert "loss.diversity_lambda" in alarms[0]
    log.close()


def test_alarms_for_waiting_and_for_skipped_steps(tmp_path, caplog):
    log = RunLog(tmp_path, 10, skipped=3.0)
    log.write({"perf/data_wait_fraction": 0.9, "train/skipped_steps": 3.0}, 1)
    assert not caplog.records, "a first wait is the start, and steps skipped in an earlier life are known"
    log.write({"perf/data_wait_fraction": 0.9, "train/skipped_steps": 5.0}, 2)
    assert "ALARM data" in caplog.text
    assert "jobs.prepare" in caplog.text
    assert "ALARM step: 2 steps" in caplog.text
    for step, skipped in ((3, 5.0), (4, 6.0)):
        log.write({"train/skipped_steps": skipped}, step)
    assert "ALARM step: 1 steps" in caplog.text, "again, after it was over"
    log.close()


def test_mfu_is_operations_a_second_over_the_peak(tmp_path):
    log = RunLog(tmp_path, 10, flops_over_peak=1e-3)
    line = log.write_line(log.end_line(1, 100, 0.0, {}, {"train/skipped_steps": torch.zeros(())}))
    assert line["perf/mfu"] == pytest.approx(line["perf/windows_per_s"] * 1e-3)
    log.close()


def test_lines_give_means_of_their_own_steps_and_rates_of_their_own_time(monkeypatch, caplog):
    clock = iter([100.0, 110.0, 114.0, 116.0])
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    log, written = RunLog(None, 30), []
    for step, windows, wait_s, losses in (
        (3, 60, 4.0, (1.0, 2.0, 6.0)),
        (5, 80, 5.0, (4.0, 8.0)),
        (6, 90, 9.0, (5.0,)),
    ):
        for loss in losses:
            log.add({"train/loss": torch.tensor(loss), "train/grad_norm": torch.tensor(10 * loss)})
        latest = {"train/skipped_steps": torch.tensor(7.0)}
        written.append(log.write_line(log.end_line(step, windows, wait_s, {"optim/lr": 0.1 * step}, latest)))
    names = ("train/loss", "train/grad_norm", "train/skipped_steps", "optim/lr")
    assert [[line[name] for name in names] for line in written] == [
        [3.0, 30.0, 7.0, pytest.approx(0.3)],
        [6.0, 60.0, 7.0, pytest.approx(0.5)],
        [5.0, 50.0, 7.0, pytest.approx(0.6)],
    ]
    assert [line["perf/windows_per_s"] for line in written] == [6.0, 5.0, 5.0]
    assert [line["perf/data_wait_fraction"] for line in written] == [0.4, 0.25, 1.0], "at most all of the time"
    assert not caplog.records, "only the first rank speaks"


def test_the_console_tells_percent_and_time_left_and_a_validation_on_a_line_of_its_own(tmp_path, monkeypatch, caplog):
    clock = iter([0.0, 50.0, 60.0, 80.0, 90.0])
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with caplog.at_level(logging.INFO):
        log = RunLog(tmp_path, 40)
        for step in (10, 20, 30, 40):
            numbers = {"train/loss": torch.tensor(2.5), "train/grad_norm": torch.tensor(1.0)}
            log.add(numbers)
            log.write_line(log.end_line(step, 4 * step, 0.0, {}, {"train/skipped_steps": torch.zeros(())}))
        log.write({"val/contrastive": 2.0, "probe/macro_ap": 0.25, "codebook/used_fraction": 0.5}, 40)
        log.close()
    legend, *lines = [record.message for record in caplog.records]
    for word in ("contrastive", "perplexity", "gradient", "lr", "waiting", "accuracy", "probe"):
        assert re.search(rf"\b{word}\b", legend)
    assert lines == [
        "step 10/40  25%  loss 2.500  gradient 1.00  1 windows/s  waiting 0.0%",
        "step 20/40  50%, 20 s left  loss 2.500  gradient 1.00  4 windows/s  waiting 0.0%",
        "step 30/40  75%, 15 s left  loss 2.500  gradient 1.00  2 windows/s  waiting 0.0%",
        "step 40/40  100%  loss 2.500  gradient 1.00  4 windows/s  waiting 0.0%",
        "validation after step 40  contrastive 2.000  probe 0.250  codes in use 50%",
    ]


def test_lines_wait_for_the_data_of_their_own_time_in_the_alarm(tmp_path, monkeypatch, caplog):
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    log = RunLog(tmp_path, 10)
    for step, wait_s, alarms in ((1, 9.0, 0), (2, 9.0, 0), (3, 12.0, 0), (4, 14.1, 1)):
        log.write_line(log.end_line(step, step, wait_s, {}, {"train/skipped_steps": torch.zeros(())}))
        assert caplog.text.count("ALARM data") == alarms, step
    log.close()


def test_the_files_hold_what_is_finite_and_has_a_group(tmp_path, caplog):
    log = RunLog(tmp_path, 20)
    values = {"val/loss": 2.5, "probe/s_ap": math.nan, "codebook/used_fraction": 0.2, "step": 7, "train/loss": math.inf}
    log.write(values, 7)
    log.write({"val/loss": 2.0}, 9)
    log.histogram("codebook/usage", torch.tensor([[0.0, 3.0], [1.0, 6.0]]), 9)
    log.close()
    assert not caplog.records, "a fifth of the codes is enough"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 7, "val/loss": 2.5, "codebook/used_fraction": 0.2},
        {"step": 9, "val/loss": 2.0},
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/loss")] == [(7, 2.5), (9, 2.0)]
    assert set(events.Tags()["scalars"]) == {"val/loss", "codebook/used_fraction"}
    [event] = events.Histograms("codebook/usage")
    usage = event.histogram_value
    assert (event.step, usage.min, usage.max, usage.num) == (9, 0, 4, 10)
    assert (usage.sum, usage.sum_squares) == (0 + 3 + 2 + 18, 3 + 4 + 54)
    assert dict(zip(usage.bucket_limit, usage.bucket, strict=True)) == {1: 0, 2: 3, 3: 1, 4: 6}


def test_gauges_get_the_finite_numbers_of_their_run(monkeypatch):
    said = []

    class Gauge:
        """Of Ray, which does not run here."""

        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]):
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.tag_keys
            said.append((self.name, value, tags["run"]))

    monkeypatch.setattr(metrics, "Gauge", Gauge)
    monkeypatch.setattr(metrics.ray, "is_initialized", lambda: False)
    RayMetrics("none").set({"train/loss": 1.0})
    monkeypatch.setattr(metrics.ray, "is_initialized", lambda: True)
    RayMetrics("mine").set({"train/loss": 1.5, "val/loss": math.nan, "train/grad_norm": 2.0, "unknown/x": 3.0})
    assert sorted(said) == [("raysys_train_grad_norm", 2.0, "mine"), ("raysys_train_loss", 1.5, "mine")]
    assert exported_name("train/loss") == "ray_raysys_train_loss"
