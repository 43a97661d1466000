"""The training step on a GPU: recorded as a CUDA graph it does what it does without, and the host never waits for it."""

import math

import pytest
import torch
import torch.distributed as dist

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.stream import Batch, to_device
from raysys.presets import PRESETS
from raysys.train.metrics import RunLog
from raysys.train.optim import StepGuard, build_optimizer, set_lr
from raysys.train.step import CapturedStep, TrainStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
DEVICE = torch.device("cuda")


CONFIG = PRESETS["smoke"]()
OPTIONS = {
    "gumbel": {},
    "fsq": {"model.quantizer.fsq_levels": (4, 4)},
    "hierarchical": {},
    "none": {},
    "ema": {},
    "residual": {},
    "queue": {"loss.negatives": "queue", "loss.queue_frames": 64, "loss.pool_frames": 16},
    "pool": {"loss.negatives": "pool"},
    "hard": {"loss.negatives": "hard"},
    "learned": {"loss.temperature_mode": "learned"},
}


def options(name: str) -> RunConfig:
    """The smallest configuration with a kind of quantizer, of negatives or of temperature."""
    kind = {"model.quantizer.kind": name} if name in ("fsq", "hierarchical", "none", "ema", "residual") else {}
    return CONFIG.override(kind | OPTIONS[name])


def small_step(world: int = 1, config: RunConfig = CONFIG) -> TrainStep:
    """The step of a small model, of one of `world` workers."""
    torch.manual_seed(0)
    model = PretrainModel(config.model, config.mask, config.loss).to(DEVICE).train()
    return TrainStep(model, build_optimizer(model, config.optim, DEVICE), StepGuard(DEVICE), config, DEVICE, world)


def windows(device: torch.device | str) -> Batch:
    """Four windows of noise."""
    samples = CONFIG.model.window_samples
    ids = torch.full((4,), samples, device=device, dtype=torch.int32)
    return Batch(torch.randn(4, 3, samples, device=device), ids, ids, ids, ids, ids)


def losses(recorded: bool, steps: int, config: RunConfig = CONFIG) -> list[float]:
    """The losses of a small model, step by step, with other windows, seed and learning rate in each."""
    step = small_step(config=config)
    if config.train.compile:
        step.model.compile_parts()
    take, found = CapturedStep(step) if recorded else step, []
    for number in range(steps):
        torch.manual_seed(number)
        set_lr(step.optimizer, 1 / (1 + number))
        found.append(take([windows(DEVICE)])["train/loss"].item())
    return found


def test_a_recorded_step_goes_on_as_the_plain_one_would():
    with torch.cuda.stream(torch.cuda.Stream()):
        plain, recorded = losses(False, CapturedStep.WARM_UP + 8), losses(True, CapturedStep.WARM_UP + 8)
    assert recorded == pytest.approx(plain, rel=2e-3)
    assert len(set(recorded)) == len(recorded)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_kind_is_compiled_and_recorded_or_said_to_wait_for_the_host(name):
    """The losses of compiled steps are those of plain ones, recorded or not."""
    config, steps = options(name), CapturedStep.WARM_UP + 4
    torch._dynamo.reset()
    # Compiled code else makes random numbers of its own.
    with torch._inductor.config.patch(fallback_random=True), torch.cuda.stream(torch.cuda.Stream()):
        records = not small_step(config=config).model.quantizer.waits_for_host
        plain = losses(False, steps, config)
        compiled = losses(records, steps, config.override({"train.compile": True}))
    assert records == (name not in ("ema", "residual"))
    assert all(map(math.isfinite, compiled))
    if name not in ("ema", "residual"):  # whose codes jump where rounding differs
        # A code that flips by rounding is remembered, and then met again.
        assert compiled == pytest.approx(plain, rel=0.1 if name == "queue" else 2e-2)


def test_the_host_waits_for_the_device_only_where_it_writes_a_line():
    step, log = small_step(), RunLog(None, total_steps=10)
    batches = to_device((Batch(*(x.pin_memory() for x in windows("cpu"))) for _ in range(10)), DEVICE)
    with torch.cuda.stream(torch.cuda.Stream()):
        take = CapturedStep(step)
        for _ in range(CapturedStep.WARM_UP + 1):
            log.add(take([next(batches)]))
        try:
            torch.cuda.set_sync_debug_mode("error")
            for number in range(3):
                set_lr(step.optimizer, 1 / (1 + number))
                step.model.set_schedule(number / 3)
                log.add(take([next(batches)]))
            line = log.end_line(7, 28, 0.0, {}, {"train/skipped_steps": step.guard.skipped})
            log.add(take([next(batches)]))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        metrics = log.write_line(line)
    assert math.isfinite(metrics["train/loss"])
    assert metrics["train/skipped_steps"] == 0


def test_sums_over_workers_go_on_beside_kernels_only_while_a_graph_is_recorded(tmp_path, monkeypatch):
    """Launched by the host, kernels of a second stream slow down the process for good."""
    beside = []

    def all_reduce(x, how, async_op):
        beside.append(async_op)
        return real(x, how, async_op=async_op)

    real = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            take = CapturedStep(small_step(world=2))
            for _ in range(CapturedStep.WARM_UP):
                take([windows(DEVICE)])
            warm_up = beside.copy()
            take([windows(DEVICE)])
    finally:
        torch.cuda.synchronize()
        dist.destroy_process_group()
    recorded = beside[len(warm_up) :]
    assert warm_up == [False] * len(recorded) * CapturedStep.WARM_UP
    assert len(recorded) > 1
    assert all(recorded)
