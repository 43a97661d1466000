"""What a training run reads, prepared once and shared by all workers and trials."""

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raysys.config import RunConfig
from raysys.data.corpus import fingerprint, load_corpus, select, summary, train_plan
from raysys.data.fixed_windows import FixedWindows, fixed_windows
from raysys.data.in_memory import load_into_memory
from raysys.data.labels import TraceLabels
from raysys.data.leakage import leak_report
from raysys.data.plan import Plan
from raysys.data.windows import Traces
from raysys.evaluate.probe import P, S, frame_labels
from raysys.train.left_out import check_left_out, dev_groups, label_counts, learnt_from

log = logging.getLogger(__name__)
_FIXED_SEED = 20_200_101
"""Of the validation and probe windows: the same for every run."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Training split, order, and the fixed windows of validation and probe.

    Each large field is either the object itself or, after `shared`, a reference into Ray's object store, from which
    every worker and every trial of a node reads the same copy.
    """

    plan: Plan
    fingerprint: str
    contents: dict[str, Any]
    """For the record: "sets" (`raysys.data.corpus.summary`), "leaks" (`raysys.data.leakage.leak_report`), and, of fine-tuning,
    "dev_traces", labelled ones by data set, and "labels" (`raysys.train.left_out.label_counts`)."""
    traces: Any
    validation: Any
    probe_fit: Any = None
    probe_score: Any = None
    labels: Any = None
    """Of the training traces (`raysys.data.labels.TraceLabels`); None in pretraining."""
    validation_labels: Any = None
    """Of the traces that validation windows are cut from; None in pretraining."""

    _LARGE = ("traces", "validation", "probe_fit", "probe_score", "labels", "validation_labels")

    def shared(self) -> "TrainingData":
        """Returns the data with its large fields in the object store (needs a running Ray)."""
        there = {name: getattr(self, name) for name in self._LARGE}
        return dataclasses.replace(self, **{name: ray.put(one) for name, one in there.items() if one is not None})

    def of_run(self, config: RunConfig) -> "TrainingData":
        """Returns the data of a run among those that share it: in its order, and with the part of the labels that it may see."""
        if config.task == "pretrain":
            return dataclasses.replace(self, plan=dataclasses.replace(self.plan, seed=config.train.seed))
        self.check_left_out(config)
        traces, labels, tuning = self.get("traces"), self.get("labels"), config.finetune
        dataset = np.array(traces.datasets)[traces.dataset]
        taken = learnt_from(dataset, labels.unit, tuning)
        mine = traces.take(np.flatnonzero(taken))
        told = label_counts(dataset, taken, self.contents["dev_traces"], tuning.left_out)
        log.info("labelled traces to learn from: %d of %d", told["traces"], told["of"])
        if tuning.left_out:
            log.info("left out, and alone in dev/score: %s", told["left_out"])
        return dataclasses.replace(
            self,
            plan=train_plan(config.data, mine, config.train.seed, tuning.at_onsets),
            contents=self.contents | {"labels": told},
            traces=ray.put(mine) if isinstance(self.traces, ray.ObjectRef) else mine,
            labels=labels.take(taken),
        )

    def check_left_out(self, config: RunConfig) -> None:
        """Raises a ValueError if a run cannot leave out what it is to leave out."""
        windows, sets = self.get("validation"), self.contents["sets"]
        dev = [windows.datasets[code] for code in np.unique(windows.dataset)]
        known = [row["dataset"] for row in sets]
        check_left_out(config.finetune.left_out, known, self.get("traces").datasets, dev)

    def load_into_memory(self) -> "TrainingData":
        """Returns the data with the training windows cut from the object store, where they fit (needs a running Ray)."""
        return dataclasses.replace(self, traces=load_into_memory(self.traces))

    def get(self, name: str) -> Traces | FixedWindows:
        """Returns a large field, fetched from the object store where it lies there."""
        value = getattr(self, name)
        return ray.get(value) if isinstance(value, ray.ObjectRef) else value


def prepare_training_data(config: RunConfig) -> TrainingData:
    """Returns what runs of this configuration read; `TrainingData.of_run` makes it that of one of them.

    Raises:
        ValueError, FileNotFoundError: bad data sets (naming file and fix), or no validation windows.
    """
    corpus = load_corpus(config.data)
    training, dev = select(corpus, "train"), select(corpus, "dev")
    if not len(dev):
        raise ValueError(f"data.datasets={config.data.datasets}: no trace in the dev split, so nothing to validate on")
    if config.task != "pretrain":
        return _labelled_data(config, corpus, training, dev)
    traces = Traces.from_table(training)
    window = config.model.window_samples
    data = TrainingData(
        plan=train_plan(config.data, traces, config.train.seed),
        fingerprint=fingerprint(corpus),
        contents={"sets": summary(corpus), "leaks": leak_report(corpus)},
        traces=traces,
        validation=fixed_windows(dev, config.train.val_windows, window, _FIXED_SEED),
        probe_fit=fixed_windows(training, config.probe.fit_windows, window, _FIXED_SEED + 1, labelled=True),
        probe_score=fixed_windows(dev, config.probe.score_windows, window, _FIXED_SEED + 2, labelled=True),
    )
    if lacks := probe_lacks(config, data):
        log.warning("there will be no probe/* scores: %s", lacks)
    return data


