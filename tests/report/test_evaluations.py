"""Evaluations in a report: what is read, what is concluded, and what is drawn."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from raysys.report import evaluations, examples, figures_evaluation, sections_evaluation
from raysys.report.collect import read_folder
from raysys.report.evaluations import ALL, MAIN, Evaluation
from raysys.report.winners import better, evaluation_verdict, winner
from raysys.report.write import write_report
from tests.report.synthetic import DATASETS, SKILL, write_evaluation
from tests.report.test_write import check_page


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns an evaluation of three starts, three shares of the labels, two seeds and published weights."""
    return read_folder(write_evaluation(tmp_path_factory.mktemp("whole") / "eval", windows=6))


def evaluation_of(tmp_path, scores, told=None, differences=()):
    """An evaluation with given (value, low, high) of `MAIN` by model."""
    models = {
        name: (told or {}).get(name, {})
        | {"metrics": {ALL: {MAIN: dict(zip(("value", "low", "high"), x, strict=True))}}}
        for name, x in scores.items()
    }
    (tmp_path / "evaluation.json").write_text(json.dumps({"models": models, "differences": list(differences)}))
    return read_folder(tmp_path)


def test_an_evaluation_is_read_into_tables(whole):
    assert isinstance(whole, Evaluation)
    assert whole.datasets() == list(DATASETS)
    assert whole.kind("ours-10-1") == ("pretrained", 0.1)
    assert whole.kind("phasenet-instance")[0] == "phasenet-instance"
    assert math.isnan(whole.kind("phasenet-instance")[1])
    assert whole.of(MAIN).loc["ours-100-0", "count"] == 347
    assert len(whole.of("test_event_auc", DATASETS[0])) == 19
    assert whole.of("test_event_auc", DATASETS[2]).empty, "null is a missing value"
    assert whole.examples.probability["ours-2-0"].shape == (6, 3, 3000)
    assert "metrics" not in whole.models["ours-2-0"]
    assert whole.notes == ()


def test_a_few_models_stand_for_all_the_best_of_every_start_first(whole):
    four = whole.foremost(4)
    assert [name.rsplit("-", 1)[0] for name in four] == ["ours-100", "scratch-100", "phasenet", "phasenet-100"]
    kinds = [str(whole.kind(name)) for name in whole.foremost(10)]
    assert len(set(kinds)) == 10
    assert whole.starts()[0] == "pretrained"
    values = whole.of(MAIN)["value"]
    assert list(values[whole.foremost(19)]) == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("{", "evaluation.json is damaged"),
        ("[1]", "evaluation.json names no models"),
        ('{"models": {}}', "examples.npz is missing"),
        ('{"models": {"a": {}}, "differences": null}', "examples.npz is missing"),
    ],
)
def test_a_damaged_evaluation_is_a_page_with_a_note(tmp_path, content, note):
    (tmp_path / "evaluation.json").write_text(content)
    page, _ = check_page(write_report([tmp_path]))
    assert note in page
    assert "The evaluation holds no metrics" in page
    assert "<figure>" not in page


@pytest.mark.parametrize("content", [b"PK\x03\x04 half", b"", None])
def test_damaged_or_empty_examples_are_a_note(tmp_path, content):
    folder = write_evaluation(tmp_path / "e", seeds=1, fractions=(1.0,), windows=2)
    if content is None:
        np.savez(folder / "examples.npz", waveform=np.zeros((1, 3, 9)))
    else:
        (folder / "examples.npz").write_bytes(content)
    page, _ = check_page(write_report([folder]))
    assert "examples.npz is damaged" in page
    assert "Left out: examples.npz is missing, damaged or empty." in page


@pytest.mark.parametrize(
    ("metric", "sign"),
    [
        ("test_P_hit_0.1s", 1),
        ("test_S_f1_0.5s", 1),
        ("test_event_auc", 1),
        ("test_phase_mcc", 1),
        ("test_P_residual_mae_s", -1),
        ("test_S_std_s", -1),
        ("test_ece", -1),
        ("test_ece_cooled", -1),
    ],
)
def test_larger_is_better_but_for_errors(metric, sign):
    assert better(metric) == sign


