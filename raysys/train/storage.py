"""What a run keeps in its storage: checkpoints written beside the training, logs, and Ray Train's list of checkpoints."""

import contextlib
import errno
import json
import logging
import math
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
from safetensors import SafetensorError

from raysys.location import Location
from raysys.ray_internals import CHECKPOINT_LIST, checkpoint_list
from raysys.train.checkpoint import FILES

log = logging.getLogger(__name__)
LAST = FILES[-1]
"""Of the files of a checkpoint, in a storage that cannot rename a folder: where it is, all of them are."""
FAILURES = (OSError, SafetensorError)
"""How a storage fails; pyarrow's errors of S3 and others are OSErrors."""

_PASSING_ERRNO = frozenset(
    {
        *(errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESHUTDOWN),
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENFILE, errno.EMFILE, errno.ENOMEM),
        *(errno.EIO, errno.ESTALE),  # of network file systems, while their server restarts
        *(errno.ENOSPC, errno.EDQUOT),  # somebody makes room
    }
)
_PASSING_WORDS = re.compile(
    r"HTTP status (?:408|429|5(?!01)\d\d)|curlCode: \d+|NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT"
    r"|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|SlowDown|Throttl|TooManyRequests|RequestTimeout|ServiceUnavailable"
    r"|InternalError|rate exceeded|timed? ?out|[Cc]onnection (?:reset|refused|aborted|closed)|UNAVAILABLE"
    r"|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|[Ss]erver (?:is )?busy|[Cc]ould not (?:connect|resolve)"
)
"""What pyarrow and the clients of object stores say without an errno."""


def passes(error: BaseException) -> bool:
    """Returns whether a failure of the storage may end by itself: no answer, throttling, a full disk.

    What is refused (rights, no such bucket, a read-only file system, expired keys) stays so, however long one waits.
    """
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PASSING_ERRNO
    if isinstance(error, OSError):
        return _PASSING_WORDS.search(str(error)) is not None
    client = type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp", "urllib3")
    return client and re.search("Timeout|Connect|Disconnect", type(error).__name__) is not None


