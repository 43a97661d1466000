"""What one chunk of a SeisBench folder says of its traces: labels, rates, places, and what is left out."""

import h5py
import numpy as np
import pytest
import seisbench.data

from raysys.data.index import load_index
from raysys.data.resample import ratio
from raysys.data.seisbench_format import read_chunk
from raysys.data.windows import component_rows
from tests.data.conftest import write_set

SAMPLES = 400


def chunk_of(folder, columns: dict, chunk="", **options):
    """Reads a chunk with one trace for each row of the metadata columns."""
    waveforms = [np.ones((3, SAMPLES), np.float32)] * len(next(iter(columns.values())))
    write_set(folder, waveforms, columns=columns, chunk=chunk, **options)
    return read_chunk(str(folder), "set", chunk)


@pytest.mark.parametrize("first", ["Pg", "Pn"], ids=str)
def test_the_earliest_pick_counts_whichever_its_column(tmp_path, first):
    other = {"Pg": "Pn", "Pn": "Pg"}[first]
    table, _, _ = chunk_of(
        tmp_path,
        {
            f"trace_{first}_arrival_sample": [100, "", "", 30.5],
            f"trace_{other}_arrival_sample": [150, 75, "", 90],
            "trace_Sn_arrival_sample": [350, 200, 0, ""],
            "trace_Sg_arrival_sample": [320, 250, "", ""],
        },
        rate_hz=50.0,
    )
    np.testing.assert_array_equal(table["p_s"], [2.0, 1.5, np.nan, 0.61])
    np.testing.assert_array_equal(table["s_s"], [6.4, 4.0, 0.0, np.nan])
    assert table["p_phase"].to_pylist() == [first, other, "", first]
    assert table["s_phase"].to_pylist() == ["Sg", "Sn", "Sn", ""]


def test_a_rate_is_that_of_the_trace_or_one_over_its_step_or_that_of_the_file(tmp_path):
    columns = {"trace_sampling_rate_hz": [50.0, 20.0, "", ""], "trace_dt_s": ["", 0.01, 0.025, ""]}
    table, dropped, _ = chunk_of(tmp_path, columns)
    assert table["rate_hz"].to_pylist() == [50.0, 20.0, 40.0]
    assert dropped == {"sampling rate is zero, negative or missing": 1}
    with h5py.File(tmp_path / "waveforms.hdf5", "a") as file:
        file["data_format/sampling_rate"] = 62.5
    assert read_chunk(str(tmp_path), "set", "")[0]["rate_hz"].to_pylist() == [50.0, 20.0, 40.0, 62.5]
    (tmp_path / "metadata.csv").write_text('trace_name,trace_dt_s\n"bucket0$1,:3,:400",0.025\n')
    assert read_chunk(str(tmp_path), "set", "")[0]["rate_hz"].to_pylist() == [40.0]


def test_a_rate_that_is_none_leaves_the_trace_out_and_counts_it_once(tmp_path):
    columns = {
        "trace_sampling_rate_hz": [100, 0, -100, "inf", "", 100],
        "trace_component_order": ["ZNE", "ZZZ", "ZNE", "ZNE", "ZNE", "ZNX"],
    }
    table, dropped, example = chunk_of(tmp_path, columns)
    assert table["node_row"].to_pylist() == [0]
    assert dropped == {
        "sampling rate is zero, negative or missing": 4,
        "component order is not made of Z, N, E, 1, 2": 1,
    }
    assert list(example.values()) == [f"metadata.csv row {row}, trace_name bucket0${row - 2},:3,:400" for row in (3, 7)]


