"""Which split a trace is in: what the metadata says, else that of its event, else one that is drawn."""

import hashlib
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.metadata import Metadata
from raysys.data.timestamps import epoch_seconds

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
_NAMES = {
    "": "",
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a cell of the column `split` may say, in any case."""


def read_splits(metadata: Metadata) -> pa.Array:
    """Returns the split of each row, train, dev or test, "" where the cell is empty.

    Raises:
        ValueError: a value that is none of these, with its count.
    """
    coded = metadata.text(("split",)).dictionary_encode()
    given = coded.dictionary.to_pylist()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    for code, name in enumerate(given):
        if name.lower() not in _NAMES:
            rows = np.flatnonzero(codes == code)
            raise ValueError(
                f"{metadata.file}: column split, row {rows[0] + 2}: {name!r} (in {len(rows)} rows) is no split: write "
                f"train, dev (or val, validation) or test, leave the cell empty, or delete the rows"
            )
    return pa.array([_NAMES[name.lower()] for name in given], pa.string()).take(coded.indices)


def assign_missing_split(table: pa.Table, name: str, seed: int) -> tuple[pa.Table, int]:
    """Returns the table with every row in train, dev or test, and how many rows have drawn theirs.

    Rows without a split get that of the rows with the same event, or of the same day and station where there is no
    event (test before dev before train, where these differ). The others draw 60/10/30 by a hash of their event, or else
    their day and station, or else their name: never by row order, so that no event and no noise block straddles two
    splits. Events that share a trace draw as one.
    """
    rank = pc.fill_null(pc.index_in(table["split"], pa.array(SPLITS)), -1).to_numpy().copy()
    missing = np.flatnonzero(rank < 0)
    if not len(missing):
        return table, 0
    key, is_block = _keys(table)
    codes = key.indices.to_numpy()
    of_key = np.full(len(key.dictionary), -1)
    given = np.flatnonzero((rank >= 0) & is_block)
    np.maximum.at(of_key, codes[given], rank[given])
    inherited = np.where(is_block, of_key[codes], -1)[missing]
    drawing = missing[inherited < 0]
    rank[missing] = inherited
    names = key.dictionary.to_pylist()
    for code in np.unique(codes[drawing]).tolist():
        of_key[code] = SPLITS.index(_draw(f"{seed}/{name}/{names[code]}"))
    rank[drawing] = of_key[codes[drawing]]
    log.info(
        "%s: of %d traces without a split, %d got that of their event (or station and day), and %d one that was drawn by "
        "event, station and day",
        *(name, len(missing), len(missing) - len(drawing), len(drawing)),
    )
    split = pa.array(SPLITS).take(pa.array(rank))
    return table.set_column(table.schema.get_field_index("split"), "split", split), len(drawing)


def _keys(table: pa.Table) -> tuple[pa.DictionaryArray, np.ndarray]:
    """What traces that belong together share, and whether it is an event or a day of a station."""
    rows = table.select(["station", "start_time", "trace_name"]).combine_chunks()
    station, time, trace = (pc.if_else(pc.equal(c, ""), None, c) for c in rows.columns)
    event = joint_events(table)
    day = pc.binary_join_element_wise(pc.fill_null(station, ""), _day(time), "/")
    key = pc.coalesce(event, day, station, trace).combine_chunks().dictionary_encode()
    return key, pc.or_(pc.is_valid(event), pc.is_valid(time)).to_numpy()


def joint_events(table: pa.Table) -> pa.Array:
    """Returns the event of each row of an index, one name for all events that share a trace, and null where there is none."""
    event = table["event"].combine_chunks()
    return _joined(pc.if_else(pc.equal(event, ""), None, event), table["more_events"].combine_chunks())


def _day(time: pa.ChunkedArray) -> pa.Array:
    seconds = epoch_seconds(time)
    days, which = np.unique(np.nan_to_num(seconds).astype("datetime64[s]").astype("datetime64[D]"), return_inverse=True)
    names = pa.array(np.datetime_as_string(days).tolist(), pa.string()).take(pa.array(which))
    return pc.if_else(pa.array(np.isnan(seconds)), pc.utf8_slice_codeunits(time, 0, 10), names)


def _joined(event: pa.Array, more: pa.ListArray) -> pa.Array:
    """The events, with one of them for all that are in the same traces."""
    pairs = zip(event.take(pc.list_parent_indices(more)).to_pylist(), pc.list_flatten(more).to_pylist(), strict=True)
    first: dict[str, str] = {}

    def root(one: str) -> str:
        while one in first:
            one = first[one]
        return one

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        if low != high:
            first[high] = low
    if not first:
        return event
    coded = event.dictionary_encode()
    return pa.array([root(one) for one in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)


def _draw(key: str) -> str:
    draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") / 2**32
    return "train" if draw < 0.6 else "dev" if draw < 0.7 else "test"
