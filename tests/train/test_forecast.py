"""What a dry run says of data, steps and hours, and where its rate comes from."""

import json
import os

import pytest

from raysys.console import duration
from raysys.presets import PRESETS
from raysys.train.forecast import MEASURED, Rate, hours_text, rate_of, run_forecast


def test_a_dry_run_counts_traces_windows_and_steps(smoke, data):
    text = run_forecast(smoke.override({"train.max_steps": None, "train.epochs": 2.0, "train.num_workers": 2}))
    windows = data.plan.epoch_windows
    assert f"  an epoch: {windows:,} windows" in text
    steps = -(-2 * windows // 8)
    assert f"  {steps:,} steps of 4 windows on each of 2 workers: {2 * windows:,} windows, 2 epochs" in text
    assert text.count(" traces, ") == 8
    assert "GiB a worker" in text


def test_a_dry_run_without_data_says_what_is_missing_and_what_it_does_not_know(smoke, tmp_path):
    config = PRESETS["base"]().override({"data.root": str(tmp_path / "nowhere")})
    text = run_forecast(config)
    assert "not there: ETHZ, GEOFON" in text
    assert "steps and hours are unknown without the data" in text
    text = run_forecast(config.override({"train.max_steps": 9000}))
    assert "9,000 steps of 64 windows on each of 1 workers: 576,000 windows\n" in text
    assert "about 3 min at 3,305 windows/s" in text


def test_the_rate_is_that_of_the_newest_run_of_this_name_else_one_that_was_measured(tmp_path):
    config = PRESETS["base"]().override({"storage": str(tmp_path), "name": "mine"})
    assert rate_of(config, 4, "").windows_per_s == 4 * MEASURED["base"][0]
    assert rate_of(config.override({"model.backbone.width": 256}), 4, "") is None
    assert "unknown" in hours_text(1e6, None)
    for age, (folder, rates) in enumerate(
        {"": [1.0, *[50.0] * 19, 60.0], "trial_a/": [7.0], "trial_b/": [9.0]}.items()
    ):
        file = tmp_path / "mine" / folder / "metrics.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"step": 1}, *({"step": 2, "perf/windows_per_s": rate} for rate in rates)]
        file.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "perf/wi')
        os.utime(file, (age, age))
    assert rate_of(config, 4, "").windows_per_s == 50.0
    assert rate_of(config, 4, "trial_*/") == Rate(9.0, f"the last lines of {tmp_path}/mine/trial_b/metrics.jsonl")
    assert rate_of(config.override({"storage": "s3://bucket"}), 1, "").windows_per_s == MEASURED["base"][0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5.2, "5 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (360000, "100.0 h")],
)
def test_times_come_in_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text
