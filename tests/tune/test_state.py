"""The state of a sweep survives a driver that dies while Ray Tune saves its own."""

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest

from raysys.location import Location
from raysys.train.checkpoint import FILES
from raysys.tune.callbacks import STATE, KeepState, repair_state

SAVED = {
    "experiment_state-2026-01-02_03-04-05.json": '{"trial_data": []}',
    "searcher-state-2026-01-02_03-04-05.pkl": "x",
}
OTHERS = {"record.json": "{}", "tuner.pkl": "y"}


@pytest.fixture
def staging(tmp_path) -> Path:
    """Where Ray Tune's driver writes, with what it saved."""
    folder = tmp_path / "staging"
    folder.mkdir()
    for name, text in (SAVED | OTHERS).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def sweep_folder(tmp_path) -> Path:
    folder = tmp_path / "sweep [v2] *"  # no pattern, but a name
    folder.mkdir()
    return folder


def trial(staging: Path, sweep: Path, checkpoint: str | None = None) -> SimpleNamespace:
    storage = SimpleNamespace(
        experiment_driver_staging_path=str(staging),
        experiment_fs_path=str(sweep),
        storage_filesystem=pyarrow.fs.LocalFileSystem(),
    )
    return SimpleNamespace(storage=storage, checkpoint=checkpoint and SimpleNamespace(path=str(sweep / checkpoint)))


def write_checkpoint(folder: Path, files=FILES) -> None:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text(folder.name)


def test_half_a_state_is_replaced_by_the_whole_one_and_nothing_else_is(staging, sweep_folder):
    KeepState().on_step_end(1, [trial(staging, sweep_folder)])
    (sweep_folder / "experiment_state-2026-01-02_03-04-05.json").write_text('{"trial_da')
    (sweep_folder / "experiment_state-2026-01-03_00-00-00.json").write_text("")  # of a driver that died at once
    (sweep_folder / "record.json").write_text("newer")
    assert repair_state(Location(sweep_folder))
    assert {path.name: path.read_text() for path in sweep_folder.glob("*-state-*")} | {
        path.name: path.read_text() for path in sweep_folder.glob("experiment_state-*")
    } == SAVED
    assert (sweep_folder / "record.json").read_text() == "newer"
    assert not (sweep_folder / "tuner.pkl").exists()


def test_of_two_sessions_the_state_of_the_newest_is_kept_with_the_checkpoints_of_all_trials(staging, sweep_folder):
    for name in SAVED:
        (staging / name.replace("2026-01-02", "2025-12-31")).write_text("old")
    names = ["trial_a/checkpoint_000003", None, "trial_b/checkpoint_000001"]
    KeepState().on_step_end(1, [trial(staging, sweep_folder, name) for name in names])
    with zipfile.ZipFile(sweep_folder / STATE) as archive:
        assert set(archive.namelist()) == {*SAVED, "checkpoints.json"}
        assert json.loads(archive.read("checkpoints.json")) == [names[0], names[2]]
    assert not list(sweep_folder.glob("*.part"))


def test_the_state_is_written_again_when_it_has_changed_and_only_then(staging, sweep_folder):
    keep, trials = KeepState(), [trial(staging, sweep_folder)]
    keep.on_step_end(1, [])
    assert not (sweep_folder / STATE).exists()
    keep.on_step_end(2, trials)
    first = (sweep_folder / STATE).stat().st_mtime_ns
    keep.on_step_end(3, trials)
    assert (sweep_folder / STATE).stat().st_mtime_ns == first
    state = staging / "experiment_state-2026-01-02_03-04-05.json"
    state.write_text("{}")
    os.utime(state, ns=(first + 10**9, first + 10**9))
    keep.on_experiment_end(trials)
    repair_state(Location(sweep_folder))
    assert (sweep_folder / state.name).read_text() == "{}"


@pytest.mark.parametrize("left", [(), FILES[1:]])
def test_a_checkpoint_that_was_deleted_too_soon_is_replaced_by_the_newest_whole_one(
    staging, sweep_folder, caplog, left
):
    KeepState().on_step_end(1, [trial(staging, sweep_folder, "trial_a/checkpoint_000003")])
    repaired = sweep_folder / "trial_a" / "checkpoint_000003"
    if left:
        write_checkpoint(repaired, left)
    for number in (1, 4, 9, 10):
        write_checkpoint(sweep_folder / "trial_a" / f"checkpoint_{number:06d}")
    write_checkpoint(sweep_folder / "trial_a" / "checkpoint_000011", FILES[:-1])
    write_checkpoint(sweep_folder / "trial_b" / "checkpoint_000012")
    repair_state(Location(sweep_folder))
    assert {(repaired / name).read_text() for name in FILES} == {"checkpoint_000010"}
    assert "goes on from checkpoint_000010" in caplog.text
    repair_state(Location(sweep_folder))
    assert {(repaired / name).read_text() for name in FILES} == {"checkpoint_000010"}, "what is there stays"


def test_the_weights_of_a_trial_that_was_stopped_stay(staging, sweep_folder):
    """Its checkpoint has no optimiser state any more, an older one that PBT keeps may have."""
    KeepState().on_step_end(1, [trial(staging, sweep_folder, "trial_a/checkpoint_000003")])
    for name, files in (("checkpoint_000002", FILES), ("checkpoint_000003", FILES[:1])):
        write_checkpoint(sweep_folder / "trial_a" / name, files)
    repair_state(Location(sweep_folder))
    assert (sweep_folder / "trial_a" / "checkpoint_000003" / FILES[0]).read_text() == "checkpoint_000003"
    assert (sweep_folder / "trial_a" / "checkpoint_000002").exists()


def test_a_storage_that_fails_is_told_and_stops_nothing(staging, tmp_path, caplog):
    KeepState().on_step_end(1, [trial(staging, tmp_path / "gone")])
    assert "could not be written" in caplog.text


def test_a_folder_without_a_state_is_a_new_sweep(sweep_folder):
    (sweep_folder / "config.json").write_text(json.dumps({}))
    assert not repair_state(Location(sweep_folder))


def test_a_folder_that_only_ray_tune_wrote_is_gone_on_with_if_it_holds_a_state(sweep_folder):
    """Without one Ray Tune would begin anew, and with one trial only."""
    (sweep_folder / "tuner.pkl").write_text("")
    assert not repair_state(Location(sweep_folder))
    (sweep_folder / next(iter(SAVED))).write_text("{}")
    assert repair_state(Location(sweep_folder))
