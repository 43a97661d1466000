"""The moving average of the weights: its equation, what it decides, and what it leaves alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from raysys.networks import load_network
from raysys.train.data import prepare_training_data
from raysys.train.loop import Trainer
from tests.train.local import local_trainer

STEPS = 8


@pytest.fixture(scope="module")
def averaged(picking):
    """A run with an average, and draws in the forward pass."""
    return picking.override({"finetune.average": 0.5, "head.dropout": 0.2})


@pytest.fixture(scope="module")
def whole(averaged, labelled, tmp_path_factory) -> tuple[Trainer, dict, Path]:
    """That run after its end, its last metrics and its folder."""
    folder = tmp_path_factory.mktemp("averaged")
    trainer = local_trainer(averaged, labelled, folder)
    return trainer, trainer.run(), folder


def checkpoint(folder: Path, step: int = STEPS) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return tuple(load_file(folder / f"step{step:09d}" / f"{name}.safetensors") for name in ("model", "optim"))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("init", ["scratch", "phasenet"])  # the second has buffers that training changes
def test_the_average_is_that_of_its_equation(picking, labelled, tmp_path, init):
    decay = 0.27
    config = picking.override({"finetune.average": decay, "finetune.init": init})
    trainer = local_trainer(config, labelled, tmp_path)

    def weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
        floats = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
        return {name: value.double().numpy().copy() for name, value in floats.items()}

    expected, batches = weights(trainer.model), trainer._batches()
    for step in range(1, 6):
        trainer._train_step(batches)
        keeps = min(decay, (1 + step) / (10 + step))  # 0.18, 0.25, 0.27, ...
        expected = {name: keeps * expected[name] + (1 - keeps) * now for name, now in weights(trainer.model).items()}
        found = weights(trainer.average.model)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=f"{name} after step {step}")
    assert any(np.abs(found[name] - now).max() > 1e-5 for name, now in weights(trainer.model).items())


def test_training_goes_on_as_without_an_average(whole, averaged, labelled, tmp_path):
    local_trainer(averaged.override({"finetune.average": 0.0}), labelled, tmp_path).run()
    plain, moments = checkpoint(tmp_path)
    assert not any(name.endswith(":weights") for name in moments)
    model, optim = checkpoint(whole[2])
    assert not equal(model, plain)
    assert equal(optim, moments | {f"{name}:weights": value for name, value in plain.items()})


def test_the_average_is_what_is_validated_kept_and_read(whole, averaged, labelled, tmp_path):
    trainer, metrics, folder = whole
    model, optim = checkpoint(folder)
    assert equal(model, trainer.average.model.state_dict())
    loaded = load_network(str(folder / f"step{STEPS:09d}"))
    assert equal(model, loaded.network.state_dict())
    other = local_trainer(averaged.override({"finetune.average": 0.0}), labelled, tmp_path)
    other.model.load_state_dict(model)
    scores = {name: value for name, value in metrics.items() if name.startswith("dev/")}
    assert other._validate() == pytest.approx(scores, rel=0, abs=0, nan_ok=True)
    assert trainer._validate() == pytest.approx(scores, rel=0, abs=0, nan_ok=True)
    weights = {f"{name}:weights": value for name, value in trainer.model.state_dict().items()}
    assert equal(weights, {name: optim[name] for name in weights}), "validation gives the weights back"
    assert trainer.task.validate()[0]["dev/loss"] != scores["dev/loss"]


def test_a_run_that_is_continued_ends_with_the_same_bits(whole, averaged, labelled, tmp_path):
    first = local_trainer(averaged, labelled, tmp_path)
    first.steps_left = 4
    first.run()
    second = local_trainer(averaged, labelled, tmp_path)
    assert second.step == 4
    assert equal(second.model.state_dict(), first.model.state_dict())
    assert equal(second.average.model.state_dict(), first.average.model.state_dict())
    second.run()
    for expected, got in zip(checkpoint(whole[2]), checkpoint(tmp_path), strict=True):
        assert equal(expected, got)


def test_a_checkpoint_of_a_run_with_another_average_is_gone_on_from(whole, averaged, labelled, tmp_path):
    """As trials of a population do: an average that is not there begins with the weights."""
    _, optim = checkpoint(whole[2])
    longer = averaged.override({"train.max_steps": 10})
    without = local_trainer(longer.override({"finetune.average": 0.0}), labelled, whole[2])
    assert all(torch.equal(value, optim[f"{name}:weights"]) for name, value in without.model.state_dict().items())
    local_trainer(longer.override({"finetune.average": 0.0, "train.max_steps": 4}), labelled, tmp_path).run()
    begun = local_trainer(longer, labelled, tmp_path)
    assert equal(begun.average.model.state_dict(), begun.model.state_dict())


def test_pretraining_has_no_average(smoke, data, tmp_path):
    assert local_trainer(smoke.override({"finetune.average": 0.9}), data, tmp_path).average.model is None


def _rank(rank: int, config, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    data = prepare_training_data(config).of_run(config)
    trainer = local_trainer(config, data, folder / f"run{rank}", rank=rank, world=2)
    metrics = trainer.run()
    torch.save((trainer.average.model.state_dict(), trainer.model.state_dict(), metrics), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_have_the_same_average(averaged, tmp_path):
    """Only processes of their own exchange gradients as two workers do."""
    config = averaged.override({"train.num_workers": 2, "train.max_steps": 3, "train.validate_every": 3})
    mp.spawn(_rank, (config, tmp_path), nprocs=2)
    (first, weights, scores), (second, _, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert equal(first, second)
    assert not equal(first, weights)
    assert {name: scores[name] for name in scores if name.startswith("dev/")} == pytest.approx(
        {name: others[name] for name in others if name.startswith("dev/")}, rel=0, abs=0, nan_ok=True
    )
