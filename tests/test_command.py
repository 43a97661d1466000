"""The command line that all jobs share; one that only tells does so at once, since it imports nothing that it does not need."""

import dataclasses
import errno
import importlib
import json
import re
import subprocess
import sys

import aiohttp
import pytest
import ray
import ray.train

from jobs.command import Options, RunOptions, parse, run
from jobs.errors import plain_text
from raysys.config import OFTEN_CHANGED, RunConfig, keys
from raysys.presets import PRESETS
from raysys.record import read_config, write_run
from raysys.tune.space import parse_space

TELL = """
import runpy, sys
sys.argv[1:] = {arguments}
try:
    runpy.run_module("jobs.{job}", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*(name for name in ("ray", "torch", "torch._dynamo", "matplotlib", "pandas") if name in sys.modules))
"""


def told(job: str, *arguments: str) -> tuple[str, set[str]]:
    """Returns what a job printed, and which of the packages that take seconds it imported."""
    program = TELL.format(job=job, arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, imported = done.stdout.splitlines()
    return "\n".join(lines), set(imported.split())


JOBS = ["pretrain", "finetune", "evaluate", "sweep", "prepare", "demo", "data", "doctor", "report", "best"]


@pytest.mark.parametrize("job", JOBS)
def test_help_is_one_page_and_waits_for_no_package(job):
    text, imported = told(job, "--help")
    assert f"usage: python -m jobs.{job} " in text
    assert len(text.splitlines()) <= 80
    assert not imported


def test_help_shows_the_keys_that_people_change_with_the_values_of_the_preset(capsys):
    assert len(OFTEN_CHANGED) == len(set(OFTEN_CHANGED) & set(keys(RunConfig()))) == 20
    with pytest.raises(SystemExit):
        parse("Do it: python -m jobs.it base --name x", WithOut, ["smoke", "--help"])
    text = capsys.readouterr().out
    for key in OFTEN_CHANGED:
        assert re.search(rf"^  --{re.escape(key.replace('_', '-'))}( .*)?\n      \w.*$", text, re.MULTILINE), key
    for words in (
        "Do it.\n",
        "example: python -m jobs.it base --name x\n",
        "Here it is smoke:\n  The smallest model that has every part; a run takes seconds on a CPU.\n",
        "  --train.max-steps INT|None  (8)\n      Budget in optimiser steps; replaces `epochs`.\n",
        "  --out STR  (here)\n      Where it goes.\n",
        "  --dry-run  (off)\n      Say what would happen, and do nothing.\n",
        f"all {len(keys(RunConfig()))} keys",
    ):
        assert words in text


def test_help_of_all_keys_shows_them_all():
    text, imported = told("pretrain", "smoke", "--help-all")
    shown = {word.replace("-", "_") for word in re.findall(r"--([a-z_.-]+)", text)}
    assert shown >= set(keys(RunConfig()))
    assert "python -m jobs.pretrain [PRESET]" in text
    assert not imported


@pytest.mark.parametrize("job", ["demo", "doctor"])
def test_a_dry_run_without_data_waits_for_pytorch_alone(job):
    text, imported = told(job, "smoke", "--optim.lr", "0.5", "--dry-run")
    assert "GiB a worker" in text
    assert imported == {"torch"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithOut(Options):
    out: str = "here"
    """Where it goes. Or elsewhere."""


def test_a_preset_is_the_first_word_or_the_jobs_own():
    assert parse("", argv=[])[0] == PRESETS["base"]()
    assert parse("", argv=["--train.seed", "3"], preset="demo")[0] == PRESETS["demo"]().override({"train.seed": 3})
    assert parse("", argv=["large"], preset="demo")[0] == PRESETS["large"]()
    config, options = parse("", WithOut, ["smoke", "--out", "there"])
    assert (config, options) == (PRESETS["smoke"](), WithOut(out="there"))


@pytest.mark.parametrize("word", ["--from-run", "--from_run"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_run_can_be_repeated_in_every_spelling(tmp_path, word, joined):
    config = PRESETS["smoke"]().override({"optim.lr": 5e-4})
    write_run(str(tmp_path / "a=b"), config, {"data_fingerprint": "x"})
    words = [f"{word}={tmp_path}/a=b"] if joined else [word, f"{tmp_path}/a=b"]
    assert parse("", argv=[*words, "--train.seed", "2"])[0] == config.override({"train.seed": 2})


def test_a_run_that_is_repeated_never_goes_on_with_the_first(tmp_path, monkeypatch, caplog, capsys):
    config = PRESETS["smoke"]().override({"storage": str(tmp_path), "name": "mine"})
    write_run(str(tmp_path / "mine"), config, {"data_fingerprint": "x"})
    source = ["--from-run", str(tmp_path / "mine")]

    def name(*words: str, options=RunOptions) -> str:
        return parse("", options, [*source, *words])[0].name

    with caplog.at_level("INFO"):
        assert name() == "mine-2"
    assert "the new run is called mine-2; --name mine-2 goes on with it" in caplog.text
    (tmp_path / "mine-2").mkdir()
    assert name() == "mine-3"
    assert name("--name", "mine") == name("--name=mine") == "mine", "on purpose"
    assert name("--storage", str(tmp_path / "elsewhere")) == "mine"
    assert name(options=Options) == "mine", "of a job that writes no run"
    assert parse("", RunOptions, ["smoke", "--storage", str(tmp_path)])[0].name == "smoke"

    def main():
        assert parse("", RunOptions)[1].fresh
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["x", *source, "--fresh"])
    with pytest.raises(SystemExit):
        run(main, goes_on=True)
    assert capsys.readouterr().err.endswith(f"tests.test_command --from-run {tmp_path}/mine --name mine-3\n")


@pytest.mark.parametrize(
    ("job", "function"),
    [("pretrain", "train.driver.train_run"), ("finetune", "train.driver.train_run"), ("sweep", "tune.sweep.sweep")],
)
def test_fresh_keeps_what_was_there_under_another_name(tmp_path, monkeypatch, job, function):
    place, name = f"raysys.{function}".rsplit(".", 1)
    module, main = importlib.import_module(place), importlib.import_module(f"jobs.{job}").main
    seen = []
    monkeypatch.setattr(module, name, lambda config: seen.append((tmp_path / "smoke").exists()))
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "file").write_text("")
    for words in (["--dry-run", "--fresh"], [], ["--fresh"], ["--fresh"]):
        monkeypatch.setattr("sys.argv", ["x", "smoke", "--storage", str(tmp_path), "--name", "smoke", *words])
        main()
    assert seen == [True, False, False]
    assert (tmp_path / "smoke-1" / "file").exists()


def test_a_job_may_have_defaults_of_its_own():
    defaults = {"storage": "there", "train.seed": 5}
    config, _ = parse("", argv=["smoke", "--train.seed", "7"], defaults=defaults)
    assert config == PRESETS["smoke"]().override({"storage": "there", "train.seed": 7})


def test_an_error_on_purpose_is_one_line_and_any_other_a_traceback(tmp_path):
    config = PRESETS["smoke"]()
    with pytest.raises(SystemExit, match=r"^error: search\.space: cannot read 'nonsense'"):
        run(lambda: parse_space(("nonsense",), config))
    with pytest.raises(SystemExit, match=r"^error: mask\.ratio=2\.0 must lie in"):
        run(lambda: config.override({"mask.ratio": 2.0}))
    with pytest.raises(SystemExit, match=r"^error: Protocol not known: nosuch .*storage"):
        run(lambda: read_config("nosuch://x"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="Not a directory"):
        run(lambda: (tmp_path / "file" / "folder").mkdir())
    with pytest.raises(ValueError, match="invalid literal"):
        run(lambda: int("nonsense"))
    with pytest.raises(json.JSONDecodeError):
        run(lambda: json.loads("{"))
    with pytest.raises(FileNotFoundError):
        run(lambda: (tmp_path / "nothing").read_text())


HERE = 'File "/anywhere/raysys/data/index.py", line 7, in read\n    raise ValueError(\n'
ELSEWHERE = 'File "/venv/site-packages/numpy/model/x.py", line 7, in read\n    raise ValueError(\n'
OURS, THEIRS = f"{ELSEWHERE}  {HERE}ValueError: no\n", f"{HERE}  {ELSEWHERE}ValueError: no\n"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda trace: ray.exceptions.RayTaskError("read()", trace, ValueError("no")).as_instanceof_cause(),
        lambda trace: ray.train.WorkerGroupError(trace, {0: ValueError("no")}),
        lambda trace: ray.train.ControllerError(ray.train.WorkerGroupError(trace, {1: ValueError("no")})),
    ],
)
def test_an_error_of_a_worker_is_judged_by_where_the_worker_raised_it(wrap):
    assert plain_text(wrap(OURS)) == "no"
    assert plain_text(wrap(THEIRS)) is None


def test_what_the_outside_refuses_is_one_line():
    assert plain_text(ConnectionError("no Ray at 10.0.0.1")) == "no Ray at 10.0.0.1"
    refused = OSError(
        "When listing objects in bucket 'b': AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: none"
    )
    assert plain_text(refused) == str(refused)
    assert plain_text(OSError(errno.ENOSPC, "full")) == "[Errno 28] full"
    assert plain_text(aiohttp.ClientError("no answer")) == "ClientError: no answer"
    assert plain_text(OSError(errno.ENOENT, "gone")) is None


@pytest.mark.parametrize(("trace", "text"), [(OURS, "no"), (THEIRS, None)])
def test_a_workers_error_that_was_raised_again_is_judged_by_the_worker(trace, text):
    def read():
        try:
            raise ray.exceptions.RayTaskError("read()", trace, ValueError("no"))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    with pytest.raises(ValueError, match="no") as caught:
        read()
    assert plain_text(caught.value) == text


@pytest.mark.parametrize(
    ("goes_on", "says"), [(True, "Go on with:\npython -m tests.test_command a 'b c'\n"), (False, "")]
)
def test_ctrl_c_says_how_to_go_on_where_that_can_be(monkeypatch, capsys, goes_on, says):
    def main():
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["x", "a", "b c"])
    with pytest.raises(SystemExit) as end:
        run(main, goes_on=goes_on)
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted")
    assert said.endswith(says or "interrupted\n")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("report /nope", "/nope is no folder"),
        ("best /nope", "/nope: no config.json"),
        ("pretrain --from-run /nope", "/nope: no config.json"),
        ("doctor --from-run /nope", "/nope: no config.json"),
        ("data smoke --data.root /nope", "data.root=/nope"),
    ],
)
def test_no_job_shows_a_traceback_of_an_error_on_purpose(command, says):
    done = subprocess.run([sys.executable, "-m", *f"jobs.{command}".split()], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {says}")
    assert "Traceback" not in done.stderr
