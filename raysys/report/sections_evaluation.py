"""An evaluation as a chapter of the report."""

import math
from typing import Any

import pandas as pd

from raysys.report import examples, figures_evaluation
from raysys.report.evaluations import ALL, HEADLINES, HITS, MAIN, OF_TASK, Evaluation, init_name
from raysys.report.page import Chapter, Estimate, Section, figure, folded, note, number, pairs, paragraph, table
from raysys.report.provenance import show
from raysys.report.winners import better, evaluation_verdict, winner

SHOWN = 8
"""Models in figures that would not be readable with more."""
STRIPS = 5
"""Models under each window."""
_AT_ONCE = 8
"""Windows in one figure."""
_TITLES = {"pick": "Pickers", "detect": "Detectors", "classify": "Classifiers"}


def evaluation_chapter(evaluation: Evaluation) -> Chapter:
    """Returns everything the report says of an evaluation."""
    state, verdict = evaluation_verdict(evaluation)
    sections = [_headlines(evaluation, task) for task in OF_TASK if evaluation.named(task)]
    if evaluation.named("classify"):
        sections.append(_confusion(evaluation))
    if evaluation.named("pick"):
        sections += [
            _matrix(evaluation),
            *_efficiency(evaluation),
            _differences(evaluation),
            _residuals(evaluation),
            _calibration(evaluation),
            _windows(evaluation),
        ]
    return Chapter(
        title=f"Evaluation: {evaluation.path.name}",
        subtitle=str(evaluation.path),
        verdict=verdict,
        state=state,
        tiles=_tiles(evaluation),
        sections=(*sections, _tested(evaluation)),
    )


def _tiles(evaluation: Evaluation) -> tuple[tuple[str, str, str], ...]:
    if evaluation.scores.empty:
        return ()
    shown = (*HITS, "test_event_auc") if evaluation.named("pick") else [m for task in OF_TASK for m in OF_TASK[task]]
    best = [found for metric in shown if (found := winner(evaluation, metric))]
    return (
        *((HEADLINES[one.metric], number(one.value, 3), "level" if one.level else one.model) for one in best),
        ("models", number(len(evaluation.models)), f"on {len(evaluation.datasets())} data sets"),
    )


def _headlines(evaluation: Evaluation, task: str) -> Section:
    models = _in_order(evaluation, task)
    metrics = [metric for metric in OF_TASK[task] if len(evaluation.of(metric))]
    if not metrics:
        return Section(_TITLES[task], (note("No metrics of the test split."),))
    rows = [[name] for name in models]
    for metric in metrics:
        found = evaluation.of(metric).reindex(models)
        best = (better(metric) * found["value"]).max()
        for row, (_, one) in zip(rows, found.iterrows(), strict=True):
            row.append(Estimate(one["value"], one["low"], one["high"], better(metric) * one["value"] == best))
    counts = [evaluation.of(metric)["count"].max() for metric in metrics if metric in HITS[::2]]
    labels = f" There are {number(counts[0])} P and {number(counts[1])} S labels." if len(counts) == 2 else ""
    caption = (
        f"All data sets together, test split; below each number the interval that holds it with 95 % certainty.{labels} "
        "The best of each column is bold."
    )
    blocks = [table(("model", *(HEADLINES[metric] for metric in metrics)), rows, caption)]
    if task == "pick":
        drawn = figures_evaluation.ranking_figure(evaluation, evaluation.foremost(3 * SHOWN))
        words = (
            "Points are scores on the test split, bars their 95 % intervals (bootstrap over events); one colour is one way to begin. Two "
            "models whose bars overlap may still differ: they read the same traces, so look at the paired differences below."
        )
        blocks += [figure(drawn, words, "No figure: no metrics."), *_fewer(evaluation, 3 * SHOWN)]
    return Section(_TITLES[task], tuple(blocks))


def _in_order(evaluation: Evaluation, task: str) -> list[str]:
    """The models of a task, the best first."""
    values = evaluation.of(MAIN if task == "pick" else OF_TASK[task][0])["value"]
    return sorted(evaluation.named(task), key=lambda name: -values.get(name, -math.inf))


def _confusion(evaluation: Evaluation) -> Section:
    blocks = []
    for name in evaluation.named("classify"):
        told = (evaluation.models[name].get("confusion") or {}).get(ALL)
        if told:
            rows = [[given, *counts] for given, counts in zip(told["classes"], told["counts"], strict=True)]
            words = (
                f"{name}: windows of the test split by their class (rows) and by what they were taken for (columns)."
            )
            blocks.append(table(("", *told["classes"]), rows, words))
    return Section("Confusion", tuple(blocks) or (note("evaluation.json holds no confusion matrix."),))


