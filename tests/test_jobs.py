"""Jobs as people run them: `ray job submit` against a head that `ray start` started."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.local_cluster import free_port

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The environment of a shell that may talk to a head node with token authentication."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    dashboard, address = free_port(), f"127.0.0.1:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_TMPDIR": f"/tmp/rt{os.getpid()}",
    }
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    started = subprocess.Popen(
        [
            str(RAY), "start", "--head", "--block", f"--port={address.split(':')[1]}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}",
            f"--temp-dir={environment['RAY_TMPDIR']}", "--num-cpus=2", "--object-store-memory=400000000",
            "--include-dashboard=true", "--disable-usage-stats",
        ],
        env=environment, stdout=(folder / "head.log").open("w"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    environment |= {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    for _ in range(120):
        listed = subprocess.run([str(RAY), "job", "list"], env=environment, capture_output=True, text=True)
        if listed.returncode == 0:
            break
        time.sleep(1)
    else:
        raise RuntimeError((folder / "head.log").read_text() + listed.stderr)
    yield environment
    os.killpg(started.pid, 15)
    time.sleep(1)
    os.killpg(started.pid, 9)


def submit(environment, *entrypoint: str, options: tuple[str, ...] = ()) -> str:
    """Submits one job and returns what `ray job submit` printed; it waits for the job's end unless the options say no."""
    excludes = json.dumps({"excludes": ["*.hdf5", ".venv", "results"]})
    command = [str(RAY), "job", "submit", "--working-dir", str(ROOT), "--runtime-env-json", excludes, *options]
    command += ["--", sys.executable, *entrypoint]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_a_job_is_submitted_followed_and_stopped(head, smoke, tmp_path):
    values = {"storage": tmp_path, "data.root": smoke.data.root, "data.cache": tmp_path / "cache"}
    values |= {"train.max-steps": 100_000, "train.validate-every": 10}
    words = ("-m", "jobs.pretrain", "smoke", *(f"--{key}={value}" for key, value in values.items()))
    submit(head, *words, options=("--no-wait", "--submission-id", "endless"))
    follow = [str(RAY), "job", "logs", "--follow", "endless"]
    with subprocess.Popen(follow, env=head, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
        assert any("step 30/100000" in line for line in following.stdout), "the log ended before step 30"
        stopped = subprocess.run([str(RAY), "job", "stop", "endless"], env=head, capture_output=True, text=True)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        following.stdout.read()  # ends with the job
    status = subprocess.run([str(RAY), "job", "status", "endless"], env=head, capture_output=True, text=True)
    assert "STOPPED" in (status.stdout + status.stderr).upper()
    assert list((tmp_path / "smoke").glob("step*/model.safetensors")), "what the next submission goes on from"


def test_every_job_runs_in_a_submitted_one(head, miniatures, tmp_path):
    """prepare -> pretrain -> sweep, then what needs them."""
    shards, results, page = tmp_path / "shards", tmp_path / "results", tmp_path / "report.html"
    common = f"--data.cache {tmp_path}/cache --storage {results}"
    data = f"--data.root {shards} {common}"
    printed = submit(
        head,
        str(ROOT / "tests" / "jobs_in_a_row.py"),  # a submission leaves the tests at home
        f"prepare smoke --data.root {miniatures} --data.datasets STEAD InstanceCounts Iquique --out {shards} {common}",
        f"sweep smoke --name sweep --train.max-steps 4 --search.num-trials 2 --search.min-perplexity-fraction 0.0 {data}",
        f"pretrain --from-run {results}/sweep --name again {data}",
        f"report {results}/again {results}/sweep --out {page}",
        "demo --dry-run",
        f"data smoke {data}",
        f"doctor smoke {data}",
    )
    assert (shards / "stead" / "manifest.json").exists()
    assert "step 4/4" in printed
    best = json.loads((results / "sweep" / "best.json").read_text())
    again = json.loads((results / "again" / "config.json").read_text())
    assert again["loss"]["temperature"] == best["tuned"]["loss.temperature"]
    assert "<html" in page.read_text()[:500].lower()
    assert re.search(r"^stead: \d+ traces$", printed, re.MULTILINE | re.IGNORECASE)
    assert f"next: python -m jobs.report {results}/again" in printed
    assert "OK" in printed.split("## doctor")[1]
