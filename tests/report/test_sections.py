"""What the chapters of a report conclude from numbers."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from raysys.config import RunConfig
from raysys.report import sections_objective, sections_run, sections_sweep
from raysys.report.collect import read_folder
from raysys.report.glossary import glossary
from raysys.report.sections_comparison import comparisons
from raysys.report.sections_run import last, run_verdict
from raysys.report.sections_sweep import sweep_verdict

CONFIG = {"model": {"quantizer": {"num_groups": 2, "num_codes": 50}}}
GOOD = {"val/contrastive": 2.0, "probe/macro_ap": 0.55, "codebook/hard_perplexity": 20.0, "codebook/used_fraction": 0.2}


def run_of(before=0.5, **changes):
    """A run with a validation before training and one after step 8."""
    rows = [{"probe/macro_ap": before}, GOOD | changes]
    return SimpleNamespace(metrics=pd.DataFrame(rows, index=[0, 8]), config=CONFIG)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "good"),  # at every limit
        ({"probe/macro_ap": 0.5499}, "warn"),
        ({"before": math.nan, "probe/macro_ap": 0.0}, "good"),
        ({"val/contrastive": 3.49}, "good"),
        ({"val/contrastive": 3.5}, "bad"),
        ({"codebook/hard_perplexity": 19.9}, "bad"),
        ({"codebook/used_fraction": 0.0}, "good"),
        ({"codebook/hard_perplexity": math.nan}, "good"),
    ],
)
def test_a_run_is_judged_by_its_limits(changes, state):
    assert run_verdict(run_of(**changes), 3.5)[0] == state


def test_a_run_is_judged_by_the_limit_of_its_own_configuration():
    run = run_of()
    run.config = CONFIG | {"search": {"min_perplexity_fraction": 0.21}}
    assert run_verdict(run, 3.5)[0] == "bad"


def test_a_verdict_compares_with_the_model_before_training_and_else_with_the_first_validation():
    words = run_verdict(run_of(), 3.5)[1]
    assert "contrastive loss 2.00 nats, chance 3.50" in words
    assert "precision 0.55, 0.50 before training" in words
    assert "the hard perplexity is 20% of the codes" in words
    run = run_of()
    run.metrics.index = [400, 1200]
    assert "0.50 at the first validation (step 400)" in run_verdict(run, 3.5)[1]
    assert last(run.metrics, "probe/macro_ap") == 0.55
    assert math.isnan(last(run.metrics, "none"))


def test_the_tiles_show_the_last_values_and_the_median_speed():
    run = run_of()
    run.metrics["perf/windows_per_s"] = [10.0, 30.0]
    run.metrics["train/windows"] = [np.nan, 6400]
    tiles = {label: (value, below) for label, value, below in sections_run._tiles(run, math.log(101))}
    assert tiles == {
        "contrastive loss": ("2", "nats; chance 4.62"),
        "probe, mean average precision": ("0.550", "0.50 before training"),
        "tie-aware top-1": ("n/a", "chance 0.0099"),
        "hard perplexity": ("20", "20% of the codes"),
        "windows seen": ("6,400", "in 8 steps"),
        "throughput, median": ("20", "windows / s"),
    }


def test_the_table_of_the_data_adds_up_and_lists_the_commonest_reason_first():
    one = {"dataset": "A", "traces": 9, "train": 5, "dev": 3, "test": 1, "p_labels": 4, "s_labels": 2}
    one |= {"rates_hz": [20.0, 40.0, 50.0, 100.0, 200.0], "left_out": {"gap": 1, "dead": 3, "none": 0}, "kept": {}}
    two = one | {"dataset": "B", "traces": 10, "rates_hz": [62.5, 100.0], "left_out": {}, "kept": {"clipped": 7}}
    record = {"data": {"sets": [one | {"scanned": False}, two | {"scanned": True}], "leaks": []}}
    html = "".join(sections_run.data_section(SimpleNamespace(record=record, config={})).blocks)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", html)][1:]
    assert cells == [
        ["A", "9", "5", "3", "1", "4", "2", "5 rates, 20 to 200", "3 dead; 1 gap", cells[0][-1]],
        ["B", "10", "5", "3", "1", "4", "2", "62.<wbr>5, 100".replace(".<wbr>5", ".5"), "none", "7 clipped"],
        ["all", "19", "10", "6", "2", "8", "4", "", "4", "7"],
    ]
    assert cells[0][-1].startswith("unknown")
    assert "No event of the training split" in html


def sweep_of(tmp_path, statuses, healthy=None):
    rows = [
        {"trial": f"t{i}", "status": status, "windows": 100 if status == "TERMINATED" else 25, "objective": i / 10}
        for i, status in enumerate(statuses)
    ]
    healthy = healthy or [True] * len(rows)
    frame = pd.DataFrame(rows).assign(budget_windows=100, healthy=healthy, seconds=36.0, gpus=0.5, failures=0)
    frame.to_csv(tmp_path / "trials.csv", index=False)
    return read_folder(tmp_path)


@pytest.mark.parametrize(
    ("statuses", "unhealthy", "state", "said"),
    [
        (["TERMINATED"] * 8, 0, "good", "Trial t7 of 8 is the best, with objective 0.700; the median trial has 0.350."),
        (["TERMINATED"] * 7, 0, "warn", "With so few trials the ranking is a first hint."),
        (["TERMINATED"] * 8 + ["ERROR"] * 4, 0, "good", "4 have no valid score (4 failed, 0 with"),
        (["TERMINATED"] * 8 + ["ERROR"] * 5, 0, "warn", "5 have no valid score (5 failed, 0 with"),
        (["TERMINATED"] * 8 + ["ERROR"] * 2, 1, "good", "2 have no valid score (2 failed, 0 with"),
        (["TERMINATED"] * 9, 1, "good", "1 has no valid score (0 failed, 1 with"),
        (["TERMINATED"] * 8 + ["STOPPED_EARLY"] * 2, 0, "good", "2 trials were stopped early, which saved 15%"),
        (["ERROR"] * 2, 0, "bad", "None of the 2 trials has a valid score"),
    ],
)
def test_a_sweep_is_judged_by_its_valid_trials(tmp_path, statuses, unhealthy, state, said):
    sweep = sweep_of(tmp_path, statuses, [True] * (len(statuses) - unhealthy) + [False] * unhealthy)
    found, words = sweep_verdict(sweep, [])
    assert (found, said in words) == (state, True), words


def test_the_tiles_of_a_sweep_count_what_became_of_its_trials(tmp_path):
    statuses = ["TERMINATED"] * 3 + ["STOPPED_EARLY"] * 2 + ["ERROR"]
    tiles = {
        label: words
        for label, *words in sections_sweep._tiles(sweep_of(tmp_path, statuses, [True] * 2 + [False] + [True] * 3))
    }
    assert tiles == {
        "best objective": ["0.100", "trial t1"],
        "trials": ["6", "3 ran to the end"],
        "stopped early": ["2", "by the scheduler"],
        "no valid score": ["2", "failed or unhealthy"],
        "GPU hours": ["0.0300", "saved 0.0300"],
        "compute saved": ["30%", "against all trials in full"],
    }


def test_a_loss_that_falls_as_the_score_rises_ranks_the_trials_as_it_does(tmp_path):
    rows = [{"trial": f"t{i}", "val/loss": 9.0 - i, "score": i / 10, "val/top1_tie": i / 5} for i in range(8)]
    pd.DataFrame(rows).assign(windows=100, budget_windows=100, status="TERMINATED").to_csv(tmp_path / "trials.csv")
    pd.DataFrame(rows).assign(windows=100).to_csv(tmp_path / "history.csv", index=False)
    sweep = read_folder(tmp_path)
    sweep.config["search"] = {"scheduler": "none"}
    words = "".join(sections_objective._agreement(sweep, "score").blocks)
    assert words.count("Rank correlation +1.00 (n = 8") == 2
    assert "The trial with the lowest loss, 2.00, is t7: it has score 0.700 there." in words


def test_failures_are_listed_with_their_reasons_also_of_trials_that_went_on(tmp_path):
    rows = [
        {"trial": "fine", "status": "TERMINATED", "reason": "", "failures": 0, "healthy": True},
        {"trial": "lost", "status": "ERROR", "reason": "", "failures": 2, "healthy": True},
        {"trial": "sick", "status": "TERMINATED", "reason": "", "failures": 0, "healthy": False},
        {"trial": "told", "status": "STOPPED_EARLY", "reason": "collapsed", "failures": 0, "healthy": False},
        {"trial": "back", "status": "TERMINATED", "reason": "", "failures": 1, "healthy": True},
    ]
    pd.DataFrame(rows).assign(windows=7).to_csv(tmp_path / "trials.csv", index=False)
    (listed,) = sections_sweep._failures(read_folder(tmp_path)).blocks
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", listed)][1:]
    assert cells == [
        ["lost", "failed", "no reason recorded", "2", "7"],
        ["sick", "ran to the end", "no reason recorded", "0", "7"],
        ["told", "stopped early", "collapsed", "0", "7"],
        ["back", "ran to the end", "died, and went on from its last checkpoint", "1", "7"],
    ]


def test_the_glossary_gives_the_numbers_that_the_code_works_with():
    (words,) = glossary(runs={"pretrain"}, sweeps={"pretrain"}).blocks
    assert f"{math.log(RunConfig().loss.num_negatives + 1):.2f} at K = 100" in words
    assert f"1/101 = {sections_run.TIE_CHANCE:.4f}" in words
    limit = f"below {RunConfig().search.min_perplexity_fraction:.0%} of the codes".replace("%", " %")
    assert words.count(limit) == 2, "of the perplexity and of the gate"
    assert sections_run.GAIN == 1.1


def test_runs_side_by_side_show_their_last_values_under_their_own_names(run_folder, tmp_path):
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    lines = '{"step": 4, "val/top1_tie": 0.5}\n{"step": 8, "val/top1_tie": 0.25, "train/windows": 128}\n'
    (other / "metrics.jsonl").write_text(lines)
    folders = [read_folder(folder) for folder in (run_folder(4), other)]
    (section,) = comparisons({"run": folders[0], "run (2)": folders[1]})
    cells = re.findall(r"<td>(.*?)</td>", section.blocks[0].replace("<wbr>", ""))
    assert cells[-6:] == ["run (2)", "n/a", "n/a", "0.2500", "n/a", "128"]
    assert cells[0] == "run"
