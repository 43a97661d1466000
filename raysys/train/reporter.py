"""Where a training loop reports to: Ray Train, Ray Tune, or nobody."""

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray.train
from ray import tune

Metrics = dict[str, Any]


class Reporter(Protocol):
    """What the loop needs of its surroundings."""

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        """Reports metrics and a checkpoint that `save` writes into an empty folder; every rank calls it alike."""

    def latest_checkpoint(self):
        """Returns a context manager that gives the folder of the newest checkpoint, or None."""


class TrainReporter:
    """Reports to Ray Train; rank 0 writes the checkpoint."""

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        if ray.train.get_context().get_world_rank() != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"step{metrics['step']:09d}")

    def latest_checkpoint(self):
        return _opened(ray.train.get_checkpoint())


class TuneReporter:
    """Reports to Ray Tune from a plain trial function."""

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    def latest_checkpoint(self):
        return _opened(tune.get_checkpoint())


class SilentReporter:
    """Keeps the last metrics and the last checkpoint in a folder, for runs inside one process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.history: list[Metrics] = []

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        self.history.append(metrics)
        target = self.folder / f"step{metrics['step']:09d}"
        target.mkdir(parents=True, exist_ok=True)
        save(target)

    @contextmanager
    def latest_checkpoint(self):
        yield max(self.folder.glob("step*"), default=None)


@contextmanager
def _opened(checkpoint):
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)
