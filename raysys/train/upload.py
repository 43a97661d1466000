"""A checkpoint on its way from memory to the storage, while training goes on."""

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
from safetensors import SafetensorError

from raysys.train.checkpoint import FILES

log = logging.getLogger(__name__)
LAST = FILES[-1]
"""Of the files of a checkpoint, in a storage that cannot rename a folder: where it is, all of them are."""
FAILURES = (OSError, SafetensorError)
"""How a storage fails; pyarrow's errors of S3 and others are OSErrors."""


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
