"""Times of day and year as catalogues write them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FORM = (
    r"^(?P<year>\d{4})[-/]?(?P<month>\d\d)[-/]?(?P<day>\d\d)[T ]?(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d))?"
    r"(?:[.,](?P<part>\d+))? ?(?P<zone>Z|z|UTC|[+-]\d\d(?::?\d\d)?)?$"
)
_OFFSET = r"^(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?$"


def epoch_seconds(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Returns times in seconds since 1970 UTC, NaN where there is none or it cannot be read.

    2014-04-01T23:46:47.2Z, 2014/04/01 23:46:47, 20140401T234647, 2014-04-02T08:46:47+09:00 are read; a time without a
    zone is UTC. A date without an hour says nothing of when an earthquake was, and is not read.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = pc.fill_null(column, "").dictionary_encode()
    return _seconds(coded.dictionary)[coded.indices.to_numpy(zero_copy_only=False)]


def _seconds(text: pa.Array) -> np.ndarray:
    parts = pc.extract_regex(pc.utf8_trim_whitespace(text), _FORM)
    field = {name: pc.struct_field(parts, name) for name in ("year", "month", "day", "hour", "minute", "second")}
    field["second"] = pc.if_else(pc.equal(field["second"], ""), "00", field["second"])
    whole = pc.binary_join_element_wise(*field.values(), "-")
    moment = pc.strptime(whole, "%Y-%m-%d-%H-%M-%S", "s", error_is_null=True)
    moment = pc.if_else(pc.equal(pc.strftime(moment, "%d"), field["day"]), moment, None)  # 30 February
    seconds = pc.fill_null(pc.cast(pc.cast(moment, pa.int64()), pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    part = pc.binary_join_element_wise("0.", pc.coalesce(pc.struct_field(parts, "part"), ""), "0", "")
    return (
        seconds + pc.cast(part, pa.float64()).to_numpy(zero_copy_only=False) - _offset(pc.struct_field(parts, "zone"))
    )


def _offset(zone: pa.Array) -> np.ndarray:
    """Seconds that a zone's clock is ahead of UTC."""
    parts = pc.extract_regex(zone, _OFFSET)
    hours, minutes = (_number(pc.struct_field(parts, name)) for name in ("hours", "minutes"))
    behind = pc.fill_null(pc.equal(pc.struct_field(parts, "sign"), "-"), False).to_numpy(zero_copy_only=False)
    return np.where(behind, -1.0, 1.0) * (3600 * hours + 60 * minutes)


def _number(digits: pa.Array) -> np.ndarray:
    """Zero where there are none."""
    return pc.cast(pc.binary_join_element_wise("0", pc.coalesce(digits, ""), ""), pa.float64()).to_numpy(
        zero_copy_only=False
    )
