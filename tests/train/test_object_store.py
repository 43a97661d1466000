"""Runs whose storage is an S3 server that fails in the middle of a checkpoint."""

import json
import subprocess
import sys

import pyarrow.fs as pafs
import pytest

from raysys.location import Location
from raysys.ray_internals import CHECKPOINT_LIST
from raysys.train.checkpoint import FILES
from raysys.train.storage import LAST, Upload, newest_checkpoint, repair_checkpoint_list
from tests.data.test_object_store import FaultyStore

boto3 = pytest.importorskip("boto3")
pytestmark = pytest.mark.slow
BUCKET = "runs"


class HalfwayStore(FaultyStore):
    """An S3 server that takes the first object whose key holds `victim`, and then neither another nor a deletion."""

    def __init__(self):
        super().__init__()
        self.victim, self.taken = "", 0

    def __call__(self, environ, start_response):
        if not self._fails(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]):
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
        start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def _fails(self, method: str, path: str, query: str) -> bool:
        if not self.victim or method in ("GET", "HEAD"):
            return False
        if method == "POST" and query.startswith("delete"):  # of a folder
            return self.taken > 0
        if self.victim not in path or path.endswith("/"):
            return False
        with self._lock:
            taken, self.taken = self.taken, self.taken + ("uploadId" in query and method == "POST")  # an object's end
        return taken > 0


@pytest.fixture
def store(monkeypatch):
    """The server with an empty bucket, known to every S3 client of this process and its children."""
    import s3fs

    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = HalfwayStore()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()


def files(name: str) -> set[str]:
    """The names of the objects of a checkpoint."""
    listing = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get("Contents", [])
    return {entry["Key"].rsplit("/", 1)[1] for entry in listing} - {""}


def test_an_upload_that_fails_halfway_lacks_its_last_file_and_the_next_attempt_is_whole(store, caplog):
    def write(folder):
        for name in FILES:
            (folder / name).write_text(name)

    storage, _ = pafs.FileSystem.from_uri(f"s3://{BUCKET}")
    store.victim = "step000000008"
    assert not Upload(write, storage, f"{BUCKET}/run/step000000008").wait()
    assert "ALARM checkpoint" in caplog.text
    half = files("run/step000000008")
    assert half, "what was uploaded could not be deleted"
    assert LAST not in half
    store.victim = ""
    assert Upload(write, storage, f"{BUCKET}/run/step000000008").wait()
    assert files("run/step000000008") == set(FILES)


def test_a_run_outlives_an_upload_that_fails_halfway_and_never_takes_it_for_a_checkpoint(store, smoke, own_ray):
    store.victim = "step000000008"
    words = [sys.executable, "-m", "jobs.pretrain", "smoke", "--name=run", f"--storage=s3://{BUCKET}/results"]
    words += [f"--data.root={smoke.data.root}", f"--data.cache={smoke.data.cache}", "--train.max-steps=12"]
    done = subprocess.run(words, env=own_ray, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    store.victim = ""
    [alarm] = [line for line in done.stderr.splitlines() if "ALARM checkpoint" in line]
    assert "step000000008" in alarm
    run = "results/run/step{:09d}".format
    assert [files(run(step)) for step in (4, 12)] == [set(FILES)] * 2, "the one before stays, the next one is whole"
    assert files(run(8)), "the half checkpoint is still there"
    assert files(run(8)) < set(FILES)
    s3, key = boto3.client("s3"), f"results/run/{CHECKPOINT_LIST}"
    known = json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["checkpoint_results"]
    assert sorted(result["checkpoint_dir_name"] for result in known) == ["step000000004", "step000000012"]

    for name in FILES:  # and when the list and the newest checkpoint are lost, the half one is not the newest
        s3.delete_object(Bucket=BUCKET, Key=f"{run(12)}/{name}")
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"{")
    repair_checkpoint_list(Location(f"s3://{BUCKET}/results/run"))
    assert newest_checkpoint(Location(f"s3://{BUCKET}/results/run")) == "step000000004"
