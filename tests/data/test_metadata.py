"""metadata.csv as spreadsheets and pandas write it: read as it is meant, or refused by file, column and row."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raysys.data.metadata import event_ids, read_metadata
from raysys.location import Location

TEXT = 'trace_name,split,trace_P_arrival_sample,station_code\n"b$0,:3,:9",train,12.5,A\n"b$1,:3,:9",dev,,B\n'


def read(folder, content: bytes | str):
    (folder / "metadata.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_metadata(Location(folder / "metadata.csv"), lambda column: column not in ("", "remark"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: (
            text.replace(",split,", ", split ,\t").replace(",train,", " , train, ").replace(",dev,", ",dev  ,").encode()
        ),
        lambda text: "".join(f"{k},{line}" for k, line in zip(["", 0, 1], text.splitlines(True), strict=True)).encode(),
        lambda text: text.replace("station_code", '"station_code"').replace("A\n", '"A"\n').encode(),
        lambda text: text.replace("\n", ",x\n").replace("code,x", "code,remark").encode(),
    ],
)
def test_a_file_reads_the_same_however_it_was_saved(tmp_path, change):
    metadata = read(tmp_path, change(TEXT))
    assert len(metadata) == 2
    assert metadata.text(["trace_name"]).to_pylist() == ["b$0,:3,:9", "b$1,:3,:9"]
    assert metadata.text(["split"]).to_pylist() == ["train", "dev"]
    np.testing.assert_array_equal(metadata.numbers(["trace_P_arrival_sample"]), [12.5, np.nan])


def test_a_first_column_with_a_byte_order_mark_keeps_its_name(tmp_path):
    metadata = read(tmp_path, b"\xef\xbb\xbfsplit,trace_name\ndev,a\n")
    assert metadata.text(["split"]).to_pylist() == ["dev"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no column trace_name"),
        ("", "no column trace_name"),
        (TEXT.replace(",", ";"), "columns are separated by ';': save the file with commas"),
        ("trace_name\tsplit\na\ttrain\n", r"columns are separated by '\\t'"),
        (TEXT.encode("utf-16"), "the header is UTF-16: save the file as UTF-8"),
        (TEXT.replace(",B", ",Peñón").encode("latin-1"), r"column station_code, row 3: b'Pe\\xf1\\xf3n' is not UTF-8"),
        (TEXT.replace("station_code", "größe").encode("latin-1"), "the header is not UTF-8"),
        (TEXT.replace("station_code", "split"), "column split stands twice in the header, with different cells"),
        (TEXT.replace(",B", ",B,extra"), "Expected 4 columns, got 5"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"metadata\.csv: .*{message}"):
        read(tmp_path, content)


def test_a_column_that_stands_twice_with_the_same_cells_is_one(tmp_path):
    assert read(tmp_path, "split,trace_name,split\ndev,a,dev\n").text(["split"]).to_pylist() == ["dev"]


@pytest.mark.parametrize("cell", ["1,5", "[12; 40]", "12 s", "2020-01-01T00:00:00"])
def test_a_cell_that_is_no_number_is_named(tmp_path, cell):
    metadata = read(tmp_path, f'trace_name,trace_P_arrival_sample\na,\nb,"{cell}"\n')
    with pytest.raises(ValueError) as error:
        metadata.numbers(["trace_P_arrival_sample"])
    assert str(error.value).endswith(f"metadata.csv: column trace_P_arrival_sample, row 3: {cell!r} is no number")


def test_numbers_and_nothings_are_those_of_pandas(tmp_path):
    cells = [
        "1",
        " 2.5 ",
        "+3",
        "-4e2",
        "1E3",
        "inf",
        ".5",
        "7.",
        "",
        "NA",
        "N/A",
        "nan",
        "NaN",
        "None",
        "null",
        "#N/A",
        "<NA>",
    ]
    text = "trace_name,x\n" + "".join(f"t,{cell}\n" for cell in cells)
    metadata = read(tmp_path, text)
    expected = pd.read_csv(tmp_path / "metadata.csv")["x"].to_numpy(float)
    np.testing.assert_array_equal(metadata.numbers(["x"]), expected)
    assert metadata.text(["x"]).to_pylist()[8:] == [""] * 9


def test_na_is_a_code_of_stations_and_networks_and_nothing_elsewhere(tmp_path):
    names = ("trace_name", "station_code", "station_network_code", "split", "source_id")
    metadata = read(tmp_path, ",".join(names) + "\n" + ",".join(["NA"] * 5) + "\n" + ",".join(["nan"] * 5) + "\n")
    assert [metadata.text([name]).to_pylist() for name in names] == [["NA", ""]] * 3 + [["", ""]] * 2


def test_an_identifier_is_one_in_every_form_that_pandas_gives_it():
    forms = ["1234", "1234.0", "01234", "1234.", "20140401234647", "20140401234647.0", "2.0140401234647e+13"]
    assert event_ids(pa.array(forms)).to_pylist() == ["1234"] * 4 + ["20140401234647"] * 3
    others = ["", "0", "0.0", "1234.5", "us2000e5", "12e5", "ev01", "2014.10", "smi:local/0071"]
    assert event_ids(pa.array(others)).to_pylist() == ["", "0", "0", *others[3:]]
    assert event_ids(pa.array(["-1", "-1.0", "-12345", "a-1"])).to_pylist() == ["", "", "", "a-1"]
