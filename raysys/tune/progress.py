"""What a sweep says in the console while its trials run."""

import logging

from ray import tune

log = logging.getLogger(__name__)


class ProgressLines(tune.Callback):
    """One log line for every report of a trial.

    Args:
        num_trials: of the sweep.
        budget: windows of a trial in full.
    """

    def __init__(self, num_trials: int, budget: int):
        self._num_trials, self._budget = num_trials, budget
        self._numbers: dict[str, int] = {}

    def on_trial_result(self, iteration, trials, trial, result, **info):
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)
        log.info(
            "trial %d/%d  %3.0f %%  objective %.4f  %s",
            number,
            self._num_trials,
            100 * result["windows"] / self._budget,
            result["objective"],
            result["reason"] or "healthy",
        )

    def on_trial_error(self, iteration, trials, trial, **info):
        log.warning("trial %s failed: %s", trial.trial_id, trial.error_file or "see its folder")
