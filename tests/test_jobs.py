"""Jobs as people run them: `ray job submit` against a head that `ray start` started."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node of its own, with token authentication, and the environment of a shell that may talk to it."""
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


def submit(environment, entrypoint: str) -> str:
    """Runs one job to its end and returns what it printed."""
    excludes = json.dumps({"excludes": ["*.hdf5", ".venv", "results"]})
    command = [str(RAY), "job", "submit", "--working-dir", str(ROOT), "--runtime-env-json", excludes]
    command += ["--", sys.executable, "-m", *entrypoint.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_every_job_runs_under_ray_job_submit(head, miniatures, tmp_path):
    """prepare -> pretrain -> sweep, then what needs them, two at a time, each a job of its own."""
    shards, results, page = tmp_path / "shards", tmp_path / "results", tmp_path / "report.html"
    common = f"--data.cache {tmp_path}/cache --storage {results}"
    submit(
        head,
        f"jobs.prepare smoke --data.root {miniatures} --data.datasets STEAD MLAAPDE PNW --out {shards} {common}",
    )
    assert (shards / "stead" / "manifest.json").exists()
    data = f"--data.root {shards} {common}"
    search = "--train.max-steps 4 --search.num-trials 2 --search.min-used-fraction 0.0"
    with ThreadPoolExecutor(2) as pool:
        first = (f"jobs.pretrain smoke --train.max-steps 4 {data}", f"jobs.sweep smoke --name sweep {search} {data}")
        pretrained, _ = pool.map(partial(submit, head), first)
        assert "step 4/4" in pretrained
        best = json.loads((results / "sweep" / "best.json").read_text())
        rest = (
            f"jobs.pretrain --from-run {results}/sweep --name again --data.root {shards} {common}",
            f"jobs.report {results}/smoke {results}/sweep --out {page}",
            f"jobs.doctor smoke {data}",
            "jobs.demo --dry-run",
        )
        *_, doctor, _ = pool.map(partial(submit, head), rest)
    again = json.loads((results / "again" / "config.json").read_text())
    assert again["loss"]["temperature"] == best["tuned"]["loss.temperature"]
    assert "<html" in page.read_text()[:500].lower()
    assert "OK" in doctor