def test_each_column_is_taken_from_its_own_name_the_first_that_is_filled(tmp_path):
    table, _, _ = chunk_of(
        tmp_path,
        {
            "split": ["train", "dev", "test", "", "None"],
            "event_id": ["x", "0071", "NaN", "NA", "e5"],
            "source_id": ["e1", "", "nan", "None", ""],
            "source_type": ["x", "earthquake", "NA", "", ""],
            "trace_category": ["noise", "", "NaN", "", ""],
            "station_network_code": ["GE", "", "NA", "nan", "GE"],
            "station_code": ["MORC", "PB01", "NA", "", "007"],
            "trace_start_time": [f"2010-01-0{day}" for day in range(1, 6)],
            "source_origin_time": [f"2009-01-0{day}" for day in range(1, 6)],
            "source_latitude_deg": [1.5, -2, "", "nan", 5],
            "source_longitude_deg": [10, 170.25, -30, "", 50],
            "trace_component_order": ["ZRT", "", "Z12", "ENZ", "nan"],
        },
        order="NEZ",
    )
    text = {name: table[name].to_pylist() for name in ("split", "event", "category", "station", "components")}
    assert text == {
        "split": ["train", "dev", "test", "", ""],
        "event": ["e1", "71", "", "", "e5"],
        "category": ["noise", "earthquake", "", "", ""],
        "station": ["GE.MORC", "PB01", "NA.NA", "", "GE.007"],
        "components": ["ZRT", "NEZ", "Z12", "ENZ", "NEZ"],
    }
    assert table["start_time"][2].as_py() == "2010-01-03"
    assert table["origin_time"][2].as_py() == "2009-01-03"
    np.testing.assert_array_equal(table["latitude"], [1.5, -2, np.nan, np.nan, 5])
    np.testing.assert_array_equal(table["longitude"], [10, 170.25, -30, np.nan, 50])
    assert (table["scale"].to_pylist(), table["flags"].to_pylist()) == ([1.0] * 5, [0] * 5)


def test_what_seisbench_reads_is_read_so(tmp_path):
    """Byte-order mark, blank lines, further phases, numbers behind them, empty cells of all kinds, two chunks and their list."""
    rng = np.random.default_rng(0)
    for chunk in ("_a", "_b", "_c"):
        cells = rng.choice(["", "NaN", "NA", "null", "50", "120.5", "399"], (12, 4))
        columns = {f"trace_{name}_arrival_sample": cells[:, k] for k, name in enumerate(("Pn", "P_2", "Sb", "S"))}
        columns |= {"split": rng.choice(["train", "dev", "test"], 12), "source_id": [f"e{chunk}{i}" for i in range(12)]}
        chunk_of(tmp_path, {name: list(values) for name, values in columns.items()}, chunk=chunk)
        file = tmp_path / f"metadata{chunk}.csv"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    (tmp_path / "chunks").write_text("_a\n_c\n")
    table = load_index(str(tmp_path), "set", str(tmp_path / "cache")).to_pandas()
    judge = seisbench.data.WaveformDataset(tmp_path, component_order="ZNE").metadata
    both = table.merge(
        judge, left_on=["chunk", "trace_name"], right_on=["trace_chunk", "trace_name"], suffixes=("", "_judge")
    )
    assert len(both) == len(table) == len(judge) == 24
    for wave, names in {"p": ("Pn", "P_2"), "s": ("Sb", "S")}.items():
        samples = both[[f"trace_{name}_arrival_sample" for name in names]]
        np.testing.assert_array_equal(both[f"{wave}_s"], samples.min(axis=1) / 100)
        later = samples.max(axis=1)[samples.max(axis=1) > samples.min(axis=1)] / 100
        np.testing.assert_array_equal(both[f"{wave}_more_s"].explode().dropna().astype(float), later)
    assert both["split"].equals(both["split_judge"])
    assert both["event"].equals(both["source_id"])


def test_an_epicentre_that_is_not_on_earth_is_none(tmp_path):
    columns = {"source_latitude_deg": [-12345, 90, 91, -45], "source_longitude_deg": [10, 360, 10, 999]}
    table, _, _ = chunk_of(tmp_path, columns)
    np.testing.assert_array_equal(table["latitude"], [np.nan, 90, np.nan, np.nan])
    np.testing.assert_array_equal(table["longitude"], [np.nan, 360, np.nan, np.nan])
    assert table.schema.metadata == {b"ignored": b'{"epicentre that is not on Earth": 3}'}


def test_quoted_headers_and_lines_broken_inside_a_cell_are_read(tmp_path):
    chunk_of(tmp_path, {"split": ["train"]}, chunk="_b")
    rows = '"trace_name","remark","split","trace_sampling_rate_hz"\n"bucket0$0,:3,:400","two\nlines","dev",100\n'
    (tmp_path / "metadata_b.csv").write_text(rows)
    table, _, _ = read_chunk(f"{tmp_path}/", "label", "_b")
    [row] = table.select(["dataset", "chunk", "trace_name", "file", "split"]).to_pylist()
    assert list(row.values()) == ["label", "_b", "bucket0$0,:3,:400", f"{tmp_path}/waveforms_b.hdf5", "dev"]


