"""What ran: config.json, to run it again, and record.json, to know what it was."""

import hashlib
import logging
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, Literal

from raysys.config import RunConfig, differences
from raysys.credentials import mask, mask_words, refuse_credentials
from raysys.lease import hold
from raysys.location import Location

log = logging.getLogger(__name__)
_PACKAGES = ("ray", "torch", "triton", "xlstm", "numpy", "pyarrow", "h5py", "seisbench", "safetensors")
_OF_A_CONTINUATION = ("time", "command", "git_commit", "git_diff_sha256", "versions", "machine")
_DIFF = "uncommitted{}.diff"
_FILES_OF = {
    "sweep": ("trials.csv", "history.csv", "best.json", "state.zip", "tuner.pkl", "optuna.log"),
    "trial": ("result.json", "params.json"),
    "checkpoint": ("state.json",),
    "run": ("metrics.jsonl", "step*[0-9]"),
}
_DIFF_BYTES = 1 << 20


def run_record(config: RunConfig, data_fingerprint: str, data: dict[str, Any]) -> dict[str, Any]:
    """Returns commit, digest of uncommitted changes, versions, seed, data and command line of this process.

    It goes into every checkpoint, so it holds no credentials and no code. `note_devices` adds what the workers compute on.
    """
    diff = _git("diff", "HEAD")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(mask_words(sys.orig_argv)),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else diff,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "seed": config.train.seed,
        "machine": platform.platform(),
        "data_fingerprint": data_fingerprint,
        "data": data,
    }


def write_run(
    directory: str,
    config: RunConfig,
    record: dict[str, Any],
    may_change: frozenset[str] = frozenset(),
    kind: Literal["run", "sweep"] = "run",
) -> RunConfig:
    """Returns the configuration that the run began with, after it is written down or found to be the same.

    A new run gets config.json and record.json, and uncommitted.diff where the code differs from its commit. They stay as
    they are when it is continued; every continuation adds its command, code, machine and changed keys to the list
    "continuations" of record.json.

    Args:
        directory: folder or URL of the run.
        config: of this process.
        record: of this process (`run_record`).
        may_change: keys that may differ from those the run began with.
        kind: what the folder is of.

    Raises:
        ValueError: the folder holds something of another kind, or the run exists and its data or a key outside
            `may_change` differ; the message lists the keys.
    """
    refuse_credentials(config)
    run = Location(directory)
    _check_kind(run, kind)
    record = record | {"kind": kind}
    if (began := began_with(run)) is None:
        run.make_folder()
        _write_diff(run, record, "")
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
    history |= {key: record[key] for key in ("kind", "stages") if key in record}
    if changed:
        log.info("%s continues with other values than it began with:\n%s", directory, _lines(changed))
    again = {key: record[key] for key in _OF_A_CONTINUATION if key in record} | {"changes": changed}
    if again.get("git_diff_sha256") != _last(history).get("git_diff_sha256"):
        _write_diff(run, record, f"-{len(history.get('continuations', [])) + 2}")
    history["continuations"] = [*history.get("continuations", []), again]
    (run / "record.json").write_json(history)
    return began


def began_with(run: Location) -> RunConfig | None:
    """Returns the configuration that a run or sweep began with; None if there is none yet."""
    file = run / "config.json"
    return RunConfig.from_dict(file.read_json()) if file.exists() else None


def note_devices(run: Location, devices: list[str]) -> None:
    """Writes into record.json what the workers of the run's newest start compute on, in the order of their ranks."""
    history = (run / "record.json").read_json()
    _last(history)["devices"] = devices
    (run / "record.json").write_json(history)


def _last(history: dict[str, Any]) -> dict[str, Any]:
    """The part of record.json that the newest start of the run wrote."""
    return history["continuations"][-1] if history.get("continuations") else history


def _write_diff(run: Location, record: dict[str, Any], number: str) -> None:
    """Writes the uncommitted changes into the run's folder, and there alone: people share checkpoints."""
    if not record.get("git_diff_sha256") or not (diff := _git("diff", "HEAD")):
        return
    text = mask(diff) + "\n"
    if len(text.encode()) > _DIFF_BYTES:
        cut = f"\n[cut here: the diff has {len(text.encode())} bytes, and {_DIFF_BYTES} are kept]\n"
        text = text.encode()[:_DIFF_BYTES].decode(errors="ignore") + cut
    (run / _DIFF.format(number)).write(text)


def _check_kind(run: Location, kind: str) -> None:
    if (holds := _kind_of(run)) not in (None, kind):
        raise ValueError(f"{run} holds a {holds}, so no {kind} can be written there: give this {kind} another --name")


def _kind_of(run: Location) -> str | None:
    """What a folder holds; by its files where it was written before records said so, None where they do not tell."""
    if (run / "record.json").exists() and (kind := (run / "record.json").read_json().get("kind")):
        return "checkpoint" if (run / "state.json").exists() else kind
    for kind, patterns in _FILES_OF.items():
        if any(run.glob(pattern) for pattern in patterns):
            return kind
    return None


def set_aside(run: Location) -> None:
    """Gives the folder of a run or sweep the next free name, NAME-1 and so on, so that another can begin under its own.

    Raises:
        ValueError: a driver writes into it.
    """
    if not run.exists():
        return
    with hold(run):
        pass
    aside = free_name(run, first=1)
    run.move_to(aside)
    log.info("%s is %s now; a new one begins in its place", run, aside)


def free_name(run: Location, first: int) -> Location:
    """Returns the first of NAME-`first`, NAME-`first + 1` and so on beside a folder that is not there yet."""
    return next(place for n in count(first) if not (place := run.parent / f"{run.name}-{n}").exists())


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
