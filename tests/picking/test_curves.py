"""Curves along a record: every sample is read, and alike wherever a stream is cut."""

import time

import numpy as np
import pytest
import torch
from obspy import Stream
from torch import nn

from raysys.picking import stream as stream_module
from raysys.picking.curves import probabilities, window_starts
from raysys.picking.record import Record
from raysys.picking.stream import curves_as_stream, read_stream
from tests.picking.conftest import BEGIN

WINDOW = 256


class Echo(nn.Module):
    """Probabilities that depend on the place in the window, too, as those of a network do at its ends."""

    def __init__(self):
        super().__init__()
        self.window_samples, self.weight, self.seen = WINDOW, nn.Parameter(torch.ones(())), []

    def forward(self, waveform, num_valid):
        """Returns (B, 3, W); keeps what it has seen."""
        self.seen.append((waveform.clone(), num_valid.clone()))
        x = waveform.nan_to_num(nan=0.5) * self.weight
        t = torch.arange(WINDOW, device=x.device)
        return torch.where(t < num_valid[:, None, None], x + 0.01 * t, torch.nan)


def record_of(samples: np.ndarray, first: int = 161_483_436_777) -> Record:
    return Record("XX", "AAA", "", "HH", first, np.asarray(samples, np.float32), ((first, 0.0, 0.0),))


def random_record(length: int, **how) -> Record:
    return record_of(np.random.default_rng(0).normal(size=(3, length)), **how)


def by_a_loop(network: Echo, record: Record) -> np.ndarray:
    """The weighted mean of windows, one sample after the other."""
    total, weight = np.zeros((3, len(record))), np.zeros(len(record))
    for start in window_starts(record.first, len(record), WINDOW).tolist():
        part = record.samples[:, start : start + WINDOW]
        valid = part.shape[1]
        if not np.isfinite(part).any():
            continue
        padded = torch.tensor(np.pad(part, ((0, 0), (0, WINDOW - valid)), mode="edge"))[None]
        with torch.no_grad():
            out = network(padded, torch.tensor([valid])).numpy()[0, :, :valid]
        for k in range(valid):
            w = min(k + 1, WINDOW - k)
            total[:, start + k] += w * out[:, k]
            weight[start + k] += w
    mean = total / np.where(weight, weight, np.nan)
    return np.where(np.isfinite(record.samples).any(axis=0), mean, np.nan)


