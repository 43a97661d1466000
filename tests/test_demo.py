"""The demo's stages run on the right data, and its last words are the numbers of its files."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from raysys import demo
from raysys.location import Location
from raysys.picking.example import Example, read_example
from raysys.picking.picks import COLUMNS, in_order
from raysys.presets import PRESETS, finetuning

RUN = {"val/contrastive": 2.5, "probe/macro_ap": 0.4, "codebook/used_fraction": 0.75}
BEST = {"value": 0.45, "tuned": {"mask.ratio": 0.51234, "loss.num_negatives": 16}}


def example() -> Example:
    """One pick of the packaged picker, and two of the demo's own."""
    seconds, phases = [4.68, 5.75, 4.7], ["P", "S", "P"]
    moments = pd.Timestamp("2009-08-24T00:20:03", tz="UTC") + pd.to_timedelta(seconds, unit="s")
    columns = dict.fromkeys(COLUMNS, "") | dict.fromkeys(("peak_time", "start_time", "end_time"), moments)
    columns |= {"phase": phases, "probability": [0.87, 0.7, 0.45], "model": ["packaged", "packaged", "demo-picker"]}
    columns |= dict.fromkeys(("time_uncertainty_s", "amplitude", "snr_db"), 1.0)
    curves = dict.fromkeys(("packaged", "demo-picker"), np.zeros((3, 3000), np.float32))
    return Example(
        instrument="BW.RJOB..EH",
        begin_ns=1_251_073_203 * 10**9,
        waveform=np.zeros((3, 3000), np.float32),
        probability=curves,
        picks=in_order(pd.DataFrame(columns)),
    )


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """What every stage is asked for, call by call; they write the files that the demo reads, and do nothing else."""
    asked = {}

    def stage(name, answer):
        monkeypatch.setattr(demo, name, lambda *words: asked.setdefault(name, []).append(words) or answer)

    for name, answer in (("connect", None), ("prepare", None), ("train_run", RUN), ("sweep", BEST)):
        stage(name, answer)
    for name, answer in (("pick_archive", {}), ("load_picker", "a picker"), ("make_examples", [example()])):
        stage(name, answer)
    stage("write_report", tmp_path / "report.html")
    lines = [{"step": 1}, {"step": 0, "probe/macro_ap": 0.07}, {"step": 300, "probe/macro_ap": 0.4}]
    for folder in ("demo", "demo-sweep"):
        (tmp_path / folder).mkdir()
    (tmp_path / "demo" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "demo" / "config.json").write_text(json.dumps(PRESETS["demo"]().to_dict()))
    statuses = ["STOPPED_EARLY", "TERMINATED", "STOPPED_EARLY", "ERROR"]
    pd.DataFrame({"status": statuses}).to_csv(tmp_path / "demo-sweep" / "trials.csv")
    return asked


def test_the_search_takes_a_third_of_the_steps_on_the_shards_that_were_prepared(stages, tmp_path, capsys):
    page = demo.run_demo(PRESETS["demo"]().override({"data.root": "/data", "storage": str(tmp_path)}))
    ((raw, shards),), ((pretrained,), (finetuned,)), ((searched,),) = (
        stages[name] for name in ("prepare", "train_run", "sweep")
    )
    assert (raw.data.root, shards) == ("/data", f"{tmp_path}/shards")
    places = {"data.root": shards, "data.cache": f"{tmp_path}/cache", "storage": str(tmp_path)}
    assert pretrained == PRESETS["demo"]().override(places)
    assert searched == pretrained.override({"name": "demo-sweep", "train.max_steps": 100})
    changes = {"name": "demo-picker", "model.highpass_hz": 1.0}
    assert finetuned == finetuning(pretrained, "pick", f"{tmp_path}/demo").override(changes)
    folders = [f"{tmp_path}/demo{part}" for part in ("", "-sweep", "-picker", "-picks")]
    assert stages["write_report"] == [(folders, page)]
    said = capsys.readouterr().out
    for words in (
        f"contrastive loss 2.50   nats; guessing gives log(32 + 1) = {math.log(33):.2f}.",
        "probe macro AP 0.400",
        "0.070 before\n",
        "codes in use 75%",
        "4 trials, 2 stopped early; best probe macro AP 0.450 with mask.ratio=0.512, loss.num_negatives=16",
        "P 00:20:07.68 (0.87), S 00:20:08.75 (0.70); by the one that was fine-tuned just now: P 00:20:07.70 (0.45).",
    ):
        assert words in said


def test_the_same_stream_is_picked_as_an_archive_and_by_both_pickers(stages, tmp_path):
    demo.run_demo(PRESETS["demo"]().override({"data.root": "/data", "storage": str(tmp_path)}))
    ((files, out, how),) = stages["pick_archive"]
    assert (out, how.picker) == (f"{tmp_path}/demo-picks", "default")
    assert stages["load_picker"] == [(), (f"{tmp_path}/demo-picker",)]
    ((stream, _),) = stages["make_examples"]
    (file,) = files
    again = demo.obspy.read(file)
    assert [one.id for one in again] == [one.id for one in stream]
    np.testing.assert_array_equal(again[0].data, stream[0].data)
    kept = read_example(Location(out) / "examples" / "BW.RJOB..EH.npz")
    assert kept.picks["model"].tolist() == ["packaged", "demo-picker", "packaged"]
