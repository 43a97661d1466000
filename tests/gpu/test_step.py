"""The training step on a GPU: recorded as a CUDA graph it does what it does without."""

import pytest
import torch

from model.pretrain import PretrainModel
from raysys.data.stream import Batch
from raysys.presets import PRESETS
from raysys.train.optim import StepGuard, build_optimizer, set_lr
from raysys.train.step import CapturedStep, TrainStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
DEVICE = torch.device("cuda")


def losses(recorded: bool, steps: int) -> list[float]:
    """The losses of a small model, step by step, with other windows, seed and learning rate in each."""
    config = PRESETS["smoke"]()
    torch.manual_seed(0)
    model = PretrainModel(config.model, config.mask, config.loss).to(DEVICE).train()
    optimizer = build_optimizer(model, config.optim, DEVICE)
    step = TrainStep(model, optimizer, StepGuard(DEVICE), config, DEVICE)
    take, found = CapturedStep(step) if recorded else step, []
    for number in range(steps):
        torch.manual_seed(number)
        set_lr(optimizer, 1 / (1 + number))
        x = torch.randn(4, 3, config.model.window_samples, device=DEVICE)
        ids = torch.full((4,), config.model.window_samples, device=DEVICE, dtype=torch.int32)
        found.append(take([Batch(x, ids, ids, ids, ids)])["train/loss"].item())
    return found


def test_a_recorded_step_goes_on_as_the_plain_one_would():
    with torch.cuda.stream(torch.cuda.Stream()):
        plain, recorded = losses(False, CapturedStep.WARM_UP + 8), losses(True, CapturedStep.WARM_UP + 8)
    assert recorded == pytest.approx(plain, rel=2e-3)
    assert len(set(recorded)) == len(recorded)
