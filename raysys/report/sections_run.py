"""A pretraining run as a chapter of the report."""

import math

import numpy as np
import pandas as pd

from raysys.codebook_health import PERPLEXITY, CodebookHealth
from raysys.report import figures
from raysys.report.collect import Run, flatten
from raysys.report.page import Chapter, Section, figure, note, number, paragraph, table
from raysys.report.provenance import provenance
from raysys.report.seismograms import coded_windows, seismogram_figure

GAIN = 1.1
"""Factor by which the probe must beat the model it is compared with before the report says that the run learned."""
_KEPT = "kept: "
TIE_CHANCE = 1 / 101
"""Of val/top1_tie, which always has 100 negatives."""


def run_chapter(run: Run) -> Chapter:
    """Returns everything the report says of a run."""
    config = flatten(run.config)
    negatives = config.get("loss.num_negatives")
    chance = math.log(negatives + 1) if negatives else math.nan
    state, verdict = run_verdict(run, chance)
    return Chapter(
        title=f"Pretraining: {config.get('name') or run.path.name}",
        subtitle=str(run.path),
        verdict=verdict,
        state=state,
        tiles=_tiles(run, chance),
        sections=(
            _curves(run, config, chance),
            _codebook(run, config),
            _seismograms(run, config),
            data_section(run),
            provenance(run.config, run.record, tuple(note(f"Not read: {words}.") for words in run.notes)),
        ),
    )


def last(metrics: pd.DataFrame, name: str) -> float:
    """Returns the last value of a metric, NaN where it has none."""
    values = metrics[name].dropna() if name in metrics else ()
    return float(values.iloc[-1]) if len(values) else math.nan


def run_verdict(run: Run, chance: float) -> tuple[str, str]:
    """Returns "good", "warn" or "bad", and how the run went in one sentence."""
    loss, probe = last(run.metrics, "val/contrastive"), last(run.metrics, "probe/macro_ap")
    if run.metrics.empty:
        return "bad", "The run wrote no metrics: it has not reached its first log line, or it died before."
    if not math.isfinite(loss):
        return (
            "warn",
            f"The run wrote {len(run.metrics)} lines but has not been validated yet, so nothing can be said of it.",
        )
    parts = [f"contrastive loss {loss:.2f} nats" + (f", chance {chance:.2f}" if math.isfinite(chance) else "")]
    before, name = _before(run)
    if math.isfinite(probe):
        words = f"the probe reads P and S frames with average precision {number(probe, 2)}"
        parts.append(words + (f", {number(before, 2)} {name}" if math.isfinite(before) else ""))
    health, perplexity = CodebookHealth.of(flatten(run.config)), last(run.metrics, PERPLEXITY)
    share = health.fraction({PERPLEXITY: perplexity})
    if math.isfinite(share):
        parts.append(f"the hard perplexity is {share:.0%} of the codes")
    said = "; ".join(parts)
    if math.isfinite(share) and health.collapsed({PERPLEXITY: perplexity}):
        return "bad", f"The codebook has collapsed, so the loss means nothing: {said}."
    if loss >= chance:
        return "bad", f"The model does no better than guessing: {said}."
    if math.isfinite(probe) and math.isfinite(before) and probe < GAIN * before:
        return "warn", f"The loss fell, but the probe hardly moved: {said}."
    return "good", f"The run learned: {said}."


def _before(run: Run) -> tuple[float, str]:
    """The probe's score to compare with, and when it was taken."""
    if "probe/macro_ap" in untrained_scores(run):
        return untrained_scores(run)["probe/macro_ap"], "before training"
    values = run.metrics["probe/macro_ap"].dropna() if "probe/macro_ap" in run.metrics else ()
    return (
        (float(values.iloc[0]), f"at the first validation (step {values.index[0]:,})")
        if len(values) > 1
        else (math.nan, "")
    )


def untrained_scores(run: Run) -> dict[str, float]:
    """Returns the scores of the model before training, from the validation at step 0; empty where there was none."""
    return run.metrics.loc[0].dropna().to_dict() if 0 in run.metrics.index else {}


def _tiles(run: Run, chance: float) -> tuple[tuple[str, str, str], ...]:
    metrics = run.metrics
    if metrics.empty:
        return ()
    before, name = _before(run)
    speed = metrics["perf/windows_per_s"].median() if "perf/windows_per_s" in metrics else math.nan
    perplexity = last(metrics, PERPLEXITY)
    share = CodebookHealth.of(flatten(run.config)).fraction({PERPLEXITY: perplexity})
    return (
        ("contrastive loss", number(last(metrics, "val/contrastive"), 3), f"nats; chance {number(chance, 3)}"),
        (
            "probe, mean average precision",
            number(last(metrics, "probe/macro_ap"), 3),
            f"{number(before, 2)} {name}" if name else "P and S frames",
        ),
        ("tie-aware top-1", number(last(metrics, "val/top1_tie"), 3), f"chance {TIE_CHANCE:.4f}"),
        (
            "hard perplexity",
            number(perplexity, 3),
            f"{share:.0%} of the codes" if math.isfinite(share) else "codes",
        ),
        ("windows seen", number(last(metrics, "train/windows")), f"in {int(metrics.index.max()):,} steps"),
        ("throughput, median", number(speed, 3), "windows / s"),
    )


