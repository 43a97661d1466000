"""Trackers beside TensorBoard: Weights & Biases, MLflow and Trackio get the scalars of a run, in the background."""

import atexit
import hashlib
import importlib.util
import json
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from raysys.config import RunConfig, keys
from raysys.credentials import mask
from raysys.location import Location

log = logging.getLogger(__name__)
PROJECT = "raysys"
"""Project or experiment, where the environment names no other."""
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny", "trackio": "trackio"}
"""What to install for a tracker, by the name of its module."""
_PAUSE_S = 30.0
"""Between a failure of a tracker and the next attempt."""
_ATTEMPTS = 3
"""To send a line, after which it is dropped: a tracker may refuse what it does not understand for ever."""
_LINES_KEPT = 10_000
_END_S = 60.0
"""That a run waits at its end until its trackers have everything."""
_EXIT_S = 5.0
"""That a process does which is asked to exit before: of a trial that is stopped early."""


class Tracker(Protocol):
    """What the curves of a run are sent to."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Takes finite scalars of a step; steps do not fall while a process lives."""

    def finish(self) -> None:
        """Ends the run, for now: a later process may go on with it."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A run as its trackers know it."""

    id: str
    """The same in every life and stage of the run."""
    name: str
    group: str | None
    """The sweep of a trial."""
    storage: Location
    """Where all runs are."""
    folder: Location
    """Of the run."""
    config: dict[str, Any]
    """Dotted key -> number, truth value or text without credentials."""

    @classmethod
    def of(cls, config: RunConfig, trial: Location | None = None) -> "Tracked":
        """Returns what is tracked of a run that has its record.json already, or of a trial in its own folder.

        The id is a hash of the folder and of the time at which the run, or the sweep of the trial, began.
        """
        storage = Location(config.storage)
        own = storage / config.name
        folder = own if trial is None else trial
        began = (own / "record.json").read_json()["time"]
        return cls(
            id=hashlib.sha256(f"{folder} {began}".encode()).hexdigest()[:16],
            name=config.name if trial is None else config.name + folder.url.removeprefix(own.url),
            group=None if trial is None else config.name,
            storage=storage,
            folder=folder,
            config={key: _plain(value) for key, value in keys(config).items()},
        )


