"""What ran: config.json, to run it again, and record.json, to know what it was."""

import logging
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raysys.config import RunConfig, differences
from raysys.location import Location

log = logging.getLogger(__name__)
_PACKAGES = ("ray", "torch", "triton", "xlstm", "numpy", "pyarrow", "h5py", "seisbench", "safetensors")
_OF_A_CONTINUATION = ("time", "command", "git_commit", "git_diff", "versions", "gpus", "machine")


def run_record(config: RunConfig, data_fingerprint: str, data: dict[str, Any]) -> dict[str, Any]:
    """Returns commit, uncommitted changes, versions, seed, hardware, data and command line of this process."""
    import torch  # here, and not above: a command line that reads a configuration need not wait for it

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(sys.orig_argv),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_diff": _git("diff", "HEAD"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "seed": config.train.seed,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "machine": platform.platform(),
        "data_fingerprint": data_fingerprint,
        "data": data,
    }


def write_run(
    directory: str, config: RunConfig, record: dict[str, Any], may_change: frozenset[str] = frozenset()
) -> RunConfig:
    """Returns the configuration that the run began with, after it is written down or found to be the same.

    A new run gets config.json and record.json. They stay as they are when it is continued; every continuation adds its
    command, code, machine and changed keys to the list "continuations" of record.json.

    Args:
        directory: folder or URL of the run.
        config: of this process.
        record: of this process (`run_record`).
        may_change: keys that may differ from those the run began with.

    Raises:
        ValueError: the run exists and its data or a key outside `may_change` differ; the message lists the keys.
    """
    run = Location(directory)
    if (began := began_with(run)) is None:
        run.make_folder()
        (run / "record.json").write_json(record)
        (run / "config.json").write_json(config.to_dict())
        return config
    history = (run / "record.json").read_json()
    changed = differences(began, config)
    refused = {key: values for key, values in changed.items() if key not in may_change}
    if refused:
        raise ValueError(
            f"{directory} holds a run with another configuration:\n{_lines(refused)}\n"
            "Give this run a new --name, or repeat the old values."
        )
    _check_data(directory, history["data_fingerprint"], record["data_fingerprint"])
    if changed:
        log.info("%s continues with other values than it began with:\n%s", directory, _lines(changed))
    again = {key: record[key] for key in _OF_A_CONTINUATION if key in record} | {"changes": changed}
    history["continuations"] = [*history.get("continuations", []), again]
    (run / "record.json").write_json(history)
    return began


def began_with(run: Location) -> RunConfig | None:
    """Returns the configuration that a run or sweep began with; None if there is none yet."""
    file = run / "config.json"
    return RunConfig.from_dict(file.read_json()) if file.exists() else None


def _check_data(directory: str, began: str, now: str) -> None:
    if began != now:
        raise ValueError(
            f"{directory}: the data has changed since this run began (fingerprint {began}, now {now}). Restore the data, "
            "or give this run a new --name."
        )


def _lines(changed: dict[str, tuple[Any, Any]]) -> str:
    return "\n".join(f"  {key}: {old!r} -> {new!r}" for key, (old, new) in changed.items())


def read_config(directory: str) -> RunConfig:
    """Returns the configuration of a run, a trial, a sweep (its best trial) or a checkpoint.

    Raises:
        FileNotFoundError: neither config.json nor best.json is there.
    """
    for name in ("best.json", "config.json"):
        file = Location(directory) / name
        if file.exists():
            tree = file.read_json()
            return RunConfig.from_dict(tree["config"] if name == "best.json" else tree)
    raise FileNotFoundError(f"{directory}: no config.json or best.json, so this is no run, trial, sweep or checkpoint")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