def _curves(run: Run, config: dict, chance: float) -> Section:
    weight = config.get("loss.diversity_lambda") or 0.0
    return Section(
        "Curves",
        (
            figure(
                figures.loss_figure(run.metrics, chance, weight),
                "The contrastive loss should leave the dashed line, chance, within the first tenth of the run and keep falling on the "
                "validation windows too; a validation curve that turns up while training falls is overfitting. Pale lines are single log "
                "lines, strong ones their running mean.",
                "No loss curves: the metrics hold no contrastive loss.",
            ),
            figure(
                figures.probe_figure(run.metrics, untrained_scores(run), TIE_CHANCE),
                "What the frozen features know. The probe should rise above the model before training; the label-free accuracy on the "
                "right should rise with it. If only the loss improves, the model has found a shortcut.",
                "No probe curves: the run scored no probe and no tie-aware accuracy.",
            ),
            figure(
                figures.speed_figure(run.metrics),
                "The learning rate follows warm-up and cosine over the full budget. Throughput should be flat but for the dips where the run validates; time waiting for data "
                "should stay below 5 %, or the data pool needs more CPUs. A gradient norm that jumps tells of unstable steps.",
                "No speed curves: the metrics hold neither learning rate nor throughput.",
            ),
        ),
    )


def _codebook(run: Run, config: dict) -> Section:
    groups, codes = config.get("model.quantizer.num_groups", 2), config.get("model.quantizer.num_codes")
    blocks = [
        figure(
            figures.codebook_figure(run.metrics, groups, codes, CodebookHealth.of(config).min_fraction)
            if codes
            else None,
            f"Every group should stay well above the red line. A curve that falls towards 1 is a collapsing codebook; one that sits "
            f"at the maximum from the start may be noise rather than structure. Each group has {codes} codes.",
            "No codebook curves: the metrics hold no perplexity.",
        )
    ]
    fits = {step: counts for step, counts in run.usage.items() if codes and counts.size == groups * codes}
    blocks.append(
        figure(
            figures.usage_figure(fits, groups),
            "How the frames of the validation set share the codes. A long flat shoulder is a rich codebook; a wall of a few codes with "
            "nothing behind it is a collapsed one. The dashed line is perfectly even use.",
            "No histogram of code usage: the run's TensorBoard events hold none.",
        )
    )
    return Section("Codebook", tuple(blocks))


def _seismograms(run: Run, config: dict) -> Section:
    title = "Seismograms and their codes"
    try:
        windows = coded_windows(run)
    except (ValueError, OSError) as error:
        return Section(title, (note(f"Left out, since checkpoint and data could not be read: {error}"),))
    if windows.codes.shape[-1] == 0 or not len(windows.names):
        return Section(
            title, (note("Left out: the quantiser of this run has no codes, or there are no validation windows."),)
        )
    codes = config.get("model.quantizer.num_codes", int(windows.codes.max()) + 1)
    caption = (
        f"Validation windows with catalogued P and S picks; beneath them the code of every frame (newest checkpoint, "
        f"{run.checkpoint.name}). One colour is one code, the same in all panels. Look for colours that change at the picks, that "
        "are shared by the same phase in different windows, and that differ between noise and coda. A strip of one colour is a "
        "collapsed group; confetti without relation to the picks is noise."
    )
    blocks = [figure(seismogram_figure(windows, codes), caption, "")]
    if run.record.get("data_fingerprint", windows.fingerprint) != windows.fingerprint:
        blocks.append(note("The data has changed since the run: these are not the windows it was validated on."))
    return Section(title, tuple(blocks))


def data_section(run: Run) -> Section:
    """Returns what the data of a run held, what was left out, and which events lie on both sides of the split."""
    data = run.record.get("data") or {}
    sets = data.get("sets") or []
    if not sets:
        return Section("Data", (note("No table: record.json does not say what the data held."),))
    labels = {"train": "train", "dev": "dev", "test": "test", "p_labels": "P picks", "s_labels": "S picks"}
    labels = {"traces": "traces"} | labels
    rows = [
        [one["dataset"], *(one[c] for c in labels), _rates(one["rates_hz"]), _listed(one["left_out"]), _flaws(one)]
        for one in sets
    ]
    sums = [sum(sum(one[kind].values()) for one in sets) for kind in ("left_out", "kept")]
    rows.append(["all", *(sum(one[c] for one in sets) for c in labels), "", *sums])
    columns = ("data set", *labels.values(), "rates (Hz)", "left out", "kept, flawed")
    words = (
        "Numbers are traces. Traces left out were refused for the reason given; those kept with a flaw are repaired: samples "
        "that are not finite and components that are dead are zero in the model's input."
    )
    return Section("Data", (table(columns, rows, strong=len(rows) - 1), paragraph(words), *_leaks(run, data["leaks"])))


def _flaws(one: dict) -> str:
    return _listed(one["kept"]) if one["scanned"] else "unknown: samples not looked at (data.scan)"


def _leaks(run: Run, leaks: list[dict]) -> tuple[str, ...]:
    if not leaks:
        return (paragraph("No event of the training split is in the dev or test split of any data set of this run."),)
    rows = [(one["train"], one["evaluation"], one["events"], one["traces"]) for one in leaks]
    fate = "A model trained on these traces has seen earthquakes that it may be tested on; data.exclude_leaks=true leaves them out."
    if flatten(run.config).get("data.exclude_leaks"):
        fate = "These traces were left out of training."
    words = f"Events that both sides hold, by identifier or by origin (within 5 s and 50 km). {fate}"
    return (table(("training split of", "dev or test split of", "events", "training traces"), rows), paragraph(words))


def _rates(rates) -> str:
    if not isinstance(rates, list | tuple | np.ndarray) or not len(rates):
        return ""
    shown = [f"{rate:g}" for rate in rates]
    return ", ".join(shown) if len(shown) <= 4 else f"{len(shown)} rates, {shown[0]} to {shown[-1]}"


def _listed(reasons: dict[str, int]) -> str:
    return (
        "; ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]) if count)
        or "none"
    )
