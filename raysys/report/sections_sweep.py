"""A sweep as a chapter of the report."""

import math
from typing import Any

import pandas as pd

from raysys.report import analysis, figures_space, figures_sweep
from raysys.report.analysis import FEWEST, Axis, objective_of, top_rows
from raysys.report.collect import Sweep, flatten
from raysys.report.page import Chapter, Section, duration, figure, note, number, paragraph, table
from raysys.report.provenance import provenance, show
from raysys.report.sections_objective import scores_sections
from raysys.tune.ranking import REPEAT_OF, ranked


def sweep_chapter(sweep: Sweep) -> Chapter:
    """Returns everything the report says of a sweep."""
    config = flatten(sweep.config)
    axes, problem = tuned_axes(sweep)
    notes = [note(f"Not read: {words}.") for words in (*sweep.notes, *problem)]
    state, verdict = sweep_verdict(sweep, axes)
    sections = [provenance(sweep.config, sweep.record, (*notes, _plan(sweep)))]
    if len(sweep.trials):
        name = objective_of(sweep)
        sections = [
            _history(sweep, name),
            _best(sweep, axes, config, name),
            _influence(sweep, axes),
            _landscape(sweep, axes, config, name),
            *scores_sections(sweep, config, name),
            _compute(sweep),
            _failures(sweep),
            *sections,
        ]
    title = config.get("name") or sweep.path.name
    return Chapter(f"Sweep: {title}", str(sweep.path), verdict, state, _tiles(sweep), tuple(sections))


def sweep_verdict(sweep: Sweep, axes: list[Axis]) -> tuple[str, str]:
    """Returns "good", "warn" or "bad", and what came out of the sweep in plain words."""
    trials, good = sweep.trials, ranked(sweep.trials)
    if not len(trials):
        return "bad", "The sweep has no trials in trials.csv: it has not finished one, or the file is missing."
    if good.empty:
        return (
            "bad",
            f"None of the {len(trials)} trials has a valid score: every one failed or did not pass the health gate.",
        )
    best = good.iloc[0]
    values = ", ".join(f"{axis.name} {show(best[axis.key])}" for axis in axes)
    words = f"Trial {best['trial']} of {len(trials)} is the best, with {objective_of(sweep)} {_score(best)}" + (
        f" ({values})" if values else ""
    )
    middle = good["objective"].median()
    words += f"; the median trial has {middle:.3f}"
    stopped, saved = int((trials["status"] == "STOPPED_EARLY").sum()), analysis.compute(sweep)["saved"]
    if stopped and math.isfinite(saved):
        words += f". {stopped} {'trial was' if stopped == 1 else 'trials were'} stopped early, which saved {saved:.0%} of the compute"
    failed = int((trials["status"] == "ERROR").sum())
    unhealthy = int((~trials["healthy"] & (trials["status"] != "ERROR")).sum())
    bad = len(trials) - len(good)
    if bad:
        words += f". {bad} {'has' if bad == 1 else 'have'} no valid score ({failed} failed, {unhealthy} with {_unhealthy(sweep)})"
    few = len(good) < FEWEST
    return ("warn" if few or bad > len(trials) / 3 else "good"), words + (
        ". With so few trials the ranking is a first hint." if few else "."
    )


def _unhealthy(sweep: Sweep) -> str:
    """What it takes not to pass the health gate."""
    if sweep.task == "pretrain":
        return "a collapsed codebook or a loss that is not finite"
    return "a loss or score that is not finite"


def tuned_axes(sweep: Sweep) -> tuple[list[Axis], tuple[str, ...]]:
    """Returns the tuned values as axes, and what could not be read of them."""
    try:
        return analysis.axes_of(sweep), ()
    except KeyError:
        return [], ("the configuration holds no search space",)
    except ValueError as error:
        return [], (f"the search space ({error})",)


def _plan(sweep: Sweep) -> str:
    search = sweep.config.get("search", {})
    words = (
        f"Searched by {search.get('searcher', 'unknown searcher')}, scheduled by {search.get('scheduler', 'unknown scheduler')}, "
        f"ranked by {objective_of(sweep)}. Space: " + "; ".join(search.get("space", ())) + "."
    )
    return paragraph(words) if search else note("config.json holds no search section.")


