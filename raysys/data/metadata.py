"""The cells of a metadata.csv, read as pandas reads them for SeisBench, or refused by file, column and row."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from raysys.location import Location

_EMPTY = (
    *("", "nan", "NaN", "-nan", "-NaN", "None", "NA", "<NA>", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "NULL", "null"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""Cells in which pandas sees nothing."""
_CODES = {"station_code", "station_network_code", "trace_name"}
"""Columns in which "NA" is a name: a network (Caribbean Netherlands) and several stations have this code."""
_NONE, _ZEROS, _FLOAT = r"^-\d+(?:\.0*)?$", r"^0*(\d+)(?:\.0*)?$", r"^\d(?:\.\d+)?e\+\d+$"
"""Identifiers of events that stand for none, that are whole numbers, and that pandas wrote as floats."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Columns of one metadata.csv as text without blanks around it.

    Attributes:
        file: where it is.
        header: names of all its columns, in order.
        cells: the columns that were asked for.
    """

    file: Location
    header: tuple[str, ...]
    cells: pa.Table

    def __len__(self) -> int:
        return len(self.cells)

    def text(self, names: Iterable[str]) -> pa.Array:
        """Returns the first of some columns that is filled, row by row, "" where none is."""
        nothing = pa.repeat(pa.scalar("", pa.string()), len(self))
        return pc.coalesce(*(self._filled(name) for name in names if name in self.cells.column_names), nothing)

    def numbers(self, names: Iterable[str]) -> np.ndarray:
        """Returns the first of some columns that is filled as numbers (rows,), NaN where none is.

        Raises:
            ValueError: a cell that holds something else.
        """
        out = np.full(len(self), np.nan)
        for name in names:
            if name in self.cells.column_names:
                out = np.where(np.isnan(out), self._number(name), out)
        return out

    def place(self, row: int) -> str:
        """Returns where a row is, in words."""
        return f"{self.file.name} row {row + 2}"

    def _filled(self, name: str) -> pa.Array:
        column = self.cells[name].combine_chunks()
        empty = [cell for cell in _EMPTY if cell != "NA" or name not in _CODES]
        return pc.if_else(pc.is_in(column, pa.array(empty)), None, column)

    def _number(self, name: str) -> np.ndarray:
        filled = self._filled(name)
        try:
            return pc.cast(filled, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:  # Python, as pandas, reads some forms more, as "+5"
            cells = filled.to_pylist()
        for row, cell in enumerate(cells):
            try:
                cells[row] = np.nan if cell is None else float(cell)
            except ValueError:
                raise ValueError(f"{self.file}: column {name}, row {row + 2}: {cell!r} is no number") from None
        return np.array(cells)


def read_metadata(file: Location, wanted: Callable[[str], bool]) -> Metadata:
    """Returns the columns of a metadata.csv whose name is wanted.

    Raises:
        ValueError: the file is not comma-separated UTF-8, has no column trace_name, or has a wanted column twice with
            different cells; the message names file, column and row.
    """
    with file.open() as stream:
        header = _header(file, stream.readline())
    places = [i for i, name in enumerate(header) if wanted(name)]
    options = pyarrow.csv.ConvertOptions(
        include_columns=[str(i) for i in places],
        column_types={str(i): pa.binary() for i in places},
        strings_can_be_null=False,
    )
    names = pyarrow.csv.ReadOptions(column_names=[str(i) for i in range(len(header))], skip_rows=1)
    lines = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        with file.open() as stream:
            table = pyarrow.csv.read_csv(stream, names, lines, options)
    except pa.ArrowInvalid as error:
        if str(error) != "Empty CSV file":
            raise ValueError(f"{file}: {error}") from error
        table = pa.table({str(i): pa.array([], pa.binary()) for i in places})
    columns: dict[str, pa.Array] = {}
    for i in places:
        cells = _decoded(file, header[i], table[str(i)].combine_chunks())
        if not columns.setdefault(header[i], cells).equals(cells):
            raise ValueError(f"{file}: column {header[i]} stands twice in the header, with different cells: keep one")
    return Metadata(file, tuple(header), pa.table(columns))


def _header(file: Location, line: bytes) -> list[str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if line.startswith(_UTF16) else f"not UTF-8 ({error})"
        raise ValueError(f"{file}: the header is {kind}: save the file as UTF-8") from None
    header = next(csv.reader([text], skipinitialspace=True), [])
    header = [name.strip() for name in header]
    if "trace_name" in header:
        return header
    for separator in ";\t":
        if "trace_name" in next(csv.reader([text], delimiter=separator), []):
            raise ValueError(
                f"{file}: columns are separated by {separator!r}: save the file with commas, as SeisBench does"
            )
    raise ValueError(f"{file}: no column trace_name, so this is no SeisBench metadata file")


def _decoded(file: Location, name: str, cells: pa.Array) -> pa.Array:
    try:
        return pc.ascii_trim_whitespace(cells.cast(pa.string()))
    except pa.ArrowInvalid:
        for row, cell in enumerate(cells.to_pylist()):
            try:
                cell.decode()
            except UnicodeDecodeError:
                raise ValueError(
                    f"{file}: column {name}, row {row + 2}: {cell!r} is not UTF-8: save the file as UTF-8"
                ) from None
        raise


def event_ids(text: pa.Array) -> pa.Array:
    """Returns identifiers of events in one form: pandas makes 1234, 1234.0 and 1.234e+15 of numbers, and drops zeros.

    A negative number (-1, -12345) stands for none: noise that shares it is no event.
    """
    coded = text.dictionary_encode()
    names = pc.replace_substring_regex(coded.dictionary, _NONE, "")
    names = pc.replace_substring_regex(names, _ZEROS, r"\1")
    floats = pc.match_substring_regex(names, _FLOAT)
    if pc.any(floats).as_py():
        pairs = zip(names.to_pylist(), floats.to_pylist(), strict=True)
        names = pa.array([f"{float(name):.0f}" if is_float else name for name, is_float in pairs], pa.string())
    return names.take(coded.indices)
