"""SIGTERM on the driver of a run, as `ray job stop`, Slurm and Kubernetes send it: the run leaves with a checkpoint."""

import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.train.collective import broadcast_from_rank_zero

from raysys.ray_internals import drop_note, has_note, leave_note

log = logging.getLogger(__name__)
_CODE = 128 + signal.SIGTERM


class Stop:
    """What a driver was told, and how its workers learn of it."""

    def __init__(self):
        self.note = f"raysys-stop-{uuid.uuid4().hex}"
        self.asked = False
        self.training = False
        """Whether there may be workers that can write a checkpoint."""

    def leave(self) -> None:
        """Ends the program if it was told to stop, with the exit code that a shell gives for SIGTERM."""
        if self.asked:
            log.warning("stopped: the same command goes on from the last checkpoint")
            raise SystemExit(_CODE)

    def tell_workers(self) -> None:
        log.warning(
            "told to stop: the run leaves with a checkpoint at its next log line; a second SIGTERM ends it at once"
        )
        leave_note(self.note)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Gives what SIGTERM sets in the block. Without workers, and when it comes again, it ends the program at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def told(signum, frame):
        if stop.asked or not stop.training:
            raise SystemExit(_CODE)
        stop.asked = True
        threading.Thread(
            target=stop.tell_workers, name="stop", daemon=True
        ).start()  # the main thread may hold any lock

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if stop.asked:
            drop_note(stop.note)


def leaves(poll: Callable[[], bool], note: str | None, rank: int) -> Callable[[], bool]:
    """Returns a `poll` of the loop that also says whether the driver was told to stop.

    Args:
        poll: of the reporter.
        note: of the driver's `Stop`; None where nobody can stop the run so.
        rank: of this worker.
    """
    if note is None:
        return poll
    return lambda: poll() or broadcast_from_rank_zero(rank == 0 and has_note(note))