def _matrix(evaluation: Evaluation) -> Section:
    caption = (
        "Rows are models, columns data sets with their number of P labels; darker is better. A frame marks a data set whose training "
        "split the model has seen. Compare inside a column, since data sets differ in how hard they are: a model that is ahead only inside its "
        "frames does not transfer. Within 0.1 s the care counts, too, with which a data set was picked."
    )
    drawn = figures_evaluation.matrix_figure(evaluation, _in_order(evaluation, "pick"), (MAIN, HITS[0]))
    return Section("Across data sets", (figure(drawn, caption, "Left out: no hit rates."),))


def _efficiency(evaluation: Evaluation) -> list[Section]:
    drawn = figures_evaluation.efficiency_figure(evaluation)
    if drawn is None:
        return []
    caption = (
        "How many labels a model needs. Lines are means over seeds, points single runs, bands the mean 95 % interval of a run; dashed are models as "
        "published. The horizontal distance between two lines is the saving in labels: where one is as high at 10 % as the other at 100 %, "
        "nine of ten labels need not be made."
    )
    return [Section("How many labels are needed", (figure(drawn, caption, ""),))]


def _differences(evaluation: Evaluation) -> Section:
    title, pairs_of = "Paired differences", _ordered_pairs(evaluation)
    if pairs_of.empty:
        return Section(title, (note("evaluation.json holds no differences: they need two models."),))
    sure = (pairs_of["low"] > 0) | (pairs_of["high"] < 0)
    told = f"{int(sure.sum())} of {len(pairs_of)} differences between two models have an interval without 0."
    shown, best = pairs_of, evaluation.foremost(1)
    if len(pairs_of[["a", "b"]].drop_duplicates()) > 10:
        shown = pairs_of[pairs_of["a"].isin(best) & pairs_of["b"].isin(evaluation.foremost(SHOWN))]
        told += f" Shown are those between {best[0]}, the best by {HEADLINES[MAIN]}, and the next of other kinds; the table beside this page has all."
    caption = (
        "First model minus second, with the 95 % interval of the difference; blue where it does not hold 0. Both read the same traces, "
        "and every draw of the bootstrap takes the same events for both, so this tells more than the two intervals apart."
    )
    drawn = figures_evaluation.difference_figure(shown)
    return Section(title, (paragraph(told), figure(drawn, caption, "No figure: none of them is of a hit rate.")))


def _ordered_pairs(evaluation: Evaluation) -> pd.DataFrame:
    """The differences of pickers in what they are compared by, the one first that is better by `MAIN`."""
    pairs_of, order = evaluation.differences.dropna(subset=["value"]), _in_order(evaluation, "pick")
    pairs_of = pairs_of[pairs_of["dataset"].isna() | (pairs_of["dataset"] == ALL)]
    pairs_of = pairs_of[pairs_of["metric"].isin(HEADLINES) & pairs_of["a"].isin(order) & pairs_of["b"].isin(order)]
    place = {name: i for i, name in enumerate(order)}
    turned = pairs_of["a"].map(place) > pairs_of["b"].map(place)
    other = pairs_of.rename(columns={"a": "b", "b": "a", "low": "high", "high": "low"})
    other[["value", "low", "high"]] *= -1
    pairs_of = pd.concat([pairs_of[~turned], other[turned]])
    return pairs_of.sort_values(["a", "b"], key=lambda names: names.map(place), kind="stable")


def _residuals(evaluation: Evaluation) -> Section:
    caption = (
        "Pick time minus label time of the picks that match a label, all data sets of the test split. A peak beside 0 is a systematic delay; a broad foot "
        "holds wrong arrivals and careless labels alike. S is broader than P everywhere, for analysts too."
    )
    drawn = figures_evaluation.residual_figure(evaluation, evaluation.foremost(SHOWN))
    return Section(
        "Residuals",
        (figure(drawn, caption, "Left out: evaluation.json holds no residuals."), *_fewer(evaluation, SHOWN)),
    )


