"""The first steps that a sweep takes on every node with GPUs, so that its trials find compiled kernels."""

import dataclasses
import logging
import tempfile
import time
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysys.config import RunConfig
from raysys.train.data import TrainingData
from raysys.train.reporter import SilentReporter
from raysys.train.step import CapturedStep
from raysys.train.validate import BATCH
from raysys.tune.trial import train_trial, trial_resources

log = logging.getLogger(__name__)
_LIMIT_S = 600.0
"""After which the sweep goes on without a warm-up, on a busy GPU for example."""


def warm_up(config: RunConfig, data: TrainingData) -> float | None:
    """Fills the compiler's caches of every node with GPUs, so that trials that start at once do not all compile the same.

    Args:
        config: of `trial_config`.
        data: shared.

    Returns:
        seconds; None if trials use no GPUs.
    """
    nodes, start, warm = _gpu_nodes(config), time.monotonic(), 0
    if not nodes:
        return None
    share = trial_resources(config).get("GPU", 0) / config.search.workers_per_trial
    tasks = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        tasks[node] = _first_steps.options(num_gpus=share, scheduling_strategy=here).remote(config, data)
    _, late = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=_LIMIT_S)
    for node, task in tasks.items():
        try:
            ray.get(task, timeout=0)
            warm += 1
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            text = "node %s: no warm-up, its first trials compile their kernels themselves: %s: %s"
            log.warning(text, node[:8], type(cause).__name__, cause)
    for task in late:
        ray.cancel(task)  # without force: with it Ray 2.60 aborts this process if the task completes at that moment
    seconds = time.monotonic() - start
    log.info("sweep %s: kernels compiled on %d of %d nodes in %.0f s", config.name, warm, len(nodes), seconds)
    return seconds


# Its process ends with it and gives the GPU's memory back.
@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def _first_steps(config: RunConfig, data: TrainingData) -> None:
    """Takes a trial's first steps, with a validation before and after them, so that what they compile is in the caches."""
    steps = CapturedStep.WARM_UP + 2 if config.train.compile else 2
    few = {"train.max_steps": steps, "train.validate_every": steps, "train.num_workers": 1, "data.reader": "process"}
    fixed = {name: data.get(name) for name in ("validation", "probe_fit", "probe_score")}
    fixed = {name: windows for name, windows in fixed.items() if windows is not None}
    # A whole batch, and the shorter one at the end.
    fixed = {name: windows.take(slice(BATCH + len(windows) % BATCH)) for name, windows in fixed.items()}
    where = {"rank": 0, "world": 1, "log_folder": None, "report": log.info}
    with tempfile.TemporaryDirectory() as folder:
        reporter = SilentReporter(Path(folder))
        train_trial({}, config.override(few), dataclasses.replace(data, **fixed), {}, **where, reporter=reporter)


def _gpu_nodes(config: RunConfig) -> list[str]:
    """The nodes that have GPUs now, if trials use some."""
    if "GPU" not in trial_resources(config):
        return []
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0)]
