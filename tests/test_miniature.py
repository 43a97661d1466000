"""The miniatures open in SeisBench, show every quirk of the real sets, repeat exactly, and their onsets are onsets."""

import json
import logging
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest

from raysys.miniature import ALL8, physics, simulate, write, write_miniatures, write_obspy_examples
from raysys.miniature.twins import TWINS

TRACES = 48


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniature")
    write_miniatures(folder, traces=TRACES, seed=1)
    write_obspy_examples(folder)
    return folder


def metadata(root, name):
    return pd.concat(
        [pd.read_csv(file) for file in sorted((root / name.lower()).glob("metadata*.csv"))], ignore_index=True
    )


def open_set(root, name, **options):
    from seisbench.data import WaveformDataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WaveformDataset(root / name.lower(), component_order="ZNE", **options)


@pytest.fixture(scope="module")
def native(root):
    """Name -> (metadata as SeisBench reads it, waveforms at the native rate in ZNE order)."""
    out = {}
    for name in ALL8:
        data = open_set(root, name)
        out[name] = (data.metadata, [data.get_sample(i)[0] for i in range(len(data))])
    return out


@pytest.mark.parametrize("name", [*ALL8, "obspy_examples"])
def test_seisbench_opens_and_resamples_to_100_hz_in_zne(root, name):
    data = open_set(root, name, sampling_rate=100)
    assert len(data) == (TRACES if name in ALL8 else len(metadata(root, name)))
    for i in range(0, len(data), 5):
        wave, row = data.get_sample(i)
        duration = data.metadata.trace_npts[i] / row["trace_source_sampling_rate_hz"]
        assert wave.shape[0] == 3
        assert abs(wave.shape[1] / 100 - duration) < 0.05
        assert np.nanstd(wave) > 0


def test_rates_lengths_and_dtypes_are_those_of_the_real_sets(root, native):
    fixed = {
        "STEAD": (100, 6000),
        "InstanceCounts": (100, 12000),
        "MLAAPDE": (40, 4800),
        "PNW": (100, 15001),
        "OBST2024": (100, 6000),
    }
    for name, (rate, length) in fixed.items():
        table, waves = native[name]
        assert set(table.trace_sampling_rate_hz) == {rate}
        assert {wave.shape for wave in waves} == {(3, length)}
    assert set(native["ETHZ"][0].trace_sampling_rate_hz) == {100, 120, 200, 250, 500}
    geofon = set(native["GEOFON"][0].trace_sampling_rate_hz)
    assert {20, 100} <= geofon <= {20, 40, 50, 80, 100, 200}
    assert len(geofon) >= 4
    for name in ALL8:
        with h5py.File(next((root / name.lower()).glob("waveforms*.hdf5"))) as file:
            dtypes = {array.dtype for array in file["data"].values()}
            assert all(array.chunks is None and array.compression is None for array in file["data"].values())
        assert dtypes == {np.dtype(np.float64 if name in ("ETHZ", "GEOFON") else np.float32)}
    assert len({wave.shape[1] for wave in native["ETHZ"][1]}) > 10


def test_instance_is_stored_in_order_enz(root):
    with h5py.File(root / "instancecounts" / "waveforms.hdf5") as file:
        assert file["data_format/component_order"][()] == b"ENZ"
        table = metadata(root, "InstanceCounts")
        block, row = table.trace_name[0].split(",")[0].split("$")
        stored = file[f"data/{block}"][int(row)]
    np.testing.assert_array_equal(open_set(root, "InstanceCounts").get_sample(0)[0], stored[::-1])
    for name in set(ALL8) - {"InstanceCounts"}:
        with h5py.File(next((root / name.lower()).glob("waveforms*.hdf5"))) as file:
            assert file["data_format/component_order"][()] == b"ZNE"


def test_mlaapde_chunks_reuse_trace_names(root):
    folder = root / "mlaapde"
    chunks = (folder / "chunks").read_text().split()
    assert chunks == ["_201307", "_201308", "_201803", "_202204"]
    names = [set(pd.read_csv(folder / f"metadata{chunk}.csv").trace_name) for chunk in chunks]
    assert names[0] & names[1] & names[2] & names[3]
    assert metadata(root, "MLAAPDE").trace_name.duplicated().mean() > 0.5
    assert not (folder / "metadata.csv").exists()


def test_block_names_and_a_plain_name_both_occur(root):
    names = metadata(root, "ETHZ").trace_name
    assert names.str.fullmatch(r"bucket\d+\$\d+,:3,:\d+").any()
    assert (~names.str.contains(r"\$")).any()


