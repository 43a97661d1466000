"""Several runs side by side."""

from raysys.report.collect import Run, flatten
from raysys.report.figures import comparison_figure
from raysys.report.page import Section, figure, number, table
from raysys.report.sections_finetune import SCORES, chosen_scores, label_counts
from raysys.report.sections_run import last

_COMPARED = {
    "val/contrastive": "contrastive loss (nats)",
    "probe/macro_ap": "probe/macro_ap",
    "val/top1_tie": "val/top1_tie",
    "codebook/hard_perplexity": "hard perplexity",
    "train/windows": "windows seen",
}


def comparisons(runs: dict[str, Run]) -> list[Section]:
    """Returns one section for pretraining runs and one for runs of fine-tuning, where there are several of them."""
    pretrained = {name: run for name, run in runs.items() if run.task == "pretrain"}
    finetuned = {name: run for name, run in runs.items() if run.task != "pretrain"}
    sections = [_pretrained(pretrained)] if len(pretrained) > 1 else []
    return sections + ([_finetuned(finetuned)] if len(finetuned) > 1 else [])


def _pretrained(runs: dict[str, Run]) -> Section:
    columns = ("run", *_COMPARED.values())
    rows = [(name, *(number(last(run.metrics, key)) for key in _COMPARED)) for name, run in runs.items()]
    curves = {
        "val/contrastive": ("Contrastive loss, validation", "nats"),
        "probe/macro_ap": ("Linear probe: mean average precision", "average precision"),
    }
    drawn = comparison_figure({name: run.metrics for name, run in runs.items()}, curves)
    caption = (
        "The validation curves of all runs. The losses on the left compare only between runs with the same number of negatives, "
        "temperature and mask ratio; the probe on the right compares between any runs on the same data."
    )
    return Section(
        "The runs side by side", (table(columns, rows), figure(drawn, caption, "The runs have no validation curves."))
    )


def _finetuned(runs: dict[str, Run]) -> Section:
    best = {name: chosen_scores(run) for name, run in runs.items()}
    names = [key for key in SCORES if any(key in scores for scores in best.values())]
    columns = ("run", "began with", "labelled traces", "dev/score", *(SCORES[key] for key in names))
    rows = [
        (
            name,
            str(flatten(run.config).get("finetune.init", "unknown")),
            label_counts(run).get("traces", "unknown"),
            *(number(best[name].get(key, float("nan")), 3) for key in ("dev/score", *names)),
        )
        for name, run in runs.items()
    ]
    curves = {"dev/score": ("dev/score", ""), "dev/loss": ("Loss on the dev split", "")}
    drawn = comparison_figure({name: run.metrics for name, run in runs.items()}, curves)
    caption = (
        "Scores on the dev split, by which checkpoints are chosen: they compare among runs of one task on the same data sets. For numbers with "
        "intervals on the test split run jobs.evaluate."
    )
    words = "Each run at its best dev/score."
    return Section(
        "The fine-tuned runs side by side",
        (table(columns, rows, words), figure(drawn, caption, "The runs have no scores.")),
    )
