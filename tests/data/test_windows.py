"""Windows hold the right samples: in place, in order, at 100 Hz."""

import dataclasses
import errno
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from scipy.signal import upfirdn

from raysys.config import DataConfig
from raysys.data import files, windows
from raysys.data.corpus import load_corpus
from raysys.data.index import load_index
from raysys.data.resample import low_pass
from raysys.data.windows import RATE_HZ, Traces, read_windows, whole_traces
from tests.data.conftest import write_set


def traces_of(folder, cache) -> Traces:
    return Traces.from_table(load_index(str(folder), folder.name, str(cache)))


def shuffled(traces: Traces) -> tuple[np.ndarray, np.ndarray]:
    """Every trace, some of them twice, and where to cut them."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.append(np.arange(len(traces)), [0, 50, 90]))
    return ids, rng.integers(0, 250, len(ids))


def test_windows_read_together_are_those_read_one_by_one(mixed):
    ids, starts = shuffled(mixed)
    x, valid = read_windows(mixed, ids, starts, 200)
    assert np.unique(valid).size > 20, "some traces end within their window"
    for k in range(len(ids)):
        alone, samples = read_windows(mixed, ids[k : k + 1], starts[k : k + 1], 200)
        np.testing.assert_array_equal(x[k], alone[0])
        assert valid[k] == samples[0]


def test_an_object_store_gives_the_windows_of_the_disk(mixed):
    memory = fsspec.filesystem("memory")
    there = tuple(f"memory://{number}/waveforms.hdf5" for number in range(len(mixed.files)))
    for path, url in zip(mixed.files, there, strict=True):
        memory.pipe_file(url, Path(path).read_bytes())
    far = dataclasses.replace(mixed, files=there)
    ids, starts = shuffled(mixed)
    assert far.remote(ids).all()
    assert not mixed.remote(ids).any()
    for expected, got in zip(read_windows(mixed, ids, starts, 200), read_windows(far, ids, starts, 200), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_what_no_trace_fills_is_zero_whatever_the_memory_held_before(mixed, monkeypatch):
    ids, starts = shuffled(mixed)
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.ones(shape, dtype) * np.array(99).astype(dtype))
    x, valid = read_windows(mixed, ids, starts, 200)
    missing = {"coarse": [1, 2], "coarse_packed": [0]}
    for window, samples, trace in zip(x, valid, ids, strict=True):
        absent = missing.get(mixed.datasets[mixed.dataset[trace]], [])
        assert (window[:, samples:] == 0).all()
        assert (window[absent] == 0).all()


def test_stored_units_are_scaled(mixed):
    ids, starts = shuffled(mixed)
    scaled = dataclasses.replace(mixed, scale=(0.5 + np.arange(len(mixed)) % 3 / 2).astype(np.float32))
    x, y = read_windows(mixed, ids, starts, 200)[0], read_windows(scaled, ids, starts, 200)[0]
    np.testing.assert_allclose(y, x * scaled.scale[ids][:, None, None], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("first", "last"), [(0, None), (3, 9), (5, 60)])
def test_whole_traces_come_with_their_numbers_a_few_at_a_time(mixed, monkeypatch, first, last):
    monkeypatch.setattr(windows, "_READ_BYTES", 3 * 12 * 300)
    traces = list(whole_traces(mixed, first, last))
    assert [number for number, _ in traces] == list(range(first, last or len(mixed)))
    for number, waveform in traces:
        length = int(mixed.output_samples(np.array([number]))[0])
        assert waveform.shape == (3, length)
        np.testing.assert_array_equal(waveform, read_windows(mixed, [number], [0], length)[0][0])


@pytest.mark.parametrize("storage", [{}, {"chunks": (1, 3, 128)}, {"compression": "gzip"}])
def test_windows_are_the_stored_samples_however_they_are_stored(tmp_path, storage):
    waveforms = [np.random.default_rng(i).standard_normal((3, 700 + i)).astype(np.float64) for i in range(5)]
    traces = traces_of(write_set(tmp_path / "set", waveforms, **storage), tmp_path / "cache")
    assert (traces.offset >= 0).all() == (not storage)
    x, valid = read_windows(traces, np.array([4, 0, 2]), np.array([7, 300, 0]), 512)
    np.testing.assert_array_equal(x[0], waveforms[4][:, 7:519].astype(np.float32))
    np.testing.assert_array_equal(x[1, :, :400], waveforms[0][:, 300:].astype(np.float32))
    assert (x[1, :, 400:] == 0).all(), "zeros follow the end of a trace"
    assert valid.tolist() == [512, 400, 512]


@pytest.mark.parametrize(
    ("order", "rows"),
    [
        ("ENZ", [2, 1, 0]),
        ("Z12", [0, 1, 2]),
        ("NE", [None, 0, 1]),
        ("Z", [0, None, None]),
        ("ZRT", [0, 1, 2]),
        ("2Z1", [1, 2, 0]),
    ],
)
def test_components_come_out_as_zne_and_missing_ones_are_zero(tmp_path, order, rows):
    waveforms = [np.random.default_rng(i).standard_normal((len(order), 600)).astype(np.float32) for i in range(2)]
    traces = traces_of(write_set(tmp_path / "set", waveforms, order=order), tmp_path / "cache")
    x, _ = read_windows(traces, np.array([1]), np.array([10]), 512)
    for row, component in enumerate(rows):
        expected = np.zeros(512) if component is None else waveforms[1][component, 10:522]
        np.testing.assert_array_equal(x[0, row], expected)


@pytest.mark.parametrize("rate_hz", [20.0, 40.0, 50.0, 75.19, 100.0, 125.0, 250.0])
def test_a_pick_stays_on_its_sample_after_resampling_and_cropping(tmp_path, rate_hz):
    """Energy that sets in at a known time sets in at that time in every window."""
    seconds, onset_s = 60.0, 31.25
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    rng = np.random.default_rng(1)
    signal = np.where(
        t >= onset_s, np.exp(-(t - onset_s) / 5) * np.sin(2 * np.pi * min(8.0, rate_hz / 4) * (t - onset_s)), 0.0
    )
    waveform = (1e-3 * rng.standard_normal((3, len(t))) + signal).astype(np.float32)
    folder = write_set(
        tmp_path / "set",
        [waveform, waveform],
        rate_hz=rate_hz,
        columns={"trace_P_arrival_sample": [onset_s * rate_hz] * 2},
    )
    traces = traces_of(folder, tmp_path / "cache")
    assert traces.p_s[0] == pytest.approx(onset_s, rel=1e-3)
    for start in (0, 1, 333, 1009):
        x, _ = read_windows(traces, np.array([0]), np.array([start]), 4096)
        energy = np.abs(x[0]).max(axis=0)
        first = int(np.argmax(energy > 0.2 * energy.max()))
        native = RATE_HZ / rate_hz  # the onset lies somewhere within a native sample, and the wavelet needs one to rise
        assert -1.5 * native - 1 <= first - (traces.p_s[0] * RATE_HZ - start) <= 1.5 * native + 2, start


def test_resampling_is_the_polyphase_filter_of_scipy(tmp_path):
    """Away from the ends it is upfirdn with the same taps; a hole reaches as far as the filter and no further."""
    for rate_hz, up, down in ((40.0, 5, 2), (250.0, 2, 5), (20.0, 5, 1), (75.19, 133, 100), (500.0, 1, 5)):
        stored = np.random.default_rng(0).standard_normal((3, 6000)).astype(np.float32)
        stored[1, 3000], stored[2, 3001] = np.inf, np.nan
        traces = traces_of(write_set(tmp_path / f"{rate_hz}", [stored, stored], rate_hz=rate_hz), tmp_path / "cache")
        assert (traces.up[0], traces.down[0]) == (up, down)
        taps = low_pass(up, down)
        half = len(taps) // 2
        expected = upfirdn(taps, np.where(np.isfinite(stored), stored, 0).astype(float), up)[:, half::down]
        start = int(0.48 * traces.output_samples(np.array([0]))[0])
        x, _ = read_windows(traces, np.array([0]), np.array([start]), 512)
        hole = np.isnan(x[0])
        np.testing.assert_allclose(
            np.where(hole, 0, x[0]), np.where(hole, 0, expected[:, start : start + 512]), atol=2e-6
        )
        assert not hole[0].any()
        for component, at in ((1, 3000), (2, 3001)):
            np.testing.assert_array_equal(hole[component], np.abs((start + np.arange(512)) * down - at * up) <= half)


@pytest.mark.parametrize(
    ("rate_hz", "samples"), [(20.0, 2005), (40.0, 1003), (50.0, 802), (75.19, 534), (120.0, 335), (250.0, 161)]
)
def test_both_ends_of_a_trace_are_held_when_it_is_resampled(tmp_path, rate_hz, samples):
    """As if the first and the last of 401 samples went on for ever, so that an offset leaves no jump there."""
    stored = (np.random.default_rng(0).standard_normal((3, 401)) + 10).astype(np.float32)
    traces = traces_of(write_set(tmp_path / "set", [stored, stored], rate_hz=rate_hz), tmp_path / "cache")
    up, down = int(traces.up[0]), int(traces.down[0])
    taps = low_pass(up, down)
    held = np.pad(stored.astype(float), ((0, 0), (60 * down, 60 * down)), mode="edge")
    expected = upfirdn(taps, held, up)[:, len(taps) // 2 :: down][:, 60 * up :]
    for start in (0, 77, samples - 1):
        x, valid = read_windows(traces, np.array([1]), np.array([start]), 2100)
        assert valid[0] == samples - start
        np.testing.assert_allclose(x[0, :, : valid[0]], expected[:, start:samples], rtol=2e-6)
        assert (x[0, :, valid[0] :] == 0).all()


@pytest.mark.parametrize("stored", ["<f8", ">f4", "<i4", "<i2"])
def test_other_types_and_long_traces_are_read_as_they_are(tmp_path, stored):
    """Types other than float32, and traces so long that components are read apart."""
    waveforms = [
        np.round(1000 * np.random.default_rng(i).standard_normal((3, 20_000))).astype(stored) for i in range(3)
    ]
    traces = traces_of(write_set(tmp_path / "set", waveforms), tmp_path / "cache")
    x, _ = read_windows(traces, np.array([2, 0]), np.array([15_000, 9]), 4096)
    np.testing.assert_array_equal(x[0], waveforms[2][:, 15_000:19_096].astype(np.float32))
    np.testing.assert_array_equal(x[1], waveforms[0][:, 9:4105].astype(np.float32))


def test_a_disk_that_fails_for_a_moment_is_read_again_and_one_that_stays_broken_is_named(
    noise_set, tmp_path, monkeypatch
):
    folder, waveforms = noise_set
    traces = traces_of(folder, tmp_path / "cache")
    monkeypatch.setattr(files, "_FIRST_WAIT_S", 0.0)
    preadv, failures = os.preadv, [errno.EIO, errno.ESTALE]

    def failing(*arguments):
        if failures:
            raise OSError(failures[0], os.strerror(failures.pop(0)))
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", failing)
    x, _ = read_windows(traces, np.array([3]), np.array([10]), 512)
    np.testing.assert_array_equal(x[0], waveforms[3][:, 10:522])
    failures += [errno.EIO] * 4
    with pytest.raises(
        OSError, match=r"noise/waveforms\.hdf5: failed 4 times in a row, last with: .*Input/output error"
    ):
        read_windows(traces, np.array([3]), np.array([10]), 512)


@pytest.mark.parametrize(("up", "down"), [(5, 2), (2, 1), (2, 5), (5, 1), (100, 75)])
def test_an_offset_leaves_no_ripple(up, down):
    taps = low_pass(up, down)
    for phase in range(up):
        assert taps[phase::up].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("rate_hz", [40.0, 250.0])
def test_a_window_is_the_same_cut_before_or_after_resampling(tmp_path, rate_hz):
    waveform = np.random.default_rng(3).standard_normal((3, int(40 * rate_hz))).astype(np.float32)
    traces = traces_of(write_set(tmp_path / "set", [waveform, waveform], rate_hz=rate_hz), tmp_path / "cache")
    whole, valid = read_windows(traces, np.array([0]), np.array([0]), 4096)
    assert valid[0] == 4000
    for start in (0, 1, 2, 3, 5, 777, 3000):
        part, _ = read_windows(traces, np.array([0]), np.array([start]), 1000)
        np.testing.assert_array_equal(part[0], whole[0, :, start : start + 1000])


def test_resampling_keeps_what_lies_below_both_nyquist_frequencies(tmp_path):
    t = np.arange(2400) / 40.0
    sine = np.stack([np.sin(2 * np.pi * f * t) for f in (1.0, 5.0, 12.0)]).astype(np.float32)
    traces = traces_of(write_set(tmp_path / "set", [sine, sine], rate_hz=40.0), tmp_path / "cache")
    x, _ = read_windows(traces, np.array([0]), np.array([500]), 4096)
    fine = (500 + np.arange(4096)) / 100.0
    expected = np.stack([np.sin(2 * np.pi * f * fine) for f in (1.0, 5.0, 12.0)])
    assert np.abs(x[0] - expected).max() < 0.01


def test_a_file_that_shrank_since_it_was_indexed_is_named(tmp_path):
    waveforms = [np.random.default_rng(i).standard_normal((3, 700)).astype(np.float32) for i in range(5)]
    folder = write_set(tmp_path / "set", waveforms)
    traces = traces_of(folder, tmp_path / "cache")
    content = (folder / "waveforms.hdf5").read_bytes()
    (folder / "waveforms.hdf5").write_bytes(content[: traces.offset[4] + 1000])
    with pytest.raises(OSError, match=r"waveforms\.hdf5: shorter than when it was indexed"):
        read_windows(traces, np.array([4]), np.array([0]), 512)
    (folder / "waveforms.hdf5").write_bytes(content + b"more")
    with pytest.raises(OSError, match=r"waveforms\.hdf5: not the file that was indexed .*Start again"):
        read_windows(traces, np.array([0]), np.array([0]), 512)
    (folder / "waveforms.hdf5").unlink()
    with pytest.raises(FileNotFoundError, match=r"waveforms\.hdf5"):
        read_windows(traces, np.array([0]), np.array([0]), 512)


def test_windows_equal_what_seisbench_reads(real_data, tmp_path):
    """On real data at 100 Hz in ZNE order SeisBench and this reader return the same samples."""
    import seisbench.data as sbd

    folder = real_data / "ncedc_phasenet"
    theirs = sbd.WaveformDataset(folder, sampling_rate=100, component_order="ZNE")
    table = load_corpus(DataConfig(root=str(real_data), datasets=("ncedc_phasenet",), cache=str(tmp_path)))
    traces = Traces.from_table(table)
    names = table["trace_name"].to_pylist()
    for i in (0, 17, 153):
        row = theirs.metadata.index[theirs.metadata["trace_name"] == names[i]][0]
        expected, _ = theirs.get_sample(int(row))
        x, _ = read_windows(traces, np.array([i]), np.array([1000]), 4096)
        np.testing.assert_array_equal(x[0], expected[:, 1000:5096].astype(np.float32))
