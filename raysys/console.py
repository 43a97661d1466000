"""What a person sees on standard error. Imports nothing of Ray, so that `--help` and `--dry-run` answer at once."""

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from raysys.credentials import mask, mask_words
from raysys.location import Location

log = logging.getLogger(__name__)
CONSOLE = "console.log"
"""In the folder of a run: what its drivers printed, of all its starts."""
EVERY_S = 10.0
MOST_BYTES = 8 << 20
"""Of a console log in an object store, which is written anew every time; the oldest lines are cut."""
_END_S = 30.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def configure_logging() -> None:
    """Sends one line a message to standard error, without the credentials in it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masked("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|raysys")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def duration(seconds: float) -> str:
    """Returns a time in the unit that a person would take."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Mirror:
    """Keeps what a process prints in a file of the storage, which outlives the machine.

    A thread of its own writes every `EVERY_S` seconds. A storage that fails or hangs costs the file some lines, and the
    process nothing.
    """

    def __init__(self):
        self._lock, self._ended, self._failed = threading.Lock(), threading.Event(), False
        self._file: Location | None = None
        self._thread: threading.Thread | None = None
        self._before: bytes | None = None
        moment = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._pending = f"--- {moment} {' '.join(mask_words(sys.orig_argv))}\n"

    def into(self, file: Location) -> None:
        """Begins to write, with what was printed before, after what the file holds."""
        self._file = file
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def add(self, text: str) -> None:
        """Takes up text, which is written once its line is complete."""
        with self._lock:
            self._pending = (self._pending + text)[-MOST_BYTES:]

    def end(self) -> None:
        """Writes what is left, unless the storage needs longer than `_END_S`."""
        self._ended.set()
        if self._thread:
            self._thread.join(timeout=_END_S)

    def _run(self) -> None:
        while True:
            self._write()
            if self._ended.wait(EVERY_S):
                return self._write(whole=True)

    def _write(self, whole: bool = False) -> None:
        with self._lock:
            end = len(self._pending) if whole else self._pending.rfind("\n") + 1
            text, self._pending = self._pending[:end], self._pending[end:]
        if not text:
            return
        text += "" if text.endswith("\n") else "\n"
        try:
            self._append("".join(mask(line) for line in _COLOUR.sub("", text).splitlines(True)).encode())
        except Exception as error:  # whatever a storage throws; the next call may pass
            with self._lock:
                self._pending = (text + self._pending)[-MOST_BYTES:]
            if not self._failed:
                log.warning("%s could not be written, the run goes on: %s", self._file, error)
            self._failed = True
        else:
            self._failed = False

    def _append(self, new: bytes) -> None:
        if self._file.is_local:
            with Path(self._file.path).open("ab") as stream:
                stream.write(new)
            return
        if self._before is None:
            self._before = self._file.read() if self._file.refresh().exists() else b""
        both = self._before + new
        if len(both) > MOST_BYTES:
            both = b"[earlier lines are cut]\n" + both[-MOST_BYTES:].partition(b"\n")[2]
        self._file.write(both)
        self._before = both


class _Tee:
    """A stream that a mirror hears, too."""

    def __init__(self, stream: TextIO, mirror: Mirror):
        self._stream, self._mirror = stream, mirror

    def write(self, text: str) -> int:
        self._mirror.add(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def mirrored() -> Iterator[Mirror]:
    """Gives a mirror of what this process prints in the block, that of Ray's workers with it, and of how the block ends.

    Nothing is written before `into` says where.
    """
    mirror, before = Mirror(), (sys.stdout, sys.stderr)
    tees = [_Tee(stream, mirror) for stream in before]
    handlers = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) in before]
    streams = [handler.stream for handler in handlers]
    sys.stdout, sys.stderr = tees
    for handler, stream in zip(handlers, streams, strict=True):
        handler.setStream(tees[before.index(stream)])
    try:
        yield mirror
    except (KeyboardInterrupt, SystemExit) as error:
        mirror.add(f"{error!r}\n")
        raise
    except BaseException as error:
        mirror.add("".join(traceback.format_exception(error)))
        raise
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream)
        sys.stdout, sys.stderr = before
        mirror.end()