def _labelled_data(config: RunConfig, corpus: pa.Table, training: pa.Table, dev: pa.Table) -> TrainingData:
    """What fine-tuning may read: all labelled traces of training and dev split; with a teacher, all of training."""
    training = training if config.finetune.teacher else _known(training, config, "training")
    dev = _known(dev, config, "dev")
    traces = Traces.from_table(training)
    data = TrainingData(
        plan=train_plan(config.data, traces, config.train.seed, config.finetune.at_onsets),
        fingerprint=fingerprint(corpus),
        contents={
            "sets": summary(corpus),
            "leaks": leak_report(corpus),
            "dev_traces": dict(Counter(dev["dataset"].to_pylist())),
        },
        traces=traces,
        validation=fixed_windows(dev, config.train.val_windows, config.model.window_samples, _FIXED_SEED),
        labels=TraceLabels.from_table(training, config),
        validation_labels=TraceLabels.from_table(dev, config),
    )
    data.check_left_out(config)  # here, so that a sweep is refused before its first trial
    return data


def _known(table: pa.Table, config: RunConfig, split: str) -> pa.Table:
    """The rows that the task can learn from."""
    known = TraceLabels.from_table(table, config).known(config.task)
    if not known.any():
        raise ValueError(
            f"data.datasets={config.data.datasets}: none of the {len(table)} {split} traces has a label for task="
            f"{config.task!r}: look what was read with python -m jobs.data"
            + (f", and compare trace_name with {file}" if (file := config.finetune.classes_file) else "")
        )
    return table.filter(pa.array(known))


def probe_lacks(config: RunConfig, data: TrainingData) -> str:
    """Returns which labels the probe needs and does not find, with those of every data set; empty where it finds all."""
    center = np.array([config.model.encoder.frame_center(frame) for frame in range(config.model.num_frames)])
    lacks = []
    for split, name in (("train", "probe_fit"), ("dev", "probe_score")):
        labels = frame_labels(data.get(name), center, config.probe)
        where = f"in the {len(labels)} labelled windows of {split}"
        lacks += [f"{wave} {where}" for wave, number in (("P", P), ("S", S)) if not (labels == number).any()]
    if not lacks:
        return ""
    sets = [f"{row['dataset']} P {row['p_labels']}, S {row['s_labels']}" for row in data.contents["sets"]]
    return f"no onsets of {', '.join(lacks)} (labelled traces in all splits: {'; '.join(sets)})"


def _dev_lacks(config: RunConfig, data: TrainingData) -> str:
    """Returns what dev windows lack for a score of fine-tuning; empty where they have all."""
    windows = dev_groups(data.get("validation"), config.finetune.left_out)["dev"]
    if config.task == "classify":
        there = set(data.get("validation_labels").group[windows.row].tolist())
        return ", ".join(repr(name) for k, name in enumerate(config.head.classes) if k not in there)
    p, s, _ = windows.onsets()
    if config.task == "detect":
        return "" if (~np.isnan(p[:, 0])).any() else "onset of P"
    return " and no ".join(f"onset of {w}" for w, x in (("P", p), ("S", s)) if np.isnan(x[:, 0]).all())


def check_objective(config: RunConfig, data: TrainingData, *, ranks: bool = False) -> None:
    """Raises a ValueError if something goes by `search.objective` and that is a score of a probe without labels.

    Args:
        config: of the run.
        data: that it reads.
        ranks: trials are ranked by the objective; else only `train.patience` and `finetune.left_out` go by it, if they are set.
    """
    patience, objective = config.train.patience, config.search.objective
    left_out = () if config.task == "pretrain" else config.finetune.left_out
    if not (ranks or patience is not None or left_out):
        return
    of = f" of {' and '.join(left_out)}" if left_out else ""
    if objective == "dev/score" and (lacks := _dev_lacks(config, data)):
        raise ValueError(
            f"search.objective=dev/score has no value, as the dev split{of} has no {lacks}: take other data sets"
        )
    if not objective.startswith("probe/"):
        return
    if lacks := probe_lacks(config, data):
        who, instead = ("a sweep", "") if ranks else (f"train.patience={patience}", ", or --train.patience None")
        raise ValueError(
            f"{who} goes by search.objective={objective!r}, and there are {lacks}: take --search.objective val/top1_tie"
            f"{instead}, or data sets with picks of both"
        )
