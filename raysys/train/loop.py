"""The training loop of one worker: stream, step, look, report. Ray Train and Ray Tune run the same one."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from raysys.codebook_health import CodebookHealth
from raysys.config import RunConfig, keys
from raysys.data.stream import Batch, WaitClock, Worker, process_batches, ray_batches, to_device
from raysys.location import Location
from raysys.train.averaging import weight_average
from raysys.train.checkpoint import Snapshot, load_checkpoint
from raysys.train.data import TrainingData
from raysys.train.flops import peak_flops
from raysys.train.metrics import FINETUNING_LEGEND, LEGEND, Line, RunLog
from raysys.train.optim import StepGuard, build_optimizer, lr_factor, set_lr
from raysys.train.reporter import Reporter
from raysys.train.step import CapturedStep, TrainStep
from raysys.train.task import task_of
from raysys.train.trackers import Trackers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Budget:
    """The length of a run in windows, whatever the number of workers happens to be."""

    windows: int
    """Windows of the whole run."""
    between_validations: int
    full_batch: int
    """Windows of one optimiser step with all workers there."""
    start: int = 0
    """Windows after which this stage of the run began: not 0 where a finished run was extended."""

    @classmethod
    def of(cls, config: RunConfig, epoch_windows: int, start: int = 0) -> "Budget":
        """Returns the budget that `train.max_steps` or `train.epochs` sets, for a stage that begins after `start` windows."""
        train = config.train
        full = max(1, train.num_workers) * train.batch_size * config.optim.accumulate
        total = train.max_steps * full if train.max_steps is not None else math.ceil(train.epochs * epoch_windows)
        every = train.validate_every * full if train.validate_every else epoch_windows / train.validations_per_epoch
        return cls(windows=total, between_validations=max(1, min(total, round(every))), full_batch=full, start=start)

    def progress(self, windows: int) -> float:
        """Returns the fraction of this stage that is done after so many windows of the run: what the learning rate follows."""
        return (windows - self.start) / (self.windows - self.start)

    def annealed(self, windows: int) -> float:
        """Returns how far the model's temperatures have come; a stage that extends a run leaves them at their end."""
        return 1.0 if self.start else windows / self.windows


@dataclass(slots=True)
class Best:
    """The best score of a run so far, and how many validations have passed since."""

    score: float | None = None
    validations_since: int = 0

    def see(self, score: float) -> None:
        """Notes the score of one more validation; a NaN (a set without picks) says nothing."""
        if math.isnan(score):
            return
        if self.score is None or score > self.score:
            self.score, self.validations_since = score, 0
        else:
            self.validations_since += 1


