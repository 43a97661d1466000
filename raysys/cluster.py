"""The connection to Ray: the cluster of the job or the shell if there is one, else one on this machine."""

import logging
import os
import sys
import warnings

import ray
import ray.data
import ray.train.v2._internal.execution.context

_STORE_BYTES = 1 << 30


def connect(num_cpus: int | None = None, temp_dir: str | None = None) -> None:
    """Makes sure that Ray runs: joins the cluster that RAY_ADDRESS or a job names, else starts one here.

    Args:
        num_cpus: of a cluster started here; None takes the machine's.
        temp_dir: session folder of a cluster started here.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    ray.init(
        num_cpus=num_cpus,
        object_store_memory=_STORE_BYTES if (os.cpu_count() or 1) <= 4 else None,
        _temp_dir=temp_dir,
        logging_level=logging.WARNING,
    )


def configure_logging() -> None:
    """Sends one line a message to standard error, without the chatter of Ray Data and Ray Train."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("ray.data", "ray.train", ray.train.v2._internal.execution.context.logger.name):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|raysys")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
