"""Reading folders: what is there, what is missing, what is damaged."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from raysys.location import Location
from raysys.report.collect import Run, Sweep, flatten, read_folder
from raysys.train.checkpoint import FILES
from raysys.train.metrics import RunLog


def test_a_run_is_read_with_later_lines_winning(run_folder):
    path = run_folder(40)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 40, "train/contrastive": 1.25}) + "\n")
    run = read_folder(path)
    assert isinstance(run, Run)
    assert run.metrics.loc[40, "train/contrastive"] == 1.25
    assert np.isfinite(run.metrics.loc[40, "val/contrastive"]), "validation and training share the row of a step"
    assert run.metrics.index.is_unique
    assert [row["dataset"] for row in run.record["data"]["sets"]] == ["ETHZ", "STEAD"]
    assert run.notes == ()


def test_damaged_lines_and_infinite_values_are_left_out_and_said(run_folder):
    path = run_folder(40)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 41, "train/loss": Infinity}\n{"step": 42, "train/l')
    run = read_folder(path)
    assert np.isnan(run.metrics.loc[41, "train/loss"])
    assert 42 not in run.metrics.index
    assert run.notes == ("1 damaged line of metrics.jsonl left out",)


def test_missing_files_become_notes(run_folder):
    path = run_folder(4)
    for name in ("config.json", "metrics.jsonl"):
        (path / name).unlink()
    run = read_folder(path)
    assert run.metrics.empty
    assert run.config == {}
    assert run.notes == ("config.json is missing", "metrics.jsonl is missing")


def test_a_sweep_is_read_with_its_trial_names_as_text(sweep_folder):
    sweep = read_folder(sweep_folder(12))
    assert isinstance(sweep, Sweep)
    assert sweep.trials["trial"].iloc[3] == "00003"
    assert set(sweep.history["trial"]) <= set(sweep.trials["trial"])
    assert sweep.trials["healthy"].dtype == bool
    assert sweep.best["trial"] in set(sweep.trials["trial"])


def test_a_sweep_without_columns_and_with_infinite_scores_is_read(tmp_path):
    pd.DataFrame({"trial": ["a", "b"], "objective": [np.inf, 0.5]}).to_csv(tmp_path / "trials.csv", index=False)
    sweep = read_folder(tmp_path)
    assert np.isnan(sweep.trials["objective"].iloc[0])
    assert sweep.trials["windows"].isna().all()
    assert set(sweep.notes) == {"history.csv is missing", "config.json is missing", "best.json is missing"}


def test_an_unknown_folder_names_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"neither a run .*metrics\.jsonl.* nor a sweep .*trials\.csv"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        read_folder(tmp_path / "nowhere")


def test_a_checkpoint_points_to_its_run(tmp_path):
    folder = tmp_path / "run" / "step000000012"
    folder.mkdir(parents=True)
    for name in ("state.json", "record.json", "config.json"):
        (folder / name).write_text("{}")
    with pytest.raises(ValueError, match=f"is a checkpoint: give the folder of its run, {tmp_path / 'run'}"):
        read_folder(folder)


def test_flatten_keeps_empty_dictionaries_as_values():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_the_newest_whole_checkpoint_is_taken(run_folder):
    path = run_folder(4)
    for step in (200, 1000, 30):
        write_checkpoint(path / f"step{step:09d}")
    (path / "step000002000").mkdir()  # without weights yet
    write_checkpoint(path / "step000003000.unfinished")
    write_checkpoint(path / "step000004000")
    (path / "step000004000" / FILES[-1]).unlink()  # in an object store, where it comes last
    assert read_folder(path).checkpoint.name == "step000001000"


def write_checkpoint(folder):
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("{}")


def test_a_url_is_read_as_a_folder_is(run_folder, sweep_folder, tmp_path):
    run, sweep = run_folder(40), sweep_folder(12)
    write_checkpoint(run / "step000000040")
    log = RunLog(run, 40)
    log.histogram("codebook/usage", torch.arange(32.0).reshape(2, 16), 40)
    log.close()
    for folder in (run, sweep):
        store = Location(f"memory://{tmp_path.name}/results/{folder.name}")
        store.fs.put(str(folder), store.path, recursive=True)
        here, there = read_folder(folder), read_folder(f"{store}/")
        assert type(there) is type(here)
        assert (there.config, there.record, there.notes) == (here.config, here.record, here.notes)
    assert there.trials.equals(here.trials)
    there = read_folder(f"memory://{tmp_path.name}/results/run")
    assert there.metrics.equals(read_folder(run).metrics)
    assert there.checkpoint.url == f"memory://{tmp_path.name}/results/run/step000000040"
    assert there.usage[40].tolist() == read_folder(run).usage[40].tolist()
    with pytest.raises(ValueError, match="is no folder"):
        read_folder(f"memory://{tmp_path.name}/nowhere")


def test_repeats_are_set_apart_and_health_is_read_from_any_spelling(tmp_path):
    (tmp_path / "trials.csv").write_text(
        "trial,repeat_of,healthy,windows,reason\n01,,True,5,\n02,,False,x,sick\n03,x_01,1.0,7,\n04,x_01,0,8,\n"
    )
    sweep = read_folder(tmp_path)
    assert (list(sweep.trials["trial"]), list(sweep.repeats["trial"])) == (["01", "02"], ["03", "04"])
    assert (list(sweep.trials["healthy"]), list(sweep.repeats["healthy"])) == ([True, False], [True, False])
    assert list(sweep.repeats["repeat_of"]) == ["x_01", "x_01"]
    assert (list(sweep.trials["reason"]), list(sweep.trials.index)) == (["", "sick"], [0, 1])
    assert sweep.trials["windows"].isna().tolist() == [False, True]
