"""The kernels on the CPU, in Triton's interpreter: all files `interpreted*.py` beside this one, in one process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def run_interpreted(marks):
    """Runs the tests of the files that have these marks with TRITON_INTERPRET=1, and fails as they do."""
    files = sorted(Path(__file__).parent.glob("interpreted*.py"))
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", marks]
    environment = outer | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, files)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_every_kernel_equals_its_reference():
    run_interpreted("not slow")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_equal_their_references_at_other_sizes():
    run_interpreted("slow")
