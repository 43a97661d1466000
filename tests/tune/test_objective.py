"""The objective compares trials; the loss does not."""

import math

import pytest

from raysys.presets import PRESETS
from raysys.tune.ranking import WORST, judge

CONFIG = PRESETS["base"]()
HEALTHY = {
    "probe/macro_ap": 0.4,
    "val/top1_tie": 0.1,
    "codebook/hard_perplexity": 300.0,
    "val/loss": 3.0,
    "train/loss": 3.0,
}


def test_a_healthy_trial_scores_what_the_probe_says():
    assert judge(HEALTHY, CONFIG) == {"objective": 0.4, "healthy": True, "reason": ""}
    other = CONFIG.override({"search.objective": "val/top1_tie"})
    assert judge(HEALTHY, other)["objective"] == 0.1


def test_collapsed_codebooks_and_nan_get_the_worst_value_and_a_reason():
    collapsed = judge(HEALTHY | {"codebook/hard_perplexity": 2.0, "val/loss": 0.0}, CONFIG)
    assert collapsed["objective"] == WORST
    assert "collapsed: hard perplexity 2 of 640, gate 20%" in collapsed["reason"]
    for broken in ({"probe/macro_ap": math.nan}, {"val/loss": math.nan}, {"train/loss": math.inf}):
        verdict = judge(HEALTHY | broken, CONFIG)
        assert (verdict["objective"], verdict["healthy"]) == (WORST, False)
        assert "not finite" in verdict["reason"]


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({}, 128),  # a fifth of 2 x 320
        ({"model.quantizer.num_groups": 3, "model.quantizer.num_codes": 100}, 60),
        ({"search.min_perplexity_fraction": 0.25}, 160),
    ],
)
def test_the_gate_is_a_fraction_of_all_codes(changes, gate):
    config = CONFIG.override(changes)
    assert judge(HEALTHY | {"codebook/hard_perplexity": gate}, config)["healthy"]
    assert not judge(HEALTHY | {"codebook/hard_perplexity": gate - 0.01}, config)["healthy"]
    assert not judge(HEALTHY | {"codebook/hard_perplexity": math.nan}, config)["healthy"]


def test_continuous_targets_have_no_codebook_that_could_collapse():
    config = CONFIG.override({"model.quantizer.kind": "none"})
    assert judge(HEALTHY | {"codebook/hard_perplexity": 0.0}, config)["objective"] == 0.4


def test_a_trial_without_its_objective_is_not_healthy_and_one_without_a_loss_is():
    assert judge({key: value for key, value in HEALTHY.items() if "loss" not in key}, CONFIG)["healthy"]
    verdict = judge({key: value for key, value in HEALTHY.items() if "probe" not in key}, CONFIG)
    assert verdict == {"objective": 0.0, "healthy": False, "reason": "probe/macro_ap is not finite"}
