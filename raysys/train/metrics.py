"""What a run says while it goes: console, TensorBoard, metrics.jsonl, Ray's metrics and alarms."""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.metrics import Gauge
from torch.utils.tensorboard import SummaryWriter

from raysys.codebook_health import PERPLEXITY, CodebookHealth
from raysys.console import duration
from raysys.train.optim import StepGuard
from raysys.train.trackers import Tracker

log = logging.getLogger(__name__)

_CONSOLE = {
    "train/loss": "loss {:.3f}",
    "train/contrastive": "contrastive {:.3f}",
    "codebook/perplexity": "perplexity {:.0f}",
    "train/grad_norm": "gradient {:.2f}",
    "optim/lr": "lr {:.1e}",
    "perf/windows_per_s": "{:.0f} windows/s",
    "perf/data_wait_fraction": "waiting {:.1%}",
}
_VALIDATION = {
    "val/contrastive": "contrastive {:.3f}",
    "val/accuracy": "accuracy {:.1%}",
    "dev/loss": "dev loss {:.3f}",
    "dev/p_hit_0.1s": "P within 0.1 s {:.1%}",
    "dev/p_hit_0.5s": "0.5 s {:.1%}",
    "dev/s_hit_0.1s": "S within 0.1 s {:.1%}",
    "dev/s_hit_0.5s": "0.5 s {:.1%}",
    "dev/event_auc": "event AUC {:.3f}",
    "dev/accuracy": "right {:.1%}",
    "dev/score": "score {:.3f}",
    "probe/macro_ap": "probe {:.3f}",
    "codebook/used_fraction": "codes in use {:.0%}",
}
LEGEND = (
    "in the lines below: contrastive is how well masked frames are told from others (nats, lower is better), loss adds the "
    "diversity of codes, perplexity is the number of codes in even use (summed over groups), gradient its norm before clipping,",
    "lr the learning rate, waiting the share of time without data, accuracy the share of frames told right, probe how well a "
    "linear read-out finds P and S (macro AP)",
)
"""What the words of the console lines mean, said once at the start of a run."""
FINETUNING_LEGEND = (
    "in the lines below: loss is the cross-entropy with the labels (nats, lower is better), lr the learning rate of the head, waiting "
    "the share of time without data;",
    "P and S within 0.1 and 0.5 s are the shares of dev windows whose highest probability lies so near to an onset, score their mean",
)
"""The same of fine-tuning."""
_PACE_LINES = 10
"""Log lines of whose time the time that is left is estimated."""
WAITING = 0.2
"""Share of the time spent waiting for data, twice in a row, above which the alarm goes off."""
EXPORTED = {
    "train/loss": "Loss, mean over the steps since the last line",
    "train/contrastive": "InfoNCE in nats",
    "train/accuracy": "Fraction of masked frames whose positive no negative beats",
    "train/grad_norm": "Norm of the gradient before clipping",
    "train/skipped_steps": "Steps skipped for a NaN or a spike since the run began",
    "train/windows": "Windows consumed by all workers",
    "optim/lr": "Learning rate",
    "codebook/perplexity": "Perplexity of the soft codes, summed over groups",
    "codebook/hard_perplexity": "Perplexity of the codes of the validation set, summed over groups",
    "codebook/used_fraction": "Fraction of codes that the validation set uses",
    "val/loss": "Validation loss",
    "val/top1_tie": "Tie-aware accuracy of the fixed task",
    "probe/macro_ap": "Mean average precision of the linear probe for P and S",
    "dev/loss": "Loss of the dev windows in fine-tuning",
    "dev/score": "Score of the dev windows, by which a fine-tuned network is chosen",
    "perf/windows_per_s": "Windows a second of all workers",
    "perf/data_wait_fraction": "Share of its time that rank 0 waits for data",
    "perf/mfu": "Model FLOPs a second over the peak of the GPUs",
    "mem/peak_gib": "Peak GPU memory of rank 0 in GiB",
}
"""What Ray's dashboard, Prometheus and deploy/grafana show, with a word on each."""


@dataclass(frozen=True, slots=True)
class Line:
    """A log line whose numbers are on their way from the device."""

    step: int
    windows: int
    """That all workers have consumed."""
    wait_s: float
    """Seconds this worker has waited for data since the start."""
    known: dict[str, float]
    """Numbers that the host knows."""
    names: list[str]
    numbers: torch.Tensor
    """In the host's memory, there when `arrived` is done; None: now."""
    arrived: torch.cuda.Event | None