def test_rates_that_cannot_be_resampled_are_counted(tmp_path):
    table, dropped, _ = chunk_of(tmp_path, {"trace_sampling_rate_hz": [1, 0.001, 50_000, 2e6, 1e12, 1e-9]})
    assert table["rate_hz"].to_pylist() == [1.0, 50_000.0]
    assert dropped == {"sampling rate is not in 1 to 50000 Hz": 4}


@pytest.mark.parametrize("rate_hz", [100.05, 99.9986, 40.02, 75.19, 100.2, 250.0])
def test_a_pick_moves_as_the_samples_of_its_trace(tmp_path, rate_hz):
    """A rate a little off a round one is taken for it, by the picks as well."""
    columns = {"trace_P_arrival_sample": [200], "trace_S_arrival_sample": [280.5]}
    table, _, _ = chunk_of(tmp_path, columns, rate_hz=rate_hz)
    up, down = ratio(rate_hz)
    assert table["rate_hz"].to_pylist() == [rate_hz]
    assert table["p_s"][0].as_py() * 100 == pytest.approx(200 * up / down, abs=1e-9)
    assert table["s_s"][0].as_py() * 100 == pytest.approx(280.5 * up / down, abs=1e-9)


@pytest.mark.parametrize(
    ("key", "text", "needed"),
    [
        ("sampling_rate", "varying", {"trace_sampling_rate_hz": [100, ""]}),
        ("sampling_rate", [100.0, 50.0], {"trace_sampling_rate_hz": ["", 100]}),
        ("component_order", 3.5, {"trace_component_order": ["ZNE", ""]}),
        ("component_order", ["BHZ", "BHN", "BHE"], {"trace_component_order": ["", "ZNE"]}),
    ],
    ids=str,
)
def test_a_default_that_says_nothing_matters_where_a_trace_needs_it(tmp_path, key, text, needed):
    [(column, values)] = needed.items()
    filled = [value or next(filter(None, values)) for value in values]
    for given in (filled, values):
        chunk_of(tmp_path, {column: given})
        with h5py.File(tmp_path / "waveforms.hdf5", "a") as file:
            file.pop(f"data_format/{key}", None)
            file[f"data_format/{key}"] = text
        if given is filled:
            table = (tmp_path / "metadata.csv").read_text()
            commas = table.splitlines()[0].count(",")
            (tmp_path / "metadata.csv").write_text(table + "," * commas + "\n")  # a row without a name needs nothing
            assert len(read_chunk(str(tmp_path), "set", "")[0]) == 2
    row = values.index("") + 2
    message = rf"waveforms\.hdf5: data_format/{key} is .* 1 rows of the metadata need it \(first: row {row}\).*{column}"
    with pytest.raises(ValueError, match=message):
        read_chunk(str(tmp_path), "set", "")


LETTERS = {"bytes": np.bytes_("ENZ"), "array": np.array([b"E", b"N", b"Z"]), "list": ["E", "N", "Z"], "one": ["ENZ"]}


@pytest.mark.parametrize("form", LETTERS)
def test_a_text_of_the_file_may_be_an_array_of_letters(tmp_path, form):
    chunk_of(tmp_path, {"split": ["train"]})
    with h5py.File(tmp_path / "waveforms.hdf5", "a") as file:
        for key, value in (
            ("component_order", LETTERS[form]),
            ("dimension_order", ["C", "W"]),
            ("sampling_rate", np.array([62.5])),
        ):
            file.pop(f"data_format/{key}", None)
            file[f"data_format/{key}"] = value
    (tmp_path / "metadata.csv").write_text('trace_name\n"bucket0$0,:3,:400"\n')
    table, _, _ = read_chunk(str(tmp_path), "set", "")
    assert (table["components"].to_pylist(), table["rate_hz"].to_pylist()) == (["ENZ"], [62.5])


@pytest.mark.parametrize(
    ("order", "rows"),
    [
        ("ZNE", {0: 0, 1: 1, 2: 2}),
        ("T1", {0: 2, 1: 1}),
        ("2Z", {0: 2, 1: 0}),
        ("ZE2", None),
        ("ZNE12", {0: 0, 1: 1, 2: 2}),
        ("12EHNZ", {2: 2, 4: 1, 5: 0}),
        ("ZRT12", {0: 0, 3: 1, 4: 2}),
        ("HTRZ", {1: 2, 2: 1, 3: 0}),
        ("ZZNE", None),
        ("ZH", None),
        ("", None),
    ],
)
def test_every_row_of_a_window_is_of_one_channel_at_most(order, rows):
    assert component_rows(order) == rows
