"""Which errors are told in one line: those that this project raises on purpose, here or in a worker."""

import errno
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

_FRAME = re.compile(r'File "([^"]+)", line \d+, in [^\n]*\n\s+([^\n]*)')
_OUR_CODE = ("raysys", "model")
_OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
"""What a disk refuses, whoever asks."""
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "adlfs")
"""Packages that speak with object stores: credentials, addresses and rights are what they complain about."""


def plain_text(error: BaseException) -> str | None:
    """Returns the text of an error that a person can act on, and None for one that needs its traceback."""
    for cause, trace in _causes(error):
        if isinstance(cause, AssertionError):
            continue
        frames = _FRAME.findall(trace)
        if frames and _is_ours(frames[-1][0]) and frames[-1][1].startswith("raise "):
            return str(cause)
        if frames and frames[-1][0].endswith("fsspec/registry.py"):  # a scheme without a file system, or without its package
            return f"{cause} (in a path or URL: storage, data.root or another)"
        if isinstance(cause, OSError) and cause.errno in _OUTSIDE:
            return str(cause)
        if type(cause).__module__.split(".")[0] in _CLIENTS:
            return f"{type(cause).__name__}: {cause}"
    return None


def _causes(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yields what was raised, with its traceback as text: in a worker of Ray, if one sent it, else here."""
    # Duck types, since a command line that fails before Ray is needed does not wait for its import.
    around = error.__context__
    if _from_task(error):
        yield error.cause, error.traceback_str
    elif _from_task(around) and around.cause is error:
        yield error, around.traceback_str
    elif failures := getattr(error, "worker_failures", None):
        for failure in failures.values():
            if hasattr(failure, "_base_exc"):
                yield failure._base_exc, failure._traceback_str
    elif controller := getattr(error, "controller_failure", None):
        yield from _causes(controller)
    else:
        yield error, "".join(traceback.format_tb(error.__traceback__))


def _from_task(error: BaseException | None) -> bool:
    return hasattr(error, "traceback_str") and isinstance(getattr(error, "cause", None), BaseException)


def _is_ours(file: str) -> bool:
    """Whether a file belongs to this project, wherever a cluster has put it."""
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1] in _OUR_CODE
    return any(part in _OUR_CODE for part in parts[:-1])
