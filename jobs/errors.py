"""Which errors are told in one line: those that this project raises on purpose, here or in a worker."""

import errno
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

_FRAME = re.compile(r'File "([^"]+)", line \d+, in [^\n]*\n\s+([^\n]*)')
"""A frame in the text of a traceback: file and code."""
_OUR_CODE = ("raysys", "model")
_OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
"""What a disk refuses, whoever asks."""
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "adlfs")
"""Packages that speak with object stores: credentials, addresses and rights are what they complain about."""


def plain_text(error: BaseException) -> str | None:
    """Returns the text of an error that a person can act on, and None for one that needs its traceback."""
    for cause, trace in _causes(error):
        text = str(cause)
        if isinstance(cause, AssertionError):
            continue
        frames = _FRAME.findall(trace)
        if frames and _is_ours(frames[-1][0]) and frames[-1][1].startswith("raise "):
            return text
        if frames and frames[-1][0].endswith(
            "fsspec/registry.py"
        ):  # a scheme without a file system, or without its package
            return f"{text} (in a path or URL: storage, data.root or another)"
        if isinstance(cause, ConnectionError) or (
            isinstance(cause, OSError) and (cause.errno in _OUTSIDE or "AWS Error " in text)
        ):
            return text
        if type(cause).__module__.split(".")[0] in _CLIENTS:
            return f"{type(cause).__name__}: {text}"
    return None


def _causes(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yields what was raised, with its traceback as text.

    That is the traceback of this process, or that of a worker, which Ray keeps in the text of its error.
    """
    # By names and not by classes: a command line that fails before Ray is needed does not wait for its import.
    around = error.__context__
    if _from_task(error):
        yield error.cause, str(error)
    elif _from_task(around) and around.cause is error:
        yield error, str(around)
    elif failures := getattr(error, "worker_failures", None):
        for failure in failures.values():
            yield failure, str(error)
    elif failure := getattr(error, "controller_failure", None):
        yield from _causes(failure)
    else:
        yield error, "".join(traceback.format_tb(error.__traceback__))


def _from_task(error: BaseException | None) -> bool:
    return any(base.__name__ == "RayTaskError" for base in type(error).__mro__)


def _is_ours(file: str) -> bool:
    """Whether a file belongs to this project, wherever a cluster has put it."""
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1] in _OUR_CODE
    return any(part in _OUR_CODE for part in parts[:-1])
