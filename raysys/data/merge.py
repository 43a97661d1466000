"""One trace for all the rows of the metadata that name it: a record of two earthquakes has a row for each."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SAME = ("rate_hz", "components")
_WAVES = ("p", "s")


def merge_rows(table: pa.Table) -> tuple[pa.Table, int, int]:
    """Returns the table with one row a trace (chunk, trace_name), the number of rows merged, and of rows left out.

    A merged row is the first of the trace, with the onsets and events of all. Rows of one trace that say different
    things of its split, rate or components are left out, every one of them.
    """
    identity = pc.binary_join_element_wise(table["chunk"], table["trace_name"], "\x1f")
    coded = identity.combine_chunks().dictionary_encode()
    if len(coded.dictionary) == len(table):
        return table, 0, 0
    codes = coded.indices.to_numpy()
    several = np.bincount(codes)[codes] > 1
    order = np.flatnonzero(several)
    order = order[np.argsort(codes[order], kind="stable")]
    groups: dict[int, list[dict[str, Any]]] = {}
    for code, row in zip(codes[order].tolist(), table.take(order).to_pylist(), strict=True):
        groups.setdefault(code, []).append(row)
    agreeing = [rows for rows in groups.values() if _agree(rows)]
    contradicting = sum(map(len, groups.values())) - sum(map(len, agreeing))
    merged = pa.Table.from_pylist([_merged(rows) for rows in agreeing], table.schema)
    left = pa.concat_tables([table.filter(pa.array(~several)), merged])
    return left, len(table) - len(left) - contradicting, contradicting


def _agree(rows: list[dict[str, Any]]) -> bool:
    splits = {row["split"] for row in rows} - {""}
    return len(splits) <= 1 and all(len({row[name] for row in rows}) == 1 for name in _SAME)


def _merged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = dict(rows[0])
    first["split"] = max(row["split"] for row in rows)
    for wave in _WAVES:
        onsets = {row[f"{wave}_s"]: row[f"{wave}_phase"] for row in reversed(rows) if not np.isnan(row[f"{wave}_s"])}
        later = set(onsets).union(*(row[f"{wave}_more_s"] for row in rows))
        if later:
            first[f"{wave}_s"] = min(onsets)
            first[f"{wave}_phase"] = onsets[min(onsets)]
        first[f"{wave}_more_s"] = sorted(later)[1:]
    first["other_s"] = sorted({onset for row in rows for onset in row["other_s"]})
    events = list(dict.fromkeys(event for row in rows for event in (row["event"], *row["more_events"]) if event))
    first["event"], first["more_events"] = (events or [""])[0], events[1:]
    return first
