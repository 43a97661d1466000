"""Finished runs that are extended: which budgets may follow, and what is computed in a new stage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.pretrain import PretrainModel
from raysys.location import Location
from raysys.ray_internals import CHECKPOINT_LIST
from raysys.record import write_run
from raysys.train.loop import Budget
from raysys.train.stages import BUDGET, plan_stages
from tests.train.local import local_trainer

EPOCH = 100


def begun(run: Location, config, *, windows: int | None, validations_since: int = 0) -> None:
    """Writes a run of this configuration whose newest checkpoint is of so many windows."""
    stages = plan_stages(run, config, EPOCH)
    write_run(run.url, config, {"data_fingerprint": "x", "stages": stages}, BUDGET)
    if windows is not None:
        newest = {"checkpoint_dir_name": "step1", "metrics": {"windows": windows}}
        (run / CHECKPOINT_LIST).write_json({"latest_checkpoint_result": newest})
        (run / "step1/state.json").write_json({"best": {"score": 0.1, "validations_since": validations_since}})


@pytest.fixture
def run(tmp_path) -> Location:
    return Location(tmp_path / "run")


def test_only_a_finished_run_is_extended_and_every_stage_is_written_down(smoke, run):
    def with_steps(steps: int):
        return smoke.override({"train.max_steps": steps})

    for steps, before in ((8, 0), (12, 32), (20, 48)):
        config, windows = with_steps(steps), 4 * steps
        begun(run, config, windows=None if steps == 8 else before)
        stages = (run / "record.json").read_json()["stages"]
        assert stages[-1] == {"from": before, "to": windows, "max_steps": steps, "epochs": smoke.train.epochs}
        begun(run, config, windows=windows - 4)
        assert plan_stages(run, config, EPOCH) == stages, "goes on as it began"
        with pytest.raises(ValueError, match=rf"not finished.*max_steps={steps}, now train\.max_steps={steps + 4}"):
            plan_stages(run, with_steps(steps + 4), EPOCH)
        begun(run, config, windows=windows)
        with pytest.raises(ValueError, match=rf"cannot shrink .*max_steps={steps}, now train\.max_steps={steps - 1}\)"):
            plan_stages(run, with_steps(steps - 1), EPOCH)
    assert [(stage["from"], stage["to"]) for stage in stages] == [(0, 32), (32, 48), (48, 80)]


def test_a_run_that_was_written_before_there_were_stages_is_extended(smoke, run):
    begun(run, smoke, windows=32)
    record = (run / "record.json").read_json()
    del record["stages"]
    (run / "record.json").write_json(record)
    longer = smoke.override({"train.max_steps": None, "train.epochs": 0.5, "train.num_workers": 3})
    assert [stage["to"] for stage in plan_stages(run, longer, EPOCH)] == [32, 50], "of the workers that it began with"


def test_a_run_that_its_patience_ended_is_extended_from_there(smoke, run):
    patient = smoke.override({"train.patience": 3})
    begun(run, patient, windows=20, validations_since=2)
    longer = patient.override({"train.max_steps": 12})
    with pytest.raises(ValueError, match="not finished"):
        plan_stages(run, longer, EPOCH)
    begun(run, patient, windows=20, validations_since=3)
    assert plan_stages(run, longer, EPOCH)[-1]["from"] == 20


def test_the_learning_rate_has_a_schedule_of_the_stage_and_temperatures_stay_at_their_end(smoke):
    first, second = Budget.of(smoke, EPOCH), Budget.of(smoke.override({"train.max_steps": 12}), EPOCH, 32)
    assert [first.progress(w) for w in (0, 16, 32)] == [first.annealed(w) for w in (0, 16, 32)] == [0, 0.5, 1]
    assert [second.progress(w) for w in (32, 40, 48)] == [0, 0.5, 1]
    assert {second.annealed(w) for w in (32, 40, 48)} == {1.0}


def test_a_stage_is_the_same_however_often_it_is_interrupted(smoke, data, tmp_path, monkeypatch):
    config = smoke.override({"train.patience": 100})
    longer = config.override({"train.max_steps": 16})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        local_trainer(config, data, folder).run()
    schedules, set_schedule = [], PretrainModel.set_schedule
    monkeypatch.setattr(PretrainModel, "set_schedule", lambda m, p: schedules.append(p) or set_schedule(m, p))
    stage = local_trainer(longer, data, whole, tmp_path / "log", start=32)
    assert stage.best.validations_since == 0
    assert stage.run()["windows"] == 64
    assert set(schedules) == {1.0}
    first = local_trainer(longer, data, parts, start=32)
    first.steps_left = 4
    first.run()
    second = local_trainer(longer, data, parts, start=32)
    assert second.step == 12
    second.run()
    for file in ("model.safetensors", "optim.safetensors"):
        expected, got = (load_file(folder / "step000000016" / file) for folder in (whole, parts))
        assert all(torch.equal(expected[key], got[key]) for key in expected), file
    lines = map(json.loads, Path(tmp_path / "log" / "metrics.jsonl").read_text().splitlines())
    rates = {line["step"]: line["optim/lr"] for line in lines if "optim/lr" in line}
    assert rates[10] > rates[12] > rates[14] > rates[16] == pytest.approx(0, abs=1e-12), "from the peak again"
