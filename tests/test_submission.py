"""`ray job submit` as docs/cluster.md says it: what travels, how a job ends, and how it is stopped and goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from ray._private import ray_constants
from ray._private.runtime_env.packaging import create_package

from tests.ray_head import RAY, TOKEN, ray_head

ROOT = Path(__file__).parents[1]
GRACE_S = 60


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The files of this repository, as a clone has them."""
    folder = tmp_path_factory.mktemp("checkout") / "raysys"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def test_a_submission_brings_the_code_and_no_data_results_or_environment(checkout, tmp_path):
    used = [
        *(".venv/lib/python3.11/site-packages/ray/__init__.py", ".git/objects/pack", "raysys/__pycache__/cluster.pyc"),
        *("results/smoke/config.json", "results/smoke/step000000008/model.safetensors", "data/STEAD/waveforms.hdf5"),
        *("data/STEAD/metadata.csv", "shards/many/00000.arrow", "my.hdf5", "cache/index.arrow", "runs/x/optimizer.pt"),
    ]
    for name in used:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(os.urandom(1 << 18))
    package = tmp_path / "package.zip"
    excludes = ray_constants.get_runtime_env_default_excludes()  # as `ray job submit --working-dir` does
    create_package(str(checkout), package, include_gitignore=True, excludes=excludes)
    for name in used:
        (checkout / name).unlink()
    names = set(zipfile.ZipFile(package).namelist())
    code = {
        str(path.relative_to(checkout)) for top in ("jobs", "raysys", "model") for path in (checkout / top).rglob("*.*")
    }
    assert code | {"constraints.txt", "deploy/spot_watch.py"} <= names, "all files of the packages"
    assert [name for name in used if name in names] == []
    assert package.stat().st_size < 3e6


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with ray_head(tmp_path_factory.mktemp("head") / "head.log") as environment:
        yield environment


def ray_job(environment: dict, *words: str, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run([str(RAY), "job", *words], env=environment, capture_output=True, text=True, timeout=timeout)


def told(environment: dict, job: str) -> dict:
    """What the job server says of a job."""
    url = f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{job}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def submit(environment: dict, checkout: Path, job: str, words: list[str], *more: str) -> subprocess.CompletedProcess:
    runtime = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S), "OMP_NUM_THREADS": "1"}})
    ours = ["--working-dir", str(checkout), "--runtime-env-json", runtime, "--submission-id", job, *more]
    return ray_job(environment, "submit", *ours, "--", sys.executable, "-m", "jobs.pretrain", "smoke", *words)


def log_of(environment: dict, job: str, pattern: str, limit_s: float = 240) -> str:
    """The log of a job, once it holds something."""
    until = time.monotonic() + limit_s
    while not re.search(pattern, text := ray_job(environment, "logs", job).stdout):
        assert time.monotonic() < until, text
        assert told(environment, job)["status"] in ("PENDING", "RUNNING"), text
        time.sleep(0.5)
    return text


@pytest.mark.slow
def test_exit_codes_of_a_submission(head, checkout, smoke, tmp_path):
    """0 when it is finished; 1 for whatever failed, and the job server knows the code of the job itself."""
    words = [f"--storage={tmp_path}", f"--data.root={smoke.data.root}", f"--data.cache={smoke.data.cache}"]
    done = submit(head, checkout, "good", [*words, "--train.max-steps=4", "--train.validate-every=4"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 4/4" in done.stdout + done.stderr, "the log is followed"
    assert (told(head, "good")["status"], told(head, "good")["driver_exit_code"]) == ("SUCCEEDED", 0)
    done = submit(head, checkout, "bad", [*words, "--train.max-stebs=4"])
    assert done.returncode == 1
    assert "--train.max-steps" in done.stdout + done.stderr, "the nearest option"
    assert told(head, "bad")["status"] == "FAILED"
    assert told(head, "bad")["driver_exit_code"] not in (0, None)


@pytest.mark.slow
def test_a_job_that_is_stopped_leaves_a_checkpoint_and_the_same_submission_goes_on(head, checkout, smoke, tmp_path):
    run = tmp_path / "smoke"
    words = [f"--storage={tmp_path}", f"--data.root={smoke.data.root}", f"--data.cache={smoke.data.cache}"]
    words += ["--train.max-steps=2000", "--train.validate-every=1000", "--train.cpus-per-worker=0.5"]
    assert submit(head, checkout, "first", words, "--no-wait").returncode == 0
    log = run / "console.log"
    log_of(head, "first", "step 20/2000")
    begin = time.monotonic()
    stopped = ray_job(head, "stop", "first")
    assert stopped.returncode == 0, stopped.stderr
    assert time.monotonic() - begin < GRACE_S
    assert told(head, "first")["status"] == "STOPPED"
    [checkpoint] = run.glob("step*[0-9]")
    step = int(checkpoint.name.removeprefix("step"))
    assert 20 <= step < 1000
    assert not (run / "driver.json").exists(), "the driver has left the folder by itself"
    assert "told to stop" in log.read_text()
    assert "SystemExit(143)" in log.read_text()
    assert submit(head, checkout, "second", words, "--no-wait").returncode == 0
    log_of(head, "second", rf"(?s)going on after step {step},.*step {step // 10 * 10 + 20}/2000")
    assert ray_job(head, "stop", "second").returncode == 0
    assert len(re.findall("^--- 20", log.read_text(), re.M)) == 2, "both starts are in it"
    assert TOKEN not in log.read_text()
