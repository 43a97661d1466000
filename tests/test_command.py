"""The command line that all jobs share; one that only tells does so at once, since it imports nothing that it does not need."""

import dataclasses
import json
import subprocess
import sys

import pytest

from jobs.command import Options, parse, run
from raysys.presets import PRESETS
from raysys.record import write_run
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


@pytest.mark.parametrize("job", ["pretrain", "sweep", "prepare", "demo", "doctor", "report"])
def test_help_waits_for_no_package(job):
    text, imported = told(job, "--help")
    assert "usage" in text
    assert not imported


@pytest.mark.parametrize("job", ["pretrain", "doctor"])
def test_a_dry_run_waits_for_pytorch_alone(job):
    text, imported = told(job, "smoke", "--optim.lr", "0.5", "--dry-run")
    assert '"lr": 0.5' in text
    assert "GiB a worker" in text
    assert imported == {"torch"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithOut(Options):
    out: str = "here"


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


def test_an_error_on_purpose_is_one_line_and_any_other_a_traceback():
    config = PRESETS["smoke"]()
    with pytest.raises(SystemExit, match=r"^error: search\.space: cannot read 'nonsense'"):
        run(lambda: parse_space(("nonsense",), config))
    with pytest.raises(ValueError, match="invalid literal"):
        run(lambda: int("nonsense"))
    with pytest.raises(json.JSONDecodeError):
        run(lambda: json.loads("{"))