@pytest.mark.parametrize(
    ("scores", "said", "state"),
    [
        ({"a": (0.9, 0.88, 0.92), "b": (0.8, 0.78, 0.87)}, "a is best at P within 0.5 s (0.900), clear of", "good"),
        ({"a": (0.9, 0.86, 0.94), "b": (0.8, 0.78, 0.87)}, "where the intervals overlap", "warn"),
        ({"b": (0.8, 0.7, 0.9), "a": (0.9, 0.8, 1.0)}, "a is best", "warn"),
        ({"a": (0.9, 0.8, 1.0)}, "a: P within 0.5 s (0.900); there is no other", "good"),
        ({"a": (0.9, 0.8, 1.0), "b": (0.9, 0.8, 1.0)}, "The models are level", "warn"),
        ({"a": (None, None, None)}, "holds none of the metrics", "warn"),
    ],
)
def test_the_verdict_names_the_best_and_whether_the_intervals_overlap(tmp_path, scores, said, state):
    got, words = evaluation_verdict(evaluation_of(tmp_path, scores))
    assert said in words
    assert got == state


def test_no_tile_names_a_winner_of_equal_scores(tmp_path):
    same = (0.9, 0.8, 1.0)
    tiles = sections_evaluation._tiles(evaluation_of(tmp_path, {"a": same, "b": same}))
    assert tiles[0] == ("P within 0.5 s", "0.900", "level")


def test_another_seed_of_the_best_is_no_rival(tmp_path):
    same = {"init": "scratch", "label_fraction": 0.1}
    told = {"a": same, "b": same, "c": {"init": "scratch", "label_fraction": 1.0}}
    scores = {"a": (0.9, 0.89, 0.91), "b": (0.899, 0.88, 0.91), "c": (0.8, 0.79, 0.81)}
    found = winner(evaluation_of(tmp_path, scores, told), MAIN)
    assert (found.model, found.second, found.apart) == ("a", "c", True)
    assert winner(evaluation_of(tmp_path, scores, told), "test_event_auc") is None


def test_of_errors_the_smallest_is_best(whole):
    found = winner(whole, "test_P_residual_mae_s")
    assert found.value == whole.of("test_P_residual_mae_s")["value"].min()


def test_the_matrix_frames_what_a_model_was_trained_on(whole):
    models = ["ours-100-0", "phasenet-instance"]
    left, right = figures_evaluation.matrix_figure(whole, models, (MAIN, "test_P_hit_0.1s")).axes
    assert len(left.patches) == 2, "the first model on its two data sets"
    assert [t.get_text() for t in left.get_xticklabels()][-1] == "all\n347"
    assert left.texts[3].get_text() == f"{whole.of(MAIN)['value']['ours-100-0']:.2f}"
    assert right.get_title() == "P within 0.1 s"
    assert len(figures_evaluation.matrix_figure(whole, models, ("test_event_auc",)).axes[0].texts) == 6
    assert figures_evaluation.matrix_figure(whole, models, ("none",)) is None


def test_label_efficiency_has_a_line_a_start_and_a_point_a_seed(whole):
    axes = figures_evaluation.efficiency_figure(whole).axes
    assert [ax.get_title() for ax in axes] == ["P within 0.1 s", "P within 0.5 s", "S within 0.1 s", "S within 0.5 s"]
    lines = {line.get_label(): line for line in axes[1].lines if not line.get_label().startswith("_")}
    assert set(lines) == {"pretrained", "scratch", "phasenet"}
    mean = whole.of(MAIN)["value"][["ours-2-0", "ours-2-1"]].mean()
    assert lines["pretrained"].get_ydata()[0] == pytest.approx(mean)
    assert list(lines["pretrained"].get_xdata()) == [0.02, 0.1, 1.0]
    points = [line for line in axes[1].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in points] == [6] * len(SKILL)
    assert axes[0].get_xscale() == "log"
    assert any("phasenet-instance" in text.get_text() for text in axes[1].texts)


def test_one_share_of_labels_makes_no_curve(tmp_path):
    evaluation = read_folder(write_evaluation(tmp_path / "e", fractions=(1.0,), windows=1))
    assert figures_evaluation.efficiency_figure(evaluation) is None


def test_differences_are_the_better_minus_the_worse(tmp_path):
    scores = {"a": (0.7, 0.6, 0.8), "b": (0.9, 0.85, 0.95)}
    pair = {"a": "a", "b": "b", "metric": MAIN, "value": -0.2, "low": -0.3, "high": 0.1}
    evaluation = evaluation_of(tmp_path, scores, differences=[pair, pair | {"metric": "test_P_mean_s"}])
    (row,) = sections_evaluation._ordered_pairs(evaluation).to_dict("records")
    assert (row["a"], row["b"], row["value"], row["low"], row["high"]) == ("b", "a", 0.2, -0.1, 0.3)
    assert evaluation.differences["value"].iloc[0] == -0.2, "the table stays as it is"
    (ax,) = figures_evaluation.difference_figure(sections_evaluation._ordered_pairs(evaluation)).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b - a"]