def _tiles(sweep: Sweep) -> tuple[tuple[str, str, str], ...]:
    if not len(sweep.trials):
        return ()
    trials, spent, good = sweep.trials, analysis.compute(sweep), ranked(sweep.trials)
    return (
        (
            f"best {objective_of(sweep)}",
            number(_value(good.iloc[0]) if len(good) else math.nan, 3),
            f"trial {good['trial'].iloc[0]}" + (", mean over seeds" if len(sweep.repeats) else "") if len(good) else "",
        ),
        ("trials", number(len(trials)), f"{(trials['status'] == 'TERMINATED').sum()} ran to the end"),
        ("stopped early", number(int((trials["status"] == "STOPPED_EARLY").sum())), "by the scheduler"),
        ("no valid score", number(len(trials) - len(good)), "failed or unhealthy"),
        (f"{spent['device']} hours", _hours(spent["device_hours"]), f"saved {_hours(spent['device_hours_saved'])}"),
        (
            "compute saved",
            f"{spent['saved']:.0%}" if math.isfinite(spent["saved"]) else "n/a",
            "against all trials in full",
        ),
    )


def _history(sweep: Sweep, name: str) -> Section:
    rungs = analysis.rungs(sweep.config, analysis.budget_of(sweep))
    drawn = figures_sweep.history_figure(sweep.trials, sweep.history, name, rungs)
    caption = (
        "One line a trial, by what became of it; the thick one is the best. Dotted lines are the rungs at which ASHA stops the worse trials. "
        "Good stopping cuts the low lines early; lines that cross a lot between rungs mean that early scores are a poor guide, and "
        "that search.grace should be larger."
    )
    return Section("Objective against windows", (figure(drawn, caption, f"No curves: history.csv holds no {name}."),))


def _best(sweep: Sweep, axes: list[Axis], config: dict[str, Any], name: str) -> Section:
    rows = top_rows(sweep, axes)
    if rows.empty:
        return Section("Best trials", (note("No trial has a valid score."),))
    told = {"trial": "base configuration"} | {axis.key: show(config.get(axis.key)) for axis in axes}
    base = [told.get(column, "") for column in rows.columns]
    cells = [
        [show(v) if c in {a.key for a in axes} else _word(v) for c, v in row.items()] for _, row in rows.iterrows()
    ]
    columns = [name if c == "objective" else c for c in rows.columns]
    blocks = [
        table(
            columns,
            [*cells, base],
            "The ten best trials; only the values that the search tuned differ between them.",
            strong=0,
        )
    ]
    if len(sweep.repeats):
        words = (
            f"The best {sweep.repeats[REPEAT_OF].nunique()} were run again in full with other seeds and are ranked by the mean of these; "
            "spread is the standard deviation over seeds. The score that a trial was chosen by does not count: being the "
            "largest of many, it is too high. Means that differ by less than the spread are not told apart."
        )
        blocks.append(paragraph(words))
    if sweep.best:
        job = "jobs.pretrain" if sweep.task == "pretrain" else "jobs.finetune"
        words = f"best.json holds the full configuration of trial {sweep.best.get('trial')}; {job} --from-run {sweep.path} trains with it."
        blocks.append(paragraph(words))
    return Section("Best trials", tuple(blocks))


def _influence(sweep: Sweep, axes: list[Axis]) -> Section:
    rows = analysis.importance(sweep, axes)
    scores, windows = analysis.at_equal_budget(sweep)
    title = "Which values matter"
    if rows.empty:
        words = f"Too few trials for an importance: {len(scores)} healthy ones reached the first rung, at least {FEWEST} with differing scores are needed."
        return Section(title, (note(words),))
    caption = (
        f"Share of the variation of the score that each tuned value explains, from {int(rows['n'].iloc[0])} trials by their scores at "
        f"{windows:,.0f} windows, which all of them reached. Do not read much into the order of small shares. "
        "A large share with a rank correlation near 0 means that the best value lies inside the range."
    )
    shown = [
        [r.key, f"{r.share:.0%}", f"{r.rho:+.2f}", f"{r.p:.3f}" if r.p >= 0.001 else "< 0.001", int(r.n)]
        for r in rows.itertuples()
    ]
    columns = ("key", "share of variance", "Spearman's rho", "p", "trials")
    return Section(title, (figure(figures_space.importance_figure(rows), caption, ""), table(columns, shown)))


