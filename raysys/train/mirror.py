"""The logs of a run whose storage is no local folder."""

import logging
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

log = logging.getLogger(__name__)


class LogMirror:
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

    def send(self) -> None:
        """Copies all files; a storage that fails is one line in the log, since the next call sends them again."""
        try:
            self._filesystem.create_dir(self._path, recursive=True)
            pafs.copy_files(str(self.folder), self._path, destination_filesystem=self._filesystem)
        except OSError as error:
            log.warning("the logs could not be copied to %s, they are in %s: %s", self._path, self.folder, error)
