"""The training loop of one worker: stream, step, look, report. Ray Train and Ray Tune run the same one."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.pretrain import Losses, PretrainModel
from raysys.config import RunConfig
from raysys.data.stream import Worker, WaitClock, process_batches, ray_batches, to_device
from raysys.train.checkpoint import load_checkpoint, save_checkpoint
from raysys.train.data import TrainingData
from raysys.train.metrics import RunLog
from raysys.train.optim import StepGuard, build_optimizer, lr_factor, set_lr
from raysys.train.reporter import Reporter
from raysys.train.validate import validate


@dataclass(frozen=True, slots=True)
class Budget:
    """The length of a run in windows, whatever the number of workers happens to be."""

    windows: int
    """Windows of the whole run."""
    between_validations: int
    full_batch: int
    """Windows of one optimiser step with all workers there."""

    @classmethod
    def of(cls, config: RunConfig, epoch_windows: int) -> "Budget":
        """Returns the budget that `train.max_steps` or `train.epochs` sets."""
        train = config.train
        full = max(1, train.num_workers) * train.batch_size * config.optim.accumulate
        total = train.max_steps * full if train.max_steps is not None else math.ceil(train.epochs * epoch_windows)
        every = train.validate_every * full if train.validate_every else epoch_windows / train.validations_per_epoch
        return cls(windows=total, between_validations=max(1, min(total, round(every))), full_batch=full)


def train(
    config: RunConfig,
    data: TrainingData,
    *,
    rank: int,
    world: int,
    device: torch.device,
    reporter: Reporter,
    record: dict[str, Any],
    log_folder: Path | None,
) -> dict[str, Any]:
    """Returns the metrics of the last validation, after training from the newest checkpoint to the end of the budget.

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
    """
    worker = Worker(rank, world, config.train.batch_size)
    budget = Budget.of(config, data.plan.epoch_windows)
    torch.manual_seed(config.train.seed)  # the same initial weights on every rank
    model = PretrainModel(config.model, config.mask, config.loss).to(device)
    optimizer = build_optimizer(model, config.optim, device)
    guard = StepGuard(device)
    step, windows = 0, 0
    with reporter.latest_checkpoint() as folder:
        if folder is not None:
            tensors, state = load_checkpoint(folder, model, optimizer)
            guard.load(tensors)
            step, windows = state["step"], state["windows"]
    wrapped, clock = _wrap(model, world, config), WaitClock()
    per_step = worker.global_batch * config.optim.accumulate
    steps_left = math.ceil(max(0, budget.windows - windows) / per_step)
    batches = _stream(config, data, worker, windows, steps_left * config.optim.accumulate, device, clock)
    run_log = RunLog(log_folder, step + steps_left)
    # With fewer workers than planned the global batch shrinks; the learning rate follows its square root.
    lr_scale = math.sqrt(per_step / budget.full_batch)
    metrics: dict[str, Any] = {}
    for step in range(step + 1, step + 1 + steps_left):
        model.train()
        model.set_schedule(windows / budget.windows)
        factor = lr_factor((windows + per_step) / budget.windows, config.optim.warmup) * lr_scale
        set_lr(optimizer, factor)
        torch.manual_seed(_step_seed(config.train.seed, step, rank))
        losses = _forward_backward(wrapped, batches, config, device)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip, foreach=True)
        guard.step(optimizer, norm)
        optimizer.zero_grad(set_to_none=True)
        before, windows = windows, min(budget.windows, windows + per_step)
        run_log.add(_scalars(losses) | {"train/grad_norm": norm})
        last = windows >= budget.windows
        if step % config.train.log_every == 0 or last:
            extra = {"optim/lr": factor * config.optim.lr, "train/skipped_steps": guard.skipped.item(), "train/windows": windows}
            metrics = run_log.flush(step, windows, clock.seconds, extra)
            _stop_if_broken(guard, config, step)
        if last or windows // budget.between_validations > before // budget.between_validations:
            seen = validate(model, config, data, rank, world, device)
            run_log.histogram("codebook/usage", seen.pop("counts"), step)
            run_log.write(seen, step)
            state = {"step": step, "windows": windows, "epoch": windows / data.plan.epoch_windows}
            metrics = metrics | seen | state

            def save(folder: Path, state=state) -> None:
                save_checkpoint(folder, model, optimizer, guard.state(), state, config, record)

            reporter.report(metrics, save)
    run_log.close()
    return metrics


def _stream(config: RunConfig, data: TrainingData, worker: Worker, position: int, steps: int, device, clock: WaitClock):
    pin = device.type == "cuda"
    arguments = (data.plan, config.data, config.model.window_samples, worker, position, steps)
    if config.data.reader == "ray":
        batches = ray_batches(data.traces, *arguments, pin=pin)
    else:
        batches = process_batches(data.get("traces"), *arguments, pin=pin)
    return to_device(clock.timed(batches), device)


def _wrap(model: PretrainModel, world: int, config: RunConfig) -> nn.Module:
    wrapped = torch.compile(model, dynamic=False) if config.train.compile else model
    if world == 1:
        return wrapped
    return DistributedDataParallel(wrapped, gradient_as_bucket_view=True, broadcast_buffers=False, static_graph=config.optim.accumulate == 1)


def _forward_backward(wrapped: nn.Module, batches, config: RunConfig, device: torch.device) -> Losses:
    """Accumulates the gradients of one step; returns the losses of its last micro-batch."""
    accumulate = config.optim.accumulate
    for micro in range(accumulate):
        batch = next(batches)
        waits = micro < accumulate - 1 and isinstance(wrapped, DistributedDataParallel)
        with wrapped.no_sync() if waits else contextlib.nullcontext(), autocast(config, device):
            losses = wrapped(batch.waveform, batch.num_valid)
            (losses.total / accumulate).backward()
    return losses


def autocast(config: RunConfig, device: torch.device):
    """Returns the autocast context of the run's precision."""
    bf16 = config.train.precision == "bf16" or (config.train.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _scalars(losses: Losses) -> dict[str, torch.Tensor]:
    return {
        "train/loss": losses.total,
        "train/contrastive": losses.contrastive,
        "train/diversity": losses.diversity,
        "train/accuracy": losses.accuracy,
        "train/mask_ratio": losses.mask_ratio,
        "train/temperature": losses.temperature,
        "codebook/perplexity": losses.perplexity.sum(),
        "codebook/batch_used_fraction": losses.used_fraction,
        **{f"codebook/perplexity_{g}": value for g, value in enumerate(losses.perplexity)},
    }


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for all random numbers of one step on one rank."""
    return (seed * 1_000_003 + step) * 65_536 + rank


def _stop_if_broken(guard: StepGuard, config: RunConfig, step: int) -> None:
    in_a_row = int(guard.in_a_row.item())
    if in_a_row >= config.train.max_bad_steps:
        raise FloatingPointError(
            f"step {step}: {in_a_row} steps in a row had a gradient that was not finite or a spike, "
            f"train.max_bad_steps={config.train.max_bad_steps}. Lower optim.lr or loss.temperature is too small; "
            "the last good checkpoint is kept"
        )