def _calibration(evaluation: Evaluation) -> Section:
    models = _in_order(evaluation, "pick")
    caption = (
        "Can a probability be believed? On the dashed line, picks with probability 0.8 are right four times in five. Below it a model is too "
        "sure of itself. Larger points hold more picks. Right: after dividing its log-probabilities by one temperature, fitted on dev."
    )
    drawn = figures_evaluation.reliability_figure(evaluation, evaluation.foremost(SHOWN))
    errors = {metric: evaluation.of(metric)["value"] for metric in ("test_ece", "test_ece_cooled")}
    rows = []
    for name in models:
        told = evaluation.models[name]
        chosen = [(told.get("thresholds") or {}).get(key) for key in ("P", "S", "det", "phase")]
        ece = [errors[metric].get(name) for metric in errors]
        rows.append([name, *map(_alone, (*chosen, told.get("temperature"), *ece))])
    columns = (
        "model",
        "threshold P",
        "threshold S",
        "threshold detection",
        "threshold P/S",
        "temperature",
        "ECE before",
        "ECE after",
    )
    words = (
        "Thresholds are chosen on the dev split of all data sets together and then applied to test: those of P and S by the F1 of picks within "
        "0.5 s, that of detection, and of P/S, the largest P over the largest S, by the F1 of the pick benchmark. "
        "Scores on a single data set use the last two as its own dev split has them. Hit rates and AUC need none."
    )
    return Section(
        "Probabilities and thresholds",
        (figure(drawn, caption, "Left out: evaluation.json holds no reliability."), table(columns, rows, words)),
    )


def _alone(value: Any) -> Estimate:
    return Estimate(math.nan if value is None else float(value), math.nan, math.nan)


def _fewer(evaluation: Evaluation, most: int) -> tuple[str, ...]:
    count = len(evaluation.named("pick"))
    if count <= most:
        return ()
    words = f"Shown are {most} of {count} models: the best by {HEADLINES[MAIN]} of every start and share of labels first. The tables beside this page have all."
    return (note(words),)


def _windows(evaluation: Evaluation) -> Section:
    title, of, models = "Windows of the test split", evaluation.examples, evaluation.foremost(STRIPS)
    if of is None or not len(of.waveform):
        return Section(title, (note("Left out: examples.npz is missing, damaged or empty."),))
    caption = (
        "Vertical lines are the labelled P (blue) and S (red) onsets, traces Z, N and E each at its own scale. The strips are the probabilities of P and S "
        "that each model gives, between 0 and 1; the windows and their order are the same for every model. Look for peaks without a line "
        "(false, or an onset nobody picked), and lines without a peak."
    )
    rows = range(len(of.waveform))
    drawn = [
        figure(
            examples.example_figure(of, models, rows[first : first + _AT_ONCE]),
            caption if first == 0 else _range(rows, first),
            "",
        )
        for first in range(0, len(rows), _AT_ONCE)
    ]
    rest = [folded(f"The other {len(rows) - _AT_ONCE} windows", drawn[1:])] if len(drawn) > 1 else []
    return Section(title, (drawn[0], *rest, *_fewer(evaluation, STRIPS)))


def _range(rows: range, first: int) -> str:
    return f"Windows {first + 1} to {min(first + _AT_ONCE, len(rows))}."


def _tested(evaluation: Evaluation) -> Section:
    notes = [note(f"Not read: {words}.") for words in evaluation.notes]
    rows = [
        [
            name,
            evaluation.task_of(name),
            init_name(told) or "published",
            "" if told.get("label_fraction") is None else f"{100 * told['label_fraction']:g} %",
            "" if told.get("seed") is None else str(told["seed"]),
            ", ".join(told.get("trained_on") or ()) or "unknown",
            told.get("checkpoint") or told.get("source") or "",
        ]
        for name, told in evaluation.models.items()
    ]
    columns = ("model", "task", "began with", "labels", "seed", "trained on", "weights")
    blocks = [table(columns, rows)] if rows else []
    sets = evaluation.data.get("datasets")
    if isinstance(sets, dict):
        keys = list(dict.fromkeys(key for one in sets.values() for key in one))
        told = [[name, *(one.get(key, "") for key in keys)] for name, one in sets.items()]
        blocks.append(table(("data set", *keys), told, "Windows of the tasks of the pick benchmark, by split."))
    facts = {key: show(value) for key, value in evaluation.data.items() if not isinstance(value, dict)}
    return Section("What was tested", (*notes, *blocks, *([pairs(facts)] if facts else [])))


def tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Returns the tables that lie beside the page."""
    matrix = evaluation.scores[evaluation.scores["metric"] == MAIN]
    return {
        "scores": evaluation.scores,
        "differences": evaluation.differences,
        "matrix": matrix.pivot_table(index="model", columns="dataset", values="value", sort=False).reset_index(),
    }
