"""What a training run reads, prepared once and shared by all workers and trials."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import ray

from raysys.config import RunConfig
from raysys.data.corpus import fingerprint, load_corpus, select, summary, train_plan
from raysys.data.fixed_windows import FixedWindows, fixed_windows
from raysys.data.in_memory import load_into_memory
from raysys.data.leakage import leak_report
from raysys.data.plan import Plan
from raysys.data.windows import Traces

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
    """For the record: "sets" (`raysys.data.corpus.summary`) and "leaks" (`raysys.data.leakage.leak_report`)."""
    traces: Any
    validation: Any
    probe_fit: Any
    probe_score: Any

    _LARGE = ("traces", "validation", "probe_fit", "probe_score")

    def shared(self) -> "TrainingData":
        """Returns the data with its large fields in the object store (needs a running Ray)."""
        return dataclasses.replace(self, **{name: ray.put(getattr(self, name)) for name in self._LARGE})

    def load_into_memory(self) -> "TrainingData":
        """Returns the data with the training windows cut from the object store, where they fit (needs a running Ray)."""
        return dataclasses.replace(self, traces=load_into_memory(self.traces))

    def get(self, name: str) -> Traces | FixedWindows:
        """Returns a large field, fetched from the object store where it lies there."""
        value = getattr(self, name)
        return ray.get(value) if isinstance(value, ray.ObjectRef) else value


def prepare_training_data(config: RunConfig) -> TrainingData:
    """Returns what a run of this configuration reads.

    Raises:
        ValueError, FileNotFoundError: bad data sets (naming file and fix), or no validation windows.
    """
    corpus = load_corpus(config.data)
    training, dev = select(corpus, "train"), select(corpus, "dev")
    if not len(dev):
        raise ValueError(f"data.datasets={config.data.datasets}: no trace in the dev split, so nothing to validate on")
    traces = Traces.from_table(training)
    window = config.model.window_samples
    return TrainingData(
        plan=train_plan(config.data, traces, config.train.seed),
        fingerprint=fingerprint(corpus),
        contents={"sets": summary(corpus), "leaks": leak_report(corpus)},
        traces=traces,
        validation=fixed_windows(dev, config.train.val_windows, window, _FIXED_SEED),
        probe_fit=fixed_windows(training, config.probe.fit_windows, window, _FIXED_SEED + 1, labelled=True),
        probe_score=fixed_windows(dev, config.probe.score_windows, window, _FIXED_SEED + 2, labelled=True),
    )
