"""The storage of a run: checkpoints that appear whole, logs that follow, and Ray Train's list of checkpoints repaired."""

import errno
import json
import logging
import pickle
import threading
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import ray.train
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from raysys.location import Location
from raysys.ray_internals import CHECKPOINT_LIST
from raysys.train.checkpoint import FILES
from raysys.train.storage import LAST, RemoteLogs, Upload, newest_checkpoint, passes, persist, repair_checkpoint_list


def test_a_checkpoint_appears_under_its_name_only_when_it_is_whole(tmp_path):
    go, started = threading.Event(), threading.Event()

    def write(folder: Path) -> None:
        (folder / "first").write_text("1")
        started.set()
        go.wait(10)
        (folder / "second").write_text("2")

    upload = Upload(write, pafs.LocalFileSystem(), str(tmp_path / "step1"))
    assert started.wait(10)
    assert not upload.done()
    assert not (tmp_path / "step1").exists()
    go.set()
    assert upload.wait()
    assert {path.name for path in (tmp_path / "step1").iterdir()} == {"first", "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["step1"]


def test_a_full_disk_keeps_the_last_good_checkpoint_and_is_one_line_in_the_log(tmp_path, caplog):
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"new")

    def fill(folder: Path) -> None:
        write(folder)
        raise OSError(28, "No space left on device")

    storage, path = pafs.LocalFileSystem(), str(tmp_path / "step1")
    persist(lambda folder: (folder / "weights").write_bytes(b"old"), storage, path)
    with caplog.at_level(logging.INFO):
        assert not Upload(fill, storage, path).wait()
    assert len(caplog.records) == 1
    assert "ALARM checkpoint" in caplog.text
    assert "No space left" in caplog.text
    assert (tmp_path / "step1" / "weights").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["step1"], "nothing half written stays"
    assert Upload(write, storage, path).wait(), "and the next one is written again"
    assert (tmp_path / "step1" / "weights").read_bytes() == b"new"


@pytest.mark.parametrize("renames", [True, False])
def test_what_an_earlier_attempt_left_is_no_part_of_a_checkpoint(tmp_path, renames):
    """With folders that are renamed, and with one in which the file that completes it comes last, as in object stores."""
    storage = pafs.LocalFileSystem() if renames else pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    path = str(tmp_path / "step1") if renames else "step1"
    for name in ("step1", "step1.unfinished") if renames else ("step1",):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale").write_text("old")

    def write(folder: Path) -> None:
        for file in FILES[::-1]:
            (folder / file).write_text(file)

    ended = threading.Event()
    assert Upload(write, storage, path, ended.set).wait()
    assert ended.is_set()
    files = list((tmp_path / "step1").iterdir())
    assert {file.name: file.read_text() for file in files} == {name: name for name in FILES}
    if not renames:
        assert max(files, key=lambda file: file.stat().st_mtime_ns).name == LAST == FILES[-1]

    def fail(folder: Path) -> None:
        write(folder)
        raise OSError("no more")

    ended.clear()
    assert not Upload(fail, storage, path, ended.set).wait()
    assert ended.is_set(), "the logs are sent all the same"
    assert not (tmp_path / "step1.unfinished").exists()
    assert renames or not (tmp_path / "step1" / LAST).exists()


def test_an_error_of_ours_is_not_taken_for_one_of_the_storage(tmp_path):
    def broken(folder: Path) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        Upload(broken, pafs.LocalFileSystem(), str(tmp_path / "step1")).wait()


def test_logs_are_uploaded_and_continued_by_the_next_life(tmp_path):
    storage = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    for life in ("1", "2"):
        logs = RemoteLogs(storage, "bucket/run")
        (logs.folder / "tensorboard").mkdir()
        (logs.folder / "tensorboard" / f"events.{life}").write_text(life)
        with (logs.folder / "metrics.jsonl").open("a") as lines:
            lines.write(f"{life}\n")
        logs.upload()
    run = tmp_path / "bucket" / "run"
    assert (run / "metrics.jsonl").read_text() == "1\n2\n"
    assert {path.name for path in (run / "tensorboard").iterdir()} == {"events.1", "events.2"}


def test_a_storage_that_takes_no_logs_is_a_line_in_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    logs = RemoteLogs(pafs.LocalFileSystem(), str(tmp_path / "run"))
    (logs.folder / "metrics.jsonl").write_text("1\n")
    (tmp_path / "run").write_text("a file in the place of the folder")
    logs.upload()
    assert "could not be copied" in caplog.text


