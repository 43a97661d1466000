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
from safetensors.torch import load_file

from raysys.train.checkpoint import FILES, Snapshot, load_model
from raysys.train.data import prepare_training_data
from raysys.train.loop import Trainer
from raysys.train.mend import SNAPSHOT, mend_snapshot
from raysys.train.mirror import LogMirror
from raysys.train.reporter import SilentReporter
from raysys.train.upload import Upload, persist


@pytest.fixture(scope="module")
def trainer(smoke, tmp_path_factory) -> Trainer:
    """A trainer that has not begun."""
    return Trainer(
        smoke,
        prepare_training_data(smoke),
        rank=0,
        world=1,
        device=torch.device("cpu"),
        reporter=SilentReporter(tmp_path_factory.mktemp("none")),
        record={"data_fingerprint": "abc", "git_commit": "123", "command": "python -m jobs.pretrain smoke"},
        log_folder=None,
    )


def snapshot(trainer: Trainer) -> Snapshot:
    """The trainer as it is now."""
    metrics = {"probe/macro_ap": 0.25, "val/loss": 2.0, "probe/s_ap": float("nan")}
    guard, state = trainer.guard.state(), {"step": 3, "windows": 12, "epoch": 0.5}
    return Snapshot.take(trainer.model, trainer.optimizer, guard, state, metrics, trainer.config, trainer.record)


def test_a_snapshot_keeps_the_weights_of_its_moment(trainer, tmp_path):
    taken = snapshot(trainer)
    parameter = trainer.model.head.weight
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1)
    taken.write(tmp_path)
    with torch.no_grad():
        parameter.copy_(before)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["head.weight"], before)


def test_the_card_says_what_it_is_and_how_to_load_it(trainer, tmp_path, monkeypatch):
    folder = tmp_path / "step000000003"
    folder.mkdir()
    snapshot(trainer).write(folder)
    card = (folder / "README.md").read_text()
    for text in ("smoke, step 3", "| probe/macro_ap | 0.25 |", "abc", "123", "python -m jobs.pretrain smoke"):
        assert text in card
    assert "nan" not in card
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    names = {"waveform": torch.randn(2, 3, trainer.config.model.window_samples)}
    exec(code, names)
    width = trainer.config.model.encoder.width + trainer.config.model.backbone.width
    assert names["features"].shape == (2, trainer.config.model.num_frames, width)
    assert f"{trainer.config.model.num_frames}, {width})" in code


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


@pytest.mark.parametrize("broken", ["", '{"checkpoint_results": [{"checkpoint_dir_na', "gone"])
def test_a_broken_list_of_checkpoints_is_made_anew_and_ray_train_reads_it(tmp_path, broken):
    """By Ray Train's own reader."""
    run, names = tmp_path / "run", ["step000000004", "step000000008"]
    for name in [*names, "step000000012"]:
        (run / name).mkdir(parents=True)
        for file in FILES[:-1] if name == "step000000012" else FILES:  # the last one is half there
            (run / name / file).write_text("{}")
    if broken == "gone":
        broken = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "step000000002", "metrics": {}}]})
    (run / SNAPSHOT).write_text(broken)
    mend_snapshot(str(run))
    manager = CheckpointManager(ray.train.CheckpointConfig(), StorageContext(tmp_path, "run"))
    assert manager.latest_checkpoint_result.checkpoint.path == str(run / "step000000008")
    before = (run / SNAPSHOT).read_text()
    mend_snapshot(str(run))
    assert (run / SNAPSHOT).read_text() == before, "a good one is left alone"