class Upload:
    """Writes one checkpoint in a thread of its own.

    It appears under its name whole or not at all on a file system, by a rename. In an object store its files appear
    one by one, `LAST` when all others are there; a run knows a checkpoint only after that.

    Args:
        write: fills an empty local folder with the `FILES` of a checkpoint.
        filesystem: of the storage.
        path: of the checkpoint in it.
        after: called in the thread when the checkpoint is there or has failed.
    """

    def __init__(
        self,
        write: Callable[[Path], None],
        filesystem: pafs.FileSystem,
        path: str,
        after: Callable[[], None] | None = None,
    ):
        self.path = path
        self._write, self._filesystem, self._after = write, filesystem, after
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Returns whether it has ended, well or not."""
        return not self._thread.is_alive()

    def wait(self) -> bool:
        """Returns whether the checkpoint is in the storage, once that is decided; says in the log why it is not."""
        self._thread.join()
        if isinstance(self._error, FAILURES):
            log.error(
                "ALARM checkpoint: %s could not be written (%s: %s); the last good checkpoint stays and training goes on: "
                "free space in the storage, or check that this node may write there",
                self.path,
                type(self._error).__name__,
                self._error,
            )
            return False
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            persist(self._write, self._filesystem, self.path)
        except Exception as error:  # for `wait`, which raises what is no failure of the storage
            self._error = error
        if self._after:
            self._after()


def persist(write: Callable[[Path], None], filesystem: pafs.FileSystem, path: str) -> None:
    """Writes a checkpoint to `path` of a file system.

    Raises:
        OSError, SafetensorError: the storage is full or fails; what was written of the checkpoint is gone then, or, if
            the storage refuses that too, lacks `LAST`.
    """
    unfinished = f"{path}.unfinished"
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            _empty(filesystem, unfinished)
            write(Path(unfinished))
            _remove(filesystem, path)
            filesystem.move(unfinished, path)
        else:
            with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as last:
                write(Path(first))
                shutil.move(Path(first) / LAST, last)
                _empty(filesystem, path)
                for folder in (first, last):
                    pafs.copy_files(folder, path, destination_filesystem=filesystem)
    except FAILURES:
        with contextlib.suppress(OSError):
            _remove(filesystem, unfinished if isinstance(filesystem, pafs.LocalFileSystem) else path)
        raise


def _empty(filesystem: pafs.FileSystem, path: str) -> None:
    _remove(filesystem, path)
    filesystem.create_dir(path, recursive=True)


def _remove(filesystem: pafs.FileSystem, path: str) -> None:
    if filesystem.get_file_info(path).type != pafs.FileType.NotFound:
        filesystem.delete_dir(path)


class RemoteLogs:
    """A local folder whose files are copied to the storage; TensorBoard and metrics.jsonl can only append to local files.

    Args:
        filesystem: of the storage.
        path: of the run in it.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str):
        self._filesystem, self._path = filesystem, path
        self.folder = Path(tempfile.mkdtemp(prefix="raysys-logs-"))
        """Where to write; begins with the metrics.jsonl of the run's earlier lives."""
        before = f"{path}/metrics.jsonl"
        if filesystem.get_file_info(before).type == pafs.FileType.File:
            pafs.copy_files(before, str(self.folder / "metrics.jsonl"), source_filesystem=filesystem)

    def upload(self) -> None:
        """Copies all files; a storage that fails is one line in the log, since the next call copies them again."""
        try:
            self._filesystem.create_dir(self._path, recursive=True)
            pafs.copy_files(str(self.folder), self._path, destination_filesystem=self._filesystem)
        except OSError as error:
            log.warning("the logs could not be copied to %s, they are in %s: %s", self._path, self.folder, error)


def repair_checkpoint_list(run: Location) -> None:
    """Replaces a list that is broken, or names checkpoints that are gone, by one of the whole checkpoints that are there.

    Ray Train overwrites its list in place: a machine that dies in that moment, or a disk that is full, leaves half of it,
    and a run that cannot read it cannot continue. Nothing happens where a run has no list.
    """
    run.refresh()  # Ray Train writes through a file system of its own
    file = run / CHECKPOINT_LIST
    if not file.exists() or _is_good(file.read(), run):
        return
    whole = whole_checkpoints(run)
    file.write_json(checkpoint_list({folder.name: (folder / "state.json").read_json() for folder in whole}))
    log.warning("%s was broken and is made anew from %d checkpoints", file, len(whole))


def whole_checkpoints(run: Location) -> list[Location]:
    """Returns the checkpoints in the folder of a run that have all their files, the oldest first."""
    return [folder for folder in run.glob("step*[0-9]") if all((folder / name).exists() for name in FILES)]


def newest_checkpoint(run: Location) -> str | None:
    """Returns the name of the newest checkpoint in the list of a run, or None without a list that can be read."""
    run.refresh()
    try:
        return (run / CHECKPOINT_LIST).read_json()["latest_checkpoint_result"]["checkpoint_dir_name"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def best_checkpoint(run: Location) -> Location | None:
    """Returns the whole checkpoint of a run with the best `search.objective`, the newest of several, or None without any."""
    whole = whole_checkpoints(run)
    scores = [(folder / "state.json").read_json().get("score") for folder in whole]
    scores = [-math.inf if score is None or math.isnan(score) else score for score in scores]
    return max(zip(scores, range(len(whole)), whole, strict=True), default=(0, 0, None))[-1]


def _is_good(content: bytes, run: Location) -> bool:
    try:
        results = json.loads(content)["checkpoint_results"]
        return all((run / result["checkpoint_dir_name"]).exists() for result in results)
    except (ValueError, KeyError, TypeError):
        return False