@pytest.mark.parametrize("length", [1, 100, 255, 256, 257, 300, 384, 512, 513, 1000, 5003])
@pytest.mark.parametrize("first", [0, 1, 127, 128, 161_483_436_777])
def test_windows_cover_every_sample_at_places_of_the_grid_and_both_ends(length, first):
    starts = window_starts(first, length, WINDOW)
    assert (np.diff(starts) > 0).all()
    if length <= WINDOW:
        assert starts.tolist() == [0]
        return
    covered = np.zeros(length, bool)
    for start in starts:
        assert 0 <= start <= length - WINDOW
        covered[start : start + WINDOW] = True
    assert covered.all()
    assert starts[0] == 0
    assert starts[-1] == length - WINDOW
    assert not ((first + starts[1:-1]) % (WINDOW // 2)).any()
    grid = {k for k in range(length - WINDOW + 1) if (first + k) % (WINDOW // 2) == 0}
    assert grid <= set(starts.tolist())


@pytest.mark.parametrize("length", [1, 100, 256, 257, 1000])
@pytest.mark.parametrize("batch", [1, 3, 256])
def test_curves_are_those_of_a_plain_loop(length, batch):
    network, record = Echo(), random_record(length)
    found = probabilities(network, record, batch)
    assert found.dtype == torch.float32
    assert found.shape == (3, length)
    np.testing.assert_allclose(found, by_a_loop(network, record), rtol=1e-4, atol=1e-4)
    assert max(len(waveform) for waveform, _ in network.seen) <= batch


def test_gaps_have_no_curve_and_windows_without_data_are_not_read():
    samples = np.random.default_rng(0).normal(size=(3, 4000))
    samples[:, 500:1500] = np.nan
    samples[0, 2000:2100] = np.nan
    network, record = Echo(), record_of(samples)
    found = probabilities(network, record).numpy()
    hole = np.isnan(found).all(axis=0)
    assert np.array_equal(np.isnan(found).any(axis=0), hole)
    assert np.flatnonzero(hole).tolist() == list(range(500, 1500)), "where one component is there, there is a curve"
    np.testing.assert_allclose(found, by_a_loop(Echo(), record), rtol=1e-4, atol=1e-4)
    assert all(waveform.isfinite().flatten(1).any(dim=1).all() for waveform, _ in network.seen)
    assert sum(len(waveform) for waveform, _ in network.seen) < len(window_starts(record.first, 4000, WINDOW))


def test_a_record_that_is_shorter_than_a_window_is_padded_and_says_so(tiny):
    network, record = Echo(), random_record(100)
    probabilities(network, record)
    assert network.seen[0][1].tolist() == [100]
    found = probabilities(tiny, record)
    with torch.no_grad():
        padded = torch.tensor(np.pad(record.samples, ((0, 0), (0, 156)), constant_values=777.0))[None]
        torch.testing.assert_close(found, tiny(padded, torch.tensor([100]))[0, :, :100], rtol=1e-4, atol=1e-5)


def test_two_cuts_of_a_stream_have_the_same_curve_a_window_from_the_cut(tiny, noise):
    whole = noise(40, rate=50, begin=BEGIN + 0.007)
    (record,), _ = read_stream(whole, WINDOW)
    curve = probabilities(tiny, record)
    for first, last in ((7.3, 33.33), (15.019, 40)):
        (part,), _ = read_stream(whole.slice(BEGIN + first, BEGIN + last, nearest_sample=False), WINDOW)
        at = part.first - record.first
        inside = slice(WINDOW + 10, len(part) - WINDOW - 10)
        difference = (probabilities(tiny, part) - curve[:, at : at + len(part)])[:, inside]
        assert difference.abs().max() < 1e-5
    assert curve.std() > 0.05


def test_gaps_in_each_component_take_seconds_and_have_no_curves(noise):
    """1,500 gaps in each of three components of 2.7 hours."""
    rng, data = np.random.default_rng(0), noise(9720)
    there, traces = np.zeros(972_000, bool), []
    for trace in data:
        edges = np.sort(rng.choice(np.arange(300, 971_700, 300), 1500, replace=False)) + rng.integers(0, 100, 1500)
        for first, last in zip([0, *(edges + 100)], [*edges, 972_000], strict=True):
            part = trace.copy()
            part.stats.starttime, part.data = BEGIN + first / 100, trace.data[first:last]
            traces.append(part)
            there[first:last] = True
    network, begun = Echo(), time.perf_counter()
    records, why = read_stream(Stream(traces), WINDOW)
    curves = [probabilities(network, one) for one in records]
    assert time.perf_counter() - begun < 60, "it takes two seconds where nothing else runs"
    assert why == []
    known = np.zeros(972_000, bool)
    for one, curve in zip(records, curves, strict=True):
        at = one.first - round(BEGIN.ns / 1e7)
        known[at : at + len(one)] = np.isfinite(curve[0])
    assert np.array_equal(known, there)


def test_curves_become_traces_without_gaps_at_their_times():
    samples = np.random.default_rng(0).normal(size=(3, 1000))
    samples[:, 400:450] = np.nan
    record = record_of(samples, first=round(BEGIN.ns / 1e7))
    record = Record(*(getattr(record, n) for n in ("network", "station", "location", "instrument", "first", "samples")),
                    ((record.first, 0.0, 0.0), (record.first + 450, 0.0012, 0.0)))  # fmt: skip
    curve = probabilities(Echo(), record).numpy()
    traces = curves_as_stream(curve, record, ("M_P", "M_S", "M_N"))
    assert [(one.stats.channel, len(one)) for one in traces] == [
        (name, length) for length in (400, 550) for name in ("M_P", "M_S", "M_N")
    ]
    assert traces[1].id == "XX.AAA..M_S"
    assert traces[0].stats.starttime == BEGIN
    assert traces[3].stats.starttime == BEGIN + 4.5012
    assert np.array_equal(traces[4].data, curve[1, 450:])
    assert traces[0].stats.sampling_rate == 100
    assert stream_module.pick_records(Echo(), [], None, "m").empty
