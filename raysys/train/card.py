"""The model card of a checkpoint."""

import json
import math
from collections import Counter
from typing import Any

from raysys.config import RunConfig

_TEXT = """# {name}, step {step}

{what} {windows:,} windows of {samples} samples, {epoch:.3g} epochs of the training split. {use}

## Load

```python
{load}
```

## Metrics

{metrics}

## Where it comes from

* command: `{command}`
* commit: {commit}{dirty}
* data: {datasets}, fingerprint {fingerprint}
* seed: {seed}
* computed on: {devices}
* versions: {versions}

config.json repeats the run (`--from-run`). Of uncommitted changes record.json holds the digest, and uncommitted.diff in the
folder of the run the text.

```json
{config}
```
"""


_PRETRAINED = {
    "what": "A self-supervised model of three-component seismograms (components Z, N, E at 100 Hz): a bidirectional mLSTM U-Net\n"
    "pretrained by contrastive prediction of quantised features, after wav2vec 2.0.",
    "use": "Not meant for picking as it is:\nfine-tune it (`python -m jobs.finetune --init RUN`), or read its features.",
    "load": 'from model.hub import from_pretrained\n\nmodel = from_pretrained("{folder}")\n'
    "features = model.features(waveform)  # (windows, 3, {samples}) in any unit -> (windows, {frames}, {width})",
}
_USES = {
    "pick": "It picks P and S.",
    "detect": "It tells which samples lie within the waves of an earthquake.",
    "classify": "It tells the class of a record, one of {classes}.",
}
_FINETUNED = {
    "what": "A network fine-tuned on three-component seismograms (components Z, N, E at 100 Hz). It began with\n"
    "{init}, and learnt from {labels} {source}.",
    "load": 'from raysys.networks import load_network\n\nnetwork = load_network("{folder}").network\n'
    "probability = network(waveform)  # (windows, 3, {samples}) in any unit",
}
"""Pieces of the card, by task."""


def model_card(config: RunConfig, record: dict[str, Any], state: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Returns the README.md of a checkpoint.

    Args:
        config: of the run.
        record: of the run (`raysys.record`); what it lacks is "unknown".
        state: step, windows and epoch done.
        metrics: of the last validation; scores of other groups are left out.
    """
    shown = {
        k: v for k, v in metrics.items() if k.split("/")[0] in ("val", "probe", "codebook", "dev") and math.isfinite(v)
    }
    rows = ["| metric | value |", "|---|---|"] + [f"| {name} | {value:.4g} |" for name, value in shown.items()]
    versions = record.get("versions", {})
    labels = ((record.get("data") or {}).get("labels") or {}).get("traces", "unknown")
    values = {
        "folder": f"step{state['step']:09d}",
        "samples": config.model.window_samples,
        "frames": config.model.num_frames,
        "width": config.model.encoder.width + config.model.backbone.width,
        "init": config.finetune.init,
        "labels": labels,
        "source": f"traces what {config.finetune.teacher} says of them"
        if config.finetune.teacher
        else "labelled traces",
        "classes": ", ".join(config.head.classes),
    }
    pieces = _PRETRAINED if config.task == "pretrain" else _FINETUNED | {"use": _USES[config.task]}
    return _TEXT.format(
        **{name: text.format(**values) for name, text in pieces.items()},
        name=config.name,
        step=state["step"],
        windows=state["windows"],
        epoch=state["epoch"],
        samples=config.model.window_samples,
        metrics="\n".join(rows) if shown else "None: this checkpoint was written between two validations.",
        command=record.get("command", "unknown"),
        commit=record.get("git_commit", "unknown"),
        dirty=", with uncommitted changes" if record.get("git_diff_sha256") else "",
        datasets=", ".join(config.data.datasets),
        fingerprint=record.get("data_fingerprint", "unknown"),
        seed=config.train.seed,
        devices=", ".join(f"{n} x {name}" for name, n in Counter(record.get("devices", ())).items()) or "unknown",
        versions=", ".join(f"{k} {v}" for k, v in versions.items() if k in ("torch", "ray", "triton")) or "unknown",
        config=json.dumps(config.to_dict(), indent=1),
    )
