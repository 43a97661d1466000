"""What a sweep writes of its trials, from the results that Ray Tune hands over."""

import json

import pandas as pd
import pytest
from ray.tune import Result

from raysys.location import Location
from raysys.presets import PRESETS
from raysys.record import read_config
from raysys.tune.results import trial_rows, tuned_values, write_results

CONFIG = PRESETS["smoke"]()
BUDGET = 100
HOLDS = {"CPU": 2.0, "GPU": 0.5}


def result(name, windows=BUDGET, objective=0.5, error=None, healthy=True, reason="", **config) -> Result:
    """A trial that reported twice, half way and at its end, and took a second a window."""
    reports = [
        {"windows": w, "objective": score, "healthy": healthy, "probe/macro_ap": score, "time_total_s": float(w)}
        for w, score in ((windows // 2, objective / 2), (windows, objective))
    ]
    config = config or {"mask.ratio": 0.5}
    last = reports[-1] | {
        "trial_id": name,
        "reason": reason,
        "config": config,
        "checkpoint_path": f"/was/train-{name}/last",
    }
    return Result(last, None, error, f"/runs/trial_{name}", pd.DataFrame(reports))


def repeat(of, objective, seed, **other) -> Result:
    return result(
        f"r{seed}{of}", objective=objective, repeat={"repeat_of": of, "mask.ratio": 0.5, "train.seed": seed}, **other
    )


def test_a_row_says_what_became_of_a_trial_and_what_it_used():
    died = RuntimeError("The actor died unexpectedly\n  more of it\nlast line")
    found = [result("c", 10, error=died), result("b", 99, 0.25, reason="worse"), result("a", **{"optim.lr": 1e-3})]
    rows = trial_rows(found, BUDGET, HOLDS)
    assert list(rows["trial"]) == ["a", "b", "c"]
    assert list(rows["status"]) == ["TERMINATED", "STOPPED_EARLY", "ERROR"]
    assert list(rows["reason"]) == ["", "worse", "The actor died unexpectedly"]
    assert list(rows["seconds"]) == list(rows["windows"]) == [100, 99, 10]
    assert rows[["budget_windows", "cpus", "gpus"]].drop_duplicates().to_numpy().tolist() == [[100, 2.0, 0.5]]
    assert list(rows["probe/macro_ap"]) == list(rows["objective"]) == [0.5, 0.25, 0.5]
    assert rows["optim.lr"][0] == 1e-3
    assert trial_rows([result("d", error=ValueError("first\nlast"))], BUDGET, {})["reason"][0] == "last"


def test_deaths_of_a_trial_are_counted_though_it_went_on(tmp_path):
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at)\nTraceback\nFailure # 2 (occurred at)\n")
    found = [result("a"), result("b")]
    found[0].path = str(tmp_path)
    assert list(trial_rows(found, BUDGET, {})["failures"]) == [2, 0]


def test_a_trial_that_never_reported_has_a_name_and_no_score():
    row = trial_rows([Result(None, None, OSError("gone"), "/runs/trial_z/")], BUDGET, {}).iloc[0]
    assert (row["trial"], row["windows"], row["healthy"]) == ("trial_z", 0, False)
    assert pd.isna(row["objective"])


def test_the_best_is_healthy_and_went_furthest_and_its_file_repeats_it(tmp_path):
    grid = [
        result("a", objective=0.6, **{"optim.lr": 2e-3}),
        result("b", objective=0.5, **{"optim.lr": 3e-3}),
        result("c", 50, 0.9),
        result("d", objective=0.99, healthy=False),
    ]
    best = write_results(Location(tmp_path), CONFIG, [grid], BUDGET, HOLDS)
    checkpoint = str(tmp_path / "workers" / "train-a" / "last")
    wanted = ("a", 0.6, {"optim.lr": 2e-3}, checkpoint, "probe/macro_ap")
    assert tuple(best[key] for key in ("trial", "value", "tuned", "checkpoint", "objective")) == wanted
    assert json.loads((tmp_path / "best.json").read_text()) == json.loads(json.dumps(best))
    assert read_config(str(tmp_path)) == CONFIG.override({"optim.lr": 2e-3, "name": "smoke-best"})
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history["trial"]) == [name for name in "abcd" for _ in range(2)]
    assert list(history["windows"]) == list(history["seconds"]) == [50, 100, 50, 100, 25, 50, 50, 100]
    assert list(history["objective"])[:2] == [0.3, 0.6]


def test_with_other_seeds_the_mean_decides_and_is_reported(tmp_path):
    grid = [result("a", objective=0.9), result("b", objective=0.8)]
    again = [repeat("a", 0.2, 1), repeat("a", 0.4, 2), repeat("b", 0.5, 1), repeat("b", 0.7, 2)]
    best = write_results(Location(tmp_path), CONFIG, [grid, again], BUDGET, HOLDS)
    assert (best["trial"], best["value"], best["seeds"]) == ("b", pytest.approx(0.6), 2)
    assert best["spread"] == pytest.approx(0.02**0.5)
    assert best["config"]["train"]["seed"] == CONFIG.train.seed
    one = write_results(Location(tmp_path), CONFIG, [grid, again[2:3]], BUDGET, HOLDS)
    assert (one["trial"], one["value"], one["spread"], one["seeds"]) == ("b", 0.5, None, 1)
    assert set(tuned_values(again)[0]["tuned"]) == {"mask.ratio", "train.seed"}


def test_without_a_healthy_trial_the_table_is_written_and_nothing_wins(tmp_path):
    with pytest.raises(RuntimeError, match="no trial finished in good health"):
        write_results(Location(tmp_path), CONFIG, [[result("a", healthy=False)]], BUDGET, HOLDS)
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 1
    assert not (tmp_path / "best.json").exists()
