"""Runs and sweeps of fine-tuning in a report."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from raysys.report import figures_finetune, sections_sweep
from raysys.report.collect import read_folder
from raysys.report.glossary import glossary
from raysys.report.provenance import nearest_preset
from raysys.report.sections_finetune import began_with, chosen_scores, chosen_step, finetune_verdict
from raysys.report.write import write_report
from raysys.train.checkpoint import FILES
from tests.report.synthetic import write_evaluation, write_finetuned, write_finetuning_sweep
from tests.report.test_write import check_page


def finetuned(tmp_path, scores, **more):
    """A picker with given dev/score by step."""
    folder = write_finetuned(tmp_path / "run", steps=80, **more)
    lines = [{"step": step, "dev/score": score, "dev/p_hit_0.5s": 0.8} for step, score in scores.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_folder(folder)


def test_a_picker_makes_a_whole_page(tmp_path):
    folder = write_finetuned(tmp_path / "picker")
    page, checker = check_page(write_report([folder]))
    assert checker.titles == ["Curves", "What it learned from", "Data", "What was run", "What the numbers mean"]
    assert "The run learned: on the dev split it puts 88% of P and 82% of S within 0.5 s" in page
    assert "best, at step 600" in page
    assert "results/<wbr>pretrained" in page
    assert '<td>mesetas</td><td class="number">40</td><td class="number">400</td>' in page
    assert "of 1,349 (10 %)" in page
    assert page.count("<figure>") == 2
    assert "codebook" not in page
    assert "Picker: picker" in page
    labels = pd.read_csv(folder / "report_tables" / "picker_labels.csv")
    assert labels["learned_from"].sum() == 135


@pytest.mark.parametrize(
    ("task", "said", "title"),
    [
        ("detect", "finds samples of earthquakes with average precision 0.90", "Detector: run"),
        ("classify", "names 93% of the windows rightly", "Classifier: run"),
    ],
)
def test_detectors_and_classifiers_have_a_verdict_of_their_own(tmp_path, task, said, title):
    page, _ = check_page(write_report([write_finetuned(tmp_path / "run", task=task)]))
    assert said in page
    assert title in page


@pytest.mark.parametrize("missing", ["metrics.jsonl", "record.json"])
def test_a_finetuned_run_without_files_still_makes_a_page(tmp_path, missing):
    folder = write_finetuned(tmp_path / "run")
    (folder / missing).unlink()
    page, _ = check_page(write_report([folder]))
    assert f"{missing} is missing" in page


@pytest.mark.parametrize(
    ("scores", "state", "said"),
    [
        ({}, "bad", "wrote no metrics"),
        ({10: math.nan}, "warn", "has no dev/score"),
        ({10: 0.0}, "bad", "learned nothing"),
        ({10: 0.5, 20: 0.549}, "warn", "hardly moved"),
        ({10: 0.5, 20: 0.55}, "good", "The run learned"),
        ({10: 0.2, 20: 0.5, 30: 0.4, 40: 0.4, 50: 0.4}, "warn", "best early and has not risen in the 3 validations"),
        ({10: 0.2, 20: 0.5, 30: 0.4, 40: 0.4}, "good", "The run learned"),
        ({10: 0.2, 20: 0.4, 30: 0.5}, "good", "more steps may still help"),
    ],
)
def test_a_picker_is_judged_by_its_best_score(tmp_path, scores, state, said):
    found, words = finetune_verdict(finetuned(tmp_path, scores))
    assert said in words
    assert found == state


def test_the_newest_of_equal_scores_is_chosen(tmp_path):
    run = finetuned(tmp_path, {10: 0.5, 20: 0.6, 30: 0.6, 40: 0.3})
    assert chosen_step(run) == 30
    assert chosen_scores(run)["dev/score"] == 0.6


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("scratch", "the same network without pretraining"),
        ("phasenet", "PhaseNet of SeisBench, untrained"),
        ("results/base", "results/base"),
    ],
)
def test_a_run_says_what_it_began_with(tmp_path, init, said):
    assert said in began_with(read_folder(write_finetuned(tmp_path / "run", steps=8, init=init)))


def test_the_checkpoint_of_a_picker_is_the_best_of_those_that_are_whole(tmp_path):
    folder = write_finetuned(tmp_path / "run")
    for step, score in ((200, 0.4), (400, 0.7), (800, 0.6)):
        checkpoint = folder / f"step{step:09d}"
        checkpoint.mkdir()
        for name in FILES:
            (checkpoint / name).write_text(json.dumps({"score": score}))
    assert read_folder(folder).checkpoint.name == "step000000400"
    page, _ = check_page(write_report([folder]))
    assert "the best score was at step000000600, which was not kept" in page
    (folder / "step000000400" / "state.json").write_text("{")
    run = read_folder(folder)
    assert run.checkpoint.name == "step000000800"
    assert any("state.json of a checkpoint is damaged" in note for note in run.notes)


def test_the_curves_mark_the_chosen_step():
    metrics = pd.DataFrame(
        {"train/loss": [0.3, 0.2], "dev/loss": [np.nan, 0.25], "dev/score": [0.1, 0.4], "dev/p_hit_0.1s": [0.2, 0.5]},
        index=[10, 20],
    )
    left, right = figures_finetune.learning_figure(metrics, 20).axes
    for ax in (left, right):
        assert any(list(line.get_xdata()) == [20, 20] for line in ax.lines)
    named = {line.get_label(): list(line.get_ydata()) for line in right.lines}
    assert named["P within 0.1 s"] == [0.2, 0.5]
    assert named["dev/score"] == [0.1, 0.4]
    assert figures_finetune.learning_figure(pd.DataFrame({"optim/lr": [1.0]}), None) is None


def test_a_finetuned_run_is_compared_with_the_presets_for_its_task(tmp_path):
    config = json.loads((write_finetuned(tmp_path / "run", steps=8) / "config.json").read_text())
    name, changed = nearest_preset(config)
    assert name == "base"
    assert set(changed) == {"name", "finetune.init", "finetune.label_fraction"}


def test_a_sweep_of_pickers_makes_a_page_without_codebook_and_probe(tmp_path):
    folder = write_finetuning_sweep(tmp_path / "heads")
    page, checker = check_page(write_report([folder]))
    assert "is the best, with dev/score" in page
    assert "What else ranks the trials" in checker.titles
    assert "Does a low dev/loss rank the trials as dev/score does? Rank correlation +1.00" in page
    assert "jobs.finetune --from-run" in page
    for word in ("codebook", "perplexity", "probe", "contrastive", "val/"):
        assert word not in page
    top = pd.read_csv(folder / "report_tables" / "heads_top10.csv")
    assert {"dev/p_hit_0.5s", "dev/s_hit_0.5s", "dev/event_auc"} <= set(top)


def test_a_sick_trial_of_fine_tuning_is_no_collapsed_codebook(tmp_path):
    folder = write_finetuning_sweep(tmp_path / "heads")
    trials = pd.read_csv(folder / "trials.csv", dtype={"trial": str})
    sick = (trials["trial"] == "00002").to_numpy()
    trials = trials.assign(healthy=~sick, reason=np.where(sick, "the loss is not finite", ""))
    trials.to_csv(folder / "trials.csv", index=False)
    assert "1 with a loss or score that is not finite" in sections_sweep.sweep_verdict(read_folder(folder), [])[1]
    page, _ = check_page(write_report([folder]))
    assert "the loss is not finite" in page


def test_finetuned_runs_stand_side_by_side_apart_from_pretraining(tmp_path, run_folder):
    folders = [write_finetuned(tmp_path / name, init=init) for name, init in (("a", "results/b"), ("c", "scratch"))]
    page, checker = check_page(write_report([*folders, run_folder(16)], tmp_path / "page.html"))
    assert "The fine-tuned runs side by side" in checker.titles
    assert "The runs side by side" not in checker.titles, "there is one of pretraining"
    assert "Pretraining: fixture" in page
    assert "contrastive loss" in page


def test_all_kinds_of_folders_share_a_page(tmp_path, run_folder, sweep_folder):
    evaluation = write_evaluation(tmp_path / "evaluation", seeds=1, fractions=(1.0,), windows=1)
    folders = [run_folder(16), sweep_folder(8), write_finetuned(tmp_path / "picker"), evaluation]
    page, _ = check_page(write_report(folders, tmp_path / "page.html"))
    for title in ("Pretraining: ", "Sweep: ", "Picker: ", "Evaluation: "):
        assert f"<h2>{title}" in page


def test_the_glossary_explains_what_a_page_holds():
    def words(*args, **kwargs):
        return "".join(glossary(*args, **kwargs).blocks)

    assert "hit rate" in words({"pick"}, ())
    assert "perplexity" not in words({"pick"}, {"pick"})
    assert "Spearman" in words((), {"pick"})
    assert "hit rate" in words((), {"pick"})
    assert "paired difference" in words((), (), evaluations=True)
    assert "paired difference" not in words({"pretrain", "pick"}, {"pretrain"})
    assert "perplexity" in words({"pretrain", "pick"}, ())
