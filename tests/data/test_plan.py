"""The order of windows: nothing lost, nothing repeated, every stretch mixed, the same for every number of workers."""

import numpy as np
import pytest

from raysys.data.plan import Plan, crop_starts, mixture

PLAN = Plan(sizes=(1000, 200, 37, 0, 400), quotas=(1000, 200, 37, 0, 400), seed=3, shuffle_rows=256)


def test_exactly_once_in_every_epoch():
    for epoch in range(3):
        epochs, visits = PLAN.visits(epoch * PLAN.epoch_windows, PLAN.epoch_windows)
        assert (epochs == epoch).all()
        np.testing.assert_array_equal(np.sort(visits), np.arange(1637))


def test_exactly_once_across_workers_and_through_changes_of_their_number():
    seen, position = [], 0
    for world, steps in ((2, 20), (1, 7), (4, 31), (3, 16)):
        parts = [PLAN.rank_visits(position, 0, steps, rank=r, world=world, batch=5) for r in range(world)]
        seen.append(np.concatenate([np.stack([e, v], axis=1) for e, v in parts]))
        position += steps * world * 5
    seen = np.concatenate(seen)
    epochs, visits = PLAN.visits(0, position)
    np.testing.assert_array_equal(seen[np.lexsort(seen.T)], np.stack([epochs, visits], 1)[np.lexsort([epochs, visits])])


def test_a_global_batch_does_not_depend_on_the_number_of_workers():
    one = PLAN.rank_visits(64, 0, 6, rank=0, world=1, batch=8)[1].reshape(6, 8)
    two = np.concatenate(
        [PLAN.rank_visits(64, 0, 6, rank=r, world=2, batch=4)[1].reshape(6, 4) for r in (0, 1)], axis=1
    )
    np.testing.assert_array_equal(one, two)


def test_epochs_differ_and_seeds_differ_and_both_repeat():
    order = lambda seed, epoch: Plan(sizes=(500,), quotas=(500,), seed=seed).visits(epoch * 500, 500)[1]  # noqa: E731
    np.testing.assert_array_equal(order(1, 2), order(1, 2))
    assert (order(1, 2) != order(1, 3)).mean() > 0.9
    assert (order(1, 2) != order(2, 2)).mean() > 0.9


def test_every_stretch_has_the_mixture_of_the_whole():
    plan = Plan(sizes=(60_000, 20_000, 20_000), quotas=(60_000, 20_000, 20_000), seed=0)
    _, visits = plan.visits(0, 100_000)
    for start in range(0, 100_000, 10_000):
        share = (visits[start : start + 10_000] < 60_000).mean()
        assert 0.57 < share < 0.63
    in_batches = (visits.reshape(-1, 50) < 60_000).mean(axis=1)
    assert in_batches.std() == pytest.approx((0.6 * 0.4 / 50) ** 0.5, rel=0.15), "as mixed as independent draws"


def test_neighbours_in_the_file_are_read_together():
    plan = Plan(sizes=(100_000,), quotas=(100_000,), seed=0, run_rows=16, shuffle_rows=1024)
    _, visits = plan.visits(0, 1024)
    assert len(np.unique(visits // 16)) == 1024 // 16


def test_a_quota_repeats_whole_passes_and_takes_the_rest_at_random():
    plan = Plan(sizes=(100, 50), quotas=(250, 20), seed=0)
    _, visits = plan.visits(0, plan.epoch_windows)
    assert len(np.unique(visits)) == 270, "a second visit of a trace is another visit, with another crop"
    counts = np.bincount(visits % 150, minlength=150)
    assert set(counts[:100]) == {2, 3}
    assert counts[100:].sum() == 20


def test_several_crops_of_a_trace_stay_together_and_differ():
    plan = Plan(sizes=(64,), quotas=(64,), seed=0, crops=3, shuffle_rows=48)
    epochs, visits = plan.visits(0, 192)
    np.testing.assert_array_equal(np.bincount(visits % 64), np.full(64, 3))
    starts = crop_starts(visits, epochs, 0, np.full(192, 100_000))
    assert len(np.unique(starts)) > 180


def test_the_mixture_follows_alpha_or_weights():
    sizes = {"a": 900, "b": 100}
    assert mixture(sizes, 1.0, {}) == sizes
    assert mixture(sizes, 0.0, {}) == {"a": 500, "b": 500}
    assert mixture(sizes, 0.5, {}) == {"a": 750, "b": 250}
    assert mixture(sizes, 1.0, {"b": 2.0}) == {"a": 0, "b": 1000}
    with pytest.raises(ValueError, match=r"data\.weights names \['c'\]"):
        mixture(sizes, 1.0, {"c": 1.0})
    with pytest.raises(ValueError, match="must not be negative"):
        mixture(sizes, 1.0, {"a": -1.0, "b": 3.0})


def test_crops_are_uniform_and_repeatable():
    visits = np.arange(20_000)
    starts = crop_starts(visits, np.zeros(20_000, int), 5, np.full(20_000, 9))
    counts = np.bincount(starts, minlength=10)
    assert counts.min() > 1800
    np.testing.assert_array_equal(starts, crop_starts(visits, np.zeros(20_000, int), 5, np.full(20_000, 9)))
    assert (starts != crop_starts(visits, np.ones(20_000, int), 5, np.full(20_000, 9))).mean() > 0.8
    assert (crop_starts(visits, np.zeros(20_000, int), 5, np.full(20_000, -5)) == 0).all()
