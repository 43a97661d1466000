"""Whoever reaches a port of Ray without its token is refused, on every way that docs/cluster.md tells to start it."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ray_head import RAY, TOKEN, ray_head

ROOT = Path(__file__).parents[1]
OWN = """
import sys
import raysys
import ray
from raysys.cluster import connect
connect(num_cpus=1)
context = ray.init(ignore_reinit_error=True)
print(context.dashboard_url, ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
JOIN = """
import sys
import raysys
from raysys.cluster import connect
connect()
"""


def code(url: str, token: str | None = None, body: dict | None = None) -> int:
    """The answer to a request: GET, or POST with a body."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, headers=headers, data=json.dumps(body).encode() if body else None)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def refuses(dashboard: str, mark: Path) -> None:
    """The pages that read, and the one that runs commands."""
    job = {"entrypoint": f"touch {mark}"}
    for path in (
        "/api/jobs/",
        "/api/version",
        "/nodes?view=summary",
        "/api/v0/tasks",
        "/api/v0/logs",
        "/logical/actors",
    ):
        assert code(dashboard + path) == 401, path
        assert code(dashboard + path, token="0" * 64) in (401, 403), path
    for token in (None, "0" * 64):
        assert code(f"{dashboard}/api/jobs/", token, job) in (401, 403)


@pytest.mark.slow
def test_a_head_refuses_who_has_no_token(tmp_path):
    with ray_head(tmp_path / "head.log") as shell:
        dashboard, agent = shell["RAY_API_SERVER_ADDRESS"], f"http://127.0.0.1:{shell['AGENT_PORT']}"
        refuses(dashboard, tmp_path / "ran")
        assert code(f"{agent}/api/job_agent/jobs/", None, {"entrypoint": f"touch {tmp_path / 'ran'}"}) == 401
        assert code(f"{dashboard}/api/jobs/", TOKEN) == 200

        bare = {key: value for key, value in shell.items() if key != "RAY_AUTH_TOKEN"} | {"HOME": str(tmp_path)}
        submit = [str(RAY), "job", "submit", "--", "touch", str(tmp_path / "ran")]
        for token in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
            done = subprocess.run(submit, env=bare | token, capture_output=True, text=True, timeout=120)
            assert done.returncode != 0
            assert re.search("(?i)unauth|token", done.stdout + done.stderr), done.stderr
        address = {"RAY_ADDRESS": f"127.0.0.1:{shell['GCS_PORT']}", "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": "0" * 64}
        join = [sys.executable, "-c", JOIN]
        done = subprocess.run(join, env=bare | address, capture_output=True, text=True, timeout=180)
        assert done.returncode != 0
        assert re.search("(?i)unauth|token", done.stdout + done.stderr), done.stderr
        assert TOKEN not in (tmp_path / "head.log").read_text()
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_ray_of_a_job_refuses_who_has_no_token(own_ray, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", OWN], env=own_ray, **pipes) as process:
        dashboard, gcs = process.stdout.readline().split()
        assert gcs.startswith("127.0.0.1:")
        refuses(f"http://{dashboard}", tmp_path / "ran")
        assert code(f"http://{dashboard}/api/version", own_ray["RAY_AUTH_TOKEN"]) == 200
        process.communicate("", timeout=60)
    assert not (tmp_path / "ran").exists()


def test_every_ray_that_the_documents_start_has_a_token():
    """deploy/ and cluster.yaml: tests/test_cluster_files.py."""
    blocks = [
        (path.name, block)
        for path in (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")))
        for block in re.findall(r"```\w*\n(.*?)```", path.read_text(), re.S)
    ]
    starts = [(name, block) for name, block in blocks if re.search(r"^\s*ray start\b", block, re.M)]
    assert "cluster.md" in {name for name, _ in starts}
    for name, block in starts:
        assert re.search(r"export RAY_AUTH_MODE=token\b.*^\s*ray start", block, re.S | re.M), f"{name}: {block}"
        assert "0.0.0.0" not in block
