"""One trial: what it starts from, what it holds, which data its seed gives it, and what it says when numbers break."""

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch

import raysys.tune.trial as module
from raysys.train.data import prepare_training_data
from raysys.train.reporter import SilentReporter
from raysys.tune.trial import train_trial, trial_config, trial_resources


@pytest.mark.parametrize(
    ("changes", "steps", "per_epoch"),
    [
        ({"train.max_steps": 10}, 3, 4.0),  # 10 / 4 rungs, rounded up
        ({"train.max_steps": 3}, 1, 4.0),
        ({"train.max_steps": None, "train.epochs": 8.0, "train.validate_every": 7}, None, 0.5),
    ],
)
def test_a_trial_validates_once_a_rung(smoke, changes, steps, per_epoch):
    train = trial_config(smoke.override({"search.rungs_per_budget": 4} | changes)).train
    assert (train.validate_every, train.validations_per_epoch) == (steps, per_epoch)


def test_a_trial_has_its_own_workers_absolute_storage_and_reads_in_its_process(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = {"train.num_workers": 4, "train.min_workers": 2, "storage": "runs", "data.reader": "ray"}
    for workers, reader in ((1, "process"), (2, "ray")):
        config = trial_config(smoke.override(run | {"search.workers_per_trial": workers}))
        assert (config.train.num_workers, config.train.min_workers) == (workers, None)
        assert (config.storage, config.data.reader) == (str(tmp_path / "runs"), reader)
    assert trial_config(smoke.override({"storage": "s3://bucket/runs"})).storage == "s3://bucket/runs"


@pytest.mark.parametrize(
    ("changes", "gpu", "holds"),
    [
        ({}, True, {"CPU": 2.0, "GPU": 0.25}),
        ({}, False, {"CPU": 2.0}),
        ({"workers_per_trial": 3}, True, {"CPU": 1.5, "GPU": 3.0}),
        ({"workers_per_trial": 3}, False, {"CPU": 1.5}),
    ],
)
def test_a_trial_holds_what_the_configuration_says(smoke, changes, gpu, holds):
    changes = {f"search.{key}": value for key, value in changes.items()}
    each = {"search.cpus_per_trial": 2.0, "search.gpus_per_trial": 0.25, "train.cpus_per_worker": 0.5}
    device = {"train.device": "cuda" if gpu else "cpu"}
    assert trial_resources(smoke.override(each | changes | device)) == holds


@pytest.fixture(scope="module")
def data(smoke):
    return prepare_training_data(smoke.override({"probe.fit_windows": 40}))


@pytest.fixture
def trained(smoke, data, tmp_path, monkeypatch):
    """Returns a function (tuned values, what the trial does in place of training) -> its trainer, reports, last words."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    lines = logging.getLogger("raysys.train.metrics")
    before = lines.level

    def train(tuned, run):
        started, told = [], []

        class Started(module.Trainer):
            def run(self):
                started.append(self)
                return run(self)

        monkeypatch.setattr(module, "Trainer", Started)
        reporter = SilentReporter(tmp_path)
        where = {"rank": 0, "world": 1, "log_folder": None}
        train_trial(tuned, trial_config(smoke), data, {}, **where, reporter=reporter, report=told.append)
        return started[0], reporter.history, told

    yield train
    lines.setLevel(before)


def first_batch(trainer):
    return next(trainer._batches()).waveform.numpy().copy()


def test_a_trials_seed_decides_its_data_and_its_weights_and_not_the_yardstick(smoke, data, trained):
    seen = {}
    for seed in (0, 1):
        tuned = {"repeat": {"repeat_of": "a", "train.seed": seed, "mask.ratio": 0.4}}
        trainer, _, _ = trained(tuned, lambda trainer: seen.update({trainer.config.train.seed: first_batch(trainer)}))
        assert trainer.config == trial_config(smoke).override({"train.seed": seed, "mask.ratio": 0.4})
        assert trainer.data.plan == dataclasses.replace(data.plan, seed=seed)
        assert trainer.data.validation is data.validation
    assert not np.array_equal(seen[0], seen[1])
    own = prepare_training_data(smoke.override({"train.seed": 1}))
    trainer, _, _ = trained({"train.seed": 1}, lambda trainer: None)
    assert trainer.data.plan == own.plan


def test_every_report_is_judged_and_says_where_it_was_made(trained):
    metrics = {"step": 1, "windows": 4, "probe/macro_ap": 0.5, "codebook/hard_perplexity": 32.0, "val/loss": 1.0}
    _, (report,), told = trained({}, lambda trainer: trainer.reporter.report(metrics, lambda folder: None))
    judged = {"objective": 0.5, "healthy": True, "reason": "", "node_id": "here"}
    assert report == metrics | judged
    assert told == []


def fails(error, spoil=lambda trainer: None):
    def run(trainer):
        trainer.step, trainer.windows = 3, 12
        spoil(trainer)
        raise error

    return run


def spoil_weights(trainer):
    with torch.no_grad():
        list(trainer.model.parameters())[-1].view(-1)[-1] = torch.nan


def spoil_features_of(name, windows):
    """The features of one window of a probe set are not finite."""

    def spoil(trainer):
        last = trainer.data.get(name).waveform[windows].sum()
        features = trainer.model.features

        def broken(waveform, num_valid):
            found = features(waveform, num_valid)
            return (
                found * torch.where((waveform.sum((1, 2)) - last).abs() < 1e-3 * abs(last), torch.inf, 1)[:, None, None]
            )

        trainer.model.features = broken

    return spoil


@pytest.mark.parametrize(
    ("error", "spoil", "reason"),
    [
        (FloatingPointError("20 steps in a row"), lambda trainer: None, "20 steps in a row"),
        (RuntimeError("no idea"), spoil_weights, "step 3: the weights are not finite"),
        (ValueError("input contains NaN"), spoil_features_of("probe_fit", -1), "step 3: the features are not finite"),
        (ValueError("input contains NaN"), spoil_features_of("probe_score", 0), "step 3: the features are not finite"),
    ],
)
def test_numbers_that_are_not_finite_end_a_trial_with_the_worst_score(trained, error, spoil, reason):
    _, reports, (words,) = trained({}, fails(error, spoil))
    assert words.pop("reason").startswith(reason)
    assert words == {"step": 3, "windows": 12, "node_id": "here", "objective": 0.0, "healthy": False}
    assert reports == []


def test_an_error_that_has_another_cause_stays_one(trained):
    with pytest.raises(RuntimeError, match="out of memory"):
        trained({}, fails(RuntimeError("out of memory")))
