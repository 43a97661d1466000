"""What one chunk of a SeisBench folder says of its traces: labels, rates, places, and what is left out."""

import h5py
import numpy as np
import pytest
import seisbench.data

from raysys.data.index import load_index
from raysys.data.seisbench_format import read_chunk
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


@pytest.fixture
def layouts(tmp_path):
    """A file with every layout of traces, and what is stored in it."""
    rng = np.random.default_rng(0)
    shapes = {
        "block": (4, 3, 50),
        "pair": (3, 2, 30),
        "plain": (2, 33),
        "chunked": (2, 3, 20),
        "line": (9,),
        "deep": (1, 1, 2, 5),
    }
    stored = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    stored["plain"] = stored["plain"].astype(np.float32)
    with h5py.File(tmp_path / "waveforms.hdf5", "w") as file:
        for name, array in stored.items():
            file.create_dataset(f"data/{name}", data=array, chunks=(1, 3, 10) if name == "chunked" else None)
    return tmp_path, stored


def named(folder, traces: dict[str, str]):
    rows = "".join(f'"{name}",100,{order}\n' for name, order in traces.items())
    (folder / "metadata.csv").write_text("trace_name,trace_sampling_rate_hz,trace_component_order\n" + rows)
    return read_chunk(str(folder), "set", "")


def test_every_trace_is_found_at_its_bytes(layouts):
    folder, stored = layouts
    names = {"block$2,:3,:50": "ZNE", "block$3,:2,:41": "EZ", "pair$2,:2,:30": "NE", "plain": "N1"}
    names["chunked$1,:3,:20"] = "ZNE"
    rows = named(folder, names)[0].to_pylist()
    columns = ("node", "node_row", "num_components", "num_samples", "stride", "dtype", "file_size")
    size = (folder / "waveforms.hdf5").stat().st_size
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("block", 2, 3, 50, 50, "<f8", size),
        ("block", 3, 2, 41, 50, "<f8", size),
        ("pair", 2, 2, 30, 30, "<f8", size),
        ("plain", -1, 2, 33, 33, "<f4", size),
        ("chunked", 1, 3, 20, 20, "<f8", size),
    ]
    assert rows.pop()["offset"] == -1
    for row, array in zip(rows, (*stored["block"][2:], stored["pair"][2], stored["plain"]), strict=True):
        read = np.fromfile(folder / "waveforms.hdf5", row["dtype"], array.size, offset=row["offset"])
        np.testing.assert_array_equal(read.reshape(array.shape), array)


@pytest.mark.parametrize(
    "name",
    ["block$4,:3,:50", "block$0,:3,:51", "block$0,:4,:50", "block$0,:3,:0", "block", "plain$0,:2,:33", "line", "deep"],
    ids=str,
)
def test_a_name_that_its_file_does_not_hold_is_left_out(layouts, name):
    table, dropped, _ = named(layouts[0], {name: "ZNE", "block$3,:3,:50": "ZNE"})
    assert table["trace_name"].to_pylist() == ["block$3,:3,:50"]
    assert dropped == {"no such trace in the waveform file (or beyond its end)": 1}
