"""Command lines that only tell: at once, since they import nothing that they do not need."""

import subprocess
import sys

import pytest

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
