"""Which traces have labels, what they say, and which part of them a run may see."""

import hashlib
import io
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import RunConfig
from raysys.data.onsets import Onsets
from raysys.data.splits import joint_events
from raysys.location import Location


@dataclass(frozen=True, slots=True)
class TraceLabels:
    """What is known of n traces.

    Attributes:
        onsets: of P, S and other phases, and which traces are noise.
        group: (n,) int64, number of the class in `head.classes`, -1 where it is unknown.
        unit: (n,) data set and event, or the trace where there is none: what a part of the labels is drawn by.
    """

    onsets: Onsets
    group: np.ndarray
    unit: np.ndarray

    @classmethod
    def from_table(cls, table: pa.Table, config: RunConfig) -> Self:
        """Returns the labels of the rows of an index; classes only where the task needs them.

        Raises:
            ValueError: a file of classes that lacks a column or names a class that is none of `head.classes`.
        """
        onsets = Onsets.from_table(table)
        group = np.full(len(table), -1)
        if config.task == "classify":
            file = config.finetune.classes_file
            group = _classes_of(table, file, config) if file else _event_or_noise(onsets, config)
        return cls(onsets, group, _units(table))

    def known(self, task: str) -> np.ndarray:
        """Returns which traces a task can learn from, (n,) bool."""
        return self.group >= 0 if task == "classify" else self.onsets.labelled

    def take(self, ids: slice | np.ndarray) -> Self:
        """Returns those of some of the traces."""
        return type(self)(self.onsets.take(ids), self.group[ids], self.unit[ids])


def draw_labelled(dataset: np.ndarray, unit: np.ndarray, fraction: float, draw: int) -> np.ndarray:
    """Returns which of the labelled traces belong to a part of them, (n,) bool.

    In every data set whole events are taken, in an order that is a hash, at least one and as many as come nearest to the part; a
    trace without an event counts as one. So a smaller part lies inside every larger one of the same draw, and holds every data set.

    Args:
        dataset: of each trace, (n,).
        unit: what is drawn as a whole, (n,): `TraceLabels.unit`.
        fraction: of the traces of every data set, above 0.
        draw: number of the order.
    """
    taken = np.ones(len(unit), bool)
    if fraction >= 1:
        return taken
    names, code = np.unique(unit, return_inverse=True)
    place = np.array([_place(f"{draw}/{name}") for name in names.tolist()])[code]
    for name in np.unique(dataset):
        mine = np.flatnonzero(dataset == name)
        places, count = np.unique(place[mine], return_counts=True)
        last = np.argmin(np.abs(np.cumsum(count) - fraction * len(mine)))  # as near as whole events come
        taken[mine] = place[mine] <= places[last]
    return taken


def _units(table: pa.Table) -> np.ndarray:
    """The data set with the event of each row, or with the trace where it has none."""
    trace = pc.binary_join_element_wise("trace", table["chunk"], table["trace_name"], "/")
    unit = pc.coalesce(joint_events(table), trace.combine_chunks())
    return np.array(pc.binary_join_element_wise(table["dataset"].combine_chunks(), unit, "/").to_pylist(), str)


def _place(name: str) -> float:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") / 2**48


def _event_or_noise(onsets: Onsets, config: RunConfig) -> np.ndarray:
    classes = config.head.classes
    if set(classes) != {"earthquake", "noise"}:
        raise ValueError(
            f"head.classes={classes}: without finetune.classes_file a trace is an earthquake or noise: name the file of these "
            "classes, or set head.classes earthquake noise"
        )
    group = np.where(onsets.labelled, classes.index("earthquake"), -1)
    return np.where(onsets.noise, classes.index("noise"), group)


def _classes_of(table: pa.Table, file: str, config: RunConfig) -> np.ndarray:
    """The classes that a CSV file gives to traces, by name, and by data set where it has such a column."""
    import pandas as pd  # takes half a second, which most runs need not spend

    place = Location(file)
    if not place.exists():
        raise FileNotFoundError(f"finetune.classes_file={file}: no such file")
    given = pd.read_csv(io.BytesIO(place.read()), dtype=str, index_col=False)
    if lacking := {"trace_name", "class"} - set(given):
        raise ValueError(f"{file} lacks the column {' and '.join(sorted(lacking))}: it has {', '.join(given)}")
    classes = config.head.classes
    if unknown := sorted(set(given["class"].dropna()) - set(classes)):
        raise ValueError(
            f"{file}: the class {unknown[0]!r} is none of head.classes={classes}: name it with --head.classes {' '.join(classes)} "
            f"{unknown[0]}"
        )
    keys = ["dataset", "trace_name"] if "dataset" in given else ["trace_name"]
    if given.duplicated(keys).any():
        raise ValueError(f"{file}: trace {given[given.duplicated(keys)]['trace_name'].iloc[0]} has two rows: keep one")
    numbers = given.assign(group=given["class"].map({name: k for k, name in enumerate(classes)})).set_index(keys)[
        "group"
    ]
    wanted = table.select(keys).to_pandas()
    found = numbers.reindex(pd.MultiIndex.from_frame(wanted) if len(keys) > 1 else wanted["trace_name"])
    if found.notna().sum() == 0:
        raise ValueError(
            f"{file}: none of its {len(given)} traces is in the data: compare trace_name with metadata.csv"
        )
    return found.fillna(-1).to_numpy(np.int64)
