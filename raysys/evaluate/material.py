"""What networks are evaluated on: of every data set the traces of dev and test, their events, and the target windows."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import DataConfig, RunConfig
from raysys.data.corpus import fingerprint, load_corpus
from raysys.data.labels import TraceLabels
from raysys.data.splits import joint_events
from raysys.evaluate.tasks import SPLITS, TASKS, make_targets, read_targets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """Of one data set.

    Attributes:
        name: of the data set.
        table: index rows of dev and test.
        targets: "dev_task1" and the like -> target windows, whose `row` numbers the table.
        event: (n,) number of the event of each row; a trace without one is its own.
        fingerprint: of the traces, their labels and the targets.
    """

    name: str
    table: pa.Table
    targets: dict[str, pd.DataFrame]
    event: np.ndarray
    fingerprint: str


def load_material(config: DataConfig, targets: str | None = None) -> list[Material]:
    """Returns the material of every data set, in their order.

    Args:
        config: which data sets, and how they are split.
        targets: folder with published target windows; None makes them.

    Raises:
        ValueError, FileNotFoundError: what `load_corpus` and `read_targets` say.
    """
    corpus = load_corpus(config).replace_schema_metadata(None)
    names = pc.unique(corpus["dataset"]).to_pylist()
    tables = {name: corpus.filter(pc.equal(corpus["dataset"], name)).combine_chunks() for name in names}
    return [_material(name, table, targets, alone=len(names) == 1) for name, table in tables.items()]


def _material(name: str, table: pa.Table, folder: str | None, alone: bool) -> Material:
    made = make_targets(table) if folder is None else read_targets(folder, name, table, alone=alone)
    kept = pc.is_in(table["split"], pa.array(SPLITS)).to_numpy(zero_copy_only=False)
    place, table = np.cumsum(kept) - 1, table.filter(pa.array(kept)).combine_chunks()
    targets = {}
    for task in TASKS:
        frame = made[task].assign(row=place[made[task]["row"].to_numpy(np.int64)])
        for split in SPLITS:
            targets[f"{split}_{task}"] = frame[frame["trace_split"] == split].reset_index(drop=True)
    empty = [key for key, frame in targets.items() if not len(frame)]
    if empty:
        log.info("%s has no windows for %s: these metrics are empty there", name, ", ".join(empty))
    sizes = ", ".join(f"{len(frame)} of {key}" for key, frame in targets.items())
    log.info("%s: %d traces of dev and test; windows: %s", name, len(table), sizes)
    digest = hashlib.sha256(fingerprint(table).encode() if len(table) else b"")
    for frame in targets.values():
        digest.update(frame.to_csv(index=False).encode())
    return Material(name, table, targets, _events(table), digest.hexdigest()[:16])


def _events(table: pa.Table) -> np.ndarray:
    trace = pc.binary_join_element_wise("trace", table["chunk"], table["trace_name"], "/").combine_chunks()
    names = pc.coalesce(joint_events(table), trace).to_numpy(zero_copy_only=False)
    return np.unique(names.astype(str), return_inverse=True)[1]


def classes_of(materials: list[Material], config: RunConfig) -> list[np.ndarray]:
    """Returns the class of every row of each table, -1 unknown; all of them -1 where the task is not to classify.

    All data sets are asked together, for a file of classes may know nothing of one of them.
    """
    together = pa.concat_tables([one.table for one in materials]).combine_chunks()
    group = TraceLabels.from_table(together, config).group
    return np.split(group, np.cumsum([len(one.table) for one in materials])[:-1])