def test_bins_without_picks_are_no_points():
    told = {"counts": [0, 3, 1], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.4, 1.0]}
    models = {"a": {"reliability": {ALL: {"before": told, "after": told}}}}
    empty = pd.DataFrame(columns=["model", "dataset", "metric", "value", "low", "high", "count"])
    evaluation = Evaluation(path=None, data={}, models=models, scores=empty, differences=empty, examples=None, notes=())
    axes = figures_evaluation.reliability_figure(evaluation, ["a"]).axes
    assert [list(ax.lines[1].get_xdata()) for ax in axes] == [[0.5, 0.9]] * 2
    assert figures_evaluation.residual_figure(evaluation, ["a"]) is None


def test_windows_show_onsets_and_the_strips_of_the_models(whole):
    drawn = examples.example_figure(whole.examples, ["ours-100-0", "not there", "scratch-2-0"], range(2))
    assert len(drawn.axes) == 6
    top, strip = drawn.axes[:2]
    onset = whole.examples.p[0, 0] / 100
    assert any(list(line.get_xdata()) == [onset, onset] for line in top.lines)
    np.testing.assert_array_equal(strip.lines[0].get_ydata(), whole.examples.probability["ours-100-0"][0, 0])
    assert strip.texts[0].get_text() == "ours-100-0"
    assert examples.example_figure(whole.examples, [], []) is None


def test_the_data_sets_take_turns():
    order = evaluations._in_turn(np.array(["x", "x", "x", "y", "z", "z"]))
    assert order.tolist() == [0, 3, 4, 1, 5, 2]


def test_padding_of_a_window_is_not_drawn(tmp_path):
    evaluation = read_folder(write_evaluation(tmp_path / "e", seeds=1, fractions=(1.0,), windows=9))
    drawn = examples.example_figure(evaluation.examples, ["ours-100-0"], [8])
    assert [len(ax.lines[0].get_xdata()) for ax in drawn.axes] == [2400, 2400]


def test_an_evaluation_makes_a_whole_page(tmp_path):
    folder = write_evaluation(tmp_path / "eval", windows=9)
    page, checker = check_page(write_report([folder]))
    assert checker.titles == [
        "Pickers",
        "Across data sets",
        "How many labels are needed",
        "Paired differences",
        "Residuals",
        "Probabilities and thresholds",
        "Windows of the test split",
        "What was tested",
        "What the numbers mean",
    ]
    assert page.count("<figure>") == 8
    assert "There are 347 P and 190 S labels" in page
    assert "<summary>The other 1 windows</summary>" in page
    assert "Shown are 8 of 19 models" in page
    assert "Expected calibration error" in page
    assert "perplexity" not in page
    scores = pd.read_csv(folder / "report_tables" / "eval_scores.csv")
    assert list(scores) == ["model", "dataset", "metric", "value", "low", "high", "count"]
    matrix = pd.read_csv(folder / "report_tables" / "eval_matrix.csv")
    assert list(matrix) == ["model", *DATASETS, "all"]
    assert len(pd.read_csv(folder / "report_tables" / "eval_differences.csv")) > 100


def test_detectors_and_classifiers_have_tables_of_their_own(tmp_path):
    folder = write_evaluation(tmp_path / "eval", seeds=1, fractions=(1.0,), windows=2, others=True)
    page, checker = check_page(write_report([folder]))
    assert checker.titles[:4] == ["Pickers", "Detectors", "Classifiers", "Confusion"]
    assert '<td>earthquake</td><td class="number">95</td><td class="number">5</td>' in page
    assert "How many labels are needed" not in page


def test_an_evaluation_without_pickers_has_no_sections_of_picks(tmp_path):
    folder = write_evaluation(tmp_path / "eval", seeds=1, fractions=(1.0,), windows=1, others=True)
    content = json.loads((folder / "evaluation.json").read_text())
    content["models"] = {name: content["models"][name] for name in ("detector", "classifier")}
    (folder / "evaluation.json").write_text(json.dumps(content | {"differences": []}))
    page, checker = check_page(write_report([folder]))
    assert checker.titles == ["Detectors", "Classifiers", "Confusion", "What was tested", "What the numbers mean"]
    assert "detector: event AUC (0.985)" in page


def test_names_compare_whatever_their_case_and_their_marks():
    assert figures_evaluation._plain("Ncedc-PhaseNet") == figures_evaluation._plain("ncedc_phasenet")
    assert evaluations.init_name({"init": "s3://bucket/results/base/"}) == "base"
    assert evaluations.init_name({"init": None}) == ""
