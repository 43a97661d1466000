"""What a person sees on standard error. Imports nothing of Ray, so that `--help` and `--dry-run` answer at once."""

import logging
import sys
import warnings

from raysys.credentials import mask


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
