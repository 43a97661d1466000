"""What happens on the driver while trials run: lines in the console, and checkpoints that take less room."""

import logging
import time

import ray
from ray import tune

from raysys.console import duration

log = logging.getLogger(__name__)
_DONE = ("TERMINATED", "ERROR")
"""Of Ray Tune, what a trial is that does not go on."""


class ProgressLines(tune.Callback):
    """One log line for every report of a trial, which is named as its folder is.

    Args:
        num_trials: of the sweep.
        budget: windows of a trial in full.
    """

    def __init__(self, num_trials: int, budget: int):
        self._num_trials, self._budget = num_trials, budget
        self._began: tuple[float, float] | None = None

    def on_trial_result(self, iteration, trials, trial, result, **info):
        log.info(
            "trial %s  %3.0f %%  objective %.4f  %s  (%s)",
            trial.trial_id,
            100 * result["windows"] / self._budget,
            result["objective"],
            result["reason"] or "healthy",
            self._standing(trials, trial, result),
        )

    def on_trial_error(self, iteration, trials, trial, **info):
        log.warning("trial %s failed: %s", trial.trial_id, trial.error_file or "see its folder")

    def _standing(self, trials, trial, result) -> str:
        """Trials done, running and waiting, and what is left without early stopping, at the pace since this process began."""
        done = sum(one.status in _DONE for one in trials)
        running = sum(one.status == "RUNNING" for one in trials)
        waiting = self._num_trials - done - running
        text = f"{done} done, {running} running, {waiting} waiting"
        seen = {one.trial_id: one.last_result.get("windows", 0) for one in trials} | {trial.trial_id: result["windows"]}
        ended = {one.trial_id for one in trials if one.status in _DONE}
        now, windows = time.monotonic(), sum(seen.values())
        self._began = self._began or (now, windows)
        then, before = self._began
        left = self._num_trials * self._budget - sum(self._budget if one in ended else seen[one] for one in seen)
        if windows <= before:
            return text
        return f"{text}; up to about {duration(left * (now - then) / (windows - before))} left"


class ThinCheckpoints(tune.Callback):
    """Deletes the optimizer's state, two thirds of a checkpoint, of trials that were stopped; their weights stay.

    Args:
        budget: windows of a trial in full.
    """

    def __init__(self, budget: int):
        self._budget = budget

    def on_trial_complete(self, iteration, trials, trial, **info):
        path = trial.checkpoint.path if trial.checkpoint else trial.last_result.get("checkpoint_path")
        if path is None or trial.last_result.get("windows", self._budget) >= self._budget:
            return
        fs, file = trial.storage.storage_filesystem, f"{path}/optim.safetensors"
        if fs.get_file_info(file).is_file:
            fs.delete_file(file)


class ForgiveLostNodes(tune.Callback):
    """Takes the loss of a trial's node off its failures, which `search.max_failures` limits.

    Ray Tune itself does so only for nodes that were taken away with notice. A node counts as lost when Ray says so, some
    seconds after its trials have died, so that a trial that kills itself is not forgiven.
    """

    _PATIENCE_S = 120.0

    def __init__(self):
        self._failures: dict[str, int] = {}
        self._nodes: dict[str, str] = {}
        self._suspects: dict[str, tuple] = {}

    def on_trial_start(self, iteration, trials, trial, **info):
        self._failures[trial.trial_id] = trial.run_metadata.num_failures
        self._nodes.pop(trial.trial_id, None)

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self._nodes[trial.trial_id] = result["node_id"]

    def on_trial_recover(self, iteration, trials, trial, **info):
        counted = trial.run_metadata.num_failures > self._failures[trial.trial_id]
        if counted and (node := self._nodes.pop(trial.trial_id, None)):
            self._suspects[trial.trial_id] = (trial, node, time.monotonic() + self._PATIENCE_S)

    def on_step_begin(self, iteration, trials, **info):
        if not self._suspects:
            return
        dead = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        for name, (trial, node, until) in list(self._suspects.items()):
            if node in dead:
                log.warning("trial %s lost its node, which does not count as a failure of its own", name)
                trial.run_metadata.num_failures -= 1
                self._failures[name] = trial.run_metadata.num_failures
            if node in dead or time.monotonic() > until:
                del self._suspects[name]