class WandbTracker:
    """Weights & Biases; WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE are read by it.

    Code, command line, console and installed packages stay here: only scalars and the configuration are sent.
    """

    def __init__(self, run: Tracked):
        import wandb

        folder = os.environ.get("WANDB_DIR") or (run.folder.make_folder().path if run.folder.is_local else None)
        private = {"console": "off", "disable_git": True, "disable_code": True, "save_code": False}
        settings = wandb.Settings(**private, x_disable_meta=True, x_save_requirements=False, reinit="create_new")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            resume="allow",
            name=run.name,
            group=run.group,
            config=run.config,
            dir=folder,
            settings=settings,
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        if step >= self._run.step:  # what an earlier life has sent already is refused
            self._run.log(metrics, step=step)

    def finish(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # its service is a child, which Ray ends before this process


class MlflowTracker:
    """MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are heeded, else all is in mlflow.db beside the runs."""

    def __init__(self, run: Tracked):
        from filelock import FileLock
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri and not run.storage.is_local:
            raise ValueError(f"set MLFLOW_TRACKING_URI where the run computes: {run.storage} can hold no database")
        self._metric, name = Metric, os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.group or PROJECT
        if uri:
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._experiment(name)
        else:
            folder = run.storage.make_folder().path
            with FileLock(f"{folder}/mlflow.db.lock"):  # trials that begin together would all make the tables
                self._client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
                experiment = self._experiment(name, f"file://{folder}/mlflow-artifacts")
        found = self._client.search_runs([experiment], f"tags.`raysys.run_id` = '{run.id}'", max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
        tags = {"raysys.run_id": run.id} | ({"raysys.group": run.group} if run.group else {})
        mine = found[0] if found else self._client.create_run(experiment, tags=tags, run_name=run.name)
        self._run = mine.info.run_id
        missing = [Param(key, str(value)) for key, value in run.config.items() if key not in mine.data.params]
        for first in range(0, len(missing), 100):  # the most that MLflow takes at once
            self._client.log_batch(self._run, params=missing[first : first + 100])
        self._client.log_batch(self._run, tags=[RunTag("raysys.folder", mask(run.folder.url))])

    def log(self, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        points = [self._metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=points)

    def finish(self) -> None:
        self._client.set_terminated(self._run)

    def _experiment(self, name: str, artifacts: str | None = None) -> str:
        """Its id; trials that begin together may all find none and make one."""
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self._client.create_experiment(name, artifact_location=artifacts)
        except Exception:
            if found := self._client.get_experiment_by_name(name):
                return found.experiment_id
            raise


class TrackioTracker:
    """Trackio; TRACKIO_DIR, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL are read by it. It knows a run by its name."""

    def __init__(self, run: Tracked):
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=f"{run.name}-{run.id[:8]}",
            group=run.group,
            config=run.config,
            resume="allow",
            embed=False,
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def finish(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}


class Background:
    """A tracker in a thread of its own, which neither holds up nor ends the run: a failure is told once.

    Lines that could not be sent wait for the next attempt, and a tracker that could not begin begins later.

    Args:
        name: of the tracker, for the log.
        make: begins it.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]):
        self._name, self._make = name, make
        self._tracker: Tracker | None = None
        self._told = False
        self._queue: queue.SimpleQueue[tuple[dict[str, float], int] | None] = queue.SimpleQueue()
        self._waiting: deque[tuple[dict[str, float], int]] = deque(maxlen=_LINES_KEPT)
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()
        atexit.register(self._exit)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Queues a line."""
        self._queue.put((metrics, step))

    def finish(self) -> None:
        """Tells the thread that nothing follows; `wait` waits for it."""
        self._queue.put(None)

    def wait(self, seconds: float) -> None:
        """Waits until all is sent, but no longer than that."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._tell("it has not taken everything in time")

    def _work(self) -> None:
        failed, again_at = 0, 0.0
        while (line := self._queue.get()) is not None:
            self._waiting.append(line)
            if time.monotonic() < again_at:
                continue
            oldest = self._waiting[0]
            try:
                self._send()
                failed = 0
            except Exception as error:
                self._tell(error)
                again_at = time.monotonic() + _PAUSE_S
                if self._tracker:
                    failed = failed + 1 if self._waiting[0] is oldest else 1
                if failed == _ATTEMPTS:
                    self._waiting.popleft()
        try:
            self._send()
            if self._tracker:
                self._tracker.finish()
        except Exception as error:
            self._tell(error)
        atexit.unregister(self._exit)

    def _exit(self) -> None:
        self._told = True  # nobody reads it any more
        self.finish()
        self.wait(_EXIT_S)

    def _send(self) -> None:
        """Sends what waits, the oldest first."""
        while self._waiting:
            if self._tracker is None:
                self._tracker = self._make()
                atexit.unregister(self._exit)
                atexit.register(self._exit)  # again, so that it runs before what the tracker has registered
            self._tracker.log(*self._waiting[0])
            self._waiting.popleft()

    def _tell(self, problem: Exception | str) -> None:
        if not self._told:
            kind = f"{type(problem).__name__}: " if isinstance(problem, Exception) else ""
            text = mask(" ".join(f"{kind}{problem}".split()))
            log.warning("tracker %s: %s; training goes on, metrics.jsonl has every line", self._name, text)
        self._told = True


class Trackers:
    """All trackers of a run, each in the background."""

    def __init__(self, trackers: list[Background]):
        self._trackers = trackers

    @classmethod
    def of(cls, config: RunConfig, trial: Location | None = None) -> "Trackers":
        """Returns those of `train.trackers`, for a run or for a trial in its own folder."""
        return cls([_background(name, config, trial) for name in dict.fromkeys(config.train.trackers)])

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Sends finite scalars of a step to all of them."""
        for tracker in self._trackers:
            tracker.log(metrics, step)

    def finish(self) -> None:
        """Ends all of them; waits a minute at most, since no run depends on a network."""
        until = time.monotonic() + _END_S
        for tracker in self._trackers:
            tracker.finish()
        for tracker in self._trackers:
            tracker.wait(until - time.monotonic())


def check_trackers(config: RunConfig) -> None:
    """Raises a ModuleNotFoundError if the package of a tracker is missing in this process."""
    missing = [name for name in config.train.trackers if importlib.util.find_spec(name) is None]
    if missing:
        install = " ".join(PACKAGES[name] for name in missing)
        raise ModuleNotFoundError(
            f"train.trackers: {' and '.join(missing)} not installed: pip install {install}, on every node"
        )


def _background(name: str, config: RunConfig, trial: Location | None) -> Background:
    return Background(name, lambda: _TRACKERS[name](Tracked.of(config, trial)))


def _plain(value: Any) -> Any:
    """A value of the configuration as trackers take it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask(value if isinstance(value, str) else json.dumps(value))
