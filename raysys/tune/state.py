"""The state of a sweep in one file that is whole at any moment.

Ray Tune copies its state into the sweep's folder file by file, over what is there. Killed in that moment it leaves half a
file, and the next start, which cannot read it, begins all trials anew and says so only in Ray's own log.
"""

import glob
import io
import json
import logging
import zipfile
from pathlib import Path

import fsspec
from ray import tune

from raysys.train.checkpoint import FILES

log = logging.getLogger(__name__)
STATE = "state.zip"
_NAMES = "experiment_state-{}.json"
_CHECKPOINTS = "checkpoints.json"
"""In `STATE`: the checkpoints that trials go on from, as paths from the sweep's folder."""


class KeepState(tune.Callback):
    """Writes `STATE` into the sweep's folder whenever Ray Tune has saved its state; if that fails it says so."""

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
        files = _newest_session(Path(storage.experiment_driver_staging_path))
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


def mend_state(directory: str) -> bool:
    """Makes the folder of a sweep one that Ray Tune can go on from; nothing may run in it.

    Ray Tune deletes a trial's checkpoint when there is a newer one, and saves its state, which names the newer one, after
    that. If it was killed in between, the newer one takes the name of the one that is gone: the trial goes on from there,
    and only the report that came with it is missing.

    Args:
        directory: folder or URL of the sweep.

    Returns:
        whether there is a state to go on from.
    """
    fs, path = fsspec.core.url_to_fs(directory)
    fs.invalidate_cache()  # Ray Tune writes through a file system of its own
    if not fs.exists(f"{path}/{STATE}"):  # killed before it was written, or begun without it
        return tune.Tuner.can_restore(directory)
    with zipfile.ZipFile(io.BytesIO(fs.cat_file(f"{path}/{STATE}"))) as archive:
        for file in fs.glob(f"{glob.escape(path)}/{_NAMES.format('*')}"):
            fs.rm_file(file)  # Ray Tune takes the newest, which may be half a file
        for name in set(archive.namelist()) - {_CHECKPOINTS}:
            fs.pipe_file(f"{path}/{name}", archive.read(name))
        checkpoints = json.loads(archive.read(_CHECKPOINTS))
    for checkpoint in checkpoints:
        if not _is_whole(fs, f"{path}/{checkpoint}"):
            _replace(fs, path, checkpoint)
    return True


def _newest_session(folder: Path) -> list[Path]:
    """The files that a driver saves; their names hold the time when it began."""
    state = max(folder.glob(_NAMES.format("*")), default=None)
    if state is None:
        return []
    before, after = _NAMES.split("{}")
    return list(folder.glob(f"*{state.name.removeprefix(before).removesuffix(after)}*"))


def _is_whole(fs: fsspec.AbstractFileSystem, checkpoint: str) -> bool:
    return all(fs.exists(f"{checkpoint}/{file}") for file in FILES)


def _replace(fs: fsspec.AbstractFileSystem, path: str, checkpoint: str) -> None:
    """Gives the newest whole checkpoint of the same trial, if there is one, the name of one that is gone or going."""
    trial, name = checkpoint.split("/")
    found = sorted(folder.rstrip("/") for folder in fs.glob(f"{glob.escape(f'{path}/{trial}')}/checkpoint_*[0-9]"))
    later = [folder for folder in found if folder.rsplit("/", 1)[1] > name and _is_whole(fs, folder)]
    if later:
        log.warning("%s: %s is gone, it goes on from %s", trial, name, later[-1].rsplit("/", 1)[1])
        if fs.exists(f"{path}/{checkpoint}"):
            fs.rm(f"{path}/{checkpoint}", recursive=True)
        fs.mv(later[-1], f"{path}/{checkpoint}", recursive=True)
