"""Windows hold the right samples: in place, in order, at 100 Hz."""

import errno
import os

import numpy as np
import pytest
from scipy.signal import upfirdn

from raysys.config import DataConfig
from raysys.data import files
from raysys.data.corpus import load_corpus
from raysys.data.index import load_index
from raysys.data.resample import low_pass
from raysys.data.windows import RATE_HZ, Traces, read_windows
from tests.data.conftest import write_set


def traces_of(folder, cache) -> Traces:
    return Traces.from_table(load_index(str(folder), folder.name, str(cache)))


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
    ("order", "rows"), [("ENZ", [2, 1, 0]), ("Z12", [0, 1, 2]), ("NE", [None, 0, 1]), ("Z", [0, None, None])]
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
    assert traces.p_s[0] == pytest.approx(onset_s)
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
        stored[1, 3000] = np.inf
        traces = traces_of(write_set(tmp_path / f"{rate_hz}", [stored, stored], rate_hz=rate_hz), tmp_path / "cache")
        assert (traces.up[0], traces.down[0]) == (up, down)
        taps = low_pass(up, down)
        half = len(taps) // 2
        expected = upfirdn(taps, np.where(np.isinf(stored), 0, stored).astype(float), up)[:, half::down]
        start = int(0.48 * traces.output_samples(np.array([0]))[0])
        x, _ = read_windows(traces, np.array([0]), np.array([start]), 512)
        hole = np.isnan(x[0])
        np.testing.assert_allclose(
            np.where(hole, 0, x[0]), np.where(hole, 0, expected[:, start : start + 512]), atol=2e-6
        )
        reach = np.abs((start + np.arange(512)) * down - 3000 * up) <= half
        assert not hole[[0, 2]].any()
        np.testing.assert_array_equal(hole[1], reach)


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
