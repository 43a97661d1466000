"""The linear probe: labels in the right frames, a score that sees what is there and nothing else."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from raysys.config import ProbeConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.evaluate.probe import IGNORED, NOISE, P, S, frame_labels, probe_scores

CENTER = 4 * np.arange(400) + 2
"""Samples that the frames of `energy` are centred on."""
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


NONE = np.nan


@pytest.mark.parametrize(
    ("p", "s", "noise", "valid", "expected"),
    [
        (105, 305, False, 400, "......---PPPPPPP----......---SSSSSSS----"),  # frames exactly on every limit
        (109, 312, False, 400, "......----PPPPPP-----.....----SSSSSS----"),
        (105, 135, False, 400, "......---PPPSSSSSSS----................."),
        (105, 175, False, 400, "......---PPPPPPPSSSSSSS----............."),
        (105, NONE, False, 400, "......---PPPPPPP------------------------"),
        (101, NONE, True, 400, ".....----PPPPPP-------------------------"),
        (NONE, 305, False, 400, "-----------------------------SSSSSSS----"),
        (NONE, NONE, True, 400, "........................................"),
        (NONE, NONE, False, 400, "----------------------------------------"),
        (205, 305, False, 285, "................---PPPPPPP--------------"),
        (NONE, NONE, True, 285, "............................------------"),
    ],
)
def test_frames_of_a_tenth_of_a_second_are_noise_p_s_or_nothing(p, s, noise, valid, expected):
    """Onset frames from 0.1 s before to 0.5 s after a pick, half a second of doubt around them, and what may hide an onset."""
    assert labels_of(p, s, noise, valid, CONFIG) == expected


@pytest.mark.parametrize(
    ("p", "s", "other", "expected"),
    [
        ([45, 225], [105, 305], [], "---PPPPPPSSSSSSS-----PPPPPPP-SSSSSSS----"),
        ([45, 225], [105], [], "---PPPPPPSSSSSSS-----PPPPPPP------------"),
        (
            [45, 225],
            [305],
            [],
            "---PPPPPPP-----------PPPPPPP-SSSSSSS----",
        ),  # the first S may be anywhere before the second P
        ([45], [105, 305], [], "---PPPPPPSSSSSSS-------------SSSSSSS----"),
        ([225], [105], [], "---------SSSSSSS-----PPPPPPP------------"),  # of two earthquakes
        ([45], [75], [345], "---PPPSSSSSSS----.............----------"),
        ([], [], [345], "----------------------------------------"),
    ],
)
def test_frames_of_any_onset_are_never_noise(p, s, other, expected):
    one = windows(1, samples=400)
    further = np.full((1, 3, 2), np.nan)
    for k, onsets in enumerate((p[1:], s[1:], other)):
        further[0, k, : len(onsets)] = onsets
    one.p_sample[0], one.s_sample[0] = [*p, NONE][0], [*s, NONE][0]
    assert letters(dataclasses.replace(one, further=further), CONFIG) == expected


def test_the_configuration_says_which_frames_belong_to_an_onset():
    config = ProbeConfig(before_s=0.3, after_s=0.2)
    assert labels_of(105, 305, False, 400, config) == "......-PPPPPP----.........-SSSSSS----..."


def labels_of(p, s, noise, valid, config) -> str:
    """The classes of 40 frames of ten samples; - where a frame is ignored."""
    one = windows(1, samples=400)
    one.p_sample[0], one.s_sample[0], one.noise[0], one.num_valid[0] = p, s, noise, valid
    return letters(one, config)


def letters(one: FixedWindows, config) -> str:
    names = {NOISE: ".", P: "P", S: "S", IGNORED: "-"}
    return "".join(names[label] for label in frame_labels(one, 10 * np.arange(40) + 5, config)[0])


def test_the_score_is_that_of_a_ridge_regression_with_classes_of_equal_weight():
    """The same in NumPy, frame by frame at once, for unequal classes, few valid samples and features far from zero."""
    config = ProbeConfig(ridge=0.03)
    fit, score = windows(n=11), windows(n=9, seed=1)
    fit.s_sample[::3] = np.nan
    fit.num_valid[1::3], score.num_valid[2::3] = 1100, 900

    def encode(waveform, num_valid):
        x = energy(waveform, num_valid) * (num_valid / 1600)[:, None, None]
        return torch.cat([x, x.square() + 20, x[..., :1] * x[..., 1:2]], dim=-1)

    def frames(part):
        labels = frame_labels(part, CENTER, config)
        x = encode(torch.tensor(part.waveform), torch.tensor(part.num_valid)).double().numpy()[labels != IGNORED]
        return np.concatenate([x, np.ones((len(x), 1))], axis=1), labels[labels != IGNORED]

    x, labels = frames(fit)
    of_class = [x[labels == c] for c in (NOISE, P, S)]
    assert len({len(rows) for rows in of_class}) == 3
    gram = sum(rows.T @ rows / len(rows) for rows in of_class)
    penalty = np.diag(np.append(np.full(7, 0.03 * np.diag(gram)[:7].mean()), 0))
    weights = np.linalg.solve(gram + penalty, np.stack([rows.mean(0) for rows in of_class], axis=1))
    x, labels = frames(score)
    margin = x @ weights - (x @ weights)[:, :1]
    expected = [average_precision_score(labels == wave, margin[:, wave]) for wave in (P, S)]
    for batch in (64, 4):
        scores = probe_scores(encode, 7, CENTER, fit, score, config, batch)
        assert [scores["probe/p_ap"], scores["probe/s_ap"]] == pytest.approx(expected, rel=1e-6)
        assert scores["probe/macro_ap"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert max(expected) < 0.95, "a score that can change"


def test_features_that_hold_the_answer_score_high_and_noise_scores_its_base_rate():
    scores = probe_scores(energy, 3, CENTER, windows(), windows(seed=1), CONFIG)
    assert scores["probe/macro_ap"] > 0.5
    chance = probe_scores(lambda x, n: torch.randn(len(x), 400, 5), 5, CENTER, windows(), windows(seed=1), CONFIG)
    assert chance["probe/macro_ap"] < 0.1


@pytest.mark.parametrize("missing", ["fit", "score", "both"])
@pytest.mark.parametrize("wave", ["p", "s"])
def test_a_wave_without_labels_makes_the_mean_nan_and_leaves_the_other_alone(wave, missing):
    """A mean of one wave would rise where the labels of the harder one are missing."""
    fit, score = windows(), windows(seed=1)
    for name, part in (("fit", fit), ("score", score)):
        if missing in (name, "both"):
            getattr(part, f"{wave}_sample")[:] = np.nan
    scores = probe_scores(energy, 3, CENTER, fit, score, CONFIG)
    assert np.isnan([scores[f"probe/{wave}_ap"], scores["probe/macro_ap"]]).all()
    assert scores[f"probe/{'s' if wave == 'p' else 'p'}_ap"] > 0.5


@pytest.mark.parametrize("count", [40, 0])
def test_without_any_label_every_score_is_nan(count):
    fit, score = windows().take(slice(0, count)), windows(seed=1).take(slice(0, count))
    for part in (fit, score):
        part.p_sample[:], part.s_sample[:] = np.nan, np.nan
    assert all(np.isnan(value) for value in probe_scores(energy, 3, CENTER, fit, score, CONFIG).values())


def test_the_scale_and_offset_of_features_do_not_matter():
    one = probe_scores(energy, 3, CENTER, windows(), windows(seed=1), CONFIG)
    other = probe_scores(lambda x, n: 100 * energy(x, n) + 7, 3, CENTER, windows(), windows(seed=1), CONFIG)
    assert other["probe/macro_ap"] == pytest.approx(one["probe/macro_ap"], abs=0.02)
