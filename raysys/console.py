"""What a person sees on standard error. Imports nothing of Ray, so that `--help` and `--dry-run` answer at once."""

import logging
import sys
import warnings


def configure_logging() -> None:
    """Sends one line a message to standard error."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|raysys")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")


def duration(seconds: float) -> str:
    """Returns a time in the unit that a person would take."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
