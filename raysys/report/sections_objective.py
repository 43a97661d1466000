"""Whether the objective of a sweep can be trusted: the health of its trials, and what else ranks them."""

import math
from typing import Any

import pandas as pd

from raysys.codebook_health import CodebookHealth
from raysys.report import analysis, figures_sweep
from raysys.report.analysis import FEWEST
from raysys.report.collect import Sweep
from raysys.report.page import Section, figure, number, paragraph


def scores_sections(sweep: Sweep, config: dict[str, Any], name: str) -> tuple[Section, ...]:
    """Returns the sections; a sweep without codebooks has none on their health.

    Args:
        sweep: the sweep.
        config: its configuration, dotted key -> value.
        name: of the objective.
    """
    if sweep.task != "pretrain":
        return (_dev_agreement(sweep, name),)
    health = (_health(sweep, config, name),) if CodebookHealth.of(config).num_codes or not config else ()
    return (*health, _agreement(sweep, name))


def _health(sweep: Sweep, config: dict[str, Any], name: str) -> Section:
    codes = config.get("model.quantizer.num_groups", 2) * config.get("model.quantizer.num_codes", 320)
    gate = CodebookHealth.of(config).min_fraction
    caption = (
        f"Health of each trial's codebook on the validation set. Trials in the red zone on the left (perplexity below {gate:.0%} of {codes} codes) "
        "do not pass the gate, whatever their score. Good trials sit on the right; a best trial close to the zone deserves a second look."
    )
    drawn = figures_sweep.health_figure(sweep.trials, codes, gate, name)
    return Section("Codebook health", (figure(drawn, caption, "Left out: trials.csv holds no perplexity."),))


def _agreement(sweep: Sweep, name: str) -> Section:
    frame, windows = analysis.first_rung(sweep)
    label_free = "val/top1_tie" if name != "val/top1_tie" else "probe/macro_ap"
    drawn = figures_sweep.agreement_figure(
        frame, name, {"val/loss": "Validation loss", label_free: "The other comparable score"}
    )
    good, words = frame[frame["healthy"]], []
    if {"val/loss", name} <= set(frame) and frame["val/loss"].notna().any():
        words.append(
            f"Does a low validation loss rank the trials as {name} does? {_rho(-good['val/loss'], good[name])} The loss itself depends on the "
            "temperature, the number and kind of negatives, the diversity weight and the mask ratio, so it does not compare between trials."
        )
        lowest = frame.loc[frame["val/loss"].idxmin()]
        state = f"has {name} {number(lowest[name], 3)} there" if lowest["healthy"] else "did not pass the health gate"
        words.append(f"The trial with the lowest loss, {lowest['val/loss']:.2f}, is {lowest['trial']}: it {state}.")
    if {label_free, name} <= set(frame):
        words.append(f"Does {label_free} rank them as {name} does? {_rho(good[label_free], good[name])}")
    caption = (
        f"All at {windows:,.0f} windows. Left: if the loss could rank trials, the points would fall from upper left to lower right. Right: "
        "the other score that compares between trials; the tighter its rise, the more the two can stand in for each other."
    )
    missing = "Left out: history.csv holds no validation loss at the first rung."
    return Section("Why not the loss", (*map(paragraph, words), figure(drawn, caption, missing)))


def _dev_agreement(sweep: Sweep, name: str) -> Section:
    """The same for fine-tuning: the loss on the dev split and, for pickers, how well they tell earthquakes from noise."""
    frame, windows = analysis.first_rung(sweep)
    others = {"dev/loss": "Loss on the dev split", "dev/event_auc": "Event AUC", "dev/accuracy": "Accuracy"}
    others = {c: title for c, title in others.items() if c in frame and frame[c].notna().any() and c != name}
    good, words = frame[frame["healthy"]], []
    for column in others if name in frame else ():
        sign, low = (-1, "low") if column == "dev/loss" else (1, "high")
        words.append(f"Does a {low} {column} rank the trials as {name} does? {_rho(sign * good[column], good[name])}")
    if "dev/loss" in others:
        words.append(
            "The loss counts every sample, most of them noise, and grows with the width of the labels; a network may be surer and so have the "
            "larger loss, and yet put its picks closer."
        )
    caption = f"All at {windows:,.0f} windows. The tighter the points lie on a line, the more the two scores can stand in for each other."
    missing = "Left out: history.csv holds neither dev/loss nor dev/event_auc at the first rung."
    drawn = figures_sweep.agreement_figure(frame, name, others)
    return Section("What else ranks the trials", (*map(paragraph, words), figure(drawn, caption, missing)))


def _rho(a: pd.Series, b: pd.Series) -> str:
    result = analysis.rank_correlation(a, b)
    if not math.isfinite(result["rho"]):
        return f"Too few trials to say: {result['n']} healthy ones reached the first rung, {FEWEST} are needed."
    return f"Rank correlation {result['rho']:+.2f} (n = {result['n']}, p = {result['p']:.2g}); +1 is the same ranking."
