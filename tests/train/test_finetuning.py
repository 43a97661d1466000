"""Fine-tuning by the loop of pretraining: what it begins with, learns from, freezes, repeats and scores."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raysys.config import RunConfig
from raysys.data.corpus import load_corpus, select
from raysys.data.onsets import Onsets
from raysys.data.stream import Batch, Worker, process_batches
from raysys.networks import load_network
from raysys.presets import finetuning
from raysys.train import finetuning as finetuning_module
from raysys.train.data import TrainingData, prepare_training_data
from raysys.train.finetuning import LabelTable
from tests.train.local import local_trainer
from tests.train.test_validate import TwoRanks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pretrained(smoke, data, tmp_path_factory):
    """The folder of a pretraining run of two steps."""
    folder = tmp_path_factory.mktemp("pretrained")
    local_trainer(smoke.override({"train.max_steps": 2, "train.validate_every": 2}), data, folder).run()
    return folder


@pytest.mark.parametrize("task", ["pick", "detect", "classify"])
def test_every_task_trains_scores_and_its_network_is_read_again(picking, tmp_path, task):
    config = picking.override({"task": task})
    data = prepare_training_data(config).of_run(config)
    metrics = local_trainer(config, data, tmp_path / "run", tmp_path / "log").run()
    assert metrics["step"] == 8
    assert math.isfinite(metrics["train/loss"])
    assert math.isfinite(metrics["dev/loss"])
    score = "dev/accuracy" if task == "classify" else "dev/score"  # the dev split may lack a class
    assert 0 <= metrics[score] <= 1
    assert not any(name.startswith(("codebook/", "val/", "probe/")) for name in metrics)
    loaded = load_network(str(tmp_path / "run"))
    scores = {
        file.parent.name: json.loads(file.read_text())["score"] for file in (tmp_path / "run").glob("*/state.json")
    }
    best = Path(loaded.checkpoint)
    assert task == "classify" or scores[best.name] == max(scores.values())
    for name, value in load_file(best / "model.safetensors").items():
        assert torch.equal(loaded.network.state_dict()[name], value)
    card = (tmp_path / "run" / "step000000008" / "README.md").read_text()
    assert "dev/score" in card
    assert "load_network" in card


@pytest.mark.parametrize("init", ["phasenet", "eqtransformer"])
def test_networks_of_seisbench_are_trained_by_the_same_loop(picking, labelled, tmp_path, init):
    config = picking.override({"finetune.init": init, "train.max_steps": 2})
    metrics = local_trainer(config, labelled, tmp_path / init).run()
    assert math.isfinite(metrics["dev/loss"])
    assert load_network(str(tmp_path / init)).config.finetune.init == init


def test_resume_gives_the_same_weights_as_an_undisturbed_run(picking, labelled, pretrained, tmp_path):
    config = picking.override({"finetune.init": str(pretrained), "head.dropout": 0.2, "head.span_mask": 0.2})
    local_trainer(config, labelled, tmp_path / "whole").run()
    first = local_trainer(config, labelled, tmp_path / "parts")
    first.steps_left = 4
    first.run()
    local_trainer(config, labelled, tmp_path / "parts").run()
    for file in ("model.safetensors", "optim.safetensors"):
        expected, got = (load_file(tmp_path / name / "step000000008" / file) for name in ("whole", "parts"))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), file


def test_a_backbone_begins_with_a_run_stays_frozen_and_then_learns_at_its_own_rate(
    picking, labelled, pretrained, tmp_path
):
    config = picking.override({"finetune.init": str(pretrained), "finetune.frozen": 0.5, "optim.warmup": 0.0})
    source = load_file(pretrained / "step000000002" / "model.safetensors")
    trainer = local_trainer(config, labelled, tmp_path / "run")
    begun = {name: value.clone() for name, value in trainer.model.backbone.state_dict().items()}
    assert all(torch.equal(value, source[f"backbone.{name}"]) for name, value in begun.items())
    head = [value.clone() for value in trainer.model.head.parameters()]
    batches = trainer._batches()
    for _ in range(4):
        trainer._train_step(batches)
    assert all(torch.equal(value, begun[name]) for name, value in trainer.model.backbone.state_dict().items())
    assert any(not torch.equal(*pair) for pair in zip(head, trainer.model.head.parameters(), strict=True))
    trainer._train_step(batches)
    assert any(not torch.equal(value, begun[name]) for name, value in trainer.model.backbone.state_dict().items())
    rates = {group["part"]: float(group["lr"]) for group in trainer.optimizer.param_groups}
    assert rates["backbone"] == pytest.approx(0.15 * rates[""])


def test_from_scratch_nothing_is_frozen(picking, labelled, tmp_path):
    trainer = local_trainer(picking, labelled, tmp_path)
    assert trainer.task.frozen(0.0) == frozenset()
    assert trainer.task.lrs == {"backbone": 0.5 * picking.optim.lr}
    own = picking.override({"finetune.backbone_lr": 0.02})
    assert local_trainer(own, labelled, tmp_path).task.lrs == {"backbone": pytest.approx(0.02 * picking.optim.lr)}


def test_a_run_of_another_shape_is_refused_by_name(picking, labelled, pretrained, tmp_path):
    other = picking.override({"finetune.init": str(pretrained), "model.backbone.width": 32})
    with pytest.raises(ValueError, match=r"finetune.init=.*of another shape.*--model"):
        local_trainer(other, labelled, tmp_path)


def test_the_model_and_the_budget_of_fine_tuning_come_with_the_preset(smoke, pretrained):
    config = finetuning(smoke.override({"model.backbone.width": 64}), "pick", str(pretrained / "step000000002"))
    assert config.model == smoke.model
    assert (config.name, config.search.objective) == ("smoke-pick", "dev/score")
    with pytest.raises(FileNotFoundError, match=r"finetune.init=/nowhere: no config.json there"):
        finetuning(smoke, "pick", "/nowhere")
    with pytest.raises(ValueError, match=r"search.objective='dev/score' is no score of task='pretrain'"):
        smoke.override({"search.objective": "dev/score"})
    with pytest.raises(ValueError, match=r"finetune.init='phasenet' is a picker"):
        finetuning(smoke, "classify", "phasenet")


def batches_of(data: TrainingData, config: RunConfig, batch: int, steps: int) -> list[Batch]:
    arguments = (data.plan, config.data, config.model.window_samples, Worker(0, 1, batch), 0, steps)
    return list(process_batches(data.traces, *arguments))


def test_labels_of_a_batch_are_those_of_its_traces_counted_from_its_windows(picking, labelled):
    onsets = Onsets.from_table(select(load_corpus(picking.data), "train"))
    onsets = onsets.take(onsets.labelled)
    book, seen = LabelTable(labelled.labels, CPU), 0
    for batch in batches_of(labelled, picking, 16, 6):
        labels, trace, start = book.of(batch.trace, batch.start), batch.trace.numpy(), batch.start.numpy()
        for found, catalogued in zip(labels[:3], (onsets.p, onsets.s, onsets.other), strict=True):
            np.testing.assert_allclose(found.numpy(), catalogued[trace] - start[:, None], atol=1e-3)
        np.testing.assert_array_equal(labels.noise.numpy(), onsets.noise[trace])
        seen += int((~labels.p.isnan()).sum())
    assert seen > 50


def test_windows_at_onsets_hold_one_more_often(picking, labelled):
    def share(at_onsets: float) -> float:
        config = picking.override({"finetune.at_onsets": at_onsets})
        data = prepare_training_data(config).of_run(config)
        book, found = LabelTable(data.labels, CPU), []
        for batch in batches_of(data, config, 32, 8):
            labels = book.of(batch.trace, batch.start)
            onset = torch.cat([labels.p, labels.s], dim=1)
            found.append(((onset >= 0) & (onset < batch.num_valid[:, None])).any(dim=1)[~labels.noise])
        return torch.cat(found).float().mean().item()

    assert share(1.0) == 1.0
    assert share(0.0) < 0.6
    assert share(0.0) < share(0.5) < 1.0


def test_a_part_of_the_labels_is_told_and_leaves_dev_alone(picking, labelled, caplog):
    with caplog.at_level(logging.INFO):
        part = labelled.of_run(picking.override({"finetune.label_fraction": 0.2}))
    told, every = part.contents["labels"], labelled.contents["labels"]
    assert told["traces"] == len(part.traces) < len(labelled.traces) == every["traces"] == every["of"]
    assert f"labelled traces to learn from: {told['traces']} of {told['of']}" in caplog.text
    assert told["dev"] == every["dev"]
    np.testing.assert_array_equal(part.validation.waveform, labelled.validation.waveform)
    assert part.fingerprint == labelled.fingerprint


@pytest.mark.parametrize("left_out", [(), ("ETHZ",)])
def test_two_ranks_score_as_one(picking, labelled, tmp_path, monkeypatch, left_out):
    """Each rank scores its share of the windows, and both say what one rank says of all."""
    ranks, config = TwoRanks(), picking.override({"finetune.left_out": left_out})
    tasks = [local_trainer(config, labelled, tmp_path).task for _ in range(3)]
    whole, _ = tasks[2].validate()
    monkeypatch.setattr(finetuning_module, "dist", ranks)
    for rank in range(2):
        tasks[rank]._worker = Worker(rank, 2, 4)
    one, other = ranks.run(lambda rank: tasks[rank].validate()[0])
    assert one == pytest.approx(other, rel=0, abs=0, nan_ok=True)
    assert one == pytest.approx(whole, rel=1e-3, nan_ok=True)
    assert {name: one[name] for name in one if "loss" not in name} == pytest.approx(
        {name: whole[name] for name in whole if "loss" not in name}, nan_ok=True
    )
