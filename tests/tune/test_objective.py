"""The objective compares trials; the loss does not."""

import math

from raysys.presets import PRESETS
from raysys.tune.objective import WORST, judge

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
