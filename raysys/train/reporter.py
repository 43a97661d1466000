"""Where a training loop reports to: Ray Train, Ray Tune, or nobody."""

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray.train
from ray import tune
from ray.train import CheckpointUploadMode
from ray.train.collective import broadcast_from_rank_zero

from raysys.train.storage import RemoteLogs, Upload

Metrics = dict[str, Any]


class Reporter(Protocol):
    """What the loop needs of its surroundings."""

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        """Reports metrics and a checkpoint; every rank calls it alike.

        Args:
            metrics: of this moment, with "step".
            save: writes the checkpoint of this moment into an empty folder, now or later, from any thread.
        """

    def latest_checkpoint(self):
        """Returns a context manager that gives the folder of the newest checkpoint, or None."""


class TrainReporter:
    """Reports to Ray Train; rank 0 writes the checkpoint. Every rank calls every method alike.

    Ray Train's own asynchronous upload ends the run when the storage fails, so rank 0 writes to the storage itself and then
    registers what is there.

    Args:
        background: write while training goes on; a checkpoint is registered by the next `poll` that finds it written.
        remote_logs: uploaded after every checkpoint.
    """

    def __init__(self, *, background: bool = False, remote_logs: RemoteLogs | None = None):
        self._background, self._remote_logs = background, remote_logs
        self._rank = ray.train.get_context().get_world_rank()
        self._metrics: Metrics | None = None
        self._upload: Upload | None = None

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        self.finish_checkpoint()
        self._metrics = metrics
        if self._rank == 0:
            storage = ray.train.get_context().get_storage()
            path = f"{storage.experiment_fs_path}/step{metrics['step']:09d}"
            after = self._remote_logs.upload if self._remote_logs else None
            self._upload = Upload(save, storage.storage_filesystem, path, after)
        if not self._background:
            self.finish_checkpoint()

    def poll(self) -> bool:
        """Registers the checkpoint that was written meanwhile; returns whether Ray takes machines of this run away."""
        if self._metrics is not None and broadcast_from_rank_zero(self._upload is not None and self._upload.done()):
            self.finish_checkpoint()
        return ray.train.get_preemption_info() is not None

    def finish_checkpoint(self) -> None:
        """Waits for the checkpoint that is being written, and registers it; without it if the storage failed."""
        if self._metrics is None:
            return
        checkpoint = None
        if self._upload is not None and self._upload.wait():
            storage = ray.train.get_context().get_storage()
            checkpoint = ray.train.Checkpoint(self._upload.path, storage.storage_filesystem)
        metrics, self._metrics, self._upload = self._metrics, None, None
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)

    def latest_checkpoint(self):
        return _opened(ray.train.get_checkpoint())


class TuneReporter:
    """Reports to Ray Tune from a plain trial function.

    Args:
        remote_logs: uploaded with every report.
    """

    def __init__(self, remote_logs: RemoteLogs | None = None):
        self._remote_logs = remote_logs

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        if self._remote_logs:
            self._remote_logs.upload()  # before the report, at which the trial may be stopped
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
