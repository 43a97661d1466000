"""Data sets that are not learnt from, and by which a network is chosen (`finetune.left_out`)."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from raysys.config_finetuning import FinetuneConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.data.labels import draw_labelled

HOME = "dev_home"
"""Group of the metrics of the sets that are learnt from, where others are left out."""


def check_left_out(
    left_out: tuple[str, ...], known: Iterable[str], labelled: Iterable[str], dev: Iterable[str]
) -> None:
    """Raises a ValueError if data sets cannot be left out.

    Args:
        left_out: their names.
        known: names of the sets of the run.
        labelled: of those with a label in the training split.
        dev: of those with validation windows.
    """
    if unknown := [name for name in left_out if name not in known]:
        raise ValueError(
            f"finetune.left_out={left_out}: {unknown[0]!r} is none of the data sets of the run: {', '.join(known)}"
        )
    if set(labelled) <= set(left_out):
        raise ValueError(
            f"finetune.left_out={left_out}: no labelled data set is left to learn from, of {', '.join(labelled)}"
        )
    if left_out and not set(dev) & set(left_out):
        raise ValueError(
            f"finetune.left_out={left_out}: no label in the dev split, so nothing tells how good a network is there; there are "
            f"some in {', '.join(dev)}"
        )


def learnt_from(dataset: np.ndarray, unit: np.ndarray, tuning: FinetuneConfig) -> np.ndarray:
    """Returns which labelled traces a run learns from, (n,) bool.

    Args:
        dataset: name of the data set of each trace, (n,).
        unit: what is drawn as a whole, (n,): `TraceLabels.unit`.
        tuning: which part of the labels, and of which data sets none.
    """
    taken = draw_labelled(dataset, unit, tuning.label_fraction, tuning.label_draw)
    return taken & ~np.isin(dataset, tuning.left_out)


def label_counts(
    dataset: np.ndarray, taken: np.ndarray, dev: dict[str, int], left_out: tuple[str, ...]
) -> dict[str, Any]:
    """Returns what a record says of the labelled traces: of how many a run learns, and how many lie in sets that are left out.

    Args:
        dataset: name of the data set of each labelled trace of the training split, (n,).
        taken: which of them are learnt from, (n,).
        dev: data set -> labelled traces of its dev split.
        left_out: names of sets.
    """
    every, mine = Counter(dataset.tolist()), Counter(dataset[taken].tolist())
    home = {name: [mine[name], count] for name, count in every.items() if name not in left_out}
    told = {"traces": mine.total(), "of": sum(count for _, count in home.values()), "by_dataset": home}
    away = {name: {"training": every[name], "dev": dev.get(name, 0)} for name in left_out}
    return told | {"dev": sum(dev.values())} | ({"left_out": away} if left_out else {})


def dev_groups(windows: FixedWindows, left_out: tuple[str, ...]) -> dict[str, FixedWindows]:
    """Returns dev windows by the group of the metrics that they give: "dev", by which networks are chosen, and `HOME`."""
    if not left_out:
        return {"dev": windows}
    away = np.isin(np.array(windows.datasets)[windows.dataset], left_out)
    groups = {"dev": windows.take(away), HOME: windows.take(~away)}
    return {group: some for group, some in groups.items() if len(some)}
