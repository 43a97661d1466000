"""Lines in the console while the trials of a sweep run."""

import logging
import time

from ray import tune

from raysys.console import duration
from raysys.tune.outcome import last_failure

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

    def on_trial_recover(self, iteration, trials, trial, **info):
        log.warning("trial %s failed and goes on from its last checkpoint: %s", trial.trial_id, last_failure(trial))

    def on_trial_error(self, iteration, trials, trial, **info):
        log.warning(
            "trial %s failed: %s (%s)", trial.trial_id, last_failure(trial), trial.error_file or "see its folder"
        )

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
