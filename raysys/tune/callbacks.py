"""What happens on the driver while trials run: checkpoints that take less room, failures, the Optuna journal, the state."""

import io
import json
import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from raysys.location import Location
from raysys.ray_internals import (
    SEARCH_STATES,
    SESSION_STATE,
    forgive_failure,
    free_abandoned_groups,
    num_failures,
    renew_search,
    session_files,
)
from raysys.train.checkpoint import FILES
from raysys.tune.outcome import last_failure, nested_checkpoint

log = logging.getLogger(__name__)
JOURNAL = "optuna.log"
STATE = "state.zip"
"""The state of a sweep in one file that is whole at any moment."""
_CHECKPOINTS = "checkpoints.json"
"""In `STATE`: the checkpoints that trials go on from, as paths from the sweep's folder."""
optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study on the console


class ThinCheckpoints(tune.Callback):
    """Deletes the optimizer's state, two thirds of a checkpoint, of trials that were stopped; their weights stay.

    Args:
        budget: windows of a trial in full.
        workers: folder in which nested trials keep their checkpoints.
    """

    def __init__(self, budget: int, workers: Location):
        self._budget, self._workers = budget, workers

    def on_trial_complete(self, iteration, trials, trial, **info):
        path = trial.checkpoint.path if trial.checkpoint else nested_checkpoint(self._workers, trial.last_result)
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
        self._failures[trial.trial_id] = num_failures(trial)
        self._nodes.pop(trial.trial_id, None)

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self._nodes[trial.trial_id] = result["node_id"]

    def on_trial_recover(self, iteration, trials, trial, **info):
        counted = num_failures(trial) > self._failures[trial.trial_id]
        if counted and (node := self._nodes.pop(trial.trial_id, None)):
            self._suspects[trial.trial_id] = (trial, node, time.monotonic() + self._PATIENCE_S)

    def on_step_begin(self, iteration, trials, **info):
        if not self._suspects:
            return
        dead = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        for name, (trial, node, until) in list(self._suspects.items()):
            if node in dead:
                log.warning("trial %s lost its node, which does not count as a failure of its own", name)
                forgive_failure(trial)
                self._failures[name] = num_failures(trial)
            if node in dead or time.monotonic() > until:
                del self._suspects[name]


class FreeAbandonedGroups(tune.Callback):
    """Gives back the resources of nested trials whose workers could not start; see `free_abandoned_groups`."""

    _WATCH_S, _PAUSE_S = 60.0, 5.0
    """For so long after a failure, or the start, since Ray notices the end of a controller a little later; and how often."""

    def __init__(self):
        self._next = time.monotonic()
        self._until = self._next + self._WATCH_S

    def on_trial_recover(self, iteration, trials, trial, **info):
        self._until = time.monotonic() + self._WATCH_S

    on_trial_error = on_trial_recover

    def on_step_begin(self, iteration, trials, **info):
        now = time.monotonic()
        if self._next <= now < self._until:
            self._next = now + self._PAUSE_S
            if freed := free_abandoned_groups():
                log.warning(
                    "%d trials whose workers could not start had kept their resources, which are free now", freed
                )


class OptunaJournal(tune.Callback):
    """Writes every report of every trial into an Optuna journal: `optuna-dashboard results/my-sweep/optuna.log`.

    Args:
        sweep: its folder; nothing is written where that is a URL.
        name: of the study.
        space: dotted key -> Ray Tune domain.
        budget: windows of a trial in full.
    """

    def __init__(self, sweep: Location, name: str, space: dict[str, Any], budget: int):
        self._path = Path(sweep.path) / JOURNAL if sweep.is_local else None
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
            storage.set_trial_user_attr(number, "reason", last_failure(trial))
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


class KeepState(tune.Callback):
    """Writes `STATE` into the sweep's folder whenever Ray Tune has saved its state; if that fails it says so.

    Ray Tune copies its state into that folder file by file, over what is there. Killed in that moment it leaves half a
    file, and the next start, which cannot read it, begins all trials anew and says so only in Ray's own log.
    """

    def __init__(self):
        self._saved = 0

    def on_step_end(self, iteration, trials, **info):
        self._keep(trials)

    def on_experiment_end(self, trials, **info):
        self._keep(trials)

    def _keep(self, trials) -> None:
        if not trials:
            return
        storage = trials[0].storage
        files = session_files(storage)
        saved = max((file.stat().st_mtime_ns for file in files), default=0)
        if saved == self._saved:
            return
        self._saved = saved
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in files:
                archive.write(file, file.name)
            checkpoints = ["/".join(Path(trial.checkpoint.path).parts[-2:]) for trial in trials if trial.checkpoint]
            archive.writestr(_CHECKPOINTS, json.dumps(checkpoints))
        fs, path = storage.storage_filesystem, f"{storage.experiment_fs_path}/{STATE}"
        try:
            with fs.open_output_stream(f"{path}.part") as stream:
                stream.write(content.getbuffer())
            fs.move(f"{path}.part", path)
        except OSError as error:
            text = "%s could not be written (%s): a sweep that is killed now goes on from what it holds"
            log.warning(text, path, error)


def repair_state(sweep: Location) -> bool:
    """Makes the folder of a sweep one that Ray Tune can go on from; nothing may run in it.

    Ray Tune deletes a trial's checkpoint when there is a newer one, and saves its state, which names the newer one, after
    that. If it was killed in between, the newer one takes the name of the one that is gone: the trial goes on from there,
    and only the report that came with it is missing.

    Returns:
        whether there is a state to go on from.
    """
    sweep.refresh()  # Ray Tune writes through a file system of its own
    if not (sweep / STATE).exists():  # killed before it was written, or begun without it
        return bool(sweep.glob(SESSION_STATE.format("*")))
    with zipfile.ZipFile(io.BytesIO((sweep / STATE).read())) as archive:
        for file in sweep.glob(SESSION_STATE.format("*")):
            file.remove()  # Ray Tune takes the newest, which may be half a file
        for name in set(archive.namelist()) - {_CHECKPOINTS}:
            (sweep / name).write(archive.read(name))
        checkpoints = json.loads(archive.read(_CHECKPOINTS))
    for checkpoint in checkpoints:
        if not _is_whole(sweep / checkpoint):
            _replace(sweep, checkpoint)
    return True


def renew_state(sweep: Location, num_samples: int, max_concurrent: int | None) -> None:
    """Makes the state of a sweep (`repair_state`) one of so many samples, so many trials at a time, and of where it lies now."""
    for pattern in SEARCH_STATES:
        for file in sweep.glob(pattern.format("*"))[-1:]:
            storage = sweep.url.removesuffix(f"/{sweep.name}")
            file.write(renew_search(file.read(), storage, num_samples, max_concurrent))


def _is_whole(checkpoint: Location) -> bool:
    return all((checkpoint / file).exists() for file in FILES)


def _replace(sweep: Location, checkpoint: str) -> None:
    """Gives the newest whole checkpoint of the same trial, if there is one, the name of one that is gone or going."""
    trial, name = checkpoint.split("/")
    found = (sweep / trial).glob("checkpoint_*[0-9]")
    later = [folder for folder in found if folder.name > name and _is_whole(folder)]
    if later:
        log.warning("%s: %s is gone, it goes on from %s", trial, name, later[-1].name)
        if (sweep / checkpoint).exists():
            (sweep / checkpoint).remove()
        later[-1].move_to(sweep / checkpoint)


def _distribution(key: str, domain: Any) -> BaseDistribution:
    if isinstance(domain, dict):
        return CategoricalDistribution(domain["grid_search"])
    return OptunaSearch.convert_search_space({key: domain})[key]
