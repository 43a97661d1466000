"""One definition of a collapsed codebook, the same for runs, trials and reports."""

import math

import pytest

from raysys.codebook_health import COLLAPSED_BELOW, PERPLEXITY, CodebookHealth
from raysys.config import RunConfig, keys


def test_the_limit_is_that_of_the_configuration():
    assert CodebookHealth.of(keys(RunConfig())) == CodebookHealth(640, COLLAPSED_BELOW)
    config = RunConfig().override({"search.min_perplexity_fraction": 0.25, "model.quantizer.num_groups": 1})
    assert CodebookHealth.of(keys(config)) == CodebookHealth(320, 0.25)
    assert CodebookHealth.of({}) == CodebookHealth(0)


@pytest.mark.parametrize(("perplexity", "collapsed"), [(20.0, False), (19.9, True), (math.nan, True), (100.0, False)])
def test_a_codebook_has_collapsed_below_a_fifth_of_its_codes(perplexity, collapsed):
    health = CodebookHealth(100)
    assert health.collapsed({PERPLEXITY: perplexity, "codebook/used_fraction": 1.0}) == collapsed
    assert health.fraction({PERPLEXITY: perplexity}) == pytest.approx(perplexity / 100, nan_ok=True)
    assert health.collapsed({})
    assert math.isnan(health.fraction({}))


def test_continuous_targets_cannot_collapse():
    health = CodebookHealth.of(keys(RunConfig().override({"model.quantizer.kind": "none"})))
    assert not health.collapsed({PERPLEXITY: 0.0})
    assert math.isnan(health.fraction({PERPLEXITY: 0.0}))
