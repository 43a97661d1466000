"""The linear probe: labels in the right frames, a score that sees what is there and nothing else."""

import numpy as np
import pytest
import torch

from raysys.config import ProbeConfig
from raysys.data.fixed import FixedWindows
from raysys.evaluate.probe import IGNORED, NOISE, P, S, frame_labels, probe_scores

CONFIG = ProbeConfig()


def windows(n=40, seed=0, samples=1600) -> FixedWindows:
    """White noise in which P shakes the first component and S the second, four times as strong as the noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3, samples)).astype(np.float32)
    p, s = rng.uniform(100, 600, n), rng.uniform(800, 1400, n)
    for i in range(n):
        x[i, 0, int(p[i]) : int(p[i]) + 60] *= 4
        x[i, 1, int(s[i]) : int(s[i]) + 60] *= 4
    return FixedWindows(x, np.full(n, samples), p, s, np.zeros(n, bool), np.zeros(n, int), ("made",))


def energy(waveform, num_valid):
    """Log energy of each component in frames of four samples: features that hold the answer."""
    return waveform.unflatten(-1, (-1, 4)).square().mean(-1).add(1e-9).log().transpose(1, 2)


def test_frames_of_an_onset_are_labelled_and_its_neighbourhood_is_not():
    one = windows(1)
    one.p_sample[0], one.s_sample[0] = 400.0, 1000.0
    labels = frame_labels(one, 400, CONFIG)[0]
    center = (np.arange(400) + 0.5) * 4
    assert (labels[(center >= 391) & (center <= 449)] == P).all()
    assert (labels[(center >= 991) & (center <= 1049)] == S).all()
    assert (labels[(center > 452) & (center < 498)] == IGNORED).all()
    assert (labels[center < 340] == NOISE).all()
    assert (labels[(center > 560) & (center < 940)] == NOISE).all()


@pytest.mark.parametrize(
    ("p", "s", "noise", "ignored"),
    [
        (np.nan, np.nan, False, 400),
        (np.nan, np.nan, True, 0),
        (400.0, np.nan, False, 300 - 13),
        (np.nan, 1000.0, False, 250),
    ],
)
def test_frames_that_may_hide_an_onset_nobody_picked_are_ignored(p, s, noise, ignored):
    one = windows(1)
    one.p_sample[0], one.s_sample[0], one.noise[0] = p, s, noise
    labels = frame_labels(one, 400, CONFIG)[0]
    assert abs((labels == IGNORED).sum() - ignored) <= 30
    if np.isnan(s) and not np.isnan(p):
        assert (labels[120:] == IGNORED).all()


def test_features_that_hold_the_answer_score_high_and_noise_scores_its_base_rate():
    scores = probe_scores(energy, 3, windows(), windows(seed=1), CONFIG)
    assert scores["probe/macro_ap"] > 0.5
    chance = probe_scores(lambda x, n: torch.randn(len(x), 400, 5), 5, windows(), windows(seed=1), CONFIG)
    assert chance["probe/macro_ap"] < 0.1


def test_a_wave_without_labels_is_nan_and_leaves_the_other_alone():
    fit, score = windows(), windows(seed=1)
    fit.s_sample[:], score.s_sample[:] = np.nan, np.nan
    scores = probe_scores(energy, 3, fit, score, CONFIG)
    assert np.isnan(scores["probe/s_ap"])
    assert scores["probe/macro_ap"] == scores["probe/p_ap"] > 0.5


def test_the_scale_and_offset_of_features_do_not_matter():
    one = probe_scores(energy, 3, windows(), windows(seed=1), CONFIG)
    other = probe_scores(lambda x, n: 100 * energy(x, n) + 7, 3, windows(), windows(seed=1), CONFIG)
    assert other["probe/macro_ap"] == pytest.approx(one["probe/macro_ap"], abs=0.02)
