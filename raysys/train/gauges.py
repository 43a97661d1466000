"""The numbers of a run as Ray metrics, for Ray's dashboard, Prometheus and deploy/grafana."""

import math
from collections.abc import Mapping

import ray
from ray.util.metrics import Gauge

DESCRIPTIONS = {
    "train/loss": "Loss, mean over the steps since the last line",
    "train/contrastive": "InfoNCE in nats",
    "train/accuracy": "Fraction of masked frames whose positive no negative beats",
    "train/grad_norm": "Norm of the gradient before clipping",
    "train/skipped_steps": "Steps skipped for a NaN or a spike since the run began",
    "train/windows": "Windows consumed by all workers",
    "optim/lr": "Learning rate",
    "codebook/perplexity": "Perplexity of the soft codes, summed over groups",
    "codebook/used_fraction": "Fraction of codes that the validation set uses",
    "val/loss": "Validation loss",
    "val/top1_tie": "Tie-aware accuracy of the fixed task",
    "probe/macro_ap": "Mean average precision of the linear probe for P and S",
    "perf/windows_per_s": "Windows a second of all workers",
    "perf/data_wait_fraction": "Share of its time that rank 0 waits for data",
    "perf/mfu": "Model FLOPs a second over the peak of the GPUs",
    "mem/peak_gib": "Peak GPU memory of rank 0 in GiB",
}


def exported_name(name: str) -> str:
    """Returns the name under which Prometheus finds a metric, e.g. ray_raysys_train_loss for train/loss."""
    return f"ray_{_gauge_name(name)}"


class Gauges:
    """Gauges with the tag "run"; none where Ray does not run.

    Args:
        run: name of the run.
    """

    def __init__(self, run: str):
        self._tags = {"run": run}
        self._gauges = {
            name: Gauge(_gauge_name(name), text, tag_keys=("run",))
            for name, text in DESCRIPTIONS.items()
            if ray.is_initialized()
        }

    def set(self, metrics: Mapping[str, float]) -> None:
        """Sets the gauges of those metrics that have one and are finite."""
        for name in self._gauges.keys() & metrics.keys():
            if math.isfinite(metrics[name]):
                self._gauges[name].set(metrics[name], tags=self._tags)


def _gauge_name(name: str) -> str:
    return f"raysys_{name.replace('/', '_')}"
