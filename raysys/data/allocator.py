"""What the C library does with the memory that a process frees."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of the options in glibc's malloc.h."""
_KEPT_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Lets this process use freed arrays of up to 256 MiB again, in place of handing their pages back to the system.

    glibc gives large arrays back when they are freed, and the system clears the pages of the next one: for windows that
    costs more than reading them (docs/dead_ends.md). Only for processes that work in one thread, since glibc keeps memory for
    every thread apart. Without glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
