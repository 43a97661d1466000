"""What a labelled window teaches: compared with loops over its samples, and read off at single places."""

import math

import numpy as np
import pytest
import torch

from model.labels import Labels, event_targets, may_hide_an_onset, pick_targets

NAN = math.nan
FULL = torch.tensor([1000])


def labels(p=(NAN,), s=(NAN,), other=(), noise=False) -> Labels:
    """The labels of one window."""
    p, s, other = (torch.tensor([list(x)], dtype=torch.float32).reshape(1, -1) for x in (p, s, other))
    return Labels(p, s, other, torch.tensor([noise]), torch.tensor([-1]))


def known(one: Labels, valid=FULL) -> list[list[int]]:
    """The stretches [first, last] of samples that have a weight for a picker."""
    weight = pick_targets(one, valid, 1000, 20.0)[1][0].numpy() > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], weight, [0]])))
    return [[int(a), int(b) - 1] for a, b in edges.reshape(-1, 2)]


def hidden_by_hand(p: list[float], s: list[float], at: float) -> bool:
    """Whether a place is behind a P that no S follows before the next P, or before an S that no P precedes after the last S."""
    for k, one in enumerate(p):
        following = p[k + 1] if k + 1 < len(p) else math.inf
        if not any(one <= x < following for x in s) and one < at < following:
            return True
    for k, one in enumerate(s):
        before = s[k - 1] if k else -math.inf
        if not any(before < x <= one for x in p) and before < at < one:
            return True
    return False


def test_where_an_onset_may_hide_is_what_a_loop_over_all_onsets_says():
    rng, at = np.random.default_rng(0), torch.arange(0.5, 100, 2)
    for _ in range(200):
        p, s = (sorted(rng.choice(100, rng.integers(0, 4), replace=False).tolist()) for _ in range(2))
        padded = [torch.tensor([x + [NAN] * (4 - len(x))]) for x in (p, s)]
        found = may_hide_an_onset(*padded, at)[0].tolist()
        assert found == [hidden_by_hand(p, s, place) for place in at.tolist()], (p, s)


def test_picks_are_gaussians_and_the_rest_is_noise():
    targets, weight = pick_targets(labels([300], [600]), FULL, 1000, 20.0)
    t = np.arange(1000)
    p, s = (np.exp(-((t - onset) ** 2) / 800) for onset in (300, 600))
    np.testing.assert_allclose(targets[0, 0], p, atol=1e-6)
    np.testing.assert_allclose(targets[0, 1], s, atol=1e-6)
    np.testing.assert_allclose(targets.sum(dim=1), 1, atol=1e-6)
    assert weight.all()


def test_p_and_s_upon_each_other_share_the_probability():
    targets, _ = pick_targets(labels([500], [505]), FULL, 1000, 20.0)
    np.testing.assert_allclose(targets.sum(dim=1), 1, atol=1e-6)
    assert targets[0, 0, 502] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("one", "stretches"),
    [
        (labels([300], [600]), [[0, 999]]),
        (labels([300]), [[0, 350]]),  # behind a P without S nobody knows, but its own Gaussian counts
        (labels(s=[600]), [[550, 999]]),
        (labels([300, 700], [500, NAN]), [[0, 750]]),
        (labels([300], [1400]), [[0, 999]]),  # the S is behind the window, and known
        (labels([-300]), []),  # a P before the window, and its S may be anywhere
        (labels(), []),  # an earthquake that nobody picked
        (labels(noise=True), [[0, 999]]),
        (labels([300], [600], [450]), [[0, 399], [501, 999]]),
    ],
)
def test_samples_whose_label_nobody_knows_have_no_weight(one, stretches):
    assert known(one) == stretches


def test_padding_has_no_weight():
    assert known(labels([300], [600]), torch.tensor([700])) == [[0, 699]]


@pytest.mark.parametrize(
    ("one", "event", "no_weight"),
    [
        (labels([300], [400]), [300, 540], None),
        (labels([300]), [300, 400], [401, 999]),
        (labels(s=[400]), [400, 500], [0, 399]),
        (labels([-100], [100]), [0, 380], None),
        (labels([900], [1100]), [900, 999], None),
    ],
)
def test_an_event_lasts_from_its_p_to_beyond_its_s(one, event, no_weight):
    truth, weight = (x[0].flatten().numpy() for x in event_targets(one, FULL, 1000))
    inside = np.flatnonzero(truth)
    assert [inside.min(), inside.max()] == event
    assert len(inside) == event[1] - event[0] + 1
    assert weight[inside].all()
    if no_weight is None:
        assert weight.all()
    else:
        assert not weight[no_weight[0] : no_weight[1] + 1].any()


def test_behind_a_lone_s_the_coda_ends_nobody_knows_where_until_the_next_p():
    weight = event_targets(labels([800], [400, 850]), FULL, 1000)[1][0].numpy()
    assert not weight[501:800].any()
    assert weight[800:].all()


def test_noise_has_no_event_and_unpicked_records_no_weight():
    assert event_targets(labels(noise=True), FULL, 1000)[1].all()
    assert not event_targets(labels(noise=True), FULL, 1000)[0].any()
    assert not event_targets(labels(), FULL, 1000)[1].any()


@pytest.mark.parametrize("targets", [lambda *a: pick_targets(*a, 20.0), event_targets])
def test_shapes_are_static(targets):
    """As a step on a GPU needs them: nothing asks for a value on the way."""
    one = labels([300], [600], [450])
    compiled = torch.compile(targets, fullgraph=True, backend="eager")
    for found, expected in zip(compiled(one, FULL, 1000), targets(one, FULL, 1000), strict=True):
        torch.testing.assert_close(found, expected)