class Trainer:
    """One worker of one run, from the newest checkpoint to the end of the budget.

    Everything random in a step is a function of (seed, step, rank), everything scheduled of the windows done, and the
    data of their position: so a resumed run goes on exactly as it would have.

    Args:
        config: of the run.
        data: what it reads.
        rank: of this worker.
        world: number of workers.
        device: of this worker.
        reporter: receives metrics and checkpoints at every validation.
        record: goes into every checkpoint.
        log_folder: gets TensorBoard events and metrics.jsonl; None on other ranks.
        start: windows after which the present stage of the run began (raysys.train.stages).
        poll: called by all ranks at every log line; returns, to all alike, whether they are to leave now, because
            their machines are taken away.
        trial: folder of a trial of a sweep, which `train.trackers` know it by.
    """

    def __init__(
        self,
        config: RunConfig,
        data: TrainingData,
        *,
        rank: int,
        world: int,
        device: torch.device,
        reporter: Reporter,
        record: dict[str, Any],
        log_folder: Path | None,
        start: int = 0,
        poll: Callable[[], bool] = lambda: False,
        trial: Location | None = None,
    ):
        self.config, self.data, self.device, self.reporter, self.record = config, data, device, reporter, record
        self.poll, self.trial = poll, trial
        self.worker = Worker(rank, world, config.train.batch_size)
        self.budget = Budget.of(config, data.plan.epoch_windows, start)
        torch.set_float32_matmul_precision("high")  # TF32 is enough for the products of the loss
        if config.train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        compiles = config.train.compile and device.type == "cuda"
        if compiles:
            torch.cuda.set_stream(torch.cuda.Stream(device))  # a graph cannot be recorded on the default stream
        torch.manual_seed(config.train.seed)  # the same initial weights on every rank
        self.task = task_of(config, data, self.worker, device)
        self.model = self.task.model
        self.optimizer = build_optimizer(self.model, config.optim, device, self.task.lrs)
        self.average = weight_average(config, self.model)
        self.guard = StepGuard(device)
        self.step, self.windows, self.best = 0, 0, Best()
        self._restore()
        records = compiles and self.task.compile()
        step = TrainStep(self.model, self.optimizer, self.guard, config, device, world, self.task.losses)
        self._take_step = CapturedStep(step) if records else step
        self.step_windows = self.worker.global_batch * config.optim.accumulate
        self.steps_left = 0 if self.finished else math.ceil((self.budget.windows - self.windows) / self.step_windows)
        # With fewer workers than planned the global batch shrinks; the learning rate follows its square root.
        self.lr_scale = math.sqrt(self.step_windows / self.budget.full_batch)
        self.clock = WaitClock()
        self.checkpoint_seconds = 0.0  # that training has waited for checkpoints
        peak = peak_flops(config, device)
        self.log = RunLog(
            log_folder,
            self.step + self.steps_left,
            run=config.name,
            flops_over_peak=self.task.flops / (world * peak) if peak and self.task.flops else None,
            skipped=self.guard.skipped.item(),
            health=CodebookHealth.of(keys(config)),
            legend=LEGEND if config.task == "pretrain" else FINETUNING_LEGEND,
            tracker=Trackers.of(config, trial) if log_folder else None,
        )

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or the run's patience."""
        patience = self.config.train.patience
        return self.windows >= self.budget.windows or (patience is not None and self.best.validations_since >= patience)

    def run(self) -> dict[str, Any]:
        """Returns the last metrics, after the run is finished or a checkpoint is written because workers must leave."""
        metrics: dict[str, Any] = {}
        if self.step == 0:
            self._validate()  # what an untrained model scores
        batches = self._batches()
        line = None
        for _ in range(self.steps_left):
            before = self.windows
            self._train_step(batches)
            if line:
                # Now that the next step is under way the device does not wait while the host writes.
                metrics, line = self._write_line(line), None
            leave = False
            if self.finished or self.step % self.config.train.log_every == 0:
                line = self._end_line()
                leave = self.poll() and not self.finished
            every = self.budget.between_validations
            validates = self.finished or self.windows // every > before // every
            if line and (validates or leave or line.arrived is None):
                metrics, line = self._write_line(line), None
            if validates:
                metrics = metrics | self._validate()
                self.best.see(metrics[self.config.search.objective])
            if validates or leave:
                metrics = metrics | self._state()
                if self.trial and self.finished:
                    self.log.close()  # Tune ends the process of a trial at its last report
                self._report(metrics)
            if leave or self.finished:
                self._say_why(leave)
                break
        self.log.close()
        return metrics

    def _say_why(self, leaves: bool) -> None:
        """Logs why the run ends before its budget is used up, if it does."""
        if leaves:
            log.warning("step %d: machines are taken away; the run leaves with a checkpoint of this step", self.step)
        elif self.windows < self.budget.windows:
            words = "step %d: %s has not been better than %.4f for %d validations (train.patience): the run ends"
            log.info(words, self.step, self.config.search.objective, self.best.score, self.best.validations_since)

    def _train_step(self, batches: Iterator[Batch]) -> None:
        self.model.train()
        self.task.set_schedule(self.budget.annealed(self.windows))
        after = min(self.budget.windows, self.windows + self.step_windows)
        set_lr(self.optimizer, self._lr_factor(after), self.task.frozen(self.budget.progress(self.windows)))
        torch.manual_seed(_step_seed(self.config.train.seed, self.step, self.worker.rank))
        scalars = self._take_step([next(batches) for _ in range(self.config.optim.accumulate)])
        self.average.update()
        self.step, self.windows = self.step + 1, after
        self.log.add(scalars)

    def _batches(self) -> Iterator[Batch]:
        """The batches that are left, on the device."""
        config, pin = self.config, self.device.type == "cuda"
        steps = self.steps_left * config.optim.accumulate
        arguments = (self.data.plan, config.data, config.model.window_samples, self.worker, self.windows, steps)
        if config.data.reader == "ray":
            batches = ray_batches(self.data.traces, *arguments, pin=pin)
        else:
            batches = process_batches(self.data.get("traces"), *arguments, pin=pin)
        return to_device(self.clock.timed(batches), self.device)

    def _end_line(self) -> Line:
        """Returns the log line of the steps since the last one."""
        frozen = self.task.frozen(self.budget.progress(self.windows))
        known = {
            "optim/lr": self._lr_factor(self.windows) * self.config.optim.lr,
            **{
                f"optim/{part}_lr": 0.0 if part in frozen else self._lr_factor(self.windows) * peak
                for part, peak in self.task.lrs.items()
            },
            "train/windows": self.windows,
            "perf/checkpoint_wait_s": self.checkpoint_seconds,
        }
        latest = {"train/skipped_steps": self.guard.skipped, "train/skipped_in_a_row": self.guard.in_a_row}
        return self.log.end_line(self.step, self.windows, self.clock.seconds, known, latest)

    def _write_line(self, line: Line) -> dict[str, Any]:
        """Writes a log line, and stops a run that only skips steps."""
        metrics = self.log.write_line(line)
        in_a_row = int(metrics["train/skipped_in_a_row"])
        if in_a_row >= self.config.train.max_bad_steps:
            raise FloatingPointError(
                f"step {line.step}: {in_a_row} steps in a row had a gradient that was not finite or a spike "
                f"(train.max_bad_steps={self.config.train.max_bad_steps}): lower optim.lr or raise loss.temperature; the last "
                "good checkpoint is kept"
            )
        return metrics

    def _lr_factor(self, windows: int) -> float:
        """Returns the learning rate over its peak in the step after which `windows` are done."""
        return lr_factor(self.budget.progress(windows), self.config.optim.warmup) * self.lr_scale

    def _validate(self) -> dict[str, Any]:
        with self.average.in_use():
            seen, histograms = self.task.validate()
        for name, counts in histograms.items():
            self.log.histogram(name, counts, self.step)
        self.log.write(seen, self.step)
        return seen

    def _state(self) -> dict[str, Any]:
        return {"step": self.step, "windows": self.windows, "epoch": self.windows / self.data.plan.epoch_windows}

    def _report(self, metrics: dict[str, Any]) -> None:
        start = time.perf_counter()
        if self.worker.rank == 0:
            score = metrics.get(self.config.search.objective)
            state, guard = self._state() | {"score": score, "best": asdict(self.best)}, self.guard.state()
            about = guard, state, metrics, self.config, self.record
            save = Snapshot.take(self.model, self.optimizer, *about, self.average.model).write
        else:
            save = _nothing
        self.reporter.report(metrics, save)
        self.checkpoint_seconds += time.perf_counter() - start

    def _restore(self) -> None:
        with self.reporter.latest_checkpoint() as folder:
            if folder is None:
                self.task.begin()
                return self.average.update()
            tensors, state = load_checkpoint(folder, self.model, self.optimizer, self.average.model)
        self.guard.load(tensors)
        self.step, self.windows = state["step"], state["windows"]
        self.average.go_on(self.step)
        self.best = Best(**state.get("best", {}))  # older checkpoints have none
        if self.windows <= self.budget.start:
            self.best.validations_since = 0  # a stage has a patience of its own
        log.info("going on after step %d, %d windows", self.step, self.windows)


def _nothing(folder: Path) -> None:
    """What ranks other than 0 add to a checkpoint."""


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for all random numbers of one step on one rank."""
    return (seed * 1_000_003 + step) * 65_536 + rank
