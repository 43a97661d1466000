"""A fine-tuning run as a chapter of the report."""

import math

from raysys.report import figures, figures_finetune
from raysys.report.collect import Run, flatten
from raysys.report.page import Chapter, Section, figure, note, number, pairs, paragraph, table
from raysys.report.provenance import provenance
from raysys.report.sections_run import data_section, last

GAIN = 1.1
"""Factor by which the best score must beat the first one before the report says that the run learned."""
TITLES = {"pick": "Picker", "detect": "Detector", "classify": "Classifier"}
SCORES = {
    "dev/p_hit_0.1s": "P within 0.1 s",
    "dev/p_hit_0.5s": "P within 0.5 s",
    "dev/s_hit_0.1s": "S within 0.1 s",
    "dev/s_hit_0.5s": "S within 0.5 s",
    "dev/event_auc": "event AUC",
    "dev/frame_ap": "samples in earthquakes, average precision",
    "dev/accuracy": "accuracy",
}
"""The parts and companions of dev/score."""
_WITHOUT_RUN = {
    "scratch": "nothing: the same network without pretraining",
    "phasenet": "nothing: PhaseNet of SeisBench, untrained",
    "eqtransformer": "nothing: EQTransformer of SeisBench, untrained",
}


def finetune_chapter(run: Run) -> Chapter:
    """Returns everything the report says of a fine-tuning run."""
    state, verdict = finetune_verdict(run)
    return Chapter(
        title=f"{TITLES.get(run.task, run.task)}: {run.config.get('name') or run.path.name}",
        subtitle=str(run.path),
        verdict=verdict,
        state=state,
        tiles=_tiles(run),
        sections=(
            _curves(run),
            _labels(run),
            data_section(run),
            provenance(run.config, run.record, tuple(note(f"Not read: {words}.") for words in run.notes)),
        ),
    )


def chosen_step(run: Run) -> int | None:
    """Returns the step with the best dev/score, the last of several, or None without a score."""
    scores = run.metrics["dev/score"].dropna() if "dev/score" in run.metrics else ()
    return int(scores.index[scores == scores.max()][-1]) if len(scores) else None


def chosen_scores(run: Run) -> dict[str, float]:
    """Returns the metrics at the step with the best dev/score; empty without a score."""
    step = chosen_step(run)
    return {} if step is None else run.metrics.loc[step].dropna().to_dict()


