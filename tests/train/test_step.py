"""One step: what it divides, averages, clips, forgets and says."""

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.presets import PRESETS
from raysys.train.optim import StepGuard, build_optimizer, set_lr
from raysys.train.step import TrainStep, autocast
from tests.train.local import made_batch

CPU = torch.device("cpu")
SMOKE = PRESETS["smoke"]()
PLAIN = {"model.quantizer.kind": "none", "loss.negatives": "expected"}
"""Makes the loss a mean over windows whose only draws are the masks, row by row."""


def step_of(config: RunConfig, world: int = 1) -> TrainStep:
    """Returns the step of a fresh model, always the same one, at the full learning rate."""
    torch.manual_seed(0)
    model = PretrainModel(config.model, config.mask, config.loss)
    optimizer = build_optimizer(model, config.optim, CPU)
    set_lr(optimizer, 1.0)
    torch.manual_seed(1)
    return TrainStep(model, optimizer, StepGuard(CPU), config, CPU, world)


def norm_of(step: TrainStep, *sizes: int) -> float:
    """Returns the gradient norm of a step on eight windows, in micro-batches of these sizes."""
    batch = made_batch(8, step.config.model.window_samples)
    return step([type(batch)(*part) for part in zip(*(x.split(sizes) for x in batch), strict=True)])[
        "train/grad_norm"
    ].item()


def test_the_gradient_is_the_mean_of_the_micro_batches():
    plain = SMOKE.override(PLAIN)
    whole = norm_of(step_of(plain), 8)
    assert whole > 0.1
    for sizes in ((4, 4), (2, 2, 2, 2)):
        assert norm_of(step_of(plain), *sizes) == pytest.approx(whole, rel=1e-4)


def test_workers_average_all_micro_batches_together():
    """With a second worker whose gradients are zero the mean is half of one worker's gradient."""
    plain = SMOKE.override(PLAIN)
    alone = norm_of(step_of(plain), 2, 2, 4)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        both = norm_of(step_of(plain, world=2), 2, 2, 4)
    finally:
        dist.destroy_process_group()
    assert both == pytest.approx(alone / 2, rel=1e-4)


def test_a_step_says_the_losses_of_its_model_and_forgets_its_gradients():
    config = SMOKE.override({"loss.diversity_lambda": 0.7, "mask.ratio": 0.5})
    step, batch = step_of(config), made_batch(4, SMOKE.model.window_samples)
    losses = step.model(batch.waveform, batch.num_valid)
    torch.manual_seed(1)
    said = step([batch])
    assert all(p.grad is None for p in step.model.parameters())
    each = losses.perplexity.tolist()
    expected = {
        "train/loss": (losses.contrastive + 0.7 * losses.diversity).item(),
        "train/contrastive": losses.contrastive.item(),
        "train/diversity": losses.diversity.item(),
        "train/accuracy": losses.accuracy.item(),
        "train/mask_ratio": 0.5,
        "train/temperature": SMOKE.loss.temperature,
        "codebook/perplexity": sum(each),
        "codebook/batch_used_fraction": losses.used_fraction.item(),
        "codebook/perplexity_0": each[0],
        "codebook/perplexity_1": each[1],
    }
    assert len(set(expected.values())) == len(expected)
    del said["train/grad_norm"]
    assert {name: value.item() for name, value in said.items()} == pytest.approx(expected, rel=1e-5)


def test_garbage_in_the_padding_changes_no_step():
    weights = []
    for garbage in (0.0, 1e6):
        step, batch = step_of(SMOKE), made_batch(4, SMOKE.model.window_samples)
        batch.num_valid[1], batch.num_valid[2] = 300, 40
        for row in (1, 2):
            batch.waveform[row, :, batch.num_valid[row] :] = garbage
        step([batch])
        weights.append(torch.nn.utils.parameters_to_vector(step.model.parameters()))
    assert torch.equal(*weights)


def test_the_gradient_is_clipped_to_the_configured_norm():
    def moments(clip: float) -> float:
        step = step_of(SMOKE.override({"optim.clip": clip}))
        norm_of(step, 8)
        firsts = [state["exp_avg"] for state in step.optimizer.state.values()]
        return torch.nn.utils.get_total_norm(firsts).item() / (1 - SMOKE.optim.betas[0])

    assert moments(0.25) == pytest.approx(0.25, rel=1e-4)
    assert moments(1e9) == pytest.approx(norm_of(step_of(SMOKE), 8), rel=1e-4)


@pytest.mark.parametrize(("precision", "enabled"), [("bf16", True), ("fp32", False), ("auto", False)])
def test_a_cpu_computes_in_bf16_only_when_asked_to(precision, enabled):
    with autocast(SMOKE.override({"train.precision": precision}), CPU):
        dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert dtype == (torch.bfloat16 if enabled else torch.float32)
