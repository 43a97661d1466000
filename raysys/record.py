"""What ran: config.json, to run it again, and record.json, to know what it was."""

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fsspec
import torch

from raysys.config import RunConfig, differences

_PACKAGES = ("ray", "torch", "triton", "xlstm", "numpy", "pyarrow", "h5py", "seisbench", "safetensors")


def run_record(config: RunConfig, data_fingerprint: str, data: dict[str, Any]) -> dict[str, Any]:
    """Returns commit, uncommitted changes, versions, seed, hardware, data and command line of this process."""
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


def write_run(directory: str, config: RunConfig, record: dict[str, Any]) -> None:
    """Writes config.json and record.json of a new run, or checks that a run with this name has the same configuration.

    Args:
        directory: folder or URL of the run.

    Raises:
        ValueError: the run exists and its configuration or its data differ; the message lists the keys.
    """
    fs, path = fsspec.core.url_to_fs(directory)
    if not fs.exists(f"{path}/config.json"):
        fs.makedirs(path, exist_ok=True)
        _write_json(fs, f"{path}/record.json", record)
        _write_json(fs, f"{path}/config.json", config.to_dict())
        return
    with fs.open(f"{path}/config.json") as stream:
        changed = differences(RunConfig.from_dict(json.load(stream)), config)
    if changed:
        lines = "\n".join(f"  {key}: {old!r} -> {new!r}" for key, (old, new) in changed.items())
        raise ValueError(
            f"{directory} holds a run with another configuration:\n{lines}\nGive this run a new --name, or repeat the old values."
        )
    with fs.open(f"{path}/record.json") as stream:
        before = json.load(stream)["data_fingerprint"]
    if before != record["data_fingerprint"]:
        raise ValueError(
            f"{directory}: the data has changed since this run began (fingerprint {before}, now "
            f"{record['data_fingerprint']}). Restore the data, or give this run a new --name."
        )


def read_config(directory: str) -> RunConfig:
    """Returns the configuration of a run, a trial, a sweep (its best trial) or a checkpoint.

    Raises:
        FileNotFoundError: neither config.json nor best.json is there.
    """
    fs, path = fsspec.core.url_to_fs(directory)
    for name in ("best.json", "config.json"):
        if fs.exists(f"{path}/{name}"):
            with fs.open(f"{path}/{name}") as stream:
                tree = json.load(stream)
            return RunConfig.from_dict(tree["config"] if name == "best.json" else tree)
    raise FileNotFoundError(f"{directory}: no config.json or best.json, so this is no run, trial, sweep or checkpoint")


def _write_json(fs, path: str, value: Any) -> None:
    with fs.open(path + ".part", "w") as stream:
        json.dump(value, stream, indent=1)
    fs.mv(path + ".part", path)


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