class RunLog:
    """Collects per-step numbers on the device and writes their means every few steps, without making the device wait.

    Args:
        folder: gets TensorBoard events and metrics.jsonl; None for ranks other than 0 and storage that is not local.
        total_steps: budget, for the console line.
        run: name of the run, for Ray's metrics.
        flops_over_peak: operations of one window over those that all workers' GPUs can do in a second; None where
            the peak is not known.
        skipped: steps that the run has skipped in earlier lives.
        health: when the alarm of a collapsed codebook goes off; None: never.
        legend: lines that say what the words of the console mean.
        tracker: gets the scalars that TensorBoard gets.
    """

    def __init__(
        self,
        folder: Path | None,
        total_steps: int,
        *,
        run: str = "",
        flops_over_peak: float | None = None,
        skipped: float = 0.0,
        health: CodebookHealth | None = None,
        legend: tuple[str, ...] = LEGEND,
        tracker: Tracker | None = None,
    ):
        self._writer = SummaryWriter(str(folder / "tensorboard")) if folder else None
        self._lines = (folder / "metrics.jsonl").open("a") if folder else None
        self._ray_metrics = RayMetrics(run) if folder else None
        self._tracker = tracker if folder else None
        self._speaks = folder is not None
        self._flops_over_peak = flops_over_peak
        self._total_steps = total_steps
        self._names: list[str] = []
        self._sums: list[torch.Tensor] = []
        self._count = 0
        self._alarmed: set[str] = set()
        self._waited_before = False
        self._skipped = skipped
        self._health = health
        self._tick = (time.perf_counter(), 0.0, 0)
        self._pace: deque[tuple[float, int]] = deque(maxlen=_PACE_LINES)
        if self._speaks:
            log.info("\n".join(legend))

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Adds the 0-dim tensors of one step."""
        numbers = [value.detach().float() for value in values.values()]
        self._names, self._sums = list(values), torch._foreach_add(self._sums, numbers) if self._sums else numbers
        self._count += 1

    def end_line(
        self, step: int, windows: int, wait_s: float, known: dict[str, float], latest: dict[str, torch.Tensor]
    ) -> Line:
        """Returns the line of the steps since the last one, for `write_line` once the device has the next step to do.

        Args:
            step: optimiser steps done.
            windows: windows that all workers have consumed.
            wait_s: seconds this worker has waited for data since the start.
            known: numbers that the host knows.
            latest: 0-dim tensors of which the line gives the present values and no means.
        """
        names = [*self._names, *latest]
        numbers = torch.stack([*self._sums, *(value.float() for value in latest.values())])
        numbers[: len(self._sums)] /= self._count
        self._names, self._sums, self._count = [], [], 0
        arrived = None
        if numbers.is_cuda:
            numbers, arrived = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()
        return Line(step, windows, wait_s, known, names, numbers, arrived)

    def write_line(self, line: Line) -> dict[str, float]:
        """Writes a line down, as soon as the device has done its steps, and returns its numbers."""
        if line.arrived:
            line.arrived.synchronize()
        now, (then, waited, before) = time.perf_counter(), self._tick
        self._tick = (now, line.wait_s, line.windows)
        metrics = dict(zip(line.names, line.numbers.tolist(), strict=True)) | line.known
        metrics["perf/windows_per_s"] = (line.windows - before) / (now - then)
        metrics["perf/data_wait_fraction"] = min(1.0, (line.wait_s - waited) / (now - then))
        if self._flops_over_peak:
            metrics["perf/mfu"] = metrics["perf/windows_per_s"] * self._flops_over_peak
        if torch.cuda.is_available():
            metrics["mem/peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self._speaks:
            log.info(
                "step %d/%d  %s  %s",
                line.step,
                self._total_steps,
                self._progress(now, line.step),
                _words(_CONSOLE, metrics),
            )
        self.write(metrics, line.step)
        return metrics

    def write(self, metrics: dict[str, Any], step: int) -> None:
        """Writes scalars to TensorBoard, to Ray's metrics and, as one line, to metrics.jsonl; raises alarms."""
        self._check(metrics, step)
        if self._speaks and "val/contrastive" in metrics:
            log.info("validation after step %d  %s", step, _words(_VALIDATION, metrics))
        if self._writer:
            self._ray_metrics.set(metrics)
            scalars = {name: value for name, value in metrics.items() if "/" in name and math.isfinite(value)}
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
            self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
            self._lines.flush()
            if self._tracker:
                self._tracker.log(scalars, step)

    def histogram(self, name: str, counts: torch.Tensor, step: int) -> None:
        """Writes a histogram of code usage, one bar a code; counts (G, V)."""
        if self._writer:
            usage = counts.double().cpu().flatten()
            codes = torch.arange(len(usage), dtype=torch.double)
            self._writer.add_histogram_raw(
                name,
                min=0,
                max=len(usage),
                num=usage.sum().item(),
                sum=(codes * usage).sum().item(),
                sum_squares=(codes**2 * usage).sum().item(),
                bucket_limits=(codes + 1).tolist(),
                bucket_counts=usage.tolist(),
                global_step=step,
            )

    def close(self) -> None:
        """Ends both files and what is tracked."""
        if self._writer:
            self._writer.close()
            self._lines.close()
            if self._tracker:
                self._tracker.finish()
            self._tracker = None

    def _progress(self, now: float, step: int) -> str:
        """Percent done, and the time left at the pace of the last lines, validations and checkpoints among them."""
        self._pace.append((now, step))
        (then, before), left = self._pace[0], self._total_steps - step
        text = f"{step / self._total_steps:.0%}"
        return f"{text}, {duration(left * (now - then) / (step - before))} left" if left and step > before else text

    def _check(self, metrics: dict[str, float], step: int) -> None:
        # Before training the codes of `base` have a perplexity of a tenth of their number, which training raises.
        if self._health and step > 0 and PERPLEXITY in metrics:
            self._alarm(
                "collapse",
                self._health.collapsed(metrics),
                f"the codebook has collapsed, its hard perplexity is {self._health.fraction(metrics):.0%} of its codes, less than "
                f"{self._health.min_fraction:.0%} (search.min_perplexity_fraction): set loss.diversity=entropy, "
                "raise loss.diversity_lambda, or check the data for dead channels",
            )
        if "perf/data_wait_fraction" in metrics:
            waits = metrics["perf/data_wait_fraction"]
            self._waited_before, before = waits > WAITING, self._waited_before
            self._alarm(
                "data",
                waits > WAITING and before,
                f"training waits for data {waits:.0%} of the time: add CPUs to the data pool, or prepare shards "
                "(jobs.prepare)",
            )
        if "train/skipped_steps" in metrics:
            new = metrics["train/skipped_steps"] - self._skipped
            self._skipped = metrics["train/skipped_steps"]
            self._alarm(
                "step",
                new > 0,
                f"{new:.0f} steps were skipped, their gradient was not finite or {StepGuard.SPIKE:.0f} times its usual norm: "
                "lower optim.lr or raise optim.warmup if it goes on; train.max_bad_steps in a row stop the run",
            )

    def _alarm(self, kind: str, raised: bool, text: str) -> None:
        """Says it once, and again only after it was over."""
        if raised and kind not in self._alarmed and self._speaks:
            log.warning("ALARM %s: %s", kind, text)
        (self._alarmed.add if raised else self._alarmed.discard)(kind)


