"""Ray Train's list of a run's checkpoints, made anew when it cannot be read.

Ray Train overwrites the list in place: a machine that dies in that moment, or a disk that is full, leaves half of it, and a
run that cannot read it cannot continue.
"""

import glob
import json
import logging
from typing import Any

import fsspec
import ray

from raysys.train.checkpoint import FILES

log = logging.getLogger(__name__)
SNAPSHOT = "checkpoint_manager_snapshot.json"


def mend_snapshot(directory: str) -> None:
    """Replaces a list that is broken, or names checkpoints that are gone, by one of the whole checkpoints that are there.

    Args:
        directory: folder or URL of the run; nothing happens where it has no list.
    """
    fs, path = fsspec.core.url_to_fs(directory)
    fs.invalidate_cache()  # Ray Train writes through a file system of its own
    file = f"{path}/{SNAPSHOT}"
    if not fs.exists(file) or _is_good(fs, path, fs.cat_file(file)):
        return
    folders = sorted(entry.rstrip("/") for entry in fs.glob(f"{glob.escape(path)}/step*[0-9]"))
    whole = [folder for folder in folders if all(fs.exists(f"{folder}/{name}") for name in FILES)]
    results = [
        {
            "version": 0,
            "checkpoint_dir_name": folder.rsplit("/", 1)[1],
            "metrics": json.loads(fs.cat_file(f"{folder}/state.json")),
        }
        for folder in whole
    ]
    fs.pipe_file(file, json.dumps(_snapshot(results)).encode())
    log.warning("%s was broken and is made anew from %d checkpoints", file, len(results))


def newest_checkpoint(directory: str) -> str | None:
    """Returns the name of the newest checkpoint in the list of a run, or None without a list that can be read."""
    fs, path = fsspec.core.url_to_fs(directory)
    fs.invalidate_cache()
    try:
        return json.loads(fs.cat_file(f"{path}/{SNAPSHOT}"))["latest_checkpoint_result"]["checkpoint_dir_name"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_good(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
    try:
        results = json.loads(content)["checkpoint_results"]
        return all(fs.exists(f"{path}/{result['checkpoint_dir_name']}") for result in results)
    except (ValueError, KeyError, TypeError):
        return False


def _snapshot(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The list as Ray Train 2.60 writes it."""
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
