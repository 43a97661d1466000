"""What became of a trial: why it failed, and where its checkpoint is."""

from pathlib import Path
from typing import Any

from raysys.location import Location


def reason_of(text: str) -> str:
    """Returns the exception at the end of a traceback, on one line: of a process that died, how it died."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    return next((line for line in lines if "died" in line or "killed" in line), lines[-1] if lines else "")


def last_failure(trial) -> str:
    """Returns why a trial of Ray Tune has failed just now; its storage does not know it yet."""
    file = Path(trial.local_path or "") / "error.txt"
    text = file.read_text(errors="replace") if file.is_file() else ""
    return reason_of(text.rsplit("Failure # ", 1)[-1]) or "no reason was given"


def nested_checkpoint(workers: Location, result: dict[str, Any]) -> str | None:
    """Returns the path of the checkpoint that a nested trial reported, where it lies now: a sweep's folder may be moved.

    Args:
        workers: folder in which nested trials keep their checkpoints.
        result: the last one of the trial.
    """
    path = result.get("checkpoint_path")
    return path and "/".join([workers.path, *path.rstrip("/").split("/")[-2:]])
