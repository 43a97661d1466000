"""What happens on the driver while trials run: lines in the console, and checkpoints that take less room."""

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
