"""Checkpoints: whatever decides how a run goes on, copied at its moment and readable by who finds it."""

import re

import pytest
import torch

from model.hub import from_pretrained
from raysys.train.card import model_card
from raysys.train.checkpoint import FILES, Snapshot
from raysys.train.loop import Trainer
from tests.train.local import local_trainer, made_batch


@pytest.fixture
def trainer(smoke, data, tmp_path) -> Trainer:
    """A trainer after one step whose guard remembers three different numbers."""
    trainer = local_trainer(smoke.override({"train.seed": 31, "train.max_steps": 2}), data, tmp_path / "none")
    trainer.record = {"data_fingerprint": "abc", "git_commit": "123", "command": "python -m jobs.pretrain smoke"}
    trainer._train_step(iter([made_batch(4, smoke.model.window_samples)]))
    trainer.guard.skipped.fill_(2)
    trainer.guard.in_a_row.fill_(1)
    return trainer


def snapshot(trainer: Trainer) -> Snapshot:
    """The trainer as it is now."""
    metrics = {"probe/macro_ap": 0.25, "val/loss": 2.0, "probe/s_ap": float("nan"), "train/loss": 77.5, "step": 3}
    guard, state = trainer.guard.state(), {"step": 3, "windows": 1200, "epoch": 0.5}
    return Snapshot.take(trainer.model, trainer.optimizer, guard, state, metrics, trainer.config, trainer.record)


def numbers(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of all tensors that decide how a trainer goes on, by name."""
    found = dict(trainer.model.state_dict()) | trainer.guard.state()
    for name, parameter in trainer.model.named_parameters():
        found |= {f"{name}:{key}": value for key, value in trainer.optimizer.state[parameter].items()}
    return {name: value.clone() for name, value in found.items()}


def test_a_snapshot_keeps_weights_moments_and_guard_of_its_moment(trainer, smoke, data, tmp_path):
    """Whatever training does to them afterwards, a new trainer finds the old ones."""
    taken, before = snapshot(trainer), numbers(trainer)
    with torch.no_grad():
        for value in (
            *trainer.model.parameters(),
            *trainer.guard.state().values(),
            *(moment for state in trainer.optimizer.state.values() for moment in state.values()),
        ):
            value.add_(1)
    folder = tmp_path / "runs" / "step000000003"
    folder.mkdir(parents=True)
    taken.write(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    other = local_trainer(smoke, data, folder.parent)
    assert (other.step, other.windows) == (3, 1200)
    found = numbers(other)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], value) for name, value in before.items())
    assert len({value.abs().sum().item() for name, value in before.items() if ":exp" in name}) > 200
    model = from_pretrained(folder)
    assert not model.training
    assert torch.equal(model.quantizer.codebook, before["quantizer.codebook"])


def test_the_card_says_what_it_is_and_how_to_load_it(trainer, tmp_path, monkeypatch):
    folder = tmp_path / "step000000003"
    folder.mkdir()
    snapshot(trainer).write(folder)
    card = (folder / "README.md").read_text()
    for text in (
        "# smoke, step 3",
        "1,200 windows of 512 samples, 0.5 epochs",
        "| probe/macro_ap | 0.25 |\n| val/loss | 2 |",
        "fingerprint abc",
        "commit: 123\n",
        "command: `python -m jobs.pretrain smoke`",
        "seed: 31\n",
        "versions: unknown\n",
        '"seed": 31',
        "in any unit -> (windows, 128, 32)",
    ):
        assert text in card
    assert "nan" not in card
    assert "77.5" not in card
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    names = {"waveform": torch.randn(2, 3, trainer.config.model.window_samples)}
    exec(code, names)
    width = trainer.config.model.encoder.width + trainer.config.model.backbone.width
    assert names["features"].shape == (2, trainer.config.model.num_frames, width)
    assert f"{trainer.config.model.num_frames}, {width})" in code


def test_the_card_says_what_the_record_knows_and_what_was_not_scored(trainer):
    record = {"git_commit": "123", "git_diff_sha256": "f1", "versions": {"numpy": "1", "torch": "2", "ray": "3"}}
    record["devices"] = ["H200", "L4", "H200"]
    card = model_card(trainer.config, record, {"step": 3, "windows": 12, "epoch": 0.5}, {"train/loss": 1.0})
    assert "commit: 123, with uncommitted changes" in card
    assert "computed on: 2 x H200, 1 x L4\n" in card
    assert "versions: torch 2, ray 3\n" in card
    assert "command: `unknown`" in card
    assert "None: this checkpoint was written between two validations." in card


def test_weights_of_another_model_are_refused(trainer, tmp_path):
    snapshot(trainer).write(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_codes": 16', '"num_codes": 32'))
    with pytest.raises(ValueError, match=r"quantizer\.codebook"):
        from_pretrained(tmp_path)
