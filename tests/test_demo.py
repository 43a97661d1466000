"""The demo's stages run on the right data, and its last words are the numbers of its files."""

import json
import math

import pandas as pd
import pytest

from raysys import demo
from raysys.presets import PRESETS

RUN = {"val/contrastive": 2.5, "probe/macro_ap": 0.4, "codebook/used_fraction": 0.75}
BEST = {"value": 0.45, "tuned": {"mask.ratio": 0.51234, "loss.num_negatives": 16}}


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """What every stage is asked for; they write the files that the demo reads, and do nothing else."""
    asked = {}

    def stage(name, answer):
        monkeypatch.setattr(demo, name, lambda *words: asked.update({name: words}) or answer)

    for name, answer in (("connect", None), ("prepare", None), ("train_run", RUN), ("sweep", BEST)):
        stage(name, answer)
    stage("write_report", tmp_path / "report.html")
    lines = [{"step": 1}, {"step": 0, "probe/macro_ap": 0.07}, {"step": 300, "probe/macro_ap": 0.4}]
    for folder in ("demo", "demo-sweep"):
        (tmp_path / folder).mkdir()
    (tmp_path / "demo" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    statuses = ["STOPPED_EARLY", "TERMINATED", "STOPPED_EARLY", "ERROR"]
    pd.DataFrame({"status": statuses}).to_csv(tmp_path / "demo-sweep" / "trials.csv")
    return asked


def test_the_search_takes_a_third_of_the_steps_on_the_shards_that_were_prepared(stages, tmp_path, capsys):
    page = demo.run_demo(PRESETS["demo"]().override({"data.root": "/data", "storage": str(tmp_path)}))
    (raw, shards), (pretrained,), (searched,) = stages["prepare"], stages["train_run"], stages["sweep"]
    assert (raw.data.root, shards) == ("/data", f"{tmp_path}/shards")
    places = {"data.root": shards, "data.cache": f"{tmp_path}/cache", "storage": str(tmp_path)}
    assert pretrained == PRESETS["demo"]().override(places)
    assert searched == pretrained.override({"name": "demo-sweep", "train.max_steps": 100})
    assert stages["write_report"] == ([f"{tmp_path}/demo", f"{tmp_path}/demo-sweep"], page)
    said = capsys.readouterr().out
    for words in (
        f"contrastive loss 2.50   nats; guessing gives log(32 + 1) = {math.log(33):.2f}.",
        "probe macro AP 0.400",
        "0.070 before\n",
        "codes in use 75%",
        "4 trials, 2 stopped early; best probe macro AP 0.450 with mask.ratio=0.512, loss.num_negatives=16",
    ):
        assert words in said
