"""jobs.best: the best and the last checkpoint of a run, or of the best trial of a sweep."""

import json
import math

import pytest

from jobs.best import best_and_last, main
from raysys.location import Location
from raysys.presets import PRESETS
from raysys.train.checkpoint import FILES

CONFIG = PRESETS["smoke"]()


def write(folder, step, score, files=FILES):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("")
    (folder / "state.json").write_text(json.dumps({"step": step, "windows": 4 * step, "score": score}))


def test_of_a_run_the_best_whole_checkpoint_and_the_last(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    write(run / "step000000004", 4, 0.7)
    write(run / "step000000008", 8, 0.9)
    write(run / "step000000012", 12, math.nan)
    write(run / "step000000016", 16, 1.0, FILES[:-1])
    (run / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    monkeypatch.setattr("sys.argv", ["x", str(run)])
    main()
    *lines, told = capsys.readouterr().out.splitlines()
    assert lines == [
        f"best: step 8, probe/macro_ap 0.9000, {run}/step000000008",
        f"last: step 12, probe/macro_ap no score, {run}/step000000012",
    ]
    assert json.loads(told) == {
        "folder": str(run),
        "objective": "probe/macro_ap",
        "best": {"checkpoint": f"{run}/step000000008", "step": 8, "windows": 32, "score": 0.9},
        "last": {"checkpoint": f"{run}/step000000012", "step": 12, "windows": 48, "score": None},
    }


def test_of_a_sweep_those_of_its_best_trial(tmp_path):
    write(tmp_path / "trial_a" / "checkpoint_000001", 8, 0.5)
    write(tmp_path / "trial_b" / "checkpoint_000009", 4, 0.9)
    write(tmp_path / "trial_b" / "checkpoint_000010", 8, 0.8)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    with pytest.raises(ValueError, match="has no checkpoint yet; a sweep has a best trial when it has ended"):
        best_and_last(Location(tmp_path))
    best = {"trial": "b", "checkpoint": f"{tmp_path}/trial_b/checkpoint_000010", "config": CONFIG.to_dict()}
    (tmp_path / "best.json").write_text(json.dumps(best))
    found = best_and_last(Location(tmp_path))
    assert (found["trial"], found["best"]["score"], found["last"]["score"]) == ("b", 0.9, 0.8)
