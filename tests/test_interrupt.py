"""Ctrl-C on a run in a cluster that it has joined: it ends soon, says how to go on, and leaves nothing that asks for machines."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.local_cluster import free_port

RAY = Path(sys.executable).with_name("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a shell beside `ray start --head` with one CPU."""
    address, log = f"127.0.0.1:{free_port()}", tmp_path_factory.mktemp("head") / "head.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_TMPDIR": f"/tmp/ri{os.getpid()}",
    }
    started = subprocess.Popen(
        [
            str(RAY), "start", "--head", "--block", f"--port={address.split(':')[1]}", f"--dashboard-port={free_port()}",
            f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}",
            f"--temp-dir={environment['RAY_TMPDIR']}", "--num-cpus=1", "--object-store-memory=200000000",
            "--include-dashboard=true", "--disable-usage-stats",
        ],
        env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    environment |= {"RAY_ADDRESS": address}
    for _ in range(60):
        if subprocess.run([str(RAY), "status"], env=environment, capture_output=True).returncode == 0:
            break
        time.sleep(1)
    else:
        raise RuntimeError(log.read_text())
    yield environment
    os.killpg(started.pid, signal.SIGTERM)
    time.sleep(1)
    os.killpg(started.pid, signal.SIGKILL)


def interrupted(words: list[str], environment: dict, line: str, wait_s: float) -> tuple[int, str, float]:
    """Return code and standard error of a job that gets SIGINT some time after a line of its log, and how long it took to end."""
    command = [sys.executable, "-m", "jobs.pretrain", "smoke", *words]
    job = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    said = ""
    while line not in said:
        said += (new := job.stderr.readline())
        assert new, said
    time.sleep(wait_s)
    start = time.monotonic()
    job.send_signal(signal.SIGINT)
    try:
        said += job.communicate(timeout=60)[1]
    finally:
        job.kill()
    return job.returncode, said, time.monotonic() - start


@pytest.mark.parametrize(
    ("line", "values", "wait_s"),
    [
        ("waiting for nodes", ["--train.num-workers=4"], 12.0),
        ("step 30/", ["--train.max-steps=100000", "--train.validate-every=10"], 0.0),
    ],
)
def test_ctrl_c_ends_a_run_soon(cluster, smoke, tmp_path, line, values, wait_s):
    words = [f"--storage={tmp_path}", f"--data.root={smoke.data.root}", f"--data.cache={smoke.data.cache}", *values]
    words += ["--train.cpus-per-worker=0.5"]
    code, said, seconds = interrupted(words, cluster, line, wait_s)
    assert code == 130, said[-4000:]
    assert seconds < 20, said[-4000:]  # 15 s, and some for a busy machine
    assert f"Go on with:\npython -m jobs.pretrain smoke {' '.join(words)}\n" in said
    ours = said[said.rindex("interrupted;") :].splitlines()
    assert not any("Traceback" in one for one in ours if "(PlacementGroupCleaner " not in one), said[
        -4000:
    ]  # Ray's own
    assert not (tmp_path / "smoke" / "driver.json").exists()
    if wait_s == 0:
        assert list((tmp_path / "smoke").glob("step*[0-9]/model.safetensors")), "what the next one goes on from"
    for _ in range(60):
        status = subprocess.run([str(RAY), "status"], env=cluster, capture_output=True, text=True).stdout
        if re.search(r"0\.0/1\.0 CPU", status) and "(no resource demands)" in status:
            break
        time.sleep(1)
    else:
        raise AssertionError(status)
