"""The training loop inside one process: learning, resuming, skipping."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from raysys.train.data import prepare_training_data
from raysys.train.loop import Budget, Trainer
from tests.train.local import local_trainer


@pytest.fixture(scope="module")
def data(smoke):
    return prepare_training_data(smoke)


def test_a_run_reports_finite_metrics_of_every_group(smoke, data, tmp_path):
    metrics = local_trainer(smoke, data, tmp_path / "run", tmp_path / "log").run()
    assert metrics["step"] == smoke.train.max_steps
    assert metrics["windows"] == smoke.train.max_steps * smoke.train.batch_size
    assert {name.split("/")[0] for name in metrics if "/" in name} >= {
        "train",
        "val",
        "probe",
        "codebook",
        "perf",
        "optim",
    }
    assert all(torch.isfinite(torch.tensor(float(value))) for value in metrics.values())
    lines = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert "probe/macro_ap" in lines[0], "the untrained model is scored first"
    assert any((tmp_path / "log" / "tensorboard").iterdir())


def test_resume_gives_the_same_weights_as_an_undisturbed_run(smoke, data, tmp_path):
    whole = local_trainer(smoke, data, tmp_path / "whole").run()
    first = local_trainer(smoke, data, tmp_path / "parts")
    first.steps_left = 4
    first.run()
    second = local_trainer(smoke, data, tmp_path / "parts")
    assert second.step == 4
    resumed = second.run()
    assert resumed["val/loss"] == whole["val/loss"]
    last = f"step{smoke.train.max_steps:09d}"
    for file in ("model.safetensors", "optim.safetensors"):
        expected, got = load_file(tmp_path / "whole" / last / file), load_file(tmp_path / "parts" / last / file)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), file


def test_a_step_with_a_bad_gradient_is_skipped_and_counted(smoke, data, tmp_path):
    run = local_trainer(smoke, data, tmp_path)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.guard.step(run.optimizer, torch.tensor(float("nan")), 1.0)
    for parameter in run.model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    run.guard.step(run.optimizer, torch.tensor(float("nan")), 1.0)
    assert all(torch.equal(before[name], value) for name, value in run.model.named_parameters())
    assert run.guard.skipped == 2
    assert run.guard.in_a_row == 2


def test_a_run_that_only_skips_stops_and_says_why(smoke, data, tmp_path, monkeypatch):
    config = smoke.override({"train.max_bad_steps": 2})
    run = local_trainer(config, data, tmp_path)
    monkeypatch.setattr(run.optimizer, "grad_norm", lambda: torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match=r"optim\.lr"):
        run.run()


def test_the_budget_counts_windows_whatever_the_number_of_workers(smoke):
    steps = smoke.override({"train.num_workers": 4, "optim.accumulate": 2})
    assert Budget.of(steps, 1000).windows == smoke.train.max_steps * 4 * 2 * smoke.train.batch_size
    epochs = dataclasses.replace(
        smoke, train=dataclasses.replace(smoke.train, max_steps=None, epochs=1.5, validate_every=None)
    )
    assert Budget.of(epochs, 1000).windows == 1500
    assert Budget.of(epochs, 1000).between_validations == 250


def test_accumulated_micro_batches_equal_one_large_batch(smoke, data, tmp_path):
    """Without random draws in the loss, two micro-batches of 4 give the step of one batch of 8."""
    small = smoke.override({"train.batch_size": 4, "optim.accumulate": 2, "loss.negatives": "expected"})
    assert local_trainer(small, data, tmp_path).step_windows == 8


def test_with_fewer_workers_than_planned_lr_and_global_batch_follow_the_rule(smoke, data, tmp_path):
    """Global batch proportional to the workers, learning rate to its square root, budget and schedule unchanged."""
    alone = local_trainer(smoke.override({"train.num_workers": 4, "train.min_workers": 1}), data, tmp_path)
    whole = local_trainer(smoke.override({"train.num_workers": 1}), data, tmp_path)
    assert alone.step_windows == smoke.train.batch_size
    assert alone.budget.windows == 4 * whole.budget.windows
    assert alone.steps_left == 4 * whole.steps_left
    alone.windows, whole.windows = 4 * 12, 12  # the same progress: 12 of 32 windows, 48 of 128
    alone.step_windows, whole.step_windows = 4, 1
    assert alone._lr_factor() == pytest.approx(0.5 * whole._lr_factor())


def test_a_run_ends_when_its_patience_does_also_across_a_restart(smoke, data, tmp_path, monkeypatch):
    config = smoke.override({"train.max_steps": 12, "train.validate_every": 2, "train.patience": 2})
    scores = iter([0.1, 0.3, float("nan"), 0.2, 0.3, 0.9])  # the first is that of the untrained model
    monkeypatch.setattr(Trainer, "_validate", lambda _: {"probe/macro_ap": next(scores)})
    first = local_trainer(config, data, tmp_path)
    first.steps_left = 6
    first.run()
    assert not first.finished
    second = local_trainer(config, data, tmp_path)
    assert second.run()["step"] == 8, "steps 6 and 8 were no better than step 2"
    assert second.finished
    again = local_trainer(config, data, tmp_path)
    assert again.finished
    assert again.run() == {}
    assert local_trainer(smoke.override({"train.max_steps": 12}), data, tmp_path).steps_left == 4


def test_workers_that_must_leave_write_a_checkpoint_at_once_and_lose_no_step(smoke, data, tmp_path):
    whole = local_trainer(smoke, data, tmp_path / "whole").run()
    first = local_trainer(smoke, data, tmp_path / "parts")
    calls = iter([False, False, True])
    first.attend = lambda: next(calls)  # asked every second step
    first.run()
    assert first.step == 6, "between the validations of steps 4 and 8"
    assert not first.finished
    assert (tmp_path / "parts" / "step000000006" / "model.safetensors").exists()
    second = local_trainer(smoke, data, tmp_path / "parts")
    assert second.step == 6
    assert second.run()["val/loss"] == whole["val/loss"]
    assert second.finished
