"""Checkpoints: written beside the training, kept when the storage fails, readable by who finds them."""

import json
import logging
import re
import threading
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import ray.train
import torch
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from raysys.train.card import model_card
from raysys.train.checkpoint import FILES, Snapshot, load_model
from raysys.train.loop import Trainer
from raysys.train.mend import SNAPSHOT, mend_snapshot, newest_checkpoint
from raysys.train.mirror import LogMirror
from raysys.train.upload import LAST, Upload, persist
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
    model = load_model(folder)
    assert not model.training
    assert torch.equal(model.quantizer.codebook, before["quantizer.codebook"])


def test_the_card_says_what_it_is_and_how_to_load_it(trainer, tmp_path, monkeypatch):
    folder = tmp_path / "step000000003"
    folder.mkdir()
    snapshot(trainer).write(folder)
    card = (folder / "README.md").read_text()
    for text in (
        "# smoke, step 3",
        "1,200 windows of 512\nsamples, 0.5 epochs",
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
    record = {"git_commit": "123", "git_diff": "+1", "versions": {"numpy": "1", "torch": "2", "ray": "3"}}
    card = model_card(trainer.config, record, {"step": 3, "windows": 12, "epoch": 0.5}, {"train/loss": 1.0})
    assert "commit: 123, with uncommitted changes" in card
    assert "versions: torch 2, ray 3\n" in card
    assert "command: `unknown`" in card
    assert "None: this checkpoint was written between two validations." in card


def test_weights_of_another_model_are_refused(trainer, tmp_path):
    snapshot(trainer).write(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_codes": 16', '"num_codes": 32'))
    with pytest.raises(ValueError, match=r"quantizer\.codebook"):
        load_model(tmp_path)


def test_a_checkpoint_appears_under_its_name_only_when_it_is_whole(tmp_path):
    go, started = threading.Event(), threading.Event()

    def write(folder: Path) -> None:
        (folder / "first").write_text("1")
        started.set()
        go.wait(10)
        (folder / "second").write_text("2")

    upload = Upload(write, pafs.LocalFileSystem(), str(tmp_path / "step1"))
    assert started.wait(10)
    assert not upload.done()
    assert not (tmp_path / "step1").exists()
    go.set()
    assert upload.wait()
    assert {path.name for path in (tmp_path / "step1").iterdir()} == {"first", "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["step1"]


def test_a_full_disk_keeps_the_last_good_checkpoint_and_is_one_line_in_the_log(tmp_path, caplog):
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"new")

    def fill(folder: Path) -> None:
        write(folder)
        raise OSError(28, "No space left on device")

    storage, path = pafs.LocalFileSystem(), str(tmp_path / "step1")
    persist(lambda folder: (folder / "weights").write_bytes(b"old"), storage, path)
    with caplog.at_level(logging.INFO):
        assert not Upload(fill, storage, path).wait()
    assert len(caplog.records) == 1
    assert "ALARM checkpoint" in caplog.text
    assert "No space left" in caplog.text
    assert (tmp_path / "step1" / "weights").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["step1"], "nothing half written stays"
    assert Upload(write, storage, path).wait(), "and the next one is written again"
    assert (tmp_path / "step1" / "weights").read_bytes() == b"new"


@pytest.mark.parametrize("renames", [True, False])
def test_what_an_earlier_attempt_left_is_no_part_of_a_checkpoint(tmp_path, renames):
    """With folders that are renamed, and with one in which the file that completes it comes last, as in object stores."""
    storage = pafs.LocalFileSystem() if renames else pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    path = str(tmp_path / "step1") if renames else "step1"
    for name in ("step1", "step1.unfinished") if renames else ("step1",):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale").write_text("old")

    def write(folder: Path) -> None:
        for file in FILES[::-1]:
            (folder / file).write_text(file)

    ended = threading.Event()
    assert Upload(write, storage, path, ended.set).wait()
    assert ended.is_set()
    files = list((tmp_path / "step1").iterdir())
    assert {file.name: file.read_text() for file in files} == {name: name for name in FILES}
    if not renames:
        assert max(files, key=lambda file: file.stat().st_mtime_ns).name == LAST == FILES[-1]

    def fail(folder: Path) -> None:
        write(folder)
        raise OSError("no more")

    ended.clear()
    assert not Upload(fail, storage, path, ended.set).wait()
    assert ended.is_set(), "the logs are sent all the same"
    assert not (tmp_path / "step1.unfinished").exists()
    assert renames or not (tmp_path / "step1" / LAST).exists()


def test_an_error_of_ours_is_not_taken_for_one_of_the_storage(tmp_path):
    def broken(folder: Path) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        Upload(broken, pafs.LocalFileSystem(), str(tmp_path / "step1")).wait()


def test_logs_are_mirrored_and_continued_by_the_next_life(tmp_path):
    storage = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    for life in ("1", "2"):
        mirror = LogMirror(storage, "bucket/run")
        (mirror.folder / "tensorboard").mkdir()
        (mirror.folder / "tensorboard" / f"events.{life}").write_text(life)
        with (mirror.folder / "metrics.jsonl").open("a") as lines:
            lines.write(f"{life}\n")
        mirror.send()
    run = tmp_path / "bucket" / "run"
    assert (run / "metrics.jsonl").read_text() == "1\n2\n"
    assert {path.name for path in (run / "tensorboard").iterdir()} == {"events.1", "events.2"}


def test_a_storage_that_takes_no_logs_is_a_line_in_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    mirror = LogMirror(pafs.LocalFileSystem(), str(tmp_path / "run"))
    (mirror.folder / "metrics.jsonl").write_text("1\n")
    (tmp_path / "run").write_text("a file in the place of the folder")
    mirror.send()
    assert "could not be copied" in caplog.text


@pytest.mark.parametrize("broken", ["", '{"checkpoint_results": [{"checkpoint_dir_na', "[]", "gone"])
def test_a_broken_list_of_checkpoints_is_made_anew_and_ray_train_reads_it(tmp_path, broken):
    """By Ray Train's own reader, from the whole checkpoints in their order and with their metrics."""
    run, names = tmp_path / "run [old]", ["step000000008", "step000000004"]
    halves = {"step000000012": FILES[:-1], "step000000016": FILES[-1:], "step000000020.unfinished": FILES}
    for name, files in (dict.fromkeys(names, FILES) | halves).items():
        (run / name).mkdir(parents=True)
        for file in files:
            (run / name / file).write_text(json.dumps({"windows": name}))
    if broken == "gone":
        listed = ["step000000004", "step000000002"]
        broken = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": n, "metrics": {}} for n in listed]})
    (run / SNAPSHOT).write_text(broken)
    mend_snapshot(str(run))
    manager = CheckpointManager(ray.train.CheckpointConfig(), StorageContext(tmp_path, run.name))
    assert manager.latest_checkpoint_result.checkpoint.path == str(run / "step000000008")
    found = [(Path(x.checkpoint.path).name, x.metrics) for x in manager._checkpoint_results]
    assert found == [(name, {"windows": name}) for name in sorted(names)]
    assert newest_checkpoint(str(run)) == "step000000008"
    before = (run / SNAPSHOT).read_text()
    list_of = json.loads(before)
    assert list_of["checkpoint_report_indices"] == [0, 1]
    assert list_of["current_report_index"] == 2
    mend_snapshot(str(run))
    assert (run / SNAPSHOT).read_text() == before, "a good one is left alone"


def test_a_list_of_checkpoints_that_are_all_gone_is_made_anew_without_any(tmp_path):
    mend_snapshot(str(tmp_path))
    assert newest_checkpoint(str(tmp_path)) is None
    assert not (tmp_path / SNAPSHOT).exists(), "no list, nothing to mend"
    (tmp_path / SNAPSHOT).write_text("{")
    mend_snapshot(str(tmp_path))
    assert newest_checkpoint(str(tmp_path)) is None
    assert json.loads((tmp_path / SNAPSHOT).read_text())["checkpoint_results"] == []