def finetune_verdict(run: Run) -> tuple[str, str]:
    """Returns "good", "warn" or "bad", and how the run went in one sentence."""
    if run.metrics.empty:
        return "bad", "The run wrote no metrics: it has not reached its first log line, or it died before."
    step, scores = chosen_step(run), chosen_scores(run)
    if step is None:
        return "warn", f"The run wrote {len(run.metrics)} lines but has no dev/score, so nothing can be said of it."
    said = f"{_found(run, scores)} (dev/score {scores['dev/score']:.3f} at step {step:,})"
    history = run.metrics["dev/score"].dropna()
    first = history.iloc[0]
    if scores["dev/score"] <= 0:
        return "bad", f"The run learned nothing: {said}."
    if len(history) > 1 and scores["dev/score"] < GAIN * first:
        return "warn", f"The score hardly moved: {said}; the first validation had {first:.3f}."
    after = int((history.index > step).sum())
    if after >= max(3, len(history) // 2):
        return "warn", f"The score was best early and has not risen in the {after} validations since: {said}."
    if after == 0 and len(history) > 2:
        said += "; it was best at the end, so more steps may still help"
    return "good", f"The run learned: {said}."


def _found(run: Run, scores: dict[str, float]) -> str:
    """What a network of the task does on the dev split, in words."""
    if run.task == "pick":
        waves = [
            f"{scores[f'dev/{w.lower()}_hit_0.5s']:.0%} of {w}" for w in "PS" if f"dev/{w.lower()}_hit_0.5s" in scores
        ]
        return (
            f"on the dev split it puts {' and '.join(waves)} within 0.5 s"
            if waves
            else "its hit rates are not recorded"
        )
    if run.task == "classify":
        return f"on the dev split it names {scores.get('dev/accuracy', math.nan):.0%} of the windows rightly"
    return f"on the dev split it finds samples of earthquakes with average precision {scores['dev/score']:.2f}"


def label_counts(run: Run) -> dict:
    """Returns how many labelled traces the run learned from, as its record says; empty where it does not."""
    record = run.record
    return (record.get("data") or {}).get("labels") or record.get("labels") or {}


def began_with(run: Run) -> str:
    """Returns what the run began with, in words."""
    init = flatten(run.config).get("finetune.init")
    return _WITHOUT_RUN.get(init, init or "unknown")


def _tiles(run: Run) -> tuple[tuple[str, str, str], ...]:
    if run.metrics.empty:
        return ()
    scores, step, counts = chosen_scores(run), chosen_step(run), label_counts(run)
    fraction = flatten(run.config).get("finetune.label_fraction")
    parts = [
        (label, number(scores[name], 3), f"last {number(last(run.metrics, name), 3)}")
        for name, label in SCORES.items()
        if name in scores
    ]
    return (
        (
            "dev/score",
            number(scores.get("dev/score", math.nan), 3),
            f"best, at step {step:,}" if step is not None else "",
        ),
        *parts,
        (
            "labelled traces",
            number(counts["traces"]) if counts else "n/a",
            f"of {number(counts['of'])} ({_percent(fraction)})" if counts else "not recorded",
        ),
    )


def _percent(fraction: float | None) -> str:
    return "share unknown" if fraction is None else f"{100 * fraction:g} %"


def _curves(run: Run) -> Section:
    return Section(
        "Curves",
        (
            figure(
                figures_finetune.learning_figure(run.metrics, chosen_step(run)),
                "Left: both losses should fall together; a dev loss that turns up while the training loss falls tells that the network learns "
                "its traces by heart, which comes sooner the fewer they are. Right: dev/score, by which the checkpoint is chosen (dashed), and "
                "what it is made of. A gap between 0.1 s and 0.5 s is one of timing, not of detection.",
                "No curves: the metrics hold no loss and no score.",
            ),
            figure(
                figures.speed_figure(run.metrics),
                "A pretrained backbone stays as it is at first (its learning rate is 0 there) and then learns more slowly than the head. "
                "Throughput should be flat, and time waiting for data below 5 %.",
                "No speed curves: the metrics hold neither learning rate nor throughput.",
            ),
        ),
    )


def _labels(run: Run) -> Section:
    config, counts = flatten(run.config), label_counts(run)
    facts = {
        "began with": began_with(run),
        "share of the labels": _percent(config.get("finetune.label_fraction")),
        "which draw of them": config.get("finetune.label_draw"),
        "checkpoint": _checkpoint(run),
    }
    blocks = [pairs({key: str(value) for key, value in facts.items() if value is not None})]
    if not counts:
        return Section("What it learned from", (*blocks, note("record.json does not say how many traces had labels.")))
    rows = [(name, mine, every) for name, (mine, every) in (counts.get("by_dataset") or {}).items()]
    rows.append(("all", counts["traces"], counts["of"]))
    words = (
        "Traces of the training split with a label for the task. A part of them is drawn by event: a smaller part lies inside a larger one "
        "of the same draw, so runs on 2 %, 10 % and all of the labels compare."
    )
    columns = ("data set", "learned from", "labelled in all")
    return Section("What it learned from", (*blocks, table(columns, rows, strong=len(rows) - 1), paragraph(words)))


def _checkpoint(run: Run) -> str:
    if run.checkpoint is None:
        return "none that is whole"
    chosen = chosen_step(run)
    best = f"step{chosen:09d}" if chosen is not None else ""
    kept = "" if run.checkpoint.name == best or not best else f"; the best score was at {best}, which was not kept"
    return f"{run.checkpoint.name}, of those kept the one with the best score{kept}"
