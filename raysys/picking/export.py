"""A trained picker as a folder that SeisBench, and people, can use: weights, configuration, model card."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from model.hub import save_pretrained, save_weights
from model.picker import PhasePicker
from raysys.evaluate.summary import ALL
from raysys.networks import load_network
from raysys.picking.picks import Calibration
from raysys.picking.seisbench_model import Picker
from raysys.picking.trained import calibration_of

log = logging.getLogger(__name__)
SEISBENCH = "0.12.0"
"""The oldest version that reads these files."""
VERSION = "1"
"""Of weights in SeisBench's cache."""
_SHOWN = {
    "P_hit_0.1s": "P within 0.1 s",
    "P_hit_0.5s": "P within 0.5 s",
    "S_hit_0.1s": "S within 0.1 s",
    "S_hit_0.5s": "S within 0.5 s",
    "P_f1_0.5s": "F1 of P",
    "S_f1_0.5s": "F1 of S",
    "P_mae_s": "error of P, s",
    "S_mae_s": "error of S, s",
    "event_auc": "earthquake or noise, AUC",
    "ece_calibrated": "calibration error",
}
_CARD = """---
library_name: seisbench
tags: [seismology, phase-picking]
---
# {name}

Picks P and S in three-component seismograms ({size:.2g} M parameters). It began with {init}, and learnt from {labels} labelled
records of {trained_on}.

## Use

```python
import obspy
from raysys.picking.seisbench_model import Picker

picker = Picker.load("picker")              # in this folder
stream = obspy.read()                       # any rate from 20 Hz on, any order of components
print(picker.classify(stream).picks)
picker.annotate(stream).plot()
```

Whole archives: `python -m jobs.pick FOLDER --picker THIS_FOLDER --out picks`.

## Scores

{scores}

## Thresholds

P from {p_threshold:.3f} and S from {s_threshold:.3f} on, as the network gives them, {origin}. {probabilities}
{uncertainty}

## Limits

It was trained on the data sets above, and is at its best on records like theirs: mostly local earthquakes. Look at its picks on your own
records before you rely on them. Data sets have licences of their own.
"""


def export(
    source: str, out: str | Path, evaluation: str | None = None, install: str | None = None, half: bool = False
) -> Path:
    """Returns the folder with a picker, written for SeisBench (picker.json, picker.pt) and others (safetensors, README.md).

    Args:
        source: a fine-tuned run or one of its checkpoints.
        out: the folder; is made.
        evaluation: folder of `jobs.evaluate` with this network: thresholds, calibration, and scores for the model card.
        install: name under which SeisBench's cache gets it too, for `Picker.from_pretrained(name)`.
        half: safetensors in float16, and none of SeisBench's files: for packages.

    Raises:
        ValueError: no picker of ours, or the evaluation knows nothing of it.
    """
    loaded = load_network(source)
    if not isinstance(loaded.network, PhasePicker):
        raise ValueError(
            f"{source} holds a {type(loaded.network).__name__}, and only our own pickers are exported: SeisBench's networks "
            "have their own save()"
        )
    calibration, told = calibration_of(evaluation, loaded.checkpoint) if evaluation else (Calibration(), {})
    folder = Path(out).expanduser()
    about = {"name": loaded.name, "calibration": dataclasses.asdict(calibration)}
    save_pretrained(loaded.network, folder, about)
    if half:
        state = {key: value.half().contiguous() for key, value in loaded.network.state_dict().items()}
        save_weights(state, folder, 0.0)
    (folder / "README.md").write_text(model_card(loaded, calibration, told))
    if not half or install:
        _for_seisbench(Picker.of(loaded.network, calibration), folder / "picker", loaded.name)
    if install:
        log.info("Picker.from_pretrained(%r) finds it in %s", install, _install(folder, install))
    if not evaluation:
        log.warning("thresholds are %g: give --evaluation for those of dev, and for scores", calibration.p_threshold)
    log.info("written to %s: %s", folder, ", ".join(sorted(file.name for file in folder.iterdir())))
    return folder


def model_card(loaded, calibration: Calibration, told: dict[str, Any]) -> str:
    """Returns the README.md of an exported picker.

    Args:
        loaded: `raysys.networks.Loaded`.
        calibration: of it.
        told: what evaluation.json says of it; empty without one.
    """
    learnt = told.get("trained_on") or list(loaded.config.data.datasets)
    fraction = loaded.config.finetune.label_fraction
    spread = {"P": calibration.p_spread, "S": calibration.s_spread}
    return _CARD.format(
        name=loaded.name,
        size=sum(p.numel() for p in loaded.network.parameters()) / 1e6,
        init="random weights" if loaded.config.finetune.init == "scratch" else loaded.config.finetune.init,
        labels="all" if fraction == 1 else f"{fraction:.0%} of the",
        trained_on=", ".join(learnt),
        scores=_scores(told.get("metrics") or {}),
        origin="chosen on dev" if told else "which nobody has chosen: evaluate it",
        uncertainty="Uncertainties in time are 68 % intervals, measured on dev."
        if all(spread.values())
        else "Uncertainties in time were not measured.",
        probabilities="Probabilities of picks are calibrated on dev."
        if calibration.p_odds != Calibration().p_odds
        else "Probabilities of picks are those of the network.",
        **{name: getattr(calibration, name) for name in ("p_threshold", "s_threshold")},
    )


def _scores(metrics: dict[str, dict[str, Any]]) -> str:
    if not metrics:
        return "Not measured."
    rows = [["test split of", *_SHOWN.values()], ["---"] * (len(_SHOWN) + 1)]
    for name, of in sorted(metrics.items(), key=lambda item: item[0] == ALL):
        rows.append([name, *(_number(of.get(f"test_{key}", {})) for key in _SHOWN)])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\nIn brackets 95 % intervals over events. How they are measured: docs/picking.md."


def _number(told: dict[str, Any]) -> str:
    if told.get("value") is None:
        return ""
    low, high = told.get("low"), told.get("high")
    return f"{told['value']:.3f}" + (f" ({low:.2f}, {high:.2f})" if low is not None and high is not None else "")


def _for_seisbench(picker: Picker, path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picker.save(str(path), weights_docstring=f"{name}. See README.md.")
    file = path.with_suffix(".json")
    told = json.loads(file.read_text()) | {"seisbench_requirement": SEISBENCH, "version": VERSION}
    file.write_text(json.dumps(told, indent=1) + "\n")


def _install(folder: Path, name: str) -> Path:
    """Puts the files where SeisBench looks for published weights."""
    cache = Picker._model_path()
    cache.mkdir(parents=True, exist_ok=True)
    for suffix in ("json", "pt"):
        shutil.copyfile(folder / f"picker.{suffix}", cache / f"{name}.{suffix}.v{VERSION}")
    return cache
