"""Fixed windows: spread over all traces, the same for a seed, with their picks on the right sample."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.fixed_windows import FixedWindows, fixed_windows
from raysys.data.index import load_index
from tests.data.conftest import write_set

WINDOW = 400
NAN = float("nan")


def counting_set(folder, name: str, p: list, s: list, category: list, lengths: list, number: int = 0) -> pa.Table:
    """Index of traces whose samples tell where they are: the first component counts samples, the second is the trace's number."""
    waveforms = [
        np.stack([np.arange(length), np.full(length, number + i), np.ones(length)]).astype(np.float32)
        for i, length in enumerate(lengths)
    ]
    columns = {"trace_P_arrival_sample": p, "trace_S_arrival_sample": s, "trace_category": category}
    columns = {key: ["" if value != value else value for value in column] for key, column in columns.items()}
    write_set(folder / name, waveforms, columns=columns)
    return load_index(str(folder / name), name, str(folder / "cache")).replace_schema_metadata(None)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pa.Table:
    """90 traces of one data set, without a pick, with P, with S, with both or noise in turn, and 30 of another."""
    folder = tmp_path_factory.mktemp("fixed")
    rng = np.random.default_rng(0)
    p, s = np.round(rng.uniform(500, 1400, 90)), np.round(rng.uniform(1900, 2600, 90))
    kind = np.arange(90) % 5  # none, P, S, both, noise
    p, s = np.where(np.isin(kind, [1, 3]), p, NAN), np.where(np.isin(kind, [2, 3]), s, NAN)
    category = np.where(kind == 4, "Noise", "earthquake").tolist()
    long = counting_set(folder, "long", p.tolist(), s.tolist(), category, [3000] * 90)
    short = counting_set(folder, "short", [0, 349, 350, -1, 20, 40] * 5, [NAN] * 30, ["noise"] * 30, [350] * 30, 100)
    return pa.concat_tables([long, short])


def origin(windows: FixedWindows) -> tuple[np.ndarray, np.ndarray]:
    """The trace and the first sample of every window, as its samples tell."""
    number = windows.waveform[:, 1, 0].astype(int)
    return np.where(number >= 100, number - 10, number), windows.waveform[:, 0, 0].astype(int)


@pytest.mark.parametrize("seed", range(5))
def test_windows_are_spread_evenly_over_the_rows_and_so_over_the_data_sets(table, seed):
    windows = fixed_windows(table, 40, WINDOW, seed)
    rows, _ = origin(windows)
    assert (np.diff(rows) == 3).all()
    assert len(windows) == 40
    assert windows.datasets == ("long", "short")
    np.testing.assert_array_equal(windows.dataset, rows >= 90)
    np.testing.assert_array_equal(windows.num_valid, np.where(rows < 90, WINDOW, 350))


def test_fewer_traces_than_windows_give_each_trace_once(table):
    assert origin(fixed_windows(table, 500, WINDOW))[0].tolist() == list(range(120))
    assert len(fixed_windows(table.slice(0, 0), 5, WINDOW)) == 0


@pytest.mark.parametrize("labelled", [False, True])
def test_every_pick_is_inside_its_window_or_nan(table, labelled):
    windows = fixed_windows(table, 120, WINDOW, labelled=labelled)
    rows, starts = origin(windows)
    for column, name in ((windows.p_sample, "p_s"), (windows.s_sample, "s_s")):
        sample = 100 * table[name].to_numpy()[rows] - starts
        inside = (sample >= 0) & (sample < windows.num_valid)
        np.testing.assert_allclose(column, np.where(inside, sample, NAN), atol=1e-9)
    short = windows.p_sample[rows >= 90]
    np.testing.assert_array_equal(
        short[:6], [0, 349, NAN, NAN, 20, 40], "the first and the last sample count as inside"
    )


def test_labelled_windows_have_a_pick_or_are_known_to_be_noise(table):
    anything, labelled = (origin(fixed_windows(table, 120, WINDOW, labelled=x))[0] for x in (False, True))
    assert sorted(set(anything) - set(labelled)) == list(range(0, 90, 5)), "those that have neither"


def test_noise_is_what_is_called_so_and_has_no_pick(table):
    windows = fixed_windows(table, 120, WINDOW)
    rows, _ = origin(windows)
    np.testing.assert_array_equal(windows.noise, (rows < 90) & (rows % 5 == 4))


def test_picks_lie_a_tenth_of_the_window_from_its_ends_and_anywhere_between(table):
    drawn = [fixed_windows(table.slice(0, 90), 90, WINDOW, seed) for seed in range(6)]
    picks = np.concatenate([np.stack([w.p_sample, w.s_sample]) for w in drawn], axis=1)
    kind = np.tile(np.arange(90) % 5, 6)
    assert not np.isnan(picks[0, kind == 1]).any()
    assert not np.isnan(picks[1, kind == 2]).any()
    both = ~np.isnan(picks[:, kind == 3])
    assert (both.sum(axis=0) == 1).all(), "they lie further apart than a window is long"
    assert 0.3 < both[0].mean() < 0.7, "P and S in turn"
    found = picks[~np.isnan(picks)]
    assert (found.min() >= 0.1 * WINDOW) & (found.max() <= 0.9 * WINDOW + 1)
    assert np.ptp(np.histogram(found, 4, (0.1 * WINDOW, 0.9 * WINDOW))[0]) < 0.25 * len(found)


def test_windows_near_the_ends_of_a_trace_stay_inside_it(tmp_path):
    table = counting_set(tmp_path, "ends", [5, 1995, 1000], [NAN] * 3, ["earthquake"] * 3, [2000] * 3)
    windows = fixed_windows(table, 3, WINDOW)
    assert origin(windows)[1][:2].tolist() == [0, 1600]
    assert windows.p_sample[:2].tolist() == [5, 395]
    assert (windows.num_valid == WINDOW).all()


def test_without_a_pick_a_window_may_lie_anywhere_in_the_trace(table):
    starts = np.concatenate([origin(fixed_windows(table.slice(0, 1), 1, WINDOW, seed))[1] for seed in range(60)])
    assert starts.min() < 300
    assert starts.max() > 2300


def test_two_seeds_choose_other_traces_and_other_places(table):
    first, again, other = (fixed_windows(table, 20, WINDOW, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.waveform, again.waveform)
    whole, of_other = (origin(fixed_windows(table.slice(0, 90), 90, WINDOW, seed))[1] for seed in (1, 2))
    assert (whole != of_other).mean() > 0.9
    assert (origin(first)[0] != origin(other)[0]).all()


def test_taking_some_windows_takes_every_column_of_them(table):
    windows = fixed_windows(table, 120, WINDOW)
    some = windows.take(slice(1, None, 3))
    assert some.datasets == windows.datasets
    for name in ("waveform", "num_valid", "p_sample", "s_sample", "noise", "dataset"):
        np.testing.assert_array_equal(getattr(some, name), getattr(windows, name)[1::3])
