"""What a folder says of the run in it, at its start and whenever it goes on."""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from raysys import record as module
from raysys.config import MAY_CHANGE, RunConfig
from raysys.lease import LEASE, hold
from raysys.location import Location
from raysys.presets import PRESETS
from raysys.record import note_devices, read_config, run_record, set_aside, write_run

CONFIG = PRESETS["smoke"]()


def of(**other) -> dict:
    """The record of one process."""
    return {"time": "1", "command": "first", "seed": 0, "data_fingerprint": "x", "data": {"sets": []}} | other


def test_a_record_names_seed_data_versions_and_command():
    config = CONFIG.override({"train.seed": 7})
    record = run_record(config, "abc", {"sets": [1]})
    assert (record["seed"], record["data_fingerprint"], record["data"]) == (7, "abc", {"sets": [1]})
    assert record["command"].split() == " ".join(sys.orig_argv).split()
    assert record["versions"].keys() >= {"python", "ray", "torch", "triton", "xlstm", "numpy", "pyarrow", "h5py"}
    assert record["versions"]["torch"] == version("torch")
    assert json.loads(json.dumps(record)) == record


def test_a_record_holds_the_commit_and_every_change_since(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    for name in ("staged", "changed"):
        (tmp_path / name).write_text("old\n")
    git("add", ".")
    git("commit", "-m", "first")
    for name in ("staged", "changed"):
        (tmp_path / name).write_text(f"new {name}\n")
    git("add", "staged")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "record.py"))
    record = run_record(CONFIG, "", {})
    assert record["git_commit"] == git("rev-parse", "HEAD").strip()
    diff = git("diff", "HEAD").strip()
    assert {"+new staged", "+new changed", "-old"} <= set(diff.splitlines())
    assert record["git_diff_sha256"] == hashlib.sha256(diff.encode()).hexdigest()
    assert "new staged" not in json.dumps(record), "it travels with every checkpoint"
    run = tmp_path / "run"
    write_run(str(run), CONFIG, record)
    assert (run / "uncommitted.diff").read_text() == diff + "\n"
    write_run(str(run), CONFIG, run_record(CONFIG, "", {}))
    assert len(list(run.glob("*.diff"))) == 1, "the same code again"
    (tmp_path / "changed").write_text("token=s3://a:hush@b\n" + "x" * (1 << 20))
    write_run(str(run), CONFIG, run_record(CONFIG, "", {}))
    cut = (run / "uncommitted-3.diff").read_text()
    assert len(cut) < (1 << 20) + 100
    assert cut.endswith("are kept]\n")
    assert "hush" not in cut
    git("commit", "-am", "second")
    assert run_record(CONFIG, "", {})["git_diff_sha256"] == ""


def test_a_command_is_recorded_without_its_credentials(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "--storage", "s3://key:hush@b", "--my-token", "hush"])
    assert run_record(CONFIG, "", {})["command"] == "python --storage s3://***@b --my-token ***"
    with pytest.raises(ValueError, match="holds credentials"):
        write_run("memory://nowhere", CONFIG.override({"storage": "s3://key:hush@b"}), of())


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_every_start_notes_the_devices_of_its_workers(tmp_path, place):
    run = Location(tmp_path / "run" if place == "disk" else f"memory://{tmp_path.name}/run")
    write_run(run.url, CONFIG, of())
    note_devices(run, ["H200", "L4"])
    write_run(run.url, CONFIG, of())
    note_devices(run, ["L4"])
    record = (run / "record.json").read_json()
    assert (record["devices"], record["continuations"][0]["devices"]) == (["H200", "L4"], ["L4"])


def test_without_git_the_record_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "record.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_record(CONFIG, "", {})["git_commit"] is None


