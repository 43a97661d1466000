"""The order of windows: nothing lost, nothing repeated, every stretch mixed, the same for every number of workers."""

import numpy as np
import pytest

from raysys.data.plan import Plan, _mix, crop_starts, epoch_order, mixture, onset_starts, uniform

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


def test_a_rank_that_starts_later_sees_the_later_part_of_what_it_would_have_seen():
    where = {"rank": 2, "world": 3, "batch": 5}
    whole, later = PLAN.rank_visits(1600, 0, 9, **where), PLAN.rank_visits(1600, 4, 5, **where)
    assert set(whole[0]) == {0, 1}, "it crosses the end of an epoch"
    for expected, got in zip(whole, later, strict=True):
        np.testing.assert_array_equal(got, expected[4 * 5 :])


@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, 12), (12, 12), (11, 2), (5, 30), (23, 1)])
def test_a_stretch_is_a_piece_of_the_endless_sequence(start, count):
    plan = Plan(sizes=(7, 5), quotas=(7, 5), seed=1)
    endless = np.concatenate([epoch_order(plan, epoch) for epoch in range(4)])
    epochs, visits = plan.visits(start, count)
    np.testing.assert_array_equal(visits, endless[start : start + count])
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(4), 12)[start : start + count])
    assert (epochs.dtype, visits.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("rows", [{"run_rows": 1, "shuffle_rows": 1}, {"run_rows": 500, "shuffle_rows": 500}])
def test_seeds_and_epochs_order_the_runs_and_shuffle_them_otherwise(rows):
    """With one row a stretch nothing is shuffled, and with one run nothing else happens."""
    first, of_seed, of_epoch = (
        epoch_order(Plan(sizes=(500,), quotas=(500,), seed=seed, **rows), epoch)
        for seed, epoch in ((1, 1), (2, 1), (1, 2))
    )
    assert (first != of_seed).mean() > 0.9
    assert (first != of_epoch).mean() > 0.9


def test_a_seed_gives_the_order_that_it_always_gave():
    """A run that was begun with an earlier version continues in its own order."""
    plan = Plan(sizes=(5, 0, 7), quotas=(8, 0, 3), seed=11, crops=2, run_rows=2, shuffle_rows=6)
    third = [14, 17, 15, 5, 3, 2, 12, 13, 6, 1, 18, 0, 4, 16, 26, 27, 38, 39, 36, 24, 9, 21]
    assert epoch_order(plan, 3).tolist() == third
    starts = crop_starts(np.array(third[:8]), np.full(8, 3), 11, np.arange(8) * 1000)
    assert starts.tolist() == [0, 249, 1995, 68, 2238, 2738, 3009, 5276]


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


def test_crops_of_repeated_passes_are_visits_of_their_own():
    plan = Plan(sizes=(30, 20), quotas=(75, 20), seed=0, crops=3)
    visits = epoch_order(plan, 0)
    assert len(np.unique(visits)) == plan.epoch_windows == 3 * 95
    repeats = np.bincount(visits[visits % 50 < 30] // 50)
    assert repeats.tolist() == [30] * 6 + [15] * 3, "two whole passes and half of one, three crops each"


def test_what_a_quota_takes_of_a_last_pass_changes_with_the_epoch():
    plan = Plan(sizes=(1000,), quotas=(100,), seed=0, run_rows=10)
    first, second = (set(epoch_order(plan, epoch).tolist()) for epoch in (0, 1))
    assert len(first) == len(second) == 100
    assert len(first & second) < 50


def test_the_mixture_follows_alpha_or_weights():
    sizes = {"a": 900, "b": 100}
    assert mixture(sizes, 1.0, {}) == sizes
    assert mixture(sizes, 0.0, {}) == {"a": 500, "b": 500}
    assert mixture(sizes, 0.5, {}) == {"a": 750, "b": 250}
    assert mixture(sizes, 1.0, {"b": 2.0}) == {"a": 0, "b": 1000}
    assert mixture(sizes, 1.0, {"a": 1.0, "b": 3.0}) == {"a": 250, "b": 750}
    assert mixture(sizes | {"c": 0}, 0.0, {}) == {"a": 500, "b": 500, "c": 0}, "nothing is taken of an empty one"
    assert mixture({"a": 5, "b": 2}, 0.5, {}) == {"a": 4, "b": 3}, "4.29 and 2.71"
    with pytest.raises(ValueError, match=r"data\.weights names \['c'\]"):
        mixture(sizes, 1.0, {"c": 1.0})
    for weights in ({"a": -1.0, "b": 3.0}, {"a": 0.0}):
        with pytest.raises(ValueError, match="must not be negative, and one must be positive"):
            mixture(sizes, 1.0, weights)


def test_crops_are_uniform_and_repeatable():
    visits = np.arange(20_000)
    starts = crop_starts(visits, np.zeros(20_000, int), 5, np.full(20_000, 9))
    counts = np.bincount(starts, minlength=10)
    assert counts.min() > 1800
    np.testing.assert_array_equal(starts, crop_starts(visits, np.zeros(20_000, int), 5, np.full(20_000, 9)))
    assert (starts != crop_starts(visits, np.ones(20_000, int), 5, np.full(20_000, 9))).mean() > 0.8
    assert (crop_starts(visits, np.zeros(20_000, int), 5, np.full(20_000, -5)) == 0).all()


def test_two_seeds_cut_differently():
    visits, epochs, room = np.arange(1000), np.zeros(1000, int), np.full(1000, 9999)
    assert (crop_starts(visits, epochs, 5, room) != crop_starts(visits, epochs, 6, room)).mean() > 0.98


def test_every_crop_fits_the_room_of_its_own_trace():
    room = np.arange(3000) % 3
    starts = crop_starts(np.arange(3000), np.zeros(3000, int), 0, room)
    for largest in range(3):
        assert np.unique(starts[room == largest]).tolist() == list(range(largest + 1))


def test_the_hash_is_splitmix64():
    """The first numbers of the published generator from the seed 1234567."""
    states = (1234567 + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_of_a_visit_are_uniform_and_have_nothing_to_do_with_each_other():
    visits, epochs = np.arange(20_000), np.zeros(20_000, int)
    numbers = uniform(visits, epochs, 3, 3)
    assert all(abs(x.mean() - 0.5) < 0.01 and x.min() >= 0 and x.max() < 1 for x in numbers)
    assert np.abs(np.corrcoef(numbers) - np.eye(3)).max() < 0.03
    again = uniform(visits[5:9], epochs[5:9], 3, 3)
    assert all((one[5:9] == other).all() for one, other in zip(numbers, again, strict=True))
    assert (uniform(visits, epochs, 4, 1)[0] != numbers[0]).all()
    assert (uniform(visits, epochs + 1, 3, 1)[0] != numbers[0]).all()


def test_a_window_at_an_onset_keeps_a_margin_where_the_trace_allows_it():
    draw = np.linspace(0, 0.999, 50)
    starts = onset_starts(np.full(50, 5000), np.full(50, 3000.0), 1000, draw)
    assert starts.min() == 2100
    assert starts.max() >= 2880
    assert (onset_starts(np.full(50, 2000), np.full(50, 2995.0), 1000, draw) == 2000).all()  # near the end of the trace
    assert (onset_starts(np.full(50, 2000), np.full(50, 5.0), 1000, draw) == 0).all()
    assert onset_starts(np.full(50, 2000), np.full(50, np.nan), 1000, draw).max() > 1900