def test_phase_columns_of_each_set(root):
    def phases(name):
        table = metadata(root, name)
        columns = [column for column in table if column.endswith("_arrival_sample")]
        return {column.split("_")[1] for column in columns if table[column].notna().any()}

    assert phases("STEAD") == phases("OBST2024") == {"p", "s"}
    assert phases("InstanceCounts") == phases("Iquique") == phases("PNW") == {"P", "S"}
    assert phases("ETHZ") == phases("MLAAPDE") == {"P", "Pg", "Pn", "S", "Sg", "Sn"}
    assert {"P", "pP"} <= phases("GEOFON") <= {"P", "Pn", "pP", "S"}
    geofon = metadata(root, "GEOFON")
    assert geofon[["trace_P_arrival_sample", "trace_Pn_arrival_sample"]].notna().any(axis=1).mean() > 0.9
    assert geofon.trace_S_arrival_sample.notna().mean() < 0.2
    for name in ("MLAAPDE", "Iquique", "OBST2024"):
        table = metadata(root, name)
        samples = table[[column for column in table if column.endswith("_arrival_sample")]].to_numpy().ravel()
        assert (samples[~np.isnan(samples)] % 1 != 0).any()


def test_splits_are_as_in_the_real_sets_or_absent(root):
    for name in ALL8:
        table = metadata(root, name)
        assert ("split" in table) == (name not in ("MLAAPDE", "PNW", "OBST2024"))
        if "split" in table:
            assert set(table.split) == {"train", "dev", "test"}
    for name, dev, test in (("ETHZ", "2019-01-08", "2019-09-04"), ("GEOFON", "2012-11-01", "2013-03-15")):
        table = metadata(root, name)
        expected = np.where(
            table.source_origin_time < dev, "train", np.where(table.source_origin_time < test, "dev", "test")
        )
        assert (table.split == expected).all()
    assert metadata(root, "InstanceCounts").groupby("source_id").split.nunique().max() == 1
    assert metadata(root, "Iquique").groupby("source_id").split.nunique().max() > 1


def test_noise_traces_of_stead_and_obst(root):
    stead = metadata(root, "STEAD")
    noise = stead.trace_category == "noise"
    assert 0.1 < noise.mean() < 0.3
    assert (
        stead[noise][["source_id", "source_magnitude", "trace_p_arrival_sample", "trace_s_arrival_sample"]]
        .isna()
        .all(axis=None)
    )
    assert stead[~noise].trace_p_arrival_sample.notna().all()
    assert stead[~noise].trace_snr_db.str.fullmatch(r"\[\S+ \S+ \S+\]").all()
    obst = metadata(root, "OBST2024")
    quake = obst.trace_p_arrival_sample.notna().to_numpy()
    assert (np.diff(quake.astype(int)) <= 0).all()
    assert 0.5 < quake.mean() < 0.7
    assert obst.filter(regex="^source_").isna().all(axis=None)
    assert obst.filter(regex="^source_").shape[1] >= 5


def test_pnw_names_its_events_and_snr_its_own_way(root):
    table = metadata(root, "PNW")
    assert "event_id" in table
    assert "source_id" not in table
    assert table.trace_snr_db.str.fullmatch(r"[^|]+\|[^|]+\|[^|]+").all()
    single = table.trace_missing_channel == 2
    assert single.any()
    assert table[single].trace_snr_db.str.fullmatch(r"-?[\d.]+\|nan\|nan").all()


def test_events_are_shared_and_stations_recur(root):
    for name in set(ALL8) - {"OBST2024"}:
        table = metadata(root, name)
        assert table.groupby("event_id" if name == "PNW" else "source_id").station_code.nunique().max() >= 3
        assert table.station_code.value_counts().max() >= 3