def _words(texts: dict[str, str], metrics: dict[str, float]) -> str:
    return "  ".join(text.format(metrics[name]) for name, text in texts.items() if _is_told(name, metrics))


def _is_told(name: str, metrics: dict[str, float]) -> bool:
    """A probe without labels has no score: the run has said so at its start."""
    return name in metrics and not (name.startswith(("probe/", "dev/")) and math.isnan(metrics[name]))


def exported_name(name: str) -> str:
    """Returns the name under which Prometheus finds a metric, e.g. ray_raysys_train_loss for train/loss."""
    return f"ray_{_ray_name(name)}"


class RayMetrics:
    """The numbers of a run as Ray's metrics, with the tag "run"; none where Ray does not run.

    Args:
        run: name of the run.
    """

    def __init__(self, run: str):
        self._tags = {"run": run}
        self._gauges = {
            name: Gauge(_ray_name(name), text, tag_keys=("run",))
            for name, text in EXPORTED.items()
            if ray.is_initialized()
        }

    def set(self, metrics: Mapping[str, float]) -> None:
        """Sets the gauges of those metrics that have one and are finite."""
        for name in self._gauges.keys() & metrics.keys():
            if math.isfinite(metrics[name]):
                self._gauges[name].set(metrics[name], tags=self._tags)


def _ray_name(name: str) -> str:
    return f"raysys_{name.replace('/', '_')}"