OBJECT = "When reading information for key 'k' in bucket 'b': AWS Error {} during HeadObject operation: {}"
LISTING = "When listing objects under key '' in bucket 'b': AWS Error {} during ListObjectsV2 operation: {}"


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        # as pyarrow words them
        (OSError(OBJECT.format("UNKNOWN (HTTP status 503)", "No response body.")), True),
        (OSError(OBJECT.format("UNKNOWN (HTTP status 500)", "No response body.")), True),
        (OSError(OBJECT.format("NETWORK_CONNECTION", "curlCode: 7, Could not connect to server; Details: ...")), True),
        (OSError(OBJECT.format("NETWORK_CONNECTION", "curlCode: 28, Timeout was reached")), True),
        *((OSError(LISTING.format(c, "msg")), True) for c in ("SLOW_DOWN", "THROTTLING", "REQUEST_TIMEOUT")),
        *((OSError(LISTING.format(c, "msg")), True) for c in ("SERVICE_UNAVAILABLE", "INTERNAL_FAILURE")),
        (OSError(OBJECT.format("ACCESS_DENIED", "No response body.")), False),
        *((OSError(LISTING.format(c, "msg")), False) for c in ("NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID")),
        *((OSError(LISTING.format(c, "msg")), False) for c in ("SIGNATURE_DOES_NOT_MATCH", "REQUEST_TIME_TOO_SKEWED")),
        (OSError(LISTING.format("UNKNOWN (HTTP status 400)", "Unable to parse ExceptionName: ExpiredToken")), False),
        (OSError(OBJECT.format("UNKNOWN (HTTP status 501)", "No response body.")), False),
        (OSError(OBJECT.format("UNKNOWN (HTTP status 301)", "No response body.")), False),
        *((OSError(n, "x"), True) for n in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EIO, errno.ESTALE)),
        *((OSError(n, "x"), True) for n in (errno.EAGAIN, errno.EBUSY, errno.ENOSPC, errno.EDQUOT)),
        *((OSError(n, "x"), False) for n in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)),
        *((OSError(n, "x"), False) for n in (errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)),
        (ConnectionResetError("gone"), True),
        (TimeoutError("late"), True),
        (OSError("something else"), False),
        (ValueError("HTTP status 503"), False),
    ],
)
def test_only_what_can_pass_is_waited_for(error, may_pass):
    assert passes(error) is may_pass
    assert passes(pickle.loads(pickle.dumps(error))) is may_pass, "as it comes from another process"


@pytest.mark.parametrize("broken", ["", '{"checkpoint_results": [{"checkpoint_dir_na', "[]", "gone"])
def test_a_broken_list_of_checkpoints_is_made_anew_and_ray_train_reads_it(tmp_path, broken):
    """By Ray Train's own reader, from the whole checkpoints in their order and with their metrics."""
    run, names = tmp_path / "run [old]", ["step000000008", "step000000004"]
    halves = {"step000000012": FILES[:-1], "step000000016": FILES[-1:], "step000000020.unfinished": FILES}
    for name, files in (dict.fromkeys(names, FILES) | halves).items():
        (run / name).mkdir(parents=True)
        for file in files:
            (run / name / file).write_text(json.dumps({"windows": name}))
    if broken == "gone":
        listed = ["step000000004", "step000000002"]
        broken = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": n, "metrics": {}} for n in listed]})
    (run / CHECKPOINT_LIST).write_text(broken)
    repair_checkpoint_list(Location(run))
    manager = CheckpointManager(ray.train.CheckpointConfig(), StorageContext(tmp_path, run.name))
    assert manager.latest_checkpoint_result.checkpoint.path == str(run / "step000000008")
    found = [(Path(x.checkpoint.path).name, x.metrics) for x in manager._checkpoint_results]
    assert found == [(name, {"windows": name}) for name in sorted(names)]
    assert newest_checkpoint(Location(run)) == "step000000008"
    before = (run / CHECKPOINT_LIST).read_text()
    list_of = json.loads(before)
    assert list_of["checkpoint_report_indices"] == [0, 1]
    assert list_of["current_report_index"] == 2
    repair_checkpoint_list(Location(run))
    assert (run / CHECKPOINT_LIST).read_text() == before, "a good one is left alone"


def test_a_list_of_checkpoints_that_are_all_gone_is_made_anew_without_any(tmp_path):
    repair_checkpoint_list(Location(tmp_path))
    assert newest_checkpoint(Location(tmp_path)) is None
    assert not (tmp_path / CHECKPOINT_LIST).exists(), "no list, nothing to repair"
    (tmp_path / CHECKPOINT_LIST).write_text("{")
    repair_checkpoint_list(Location(tmp_path))
    assert newest_checkpoint(Location(tmp_path)) is None
    assert json.loads((tmp_path / CHECKPOINT_LIST).read_text())["checkpoint_results"] == []