def test_a_run_that_goes_on_keeps_its_beginning_and_lists_its_continuations(tmp_path):
    folder = str(tmp_path / "run")
    assert write_run(folder, CONFIG, of()) == CONFIG
    changed = CONFIG.override({"train.num_workers": 3})
    assert write_run(folder, changed, of(time="2", command="second", seed=9), MAY_CHANGE) == CONFIG
    assert write_run(folder, CONFIG, of(time="3", command="third"), MAY_CHANGE) == CONFIG
    assert read_config(folder) == CONFIG
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record.pop("continuations") == [
        {"time": "2", "command": "second", "changes": {"train.num_workers": [1, 3]}},
        {"time": "3", "command": "third", "changes": {}},
    ]
    assert record == of(kind="run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "record.json"}


def test_only_the_keys_that_may_change_do(tmp_path):
    write_run(str(tmp_path), CONFIG, of())
    both = CONFIG.override({"train.num_workers": 3, "optim.lr": 2e-3})
    with pytest.raises(ValueError, match=r"another configuration:\n  optim\.lr: 0\.001 -> 0\.002\nGive") as refused:
        write_run(str(tmp_path), both, of(), MAY_CHANGE)
    assert "num_workers" not in str(refused.value)
    with pytest.raises(ValueError, match=r"train\.num_workers: 1 -> 3"):
        write_run(str(tmp_path), CONFIG.override({"train.num_workers": 3}), of())
    with pytest.raises(ValueError, match=r"fingerprint x, now y"):
        write_run(str(tmp_path), CONFIG, of(data_fingerprint="y"), MAY_CHANGE)
    assert "continuations" not in json.loads((tmp_path / "record.json").read_text())


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path) -> Location:
    return Location(tmp_path / "run" if request.param == "disk" else f"memory://{tmp_path.name}/run")


@pytest.mark.parametrize(("kind", "other"), [("run", "sweep"), ("sweep", "run")])
def test_a_folder_that_holds_something_else_is_refused(place, kind, other):
    write_run(place.url, CONFIG, of(), kind=kind)
    write_run(place.url, CONFIG, of(), kind=kind)
    with pytest.raises(ValueError, match=f"holds a {kind}, so no {other} can be written there: .* another --name"):
        write_run(place.url, CONFIG, of(), kind=other)


@pytest.mark.parametrize(
    ("file", "holds"),
    [("trials.csv", "sweep"), ("state.zip", "sweep"), ("metrics.jsonl", "run"), ("step000000004/state.json", "run")],
)
def test_what_was_written_before_records_said_their_kind_is_known_by_its_files(place, file, holds):
    (place / "config.json").write_json(CONFIG.to_dict())
    (place / "record.json").write_json(of())
    (place / file).write("")
    other = "sweep" if holds == "run" else "run"
    with pytest.raises(ValueError, match=f"holds a {holds}"):
        write_run(place.url, CONFIG, of(), kind=other)
    write_run(place.url, CONFIG, of(), kind=holds)
    assert (place / "record.json").read_json()["kind"] == holds


def test_nothing_is_written_into_a_checkpoint(place):
    for name, content in (("config.json", CONFIG.to_dict()), ("record.json", of(kind="run")), ("state.json", {})):
        (place / name).write_json(content)
    with pytest.raises(ValueError, match="holds a checkpoint"):
        write_run(place.url, CONFIG, of())


def test_what_is_set_aside_keeps_all_under_the_next_free_name(place, caplog):
    set_aside(place)
    assert not place.exists(), "nothing to set aside"
    for number in (1, 2):
        write_run(place.url, CONFIG, of(time=str(number)))
        (place / "step000000004/state.json").write_json({})
        with hold(place), pytest.raises(ValueError, match="another driver"):
            set_aside(place)
        with caplog.at_level("INFO"):
            set_aside(place)
        aside = place.parent / f"run-{number}"
        assert not place.exists()
        assert (aside / "record.json").read_json()["time"] == str(number)
        assert (aside / "step000000004/state.json").exists()
        assert not (aside / LEASE).exists()
        assert f"{place} is {aside} now" in caplog.text


def test_the_configuration_of_a_sweep_is_that_of_its_best_trial(tmp_path):
    best = RunConfig(name="best").override({"loss.temperature": 0.3})
    (tmp_path / "config.json").write_text(json.dumps(RunConfig(name="base").to_dict()))
    (tmp_path / "best.json").write_text(json.dumps({"trial": "a", "config": best.to_dict()}))
    assert read_config(str(tmp_path)) == best
