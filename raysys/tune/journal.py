"""A sweep as an Optuna study, for optuna-dashboard: `optuna-dashboard results/my-sweep/optuna.log`."""

import logging
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from ray import tune
from ray.tune.search.optuna import OptunaSearch

log = logging.getLogger(__name__)
JOURNAL = "optuna.log"
optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study on the console


class OptunaJournal(tune.Callback):
    """Writes every report of every trial into an Optuna journal while the sweep runs.

    Args:
        directory: folder of the sweep; nothing is written where that is a URL.
        name: of the study.
        space: dotted key -> Ray Tune domain.
        budget: windows of a trial in full.
    """

    def __init__(self, directory: str, name: str, space: dict[str, Any], budget: int):
        self._path = None if "://" in directory else Path(directory) / JOURNAL
        self._name, self._budget = name, budget
        self._distributions = {key: _distribution(key, domain) for key, domain in space.items()}
        if self._path is None:
            log.info("no Optuna journal: it needs a local search.storage")

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if self._path:
            storage, number = self._trial(trial)
            storage.set_trial_intermediate_value(number, int(result["windows"]), float(result["objective"]))

    def on_trial_complete(self, iteration, trials, trial, **info):
        if self._path and "objective" in trial.last_result:
            full = trial.last_result["windows"] >= self._budget
            storage, number = self._trial(trial)
            if reason := trial.last_result.get("reason"):
                storage.set_trial_user_attr(number, "reason", reason)
            state = TrialState.COMPLETE if full else TrialState.PRUNED
            storage.set_trial_state_values(number, state, [float(trial.last_result["objective"])])

    def on_trial_error(self, iteration, trials, trial, **info):
        if self._path:
            storage, number = self._trial(trial)
            storage.set_trial_user_attr(number, "reason", str(trial.get_error()).strip().split("\n")[-1])
            storage.set_trial_state_values(number, TrialState.FAIL)

    def _trial(self, trial) -> tuple[JournalStorage, int]:
        """The storage, and the number of the unfinished Optuna trial that stands for a trial."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(self._path)))
        study = optuna.create_study(storage=storage, study_name=self._name, direction="maximize", load_if_exists=True)
        for known in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if known.user_attrs.get("trial") == trial.trial_id:
                return storage, known._trial_id
        template = create_trial(
            state=TrialState.RUNNING,
            params={key: trial.config[key] for key in self._distributions},
            distributions=self._distributions,
            user_attrs={"trial": trial.trial_id},
        )
        study_id = storage.get_study_id_from_name(self._name)
        return storage, storage.create_new_trial(study_id, template_trial=template)


def _distribution(key: str, domain: Any) -> BaseDistribution:
    if isinstance(domain, dict):
        return CategoricalDistribution(domain["grid_search"])
    return OptunaSearch.convert_search_space({key: domain})[key]
