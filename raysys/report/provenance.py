"""What was run: the configuration against the nearest preset, commit, versions, hardware, command."""

import json
from collections import Counter
from typing import Any

from raysys.config import RunConfig
from raysys.config_finetuning import SEISBENCH_NETWORKS
from raysys.presets import PRESETS, finetuning
from raysys.report.collect import flatten
from raysys.report.page import Section, note, pairs, paragraph, table

_PLACE = ("name", "storage", "data.root", "data.cache")
"""Keys that say where, not what; they do not decide which preset is nearest."""
ABSENT = "(absent)"
"""Value of a key that only the other side has."""


def nearest_preset(config: dict[str, Any]) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """Returns the preset that a configuration differs least from, and dotted key -> (preset's value, its own).

    Args:
        config: nested, as in config.json. A key that one side lacks is `ABSENT` there.
    """
    own = flatten(config)
    candidates = []
    for name, preset in PRESETS.items():
        theirs = flatten(json.loads(json.dumps(_of_task(preset(), own).to_dict())))
        changed = {k: (theirs.get(k, ABSENT), own.get(k, ABSENT)) for k in {**theirs, **own}}
        changed = {k: pair for k, pair in changed.items() if pair[0] != pair[1]}
        candidates.append((sum(key not in _PLACE for key in changed), name, changed))
    _, name, changed = min(candidates, key=lambda candidate: candidate[0])
    return name, changed


def _of_task(preset: RunConfig, own: dict[str, Any]) -> RunConfig:
    """A preset as it is for the task of a configuration; a network that begins with a run is compared with one from scratch."""
    task, init = own.get("task", "pretrain"), own.get("finetune.init")
    if task == "pretrain":
        return preset
    return finetuning(preset, task, init if init in SEISBENCH_NETWORKS else "scratch")


def provenance(config: dict[str, Any], record: dict[str, Any], first: tuple[str, ...] = ()) -> Section:
    """Returns the section "What was run".

    Args:
        config: of the run, nested; empty where config.json is missing.
        record: of the run; empty where record.json is missing.
        first: blocks before everything else.
    """
    blocks = list(first)
    if config:
        name, changed = nearest_preset(config)
        rows = [(key, show(old), show(new)) for key, (old, new) in changed.items()]
        words = f"The nearest preset is {name}; {len(rows)} of {len(flatten(config))} values differ from it."
        blocks += [paragraph(words), table(("key", f"preset {name}", "here"), rows)] if rows else [paragraph(words)]
    else:
        blocks.append(note("config.json is missing, so what differs from a preset is unknown."))
    blocks.append(
        pairs(_facts(record))
        if record
        else note("record.json is missing, so commit, versions and hardware are unknown.")
    )
    return Section("What was run", tuple(blocks))


def show(value: Any) -> str:
    """Returns a configuration value as short text."""
    if isinstance(value, list | tuple):
        return ", ".join(show(v) for v in value) or "(empty)"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    commit = record.get("git_commit") or "unknown"
    if record.get("git_diff_sha256"):
        commit += f", with uncommitted changes (uncommitted.diff, sha256 {record['git_diff_sha256'][:12]})"
    elif record.get("git_diff"):  # of runs that were written earlier
        commit += f", with uncommitted changes ({len(record['git_diff'].splitlines())} lines of diff in record.json)"
    last = (record.get("continuations") or [record])[-1]
    devices = last.get("devices") or record.get("devices") or record.get("gpus") or []
    hardware = ", ".join(f"{number} x {name}" for name, number in Counter(devices).items())
    stages = record.get("stages") or []
    versions = ", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items() if v)
    facts = {
        "started": record.get("time"),
        "command": record.get("command"),
        "commit": commit,
        "hardware": "; ".join(filter(None, (hardware, record.get("machine", "unknown machine")))),
        "stages": "; ".join(f"{s['from']:,} to {s['to']:,} windows" for s in stages) if len(stages) > 1 else None,
        "versions": versions,
        "seed": record.get("seed"),
        "data fingerprint": record.get("data_fingerprint"),
    }
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}
