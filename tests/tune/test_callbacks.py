"""What the driver does while trials run: progress lines, checkpoints that take less room, nodes that are forgiven."""

import logging
from types import SimpleNamespace

import pyarrow.fs
import pytest
import ray

from raysys.location import Location
from raysys.tune import callbacks, progress
from raysys.tune.callbacks import ForgiveLostNodes, FreeAbandonedGroups, ThinCheckpoints
from raysys.tune.progress import ProgressLines


def trial(name="a", **other):
    metadata = SimpleNamespace(num_failures=0)
    return SimpleNamespace(trial_id=name, run_metadata=metadata, checkpoint=None, last_result={}, **other)


def test_a_line_names_the_trial_as_its_folder_and_tells_how_far_it_and_the_sweep_are(caplog, monkeypatch):
    clock = iter([0.0, 100.0, 200.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = ProgressLines(num_trials=4, budget=200)
    one, two = trial("ab_00000", status="RUNNING"), trial("ab_00001", status="RUNNING")
    with caplog.at_level(logging.INFO):
        for which, windows, reason in ((one, 50, ""), (two, 100, "collapsed"), (one, 100, "")):
            result = {"windows": windows, "objective": 0.25, "reason": reason}
            lines.on_trial_result(0, [one, two], which, result)
            which.last_result = result
            two.status = "TERMINATED" if reason else two.status
    assert [record.message for record in caplog.records] == [
        "trial ab_00000   25 %  objective 0.2500  healthy  (0 done, 2 running, 2 waiting)",
        "trial ab_00001   50 %  objective 0.2500  collapsed  (0 done, 2 running, 2 waiting; up to about 11 min left)",
        "trial ab_00000   50 %  objective 0.2500  healthy  (1 done, 1 running, 2 waiting; up to about 11 min left)",
    ]


def test_a_trial_that_failed_says_why_in_one_line(caplog, tmp_path):
    lines, failed = ProgressLines(1, budget=1), trial("ab_00000", error_file="error.txt", local_path=str(tmp_path))
    error = tmp_path / "error.txt"
    error.write_text(
        "Failure # 1 (now)\nit died\nFailure # 2 (then)\nTraceback:\n  File x\nValueError: too much of it\n"
    )
    lines.on_trial_recover(0, [failed], failed)
    lines.on_trial_error(0, [failed], failed)
    error.unlink()
    lines.on_trial_error(0, [failed], failed)
    assert [record.message for record in caplog.records] == [
        "trial ab_00000 failed and goes on from its last checkpoint: ValueError: too much of it",
        "trial ab_00000 failed: ValueError: too much of it (error.txt)",
        "trial ab_00000 failed: no reason was given (error.txt)",
    ]


def test_abandoned_resources_are_looked_for_at_the_start_and_after_a_failure(monkeypatch):
    clock, looked = [0.0], []
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(callbacks, "free_abandoned_groups", lambda: looked.append(clock[0]))
    free = FreeAbandonedGroups()
    for now in (0.0, 1.0, 5.0, 61.0):
        clock[0] = now
        free.on_step_begin(0, [])
    free.on_trial_error(0, [], trial())
    free.on_step_begin(0, [])
    assert looked == [0.0, 5.0, 61.0]


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize(("windows", "left"), [(99, {"model"}), (100, {"model", "optim"})])
def test_only_trials_that_were_stopped_lose_their_optimiser_state(tmp_path, registered, windows, left):
    checkpoint = tmp_path / "workers" / "train-x" / "step4"
    checkpoint.mkdir(parents=True)
    for name in ("model", "optim"):
        (checkpoint / f"{name}.safetensors").write_text("")
    stopped = trial(storage=SimpleNamespace(storage_filesystem=pyarrow.fs.LocalFileSystem()))
    stopped.last_result = {"windows": windows}
    if registered:
        stopped.checkpoint = SimpleNamespace(path=str(checkpoint))
    else:
        stopped.last_result["checkpoint_path"] = "/where/it/was/workers/train-x/step4"
    ThinCheckpoints(100, Location(tmp_path / "workers")).on_trial_complete(0, [], stopped)
    assert {path.stem for path in checkpoint.iterdir()} == left


@pytest.fixture
def nodes(monkeypatch):
    """The nodes that Ray knows: one that is lost and one that lives."""
    listed = [{"NodeID": "lost", "Alive": False}, {"NodeID": "here", "Alive": True}]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    return listed


def dies(forgive, on_node, name="a", counted=1):
    """A trial that has reported from a node and goes on after it died there."""
    one = trial(name)
    forgive.on_trial_start(0, [], one)
    forgive.on_trial_result(0, [], one, {"node_id": on_node})
    one.run_metadata.num_failures += counted
    forgive.on_trial_recover(0, [], one)
    return one


def test_a_lost_node_costs_no_failure_and_a_process_that_died_does(nodes):
    forgive = ForgiveLostNodes()
    lost, here = dies(forgive, "lost", "a"), dies(forgive, "here", "b")
    announced = dies(forgive, "lost", "c", counted=0)
    for _ in range(2):
        forgive.on_step_begin(0, [])
        assert [one.run_metadata.num_failures for one in (lost, here, announced)] == [0, 1, 0]
    nodes[1]["Alive"] = False
    forgive.on_step_begin(0, [])
    assert here.run_metadata.num_failures == 0, "Ray says so some seconds later"


def test_a_node_that_is_lost_after_the_patience_explains_nothing(nodes, monkeypatch):
    assert ForgiveLostNodes._PATIENCE_S == 120
    monkeypatch.setattr(ForgiveLostNodes, "_PATIENCE_S", -1.0)
    forgive = ForgiveLostNodes()
    here = dies(forgive, "here")
    forgive.on_step_begin(0, [])
    nodes[1]["Alive"] = False
    forgive.on_step_begin(0, [])
    assert here.run_metadata.num_failures == 1


def test_a_trial_that_moved_is_not_forgiven_for_the_node_it_left(nodes):
    forgive, one = ForgiveLostNodes(), trial()
    forgive.on_trial_start(0, [], one)
    forgive.on_trial_result(0, [], one, {"node_id": "lost"})
    forgive.on_trial_start(0, [], one)
    one.run_metadata.num_failures += 1
    forgive.on_trial_recover(0, [], one)
    forgive.on_step_begin(0, [])
    assert one.run_metadata.num_failures == 1
