"""Which model of an evaluation is the best at what, and whether the test data can tell it from the second best."""

from dataclasses import dataclass

from raysys.report.evaluations import HEADLINES, OF_TASK, Evaluation
from raysys.report.page import number


def better(metric: str) -> int:
    """Returns 1 where larger values of a metric are better, else -1."""
    return -1 if metric.endswith("_s") or "_ece" in metric else 1


@dataclass(frozen=True, slots=True)
class Winner:
    """The best model by a metric on all data sets together.

    Attributes:
        metric: its name.
        model: the best one.
        value: its score.
        second: the best model of another kind; empty where there is none.
        apart: whether the intervals of both do not overlap.
        level: whether both have the same score.
    """

    metric: str
    model: str
    value: float
    second: str
    apart: bool
    level: bool = False


def winner(evaluation: Evaluation, metric: str) -> Winner | None:
    """Returns the best model by a metric, or None where none has it."""
    rows, sign = evaluation.of(metric), better(metric)
    if rows.empty:
        return None
    order = rows.assign(rank=sign * rows["value"]).sort_values("rank", ascending=False, kind="stable")
    first = order.index[0]
    others = [name for name in order.index[1:] if str(evaluation.kind(name)) != str(evaluation.kind(first))]
    if not others:
        return Winner(metric, first, float(order["value"].iloc[0]), "", False)
    a, b = order.loc[first], order.loc[others[0]]
    apart = a["low"] > b["high"] if sign > 0 else a["high"] < b["low"]
    return Winner(metric, first, float(a["value"]), others[0], bool(apart), bool(a["value"] == b["value"]))


def evaluation_verdict(evaluation: Evaluation) -> tuple[str, str]:
    """Returns "good", "warn" or "bad", and which model is best at what in one sentence."""
    if evaluation.scores.empty:
        return (
            "bad",
            "The evaluation holds no metrics: it has not finished one model, or evaluation.json cannot be read.",
        )
    metrics = dict.fromkeys(metric for task in OF_TASK if evaluation.named(task) for metric in OF_TASK[task])
    winners = [found for metric in metrics if (found := winner(evaluation, metric))]
    if not winners:
        return "warn", "The evaluation holds none of the metrics that models are compared by on the test split."
    alone, winners = winners, [one for one in winners if one.second]
    if not winners:
        return "good", f"{alone[0].model}: {_listed(alone)}; there is no other kind of model to compare it with."
    winners = [one for one in winners if not one.level]
    if not winners:
        return "warn", "The models are level in everything that they are compared by."
    models = sorted({one.model for one in winners}, key=lambda name: -sum(one.model == name for one in winners))
    said = [_of_model(name, [one for one in winners if one.model == name]) for name in models]
    state = "good" if any(one.apart for one in winners) else "warn"
    return state, "; ".join(said) + "."


def _of_model(model: str, wins: list[Winner]) -> str:
    """What a model is best at, beginning with where the second best is clearly behind."""
    clear, close = [one for one in wins if one.apart], [one for one in wins if not one.apart]
    words = f"{model} is best at {_listed(clear)}, clear of the second best" if clear else ""
    if close:
        words += f", and at {_listed(close)}" if clear else f"{model} is best at {_listed(close)}"
        words += ", where the intervals overlap"
    return words


def _listed(wins: list[Winner]) -> str:
    words = [f"{HEADLINES[one.metric].removesuffix(' (s)')} ({_value(one)})" for one in wins]
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def _value(one: Winner) -> str:
    return number(one.value, 3) + (" s" if HEADLINES[one.metric].endswith("(s)") else "")
