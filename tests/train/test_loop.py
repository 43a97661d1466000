"""The training loop inside one process: learning, resuming, counting, skipping."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from raysys.train import loop
from raysys.train.flops import training_flops
from raysys.train.loop import Budget, Trainer
from raysys.train.optim import lr_factor
from tests.train.local import local_trainer, made_batch, read_double


def idle(trainer: Trainer) -> Trainer:
    """Returns the trainer with steps that compute nothing and say their number as the loss."""

    def step(batches: list) -> dict[str, torch.Tensor]:
        assert len(batches) == trainer.config.optim.accumulate
        return {"train/loss": torch.tensor(trainer.step + 1.0)}

    trainer._take_step = step
    return trainer


def lines(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def scoreless(monkeypatch):
    """Validations that score nothing."""
    monkeypatch.setattr(Trainer, "_validate", lambda _: {"probe/macro_ap": 0.5})


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
    first, *others = lines(tmp_path / "log")
    assert first["step"] == 0
    assert "probe/macro_ap" in first, "the untrained model is scored first"
    for number in range(4, 9, 4):  # what a checkpoint reports is what was written down at its step
        written = {k: v for line in others if line["step"] == number for k, v in line.items() if k != "step"}
        state = json.loads((tmp_path / "run" / f"step{number:09d}" / "state.json").read_text())
        assert (state["step"], state["windows"]) == (number, 4 * number)
        assert state["epoch"] == 4 * number / data.plan.epoch_windows
        assert written["train/windows"] == state["windows"]
    assert metrics.items() >= written.items()
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


def test_a_run_that_only_skips_stops_and_says_why(smoke, data, tmp_path, monkeypatch, scoreless):
    run = local_trainer(smoke.override({"train.max_bad_steps": 4}), data, tmp_path)
    monkeypatch.setattr(run.optimizer, "grad_norm", lambda: torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match=r"step 4: 4 steps in a row.*optim\.lr"):
        run.run()


def test_steps_skipped_in_an_earlier_life_raise_no_alarm(smoke, data, tmp_path, caplog, scoreless):
    first = idle(local_trainer(smoke, data, tmp_path, tmp_path))
    first.steps_left = 4
    first.guard.skipped.fill_(3)
    first.run()
    assert caplog.text.count("ALARM step: 3 steps") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        idle(local_trainer(smoke, data, tmp_path, tmp_path)).run()
    assert "ALARM step" not in caplog.text
    assert "going on after step 4, 16 windows" in caplog.text
    assert "step 8/8" in caplog.text


@pytest.mark.parametrize(
    ("changes", "windows", "between"),
    [
        ({"train.max_steps": 8, "train.num_workers": 4, "optim.accumulate": 2, "train.validate_every": 3}, 256, 96),
        ({"train.max_steps": 8, "train.validate_every": 30}, 32, 32),
        ({"train.max_steps": None, "train.epochs": 1.5, "train.validate_every": None}, 1500, 250),
        ({"train.max_steps": None, "train.epochs": 0.0105, "train.validate_every": 1}, 11, 4),
        ({"train.max_steps": 1000, "train.validate_every": None, "train.validations_per_epoch": 3.0}, 4000, 333),
        ({"train.validate_every": None, "train.validations_per_epoch": 5000.0}, 32, 1),
    ],
)
def test_the_budget_counts_windows_whatever_the_number_of_workers(smoke, changes, windows, between):
    budget = Budget.of(smoke.override(changes), 1000)
    assert (budget.windows, budget.between_validations) == (windows, between)
    assert budget.full_batch == 4 * changes.get("train.num_workers", 1) * changes.get("optim.accumulate", 1)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"train.validate_every": 3}, [3, 6, 8]),
        ({"train.validate_every": 3, "optim.accumulate": 2}, [3, 6, 8]),
        ({"train.validate_every": None, "every_windows": 6}, [2, 3, 5, 6, 8]),
        ({"train.validate_every": None, "every_windows": 11}, [3, 6, 8]),
        ({"train.max_steps": 4, "train.num_workers": 2, "train.validate_every": 3}, [6, 8]),
    ],
)
def test_a_validation_comes_with_the_step_that_completes_its_windows(smoke, data, tmp_path, scoreless, changes, steps):
    changes = dict(changes)
    if every := changes.pop("every_windows", None):
        changes["train.validations_per_epoch"] = data.plan.epoch_windows / every
    run = idle(local_trainer(smoke.override(changes), data, tmp_path))
    run.run()
    assert [metrics["step"] for metrics in run.reporter.history] == steps


def test_the_last_step_of_a_budget_that_no_steps_fill_ends_it(smoke, data, tmp_path, scoreless):
    config = smoke.override({"train.max_steps": None, "train.epochs": 9.5 / data.plan.epoch_windows})
    run = idle(local_trainer(config, data, tmp_path))
    metrics = run.run()
    assert (metrics["step"], metrics["windows"], run.finished) == (3, 10, True)


def test_lines_give_means_since_the_last_line_and_the_rate_of_their_step(smoke, data, tmp_path, scoreless):
    config = smoke.override({"train.log_every": 3, "train.validate_every": 4, "optim.lr": 0.02, "optim.warmup": 0.25})
    idle(local_trainer(config, data, tmp_path, tmp_path)).run()
    found = [(line["step"], line["train/loss"], line["train/windows"]) for line in lines(tmp_path)]
    assert found == [(3, 2.0, 12), (6, 5.0, 24), (8, 7.5, 32)]
    rates = [line["optim/lr"] for line in lines(tmp_path)]
    assert rates == pytest.approx([0.02 * lr_factor(step / 8, 0.25) for step in (3, 6, 8)], abs=1e-12)


def test_the_wait_for_checkpoints_is_added_up(smoke, data, tmp_path, scoreless, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run = idle(local_trainer(smoke.override({"train.validate_every": 2}), data, tmp_path, tmp_path))
    run.reporter.report = lambda *_: clock.append(clock.pop() + 1.5)
    run.run()
    assert [line["perf/checkpoint_wait_s"] for line in lines(tmp_path)] == [0.0, 1.5, 3.0, 4.5]
    assert run.checkpoint_seconds == 6.0


def test_the_rate_of_operations_is_shared_by_all_workers(smoke, data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "peak_flops", lambda *_: 1e12)
    run = local_trainer(smoke, data, tmp_path, world=2)
    run.windows = 100
    metrics = run._write_line(run._end_line())
    assert metrics["perf/mfu"] == pytest.approx(metrics["perf/windows_per_s"] * training_flops(smoke) / 2e12)
    assert metrics["perf/mfu"] > 0


def test_only_the_first_rank_writes_a_checkpoint(smoke, data, tmp_path):
    for rank, expected in ((0, True), (1, False)):
        local_trainer(smoke, data, tmp_path / str(rank), rank=rank, world=2)._report({"step": 0})
        assert (tmp_path / str(rank) / "step000000000" / "model.safetensors").exists() == expected


def test_accumulated_micro_batches_equal_one_large_batch(smoke, data, tmp_path, double):
    """With a loss that is a mean over windows: gradient norms and weights of 3 steps of 1 x 8 and 2 x 4 windows."""
    plain = smoke.override({"model.quantizer.kind": "none", "loss.negatives": "expected", "train.max_steps": 3})
    found = []
    for count in (1, 2):
        config = plain.override({"train.batch_size": 8 // count, "optim.accumulate": count})
        run = read_double(local_trainer(config, data, tmp_path))
        norms = []
        for step in range(3):
            batch = made_batch(8, config.model.window_samples, seed=step)
            parts = zip(*(x.split(8 // count) for x in batch), strict=True)
            run._train_step(type(batch)(*part) for part in parts)
            norms.append(run._write_line(run._end_line())["train/grad_norm"])
        weights = torch.nn.utils.parameters_to_vector(run.model.parameters())
        found.append((run.step_windows, run.windows, norms, weights.tolist()))
    large, small = found
    assert large[:2] == small[:2] == (8, 24)
    assert small[2] == pytest.approx(large[2], rel=1e-6)
    assert small[3] == pytest.approx(large[3], rel=1e-9, abs=1e-9)


def test_with_fewer_workers_than_planned_lr_and_global_batch_follow_the_rule(smoke, data, tmp_path):
    """Global batch proportional to the workers, learning rate to its square root, budget and schedule unchanged."""
    alone = local_trainer(smoke.override({"train.num_workers": 4, "train.min_workers": 1}), data, tmp_path)
    whole = local_trainer(smoke.override({"train.num_workers": 1}), data, tmp_path)
    assert alone.step_windows == smoke.train.batch_size
    assert alone.budget.windows == 4 * whole.budget.windows
    assert alone.steps_left == 4 * whole.steps_left
    assert whole._lr_factor(13) == lr_factor(13 / 32, smoke.optim.warmup)
    assert alone._lr_factor(52) == pytest.approx(0.5 * whole._lr_factor(13)), "at the same progress"


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


def test_patience_looks_at_the_objective_of_the_search(smoke, data, tmp_path, monkeypatch, caplog):
    changes = {"train.validate_every": 2, "train.patience": 1, "search.objective": "val/top1_tie"}
    scores = iter([(0.1, 0.9), (0.3, 0.1), (0.2, 0.2), (0.4, 0.3)])
    names = ("val/top1_tie", "probe/macro_ap")
    monkeypatch.setattr(Trainer, "_validate", lambda _: dict(zip(names, next(scores), strict=True)))
    with caplog.at_level(logging.INFO):
        assert idle(local_trainer(smoke.override(changes), data, tmp_path)).run()["step"] == 4
    assert "step 4: val/top1_tie has not been better than 0.3000 for 1 validations" in caplog.text


def test_workers_that_must_leave_write_a_checkpoint_at_once_and_lose_no_step(smoke, data, tmp_path):
    whole = local_trainer(smoke, data, tmp_path / "whole").run()
    first = local_trainer(smoke, data, tmp_path / "parts")
    calls = iter([False, False, True])
    first.poll = lambda: next(calls)  # asked every second step
    first.run()
    assert first.step == 6, "between the validations of steps 4 and 8"
    assert not first.finished
    assert (tmp_path / "parts" / "step000000006" / "model.safetensors").exists()
    second = local_trainer(smoke, data, tmp_path / "parts")
    assert second.step == 6
    assert second.run()["val/loss"] == whole["val/loss"]
    assert second.finished