def _landscape(sweep: Sweep, axes: list[Axis], config: dict[str, Any], name: str) -> Section:
    scores, windows = analysis.at_equal_budget(sweep)
    slices = figures_space.slice_figure(sweep.trials, axes, name, config)
    none = "Left out: no tuned value has a column in trials.csv, or no trial has a valid score."
    return Section(
        "Objective by tuned value",
        (
            figure(
                slices,
                "The last score of every trial against each tuned value; triangles mark the base configuration. Orange points are stopped "
                "trials: they trained less, so they lie lower for that reason too. If the best points crowd at one end, widen the range "
                "there. Crosses on the floor have no valid score: their place tells which values break training.",
                none,
            ),
            figure(
                figures_space.pair_figure(sweep.trials, axes, scores, f"{name} at {windows:,.0f} windows"),
                "Pairs of tuned values, darker is better, by the scores at the first rung, which all trials reached; the best trial at the end "
                "is ringed. A pale surface is a local mean of the points and means little where there are none. A dark diagonal is an interaction: those two values must be tuned together.",
                "No pairs: they need two tuned values.",
            ),
            figure(
                figures_space.parallel_figure(sweep.trials, axes, name),
                "Every trial with a score as one line through its values, darker is better; the best fifth is thick. Where thick lines run through one "
                "narrow gate, that value matters; where they fan out, it does not.",
                "No parallel coordinates: they need two tuned values and two scored trials.",
            ),
        ),
    )


def _compute(sweep: Sweep) -> Section:
    spent = analysis.compute(sweep)
    words = f"{spent['windows']:,.0f} windows were trained on; all trials in full would have been {spent['full']:,.0f}."
    if math.isfinite(spent["saved"]):
        words += f" Early stopping saved {spent['saved']:.0%}."
    if spent["seconds"] > 0:
        count = len(sweep.trials) + len(sweep.repeats)
        words += (
            f" Trials took {duration(spent['seconds'])} in all, {duration(spent['seconds'] / count)} each on average."
        )
    if math.isfinite(spent["device_hours"]):
        words += f" That is {_hours(spent['device_hours'])} {spent['device']} hours"
        words += f", and stopping saved about {_hours(spent['device_hours_saved'])}" if spent["saved"] > 0 else ""
        words += "."
    caption = "What each trial used of its budget. Many short bars and a few full ones are what early stopping is for."
    return Section(
        "Compute",
        (paragraph(words), figure(figures_sweep.compute_figure(sweep.trials), caption, "No budgets in trials.csv.")),
    )


def _failures(sweep: Sweep) -> Section:
    trials = pd.concat([sweep.trials, sweep.repeats])
    bad = trials[(trials["status"] == "ERROR") | ~trials["healthy"] | (trials["failures"] > 0)]
    if bad.empty:
        return Section("Failures", (paragraph("No trial failed, and all passed the health gate."),))
    rows = [
        (row["trial"], _word(row["status"]), _why(row), number(row["failures"]), row["windows"])
        for _, row in bad.iterrows()
    ]
    return Section("Failures", (table(("trial", "status", "reason", "times it died", "windows"), rows),))


def _why(trial: pd.Series) -> str:
    """Why a trial has no valid score, or that it has one all the same."""
    if trial["reason"]:
        return trial["reason"]
    lost = trial["status"] == "ERROR" or not trial["healthy"]
    return "no reason recorded" if lost else "died, and went on from its last checkpoint"


def _value(trial: pd.Series) -> float:
    """The score that a trial is ranked by: its mean over other seeds where it was run again."""
    mean = trial.get("mean", math.nan)
    return trial["objective"] if math.isnan(mean) else mean


def _score(trial: pd.Series) -> str:
    if math.isnan(trial.get("mean", math.nan)):
        return f"{trial['objective']:.3f}"
    spread = f" ± {trial['spread']:.3f}" if math.isfinite(trial["spread"]) else ""
    return f"{trial['mean']:.3f}{spread} over {trial['seeds']:.0f} other seeds"


def _hours(hours: float) -> str:
    return number(hours, 3) if math.isfinite(hours) else "n/a"


def _word(value: Any) -> Any:
    """A status in plain words; everything else as it is."""
    return figures_sweep.STATUS.get(value, (value,))[0] if isinstance(value, str) else value
