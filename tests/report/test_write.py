"""Whole reports: self-contained, complete, and honest about what is missing."""

import base64
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from raysys.location import Location
from raysys.report.collect import read_folder
from raysys.report.figures import loss_figure
from raysys.report.sections_run import run_verdict, untrained_scores
from raysys.report.style import styled, svg_uri
from raysys.report.write import write_report

VOID = {"meta", "img", "wbr", "br"}


class Checker(HTMLParser):
    """Collects what a page refers to and whether its tags are balanced."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.references, self.ids, self.tags, self.titles = [], [], [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        self.references += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h3":
            self.titles.append(data)


def check_page(path) -> tuple[str, Checker]:
    page = path.read_text()
    checker = Checker(page)
    assert checker.open == []
    assert "script" not in checker.tags
    assert len(set(checker.ids)) == len(checker.ids)
    for reference in checker.references:
        assert reference.startswith(("#", "data:image/svg+xml;base64,")), "nothing is fetched"
        if reference.startswith("#"):
            assert reference[1:] in checker.ids
        else:
            drawing = ElementTree.fromstring(base64.b64decode(reference.split(",", 1)[1]))
            assert len(list(drawing.iter())) > 20
    assert not re.search(r"url\(|@import|https?://", page)
    assert "nan" not in re.sub(r'"data:[^"]*"', "", page).lower().split()
    return page, checker


def test_a_run_makes_a_whole_page(run_folder):
    path = run_folder(400)
    page, checker = check_page(write_report([path]))
    assert "The run learned: contrastive loss" in page
    assert "chance 3.50" in page
    assert "0.070 before training" in page
    assert "<td>17 row points nowhere; 4 sampling rate is 0</td><td>8 clipped</td>" in page
    assert "unknown: samples not looked at" in page
    assert '<td>STEAD</td><td>ETHZ</td><td class="number">12</td><td class="number">345</td>' in page
    assert "optim.<wbr>lr" in page
    assert checker.titles == [
        "Curves",
        "Codebook",
        "Seismograms and their codes",
        "Data",
        "What was run",
        "What the numbers mean",
    ]
    assert page.count("<figure>") == 4
    metrics = pd.read_csv(path / "report_tables" / "run_metrics.csv")
    assert metrics["step"].iloc[-1] == 400


def test_a_sweep_makes_a_whole_page(sweep_folder):
    path = sweep_folder(24)
    best = json.loads((path / "best.json").read_text())
    page, _ = check_page(write_report([path]))
    assert f"Trial {best['trial']} of 24 is the best, with probe/macro_ap {best['value']:.3f}" in page
    assert "OutOfMemoryError" in page
    assert "the codebook has collapsed: hard perplexity 96 of 640" in page
    assert "it did not pass the health gate" in page, "the lowest loss is that of a collapsed trial"
    assert page.count("<figure>") == 8
    top = pd.read_csv(path / "report_tables" / "sweep_top10.csv", dtype={"trial": str})
    assert top["trial"].iloc[0] == best["trial"]
    assert len(top) == 10
    importance = pd.read_csv(path / "report_tables" / "sweep_importance.csv")
    assert importance["key"].iloc[0] == "loss.temperature"


def test_several_folders_share_a_page(run_folder, tmp_path):
    run, sweep = run_folder(16), tmp_path / "sweep"
    sweep.mkdir()
    pd.DataFrame({"trial": ["a", "b"], "objective": [0.4, 0.5]}).to_csv(sweep / "trials.csv", index=False)
    page, checker = check_page(write_report([run, sweep, run], tmp_path / "all.html"))
    assert "The runs side by side" in checker.titles
    assert "Trial b of 2 is the best" in page
    assert sorted(path.name for path in (tmp_path / "all_tables").glob("*metrics.csv")) == [
        "run_3_metrics.csv",
        "run_metrics.csv",
    ]
    assert not list(tmp_path.glob("*.part"))


def test_a_page_on_several_folders_leaves_that_on_one_alone(run_folder, tmp_path):
    run, again = run_folder(16), tmp_path / "again"
    shutil.copytree(run, again)
    assert write_report([run]) == run / "report.html"
    assert write_report([run, again]) == run.parent / f"report-{run.name}-again.html"


@pytest.mark.parametrize("missing", [["config.json"], ["metrics.jsonl"], ["record.json"]])
def test_a_run_without_files_still_makes_a_page(run_folder, missing):
    path = run_folder(16)
    for name in missing:
        (path / name).unlink()
    check_page(write_report([path]))


@pytest.mark.parametrize("missing", [["config.json"], ["trials.csv"], ["history.csv", "best.json"]])
def test_a_sweep_without_files_still_makes_a_page(sweep_folder, missing):
    path = sweep_folder(6)
    for name in missing:
        (path / name).unlink()
    page, _ = check_page(write_report([path]))
    assert ("Too few trials for an importance" in page) == ("trials.csv" not in missing)
    assert all(f"{name} is missing" in page for name in missing)


def test_columns_that_are_missing_leave_their_figures_out(sweep_folder, run_folder):
    path = sweep_folder(6)
    trials = pd.read_csv(path / "trials.csv", dtype={"trial": str})
    gone = [c for c in trials if c.startswith(("val/", "codebook/"))] + ["budget_windows", "mask.ratio"]
    trials.drop(columns=gone).to_csv(path / "trials.csv", index=False)
    page, _ = check_page(write_report([path]))
    assert "trials.csv holds no perplexity" in page
    assert "mask.<wbr>ratio" not in page
    run = run_folder(8)
    (run / "metrics.jsonl").write_text('{"step": 1, "train/windows": 16}\n')
    page, _ = check_page(write_report([run]))
    assert page.count("<figure>") == 0
    assert "has not been validated yet" in page


def test_a_sweep_in_which_everything_failed_says_so(sweep_folder):
    path = sweep_folder(6)
    trials = pd.read_csv(path / "trials.csv", dtype={"trial": str})
    trials.assign(status="ERROR", objective=math.nan, healthy=False, reason="").to_csv(path / "trials.csv", index=False)
    page, _ = check_page(write_report([path]))
    assert "None of the 6 trials has a valid score" in page
    assert "no reason recorded" in page


def test_text_from_files_is_escaped(run_folder):
    path = run_folder(8)
    record = json.loads((path / "record.json").read_text()) | {"command": "<script>alert(1)</script>"}
    (path / "record.json").write_text(json.dumps(record))
    check_page(write_report([path]))


def test_the_same_numbers_give_the_same_figure(run_folder):
    metrics = read_folder(run_folder(40)).metrics
    with styled():
        drawn = [svg_uri(loss_figure(metrics, math.log(33), 0.1)) for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "good", "The run learned"),
        ({"val/contrastive": 3.6}, "bad", "no better than guessing"),
        ({"codebook/used_fraction": 0.05}, "good", "The run learned"),
        ({"codebook/hard_perplexity": 10.0, "val/contrastive": 0.0}, "bad", "The codebook has collapsed"),
        ({"probe/macro_ap": 0.07}, "warn", "the probe hardly moved"),
        ({"val/contrastive": math.nan}, "warn", "has not been validated yet"),
    ],
)
def test_the_verdict_follows_the_numbers(run_folder, changes, state, words):
    run = read_folder(run_folder(40))
    for name, value in changes.items():
        run.metrics[name] = np.where(run.metrics["val/contrastive"].notna(), value, math.nan)
    got, sentence = run_verdict(run, math.log(33))
    assert got == state
    assert words in sentence


def test_a_validation_at_step_0_is_the_model_before_training(run_folder):
    path = run_folder(40)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 0, "probe/macro_ap": 0.03, "val/contrastive": 3.5}\n')
    run = read_folder(path)
    assert untrained_scores(run)["probe/macro_ap"] == 0.03
    assert "0.030 before training" in run_verdict(run, math.log(33))[1]


def test_the_page_on_a_url_is_written_here(run_folder, sweep_folder, monkeypatch, tmp_path):
    run, store = run_folder(8), Location(f"memory://{tmp_path.name}/results/run")
    store.fs.put(str(run), store.path, recursive=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert write_report([store.url]) == tmp_path / "here" / "report-run.html"
    assert write_report([sweep_folder(8), store.url]) == tmp_path / "here" / "report-sweep-run.html"
    assert write_report([store.url], "mine.html").exists()
    with pytest.raises(ValueError, match="name a file on this machine"):
        write_report([store.url], f"{store}/report.html")


def test_the_job_writes_a_page(run_folder, tmp_path):
    out = tmp_path / "page.html"
    command = [sys.executable, "-m", "jobs.report", str(run_folder(8)), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(out)
    check_page(out)
