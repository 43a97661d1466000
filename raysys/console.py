"""What a person sees on standard error. Imports nothing of Ray, so that `--help` and `--dry-run` answer at once."""

import logging
import sys
import warnings


def configure_logging() -> None:
    """Sends one line a message to standard error."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|raysys")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
