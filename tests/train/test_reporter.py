"""Reports: which checkpoint goes with which metrics, when it is registered, and what happens without one."""

import logging
from pathlib import Path
from types import SimpleNamespace

from ray import tune

from raysys.train.reporter import SilentReporter, TrainReporter, TuneReporter


def save(folder: Path) -> None:
    """Writes a checkpoint."""
    (folder / "weights").write_text("1")


def test_a_checkpoint_in_the_background_is_registered_once_with_its_own_metrics(context):
    sent = []
    reporter = TrainReporter(background=True, remote_logs=SimpleNamespace(upload=lambda: sent.append(1)))
    assert not reporter.poll()
    for step in (4, 8):
        reporter.report({"step": step}, save)
        assert context.registered == [(4, "step000000004")][: step // 4 - 1], "the one before, and not this one yet"
    reporter._upload.wait()
    assert not reporter.poll()
    assert not reporter.poll()
    reporter.finish_checkpoint()
    assert context.registered == [(4, "step000000004"), (8, "step000000008")]
    assert (context.folder / "run" / "step000000008" / "weights").exists()
    assert sent == [1, 1]
    context.notice = "soon"
    assert reporter.poll()


def test_an_unfinished_checkpoint_is_not_waited_for(context):
    reporter = TrainReporter(background=True)
    reporter._metrics, reporter._upload = {"step": 1}, SimpleNamespace(done=lambda: False)
    assert not reporter.poll()
    assert context.registered == []


def test_without_background_a_report_returns_when_its_checkpoint_is_registered(context):
    TrainReporter().report({"step": 12}, save)
    assert context.registered == [(12, "step000000012")]


def test_other_ranks_report_the_same_metrics_without_a_checkpoint(context):
    context.rank = 1
    TrainReporter().report({"step": 3}, save)
    assert context.registered == [(3, None)]
    assert not (context.folder / "run").exists()


def test_metrics_are_reported_when_the_storage_fails(context, caplog):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.ERROR):
        TrainReporter().report({"step": 5}, full)
    assert context.registered == [(5, None)]
    assert "ALARM checkpoint" in caplog.text


def test_a_trial_reports_its_metrics_with_the_whole_checkpoint(monkeypatch):
    told = []

    def report(metrics, checkpoint):
        told.append((metrics, [path.name for path in Path(checkpoint.path).iterdir()]))

    monkeypatch.setattr(tune, "report", report)
    TuneReporter().report({"step": 2}, save)
    assert told == [({"step": 2}, ["weights"])]


def test_a_run_in_one_process_goes_on_from_its_newest_checkpoint(tmp_path):
    silent = SilentReporter(tmp_path)
    with silent.latest_checkpoint() as none:
        assert none is None
    for step in (8, 12, 4):
        silent.report({"step": step}, save)
    with silent.latest_checkpoint() as folder:
        assert folder == tmp_path / "step000000012"
    assert [metrics["step"] for metrics in silent.history] == [8, 12, 4]
    assert (folder / "weights").exists()
