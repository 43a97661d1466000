"""A picker learns the probabilities of another one: of clean windows, from changed ones, with and without labels."""

import math

import numpy as np
import pytest
import torch

from raysys.networks import load_network
from raysys.presets import with_absolute_places
from raysys.train.data import prepare_training_data
from tests.train.local import local_trainer, made_batch


@pytest.fixture(scope="module")
def teacher(picking, labelled, tmp_path_factory):
    """The folder of a picker."""
    folder = tmp_path_factory.mktemp("teacher")
    local_trainer(picking.override({"train.seed": 7}), labelled, folder).run()
    return str(folder)


def taught(picking, teacher, **more):
    return picking.override({"finetune.teacher": teacher, "augment.noise": 0.0, "augment.real_noise": 0.0} | more)


def test_a_student_learns_from_all_traces_and_is_read_again(picking, labelled, teacher, tmp_path):
    config = taught(picking, teacher)
    data = prepare_training_data(config).of_run(config)
    assert len(data.get("traces")) > len(labelled.get("traces")), "those without labels are among them"
    metrics = local_trainer(config, data, tmp_path / "student").run()
    assert math.isfinite(metrics["train/loss"])
    assert 0 <= metrics["dev/score"] <= 1
    assert load_network(str(tmp_path / "student")).config.finetune.teacher == teacher
    assert f"traces what {teacher} says of them" in (tmp_path / "student" / "step000000008" / "README.md").read_text()


def test_the_loss_is_the_cross_entropy_with_what_the_teacher_says_of_windows_as_they_were(
    picking, labelled, teacher, tmp_path
):
    config = taught(picking, teacher, **{"augment.flip": 1.0, "augment.drop_component": 0.0})
    task = local_trainer(config, labelled, tmp_path).task
    batch = made_batch(3, config.model.window_samples)
    batch.num_valid[1] = 300
    task.model.eval()
    loss, _ = task.losses(task.model, batch)
    said = load_network(teacher).network(batch.waveform, batch.num_valid).double()
    valid = torch.arange(config.model.window_samples) < batch.num_valid[:, None]
    flipped = torch.where(valid[:, None], -batch.waveform, 0)
    mine = task.model(flipped, batch.num_valid).double().log()
    expected = -(said * mine).sum(dim=1)[valid].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    clean = -(said * task.model(batch.waveform, batch.num_valid).double().log()).sum(dim=1)[valid].mean()
    assert abs(clean.item() - expected.item()) > 1e-4 * abs(expected.item()), "a flip makes a difference"


def test_the_teacher_stays_as_it_is_and_the_student_comes_near_it(picking, labelled, teacher, tmp_path):
    config = taught(picking, teacher, **{"augment.flip": 0.0, "augment.drop_component": 0.0})
    task = local_trainer(config, labelled, tmp_path).task
    before = {name: value.clone() for name, value in task._teacher.state_dict().items()}
    optimizer, batch, losses = torch.optim.Adam(task.model.parameters(), 3e-3), made_batch(4, 512), []
    for _ in range(40):
        loss, _ = task.losses(task.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    said = task._teacher(batch.waveform, batch.num_valid)
    entropy = -(said * said.log()).sum(dim=1).mean().item()
    assert losses[-1] >= entropy - 1e-3, "no cross-entropy is smaller"
    assert losses[-1] - entropy < 0.2 * (losses[0] - entropy)
    assert all(torch.equal(value, before[name]) for name, value in task._teacher.state_dict().items())
    assert not any(value.requires_grad for value in task._teacher.parameters())


def test_teachers_that_cannot_teach_are_refused(picking, labelled, teacher, tmp_path):
    with pytest.raises(ValueError, match="sum to 1"):
        picking.override({"finetune.teacher": teacher, "task": "detect"})
    with pytest.raises(ValueError, match="sum to 1"):
        picking.override({"finetune.teacher": teacher, "finetune.init": "eqtransformer"})
    detecting = picking.override({"task": "detect", "train.max_steps": 1})
    local_trainer(detecting, prepare_training_data(detecting).of_run(detecting), tmp_path / "detector").run()
    with pytest.raises(ValueError, match="is no picker whose probabilities"):
        local_trainer(taught(picking, str(tmp_path / "detector")), labelled, tmp_path)


def test_phasenet_can_be_the_student(picking, labelled, teacher, tmp_path):
    config = taught(picking, teacher, **{"finetune.init": "phasenet"})
    task = local_trainer(config, labelled, tmp_path).task
    loss, _ = task.losses(task.model, made_batch(2, config.model.window_samples))
    assert np.isfinite(loss.item())


def test_workers_find_the_teacher_by_name_or_by_place(picking, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given, found in (
        ("default", "default"),
        ("phasenet:instance", "phasenet:instance"),
        ("results/large", f"{tmp_path}/results/large"),
    ):
        assert with_absolute_places(picking.override({"finetune.teacher": given})).finetune.teacher == found