def test_defects_are_what_the_truth_column_says(native):
    seen = set()
    for name, (table, waves) in native.items():
        for kind, wave, rate in zip(table.trace_defect, waves, table.trace_sampling_rate_hz, strict=True):
            live = np.nanstd(wave, axis=1) > 0
            assert np.isnan(wave).any() == (kind == "nonfinite"), (name, kind)
            assert live.sum() == {"dead": 2, "missing": 1}.get(kind, 3), (name, kind)
            flat = np.all(
                np.diff(wave[0][: wave.shape[1] // int(rate) * int(rate)].reshape(-1, int(rate))) == 0, axis=1
            )
            if kind == "gap":
                assert flat.any()
            if kind == "clip":
                centered = wave[0] - np.median(wave[0])
                assert np.sum(np.abs(centered) > 0.98 * np.abs(centered).max()) > 1
            seen.add(kind)
        assert set(TWINS[name].defects) <= set(table.trace_defect)
    assert {"dead", "missing", "gap", "clip", "nonfinite", "spike", "second event"} <= seen


def test_gaps_of_ethz_and_geofon_are_constant_but_not_zero(native):
    for name in ("ETHZ", "GEOFON"):
        table, waves = native[name]
        for i in np.flatnonzero(table.trace_defect == "gap"):
            values, counts = np.unique(waves[i][0], return_counts=True)
            assert counts.max() > table.trace_sampling_rate_hz[i]
            assert values[counts.argmax()] != 0
        assert (table.trace_completeness[table.trace_defect == "gap"] < 1).all()
        assert (table.trace_has_spikes == (table.trace_defect == "spike")).all()


def test_amplitudes_span_nine_orders_of_magnitude(native):
    typical = {name: np.median([np.nanstd(wave) for wave in waves]) for name, (_, waves) in native.items()}
    assert max(typical.values()) / min(typical.values()) > 1e8


@pytest.mark.parametrize("name", ALL8)
def test_energy_jumps_at_the_labelled_p_onset(native, name):
    table, waves = native[name]
    columns = [c for c in table if c.endswith("_arrival_sample") and c.split("_")[1] in ("p", "P", "Pg", "Pn")]
    onsets = table[columns].min(axis=1)
    ratios, errors = [], []
    for i in np.flatnonzero(onsets.notna() & (table.trace_defect.fillna("") == "")):
        rate = table.trace_sampling_rate_hz[i]
        wave = np.diff(waves[i], axis=1)  # differentiation suppresses the microseism
        at, short = int(onsets[i]), int(0.5 * rate)
        energy = (wave**2).sum(axis=0)
        before, after = energy[at - 5 * short : at - 2].mean(), energy[at : at + short].mean()
        if after / before > 100:
            ratios.append(after / before)
            first = np.argmax(energy[at - 5 * short :] > energy[at - 5 * short : at - 2].max() * 2)
            errors.append((first - 5 * short) / rate)
    assert len(ratios) >= 4, "too few traces of high signal-to-noise ratio"
    assert np.abs(np.median(errors)) < max(0.05, 2.5 / table.trace_sampling_rate_hz.min())
    assert np.quantile(np.abs(errors), 0.9) < max(0.15, 5 / table.trace_sampling_rate_hz.min())


def test_p_moves_the_vertical_and_s_the_horizontals(native):
    table, waves = native["Iquique"]
    shares = {"P": [], "S": []}
    for i in np.flatnonzero(table.trace_defect.fillna("") == ""):
        wave = np.diff(waves[i], axis=1)
        for phase, found in shares.items():
            onset = table[f"trace_{phase}_arrival_sample"][i]
            if not np.isnan(onset):
                energy = (wave[:, int(onset) : int(onset) + 30] ** 2).sum(axis=1)
                found.append(energy[0] / energy.sum())
    assert np.median(shares["P"]) > 0.5
    assert np.median(shares["S"]) < 0.25


def test_s_minus_p_grows_with_distance_as_the_rays_say(root):
    table = metadata(root, "STEAD").dropna(subset=["trace_s_arrival_sample"])
    lag = (table.trace_s_arrival_sample - table.trace_p_arrival_sample) / 100
    slant = np.hypot(table.path_ep_distance_km, table.source_depth_km.astype(float))
    assert np.corrcoef(lag, slant)[0, 1] > 0.99
    assert 7 < np.median(slant / lag) < 9  # km/s; vp / (vp/vs - 1) = 7.5 to 8 in this crust


def test_direct_ray_agrees_with_a_straight_ray_in_uniform_rock():
    time, sine, takeoff = physics.direct_ray(np.array([30.0, 0.0]), np.array([40.0, 10.0]), 5.0, 1e-6)
    np.testing.assert_allclose(time, [10, 2], rtol=1e-4)
    np.testing.assert_allclose(sine, [0.6, 0], atol=1e-3)
    np.testing.assert_allclose(takeoff, [np.pi - np.arcsin(0.6), np.pi], atol=1e-3)


def test_double_couple_of_a_vertical_strike_slip_fault():
    azimuth = np.radians([45.0, 135.0, 0.0])
    p, sv, sh = physics.double_couple(0.0, np.pi / 2, 0.0, azimuth, np.pi / 2).T
    np.testing.assert_allclose(p, [1, -1, 0], atol=1e-12)
    np.testing.assert_allclose(sv, 0, atol=1e-12)
    np.testing.assert_allclose(sh, [0, 0, 1], atol=1e-12)


def test_same_seed_same_files_and_another_seed_other_files(tmp_path):
    for part, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_miniatures(tmp_path / part, names=("GEOFON", "MLAAPDE"), traces=12, seed=seed)
    for file in sorted((tmp_path / "a").rglob("*.*")):
        if file.suffix in (".csv", ".hdf5"):
            same, other = ((tmp_path / part / file.relative_to(tmp_path / "a")) for part in "bc")
            assert file.read_bytes() == same.read_bytes()
            assert file.read_bytes() != other.read_bytes()


def test_interrupted_writing_leaves_nothing_behind_and_keeps_the_older_set(tmp_path, monkeypatch):
    write_miniatures(tmp_path, names=("STEAD",), traces=4)
    before = (tmp_path / "stead" / "metadata.csv").read_bytes()
    real = write.write_chunk

    def stop_after_writing(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "write_chunk", stop_after_writing)
    with pytest.raises(KeyboardInterrupt):
        write_miniatures(tmp_path, names=("STEAD", "PNW"), traces=8)
    with pytest.raises(KeyboardInterrupt):
        write_miniatures(tmp_path, names=("PNW",), traces=4)
    assert [path.name for path in tmp_path.iterdir()] == ["stead"]
    assert (tmp_path / "stead" / "metadata.csv").read_bytes() == before


def test_a_folder_that_is_no_miniature_is_never_replaced(tmp_path):
    (tmp_path / "pnw").mkdir()
    (tmp_path / "pnw" / "waveforms.hdf5").write_text("precious")
    with pytest.raises(ValueError, match="is no miniature"):
        write_miniatures(tmp_path, names=("PNW",), traces=2)
    assert (tmp_path / "pnw" / "waveforms.hdf5").read_text() == "precious"


def test_bad_arguments_name_the_value_and_the_fix(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'STEAD'"):
        write_miniatures(tmp_path, names=("STAED",))
    with pytest.raises(ValueError, match="traces=0"):
        write_miniatures(tmp_path, traces=0)
    assert list(tmp_path.iterdir()) == []


def test_one_trace_is_enough(tmp_path):
    folders = write_miniatures(tmp_path, traces=1)
    assert list(folders) == list(ALL8)
    assert all(len(open_set(tmp_path, name)) == 1 for name in ALL8)


def test_each_set_logs_one_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="raysys.miniature"):
        write_miniatures(tmp_path, names=("Iquique",), traces=3)
    assert [record.getMessage().startswith("Iquique: 3 traces") for record in caplog.records] == [True]
    assert json.loads((tmp_path / "iquique" / write.MARKER).read_text()) == {"name": "Iquique", "traces": 3, "seed": 0}


def test_obspy_examples_are_real_and_their_two_picks_are_onsets(root):
    table = metadata(root, "obspy_examples")
    assert len(table) >= 20
    assert table.trace_P_arrival_sample.notna().sum() == 2
    assert (table.trace_P_status.dropna() == "automatic").all()
    assert not any(column.startswith("trace_S") for column in table)
    assert table.groupby("source_id").split.nunique().max() == 1
    data = open_set(root, "obspy_examples")
    for i, row in table.iterrows():
        wave = data.get_sample(i)[0]
        live = "".join(c for c, x in zip("ZNE", wave, strict=True) if np.any(x))
        assert live == row.trace_components
        if not np.isnan(row.trace_P_arrival_sample):
            vertical, at = np.diff(wave[0]), int(row.trace_P_arrival_sample)
            assert np.mean(vertical[at : at + 40] ** 2) > 5 * np.mean(vertical[at - 400 : at - 5] ** 2)


def test_store_demeans_before_reordering_and_keeps_dead_components_zero():
    wave = np.stack([np.arange(4.0), np.zeros(4), np.full(4, 2.0) + np.arange(4)])
    stored = simulate.store(TWINS["ETHZ"], wave)
    np.testing.assert_allclose(stored.mean(axis=1), 0)
    assert not stored[1].any()
    np.testing.assert_array_equal(simulate.store(TWINS["InstanceCounts"], wave), wave[::-1].astype(np.float32))
