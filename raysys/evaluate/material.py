"""What networks are evaluated on: of every data set its traces, their events and the target windows."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import DataConfig
from raysys.data.corpus import fingerprint, load_corpus
from raysys.data.onsets import Onsets
from raysys.evaluate.published import read_targets
from raysys.evaluate.tasks import SPLITS, Targets, identity_columns, make_targets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """Of one data set.

    Attributes:
        name: of the data set.
        table: its index, all splits.
        targets: its tasks.
        events: split -> names of the events of labelled traces and of targets, in order; what a bootstrap draws from.
        fingerprint: of traces, labels and targets.
    """

    name: str
    table: pa.Table
    targets: Targets
    events: dict[str, list[str]]
    fingerprint: str

    def sizes(self) -> dict[str, int]:
        """Returns the number of windows of each task and split, "dev_task1" and so on."""
        return {f"{split}_{task}": len(rows) for split in SPLITS for task, rows in self.targets.of_split(split).items()}


def load_material(config: DataConfig, targets: str | None = None) -> list[Material]:
    """Returns the material of every data set.

    Args:
        config: which data sets, and how they are split.
        targets: folder of published target windows; they are made for the data sets that it lacks, and without it for all.

    Raises:
        ValueError, FileNotFoundError: what `load_corpus` and `read_targets` say.
    """
    corpus = load_corpus(config).replace_schema_metadata(None)
    names = pc.unique(corpus["dataset"]).to_pylist()
    tables = [corpus.filter(pc.equal(corpus["dataset"], name)).combine_chunks() for name in names]
    return [_material(name, table, targets, len(names) == 1) for name, table in zip(names, tables, strict=True)]


def _material(name: str, table: pa.Table, folder: str | None, alone: bool) -> Material:
    targets = read_targets(folder, table, alone=alone) if folder is not None else None
    if folder is not None and targets is None:
        log.warning("%s holds no targets of %s: they are made, and compare with no published numbers", folder, name)
    targets = make_targets(table) if targets is None else targets
    digest = hashlib.sha256(fingerprint(table).encode())
    for frame in (targets.task1, targets.task23):
        digest.update(frame.to_csv(index=False).encode())
    material = Material(name, table, targets, _events(table, targets), digest.hexdigest()[:16])
    log.info("%s: %s", name, ", ".join(f"{count} windows of {key}" for key, count in material.sizes().items()))
    if empty := [key for key, count in material.sizes().items() if not count]:
        log.warning("%s has nothing for %s: these scores are empty", name, ", ".join(empty))
    return material


def _events(table: pa.Table, targets: Targets) -> dict[str, list[str]]:
    names = pd.DataFrame(identity_columns(table, np.flatnonzero(Onsets.from_table(table).labelled)))
    names = pd.concat([one[["trace_split", "event"]] for one in (names, targets.task1, targets.task23)])
    return {split: sorted(set(names["event"][names["trace_split"] == split])) for split in SPLITS}
